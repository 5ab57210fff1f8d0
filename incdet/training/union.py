"""One class in place of several: a predictor of its own, fitted to the highest of their scores at every anchor.

No linear predictor is the maximum of others, so a merged class is learned: on pictures alone, without a label, on
features that stay as they are. What is minimised is convex (logistic regression on soft targets).

Shape letters: A anchors over all levels, M merged classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from incdet.network.heads import flatten_levels
from incdet.network.retinanet import IncrementalRetinaNet

LEARNING_RATE = 0.003
Answer = tuple[list[Tensor], Tensor]
KEPT = 1 << 30
"""Bytes of features that are kept from round to round; a photograph at 800 px has about 17 MB."""


def fit_union(
    model: IncrementalRetinaNet,
    column: int,
    source: IncrementalRetinaNet,
    merged: Sequence[int],
    pictures: Sequence[Callable[[], Tensor]],
    *,
    rounds: int = 20,
    progress: Callable[[int, int, float], None] | None = None,
) -> list[float]:
    """Trains the filters of one class of ``model`` to say what the loudest of the ``merged`` ones of ``source`` says.

    Every other number of ``model`` stays as it is, bit for bit.

    Args:
        model: Begins with one of the merged classes in ``column``.
        column: Of the merged class.
        source: The detector before, whose trunk and class tower are the same.
        merged: (M,) columns of ``source``.
        pictures: Each gives one: (3, H, W), float32 in 0..1 or uint8. They are asked for once, as far as ``KEPT`` goes.
        rounds: How often each picture is looked at.
        progress: Called with (rounds done, rounds in all, divergence).

    Returns:
        The mean divergence after every round: KL of the wanted score from the given one, per unit of wanted score.
    """
    predictor, place = _predictor_of(model, column)
    weight = _own(predictor.weight, model.class_head.anchors, place).detach().clone().requires_grad_()
    assert predictor.bias is not None
    bias = _own(predictor.bias, model.class_head.anchors, place).detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=LEARNING_RATE)
    history = []
    source.eval()
    answers = _Answers([partial(_wanted, source, one, merged) for one in pictures])
    for done in range(1, rounds + 1):
        # The rate falls to nothing, or single pictures would push the last filters about.
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - (done - 1) / rounds)
        sums, wanted = 0.0, 0.0
        for number in range(len(pictures)):
            features, target = answers[number]
            with torch.enable_grad():
                logits = flatten_levels([F.conv2d(one, weight, bias, padding=1) for one in features], 1)[..., 0]
                loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
                mass = target.sum().clamp(min=1.0)
                optimiser.zero_grad()
                (loss / mass).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            least = F.binary_cross_entropy(target, target, reduction="sum")
            sums, wanted = sums + float(loss.detach() - least), wanted + float(mass)
        history.append(sums / wanted)
        if progress is not None:
            progress(done, rounds, history[-1])
    with torch.no_grad():
        _own(predictor.weight, model.class_head.anchors, place).copy_(weight)
        _own(predictor.bias, model.class_head.anchors, place).copy_(bias)
    return history


class _Answers:
    """What is made anew at every look, or kept where there is room."""

    def __init__(self, makers: Sequence[Callable[[], Answer]]) -> None:
        self._makers, self._kept, self._bytes = makers, dict[int, Answer](), 0

    def __getitem__(self, number: int) -> Answer:
        found = self._kept.get(number)
        if found is None:
            found = self._makers[number]()
            size = sum(value.nbytes for value in (*found[0], found[1]))
            if self._bytes + size <= KEPT:
                self._kept[number], self._bytes = found, self._bytes + size
        return found


@torch.no_grad()
def _wanted(source: IncrementalRetinaNet, picture: Callable[[], Tensor], merged: Sequence[int]) -> Answer:
    """The class tower's maps of a picture, and the highest score (1, A) of the ``merged`` columns."""
    dense = source.dense(source.prepare([picture()]))
    maps = [source.class_head.tower(feature) for feature in dense.features]
    return maps, dense.logits[..., list(merged)].amax(dim=-1).sigmoid()


def _predictor_of(model: IncrementalRetinaNet, column: int) -> tuple[nn.Conv2d, int]:
    """The predictor that holds a column, and the column's place in it."""
    for predictor, size in zip(model.class_head.predictors, model.class_head.sizes, strict=True):
        if column < size:
            assert isinstance(predictor, nn.Conv2d)
            return predictor, column
        column -= size
    raise ValueError(f"the detector has no column {column}")


def _own(values: Tensor, anchors: int, place: int) -> Tensor:
    """A view of one class in an anchor-major tensor (N * K, ...), (N, ...)."""
    return values.view(anchors, -1, *values.shape[1:])[:, place]
