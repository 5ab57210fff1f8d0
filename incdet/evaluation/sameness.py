"""Whether two detectors find the same, class by class: a proof on given pictures, bit for bit.

Shape letters: A anchors over all levels, K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from incdet.network.retinanet import IncrementalRetinaNet

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

    def describe(self) -> str:
        """The result in a sentence."""
        looked = f"{self.images} pictures ({self.logits:,} scores, {self.detections:,} detections)"
        if not self.differing:
            return f"proof: the {self.classes} other classes are identical, bit for bit, on {looked}"
        listed = ", ".join(f"{name} in {count}" for name, count in self.differing.items())
        return f"NOT identical on {looked}: {listed}"


@torch.no_grad()
def compare(
    before: IncrementalRetinaNet,
    after: IncrementalRetinaNet,
    names: Mapping[str, str],
    pictures: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
) -> Sameness:
    """Compares scores at every anchor, and detections without the limits on their number, which classes share.

    Where a crowded picture meets ``detections_per_img``, a class that goes leaves its places to the others.

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
        one, other = (_look(model, picture) for model in (first, second))
        result.images += 1
        for name, (mine, theirs) in pairs.items():
            found = [_of_class(seen[1], column) for seen, column in ((one, mine), (other, theirs))]
            same = torch.equal(one[0][..., mine], other[0][..., theirs])
            same &= all(torch.equal(a, b) for a, b in zip(*found, strict=True))
            result.logits += one[0][..., mine].numel()
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


def _look(model: IncrementalRetinaNet, picture: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Logits (1, A, K) and detections of one picture."""
    prepared = model.prepare([picture])
    dense = model.dense(prepared)
    return dense.logits, model.detections(dense, prepared)[0]


def _of_class(found: Mapping[str, Tensor], column: int) -> tuple[Tensor, Tensor]:
    own = found["labels"] == column
    return found["boxes"][own], found["scores"][own]
