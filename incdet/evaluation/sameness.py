"""Whether two detectors find the same, class by class: a proof by their weights, and on given pictures.

Shape letters: A anchors over all levels, K classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.network.torchvision import select_columns

_NO_LIMIT = 10**6
Found = tuple[Tensor, Tensor]
"""Boxes (N, 4) and scores (N,)."""
ROUNDING = 1e-4
"""Logits of equal weights may differ by so much: convolutions round by where a channel stands (3e-6 was measured)."""
_NEAR = 0.01
"""Pixels."""


@dataclass
class Sameness:
    """What a comparison saw.

    Attributes:
        classes: How many were compared.
        images: How many pictures were looked at.
        logits: How many numbers were compared.
        detections: How many detections of these classes the first detector has.
        differing: In how many pictures logits or detections of a class differ, by its name in the second detector; by
            rounding they may where every number that they come from is the same.
        largest: The largest difference of a logit.
        believed: In how many pictures a class with the same scores is believed more or less than before, because of
            the classes of earlier steps (``Architecture.precedence``) some are gone or new; by its new name.
    """

    classes: int
    images: int = 0
    logits: int = 0
    detections: int = 0
    differing: dict[str, int] = field(default_factory=dict)
    largest: float = 0.0
    believed: dict[str, int] = field(default_factory=dict)

    def describe(self, whose: str = "other classes") -> str:
        """The result in a sentence or two; ``whose`` says which classes were compared."""
        if not self.believed:
            return self._scores(whose)
        listed = ", ".join(f"{name} in {count}" for name, count in self.believed.items())
        return (
            f"{self._scores(whose)}\nthat is the scores of the network; earlier classes go first in this detector "
            f"(model.precedence), they are others now, and where they are seen these are believed otherwise: {listed}"
        )

    def _scores(self, whose: str) -> str:
        looked = f"{self.images} pictures ({self.logits:,} scores, {self.detections:,} detections)"
        if not self.differing and self.largest:
            rounding = f"up to the rounding of another width (logits differ by at most {self.largest:.1g})"
            same = f"have the same weights, bit for bit, and find the same {rounding}"
            return f"proof: the {self.classes} {whose} {same}, on {looked}"
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
    weights = _same_weights(before, after, pairs)
    result = Sameness(len(pairs))
    for picture in pictures:
        one, other = _Look.at(first, picture), _Look.at(second, picture)
        apart = not (one.dense.members or other.dense.members)
        result.images += 1
        for name, (mine, theirs) in pairs.items():
            found = [look.found(column, apart) for look, column in ((one, mine), (other, theirs))]
            logits = one.dense.logits[..., mine], other.dense.logits[..., theirs]
            same = torch.equal(*logits) and all(torch.equal(a, b) for a, b in zip(*found, strict=True))
            if not same:
                apart_by = float((logits[0] - logits[1]).abs().max())
                result.largest = max(result.largest, apart_by)
                same = weights and apart_by <= ROUNDING and _matched(*found)
            result.logits += logits[0].numel()
            result.detections += len(found[0][1])
            if not same:
                result.differing[name] = result.differing.get(name, 0) + 1
            elif apart and float((one.believed[..., mine] - other.believed[..., theirs]).abs().max()) > ROUNDING:
                result.believed[name] = result.believed.get(name, 0) + 1
        if progress is not None:
            progress(result.images)
    return result


def _same_weights(
    before: IncrementalRetinaNet, after: IncrementalRetinaNet, pairs: Mapping[str, tuple[int, int]]
) -> bool:
    """Whether all that these classes are computed with is the same, bit for bit; no for networks side by side."""
    if {type(before), type(after)} != {IncrementalRetinaNet}:
        return False
    (mine, theirs) = (
        {name: value.cpu() for name, value in model.state_dict().items() if ".predictors." not in name}
        for model in (before, after)
    )
    shared = mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())
    rows = [[pair[side] for pair in pairs.values()] for side in (0, 1)]
    anchors = before.class_head.anchors
    return shared and all(
        torch.equal(select_columns(a.cpu(), anchors, rows[0]), select_columns(b.cpu(), anchors, rows[1]))
        for a, b in zip(before.class_head.joined(), after.class_head.joined(), strict=True)
    )


def _matched(first: Found, second: Found) -> bool:
    """Whether every detection of each has its like in the other: place and score are the same but for rounding."""
    if len(first[1]) != len(second[1]):
        return False
    near = (torch.cdist(first[0], second[0], p=math.inf) <= _NEAR) & ((first[1][:, None] - second[1]).abs() <= ROUNDING)
    return bool(near.any(1).all() and near.any(0).all())


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

    @property
    def believed(self) -> Tensor:
        """(1, A, K) logits that detections are made of."""
        return self.model.believed(self.dense.logits)

    def found(self, column: int, apart: bool) -> Found:
        """Boxes and scores of a class, by itself (without what other classes do to it) where that is asked for."""
        if apart:
            alone = self.dense._replace(logits=self.dense.logits[..., [column]])
            seen = self.model.select_detections(alone, self.prepared.image_sizes)[0]
            return seen["boxes"], seen["scores"]
        whole = self.whole or self.model.detections(self.dense, self.prepared)[0]
        own = whole["labels"] == column
        return whole["boxes"][own], whole["scores"][own]
