"""A step for which the memory does not suffice is done in smaller pieces, with the loss and weights of the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import network, state_of
from torch import Tensor
from training_steps import Plain, lines, schedule, stream

from incdet.errors import TrainingError
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.engine import Engine


class Room(Plain):
    """The loss of the annotations on a device that holds ``most`` images; fails in ``targets`` or after a forward."""

    def __init__(self, model: IncrementalRetinaNet, most: int, *, early: bool = False) -> None:
        super().__init__(model)
        self.most, self.early, self.sizes = most, early, list[int]()

    def _enter(self, images: int) -> None:
        if images > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def targets(self, batch: Any) -> Any:
        if self.early:
            self._enter(len(batch.images))
        return super().targets(batch)

    def __call__(self, outputs: Any, targets: Any, totals: Any) -> dict[str, Tensor]:
        self._enter(len(outputs.logits))
        self.sizes.append(len(outputs.logits))
        return super().__call__(outputs, targets, totals)


def trained(
    make: Callable[..., Engine], most: int, *, early: bool = False, live: bool = False, **settings: Any
) -> tuple[dict[str, Tensor], Room, Engine]:
    model = network()
    if not live:
        model.freeze_norm()
    criterion, engine = Room(model, most, early=early), make(**settings)
    engine.fit(model, criterion, stream(4), schedule(batch_size=4, optimizer="sgd"), 6, phase="x")
    return state_of(model), criterion, engine


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(("most", "pieces"), [(3, 2), (2, 2), (1, 4)])
def test_the_weights_are_those_of_enough_memory(
    make_engine: Callable[..., Engine], tmp_path: Path, most: int, pieces: int, early: bool
) -> None:
    whole, _, _ = trained(make_engine, 4)
    cut, criterion, engine = trained(make_engine, most, early=early)
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-5, atol=1e-5, msg=name)
    assert engine.accumulation == pieces and criterion.sizes == [4 // pieces] * (6 * pieces)
    said = [line["text"] for line in lines(tmp_path) if line["event"] == "message"]
    assert len(said) == {2: 1, 4: 2}[pieces] and f"in {pieces} pieces of at most {4 // pieces} images" in said[-1]
    assert "BatchNorm" not in said[-1]
    again, _, _ = trained(make_engine, most, accumulation=pieces)  # the one that was told in time: bit for bit
    assert all(torch.equal(cut[name], value) for name, value in again.items())


def test_a_later_phase_begins_with_pieces_that_fit(make_engine: Callable[..., Engine]) -> None:
    _, _, engine = trained(make_engine, 2)
    model = network()
    criterion = Room(model, 2)
    engine.fit(model, criterion, stream(4), schedule(batch_size=4), 2, phase="y")
    assert criterion.sizes == [2] * 4


def test_live_statistics_are_those_before_the_step_that_failed(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    cut, _, _ = trained(make_engine, 2, live=True)
    again, _, _ = trained(make_engine, 2, live=True, accumulation=2)
    assert all(torch.equal(cut[name], value) for name, value in again.items())
    said = [line["text"] for line in lines(tmp_path) if line["event"] == "message"]
    assert said[0].endswith("but live BatchNorm sees the statistics of smaller pieces")


def test_one_image_that_does_not_fit_ends_training_in_words(make_engine: Callable[..., Engine]) -> None:
    with pytest.raises(TrainingError, match=r"does not suffice for one image of \d+ x \d+ pixels; use a smaller model"):
        trained(make_engine, 0)
