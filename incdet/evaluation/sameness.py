"""Whether two detectors find the same, class by class: a proof on given pictures, bit for bit.

Shape letters: A anchors over all levels, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet

_NO_LIMIT = 10**6


@dataclass
class Sameness:
    """What a comparison saw.

    Attributes:
        classes: How many were compared.
        images: How many pictures were looked at.
        logits: How many numbers were compared.
        detections: How many detections of these classes the first detector has.
        differing: In how many pictures logits or detections of a class differ, by its name in the second detector.
    """

    classes: int
    images: int = 0
    logits: int = 0
    detections: int = 0
    differing: dict[str, int] = field(default_factory=dict)

    def describe(self, whose: str = "other classes") -> str:
        """The result in a sentence; ``whose`` says which classes were compared."""
        looked = f"{self.images} pictures ({self.logits:,} scores, {self.detections:,} detections)"
        if not self.differing:
            return f"proof: the {self.classes} {whose} are identical, bit for bit, on {looked}"
        listed = ", ".join(f"{name} in {count}" for name, count in self.differing.items())
        return f"NOT identical ({whose}) on {looked}: {listed}"


@torch.no_grad()
def compare(
    before: IncrementalRetinaNet,
    after: IncrementalRetinaNet,
    names: Mapping[str, str],
    pictures: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
) -> Sameness:
    """Compares scores at every anchor, and the detections of each class by itself.

    That is without what classes share in one picture: the limits on the number of detections, where a class that goes
    leaves its places to the others, and torchvision's suppression, which shifts classes apart in float32 and may turn
    a decision whose overlap is within 1e-5 of the threshold. Of networks side by side all detections are compared.

    Args:
        before: A detector.
        after: Another one of the same architecture; both are left as they are.
        names: Classes of ``before`` with the names that ``after`` has for them.
        pictures: (3, H, W) float32 in 0..1 or uint8, any sizes; one at a time.
        progress: Called with the number of pictures done.
    """
    first, second = _unlimited(before), _unlimited(after)
    pairs = {new: (before.vocab.column(old), after.vocab.column(new)) for old, new in names.items()}
    result = Sameness(len(pairs))
    for picture in pictures:
        one, other = _Look.at(first, picture), _Look.at(second, picture)
        apart = not (one.dense.members or other.dense.members)
        result.images += 1
        for name, (mine, theirs) in pairs.items():
            found = [look.found(column, apart) for look, column in ((one, mine), (other, theirs))]
            logits = one.dense.logits[..., mine], other.dense.logits[..., theirs]
            same = torch.equal(*logits) and all(torch.equal(a, b) for a, b in zip(*found, strict=True))
            result.logits += logits[0].numel()
            result.detections += len(found[0][1])
            if not same:
                result.differing[name] = result.differing.get(name, 0) + 1
        if progress is not None:
            progress(result.images)
    return result


def _unlimited(model: IncrementalRetinaNet) -> IncrementalRetinaNet:
    other = copy.deepcopy(model).eval()
    other.architecture = other.architecture.changed(topk_candidates=_NO_LIMIT, detections_per_img=_NO_LIMIT)
    return other


class _Look(NamedTuple):
    """What a detector makes of one picture."""

    model: IncrementalRetinaNet
    prepared: ImageBatch
    dense: HeadOutputs
    whole: Mapping[str, Tensor]

    @classmethod
    def at(cls, model: IncrementalRetinaNet, picture: Tensor) -> _Look:
        prepared = model.prepare([picture])
        dense = model.dense(prepared)
        return cls(model, prepared, dense, model.detections(dense, prepared)[0] if dense.members else {})

    def found(self, column: int, apart: bool) -> tuple[Tensor, Tensor]:
        """Boxes and scores of a class, by itself where that is asked for."""
        if apart:
            alone = self.dense._replace(logits=self.dense.logits[..., [column]])
            seen = self.model.detections(alone, self.prepared)[0]
            return seen["boxes"], seen["scores"]
        whole = self.whole or self.model.detections(self.dense, self.prepared)[0]
        own = whole["labels"] == column
        return whole["boxes"][own], whole["scores"][own]
