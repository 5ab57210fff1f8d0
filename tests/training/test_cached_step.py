"""A step whose teacher is asked once about every image learns what one with the teacher beside it learns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_run import Finished
from helpers import assert_equal_states, state_of
from scenery import Scenery, learn

from incdet.config import Config
from incdet.distillation.teacher import Teacher
from incdet.distillation.terms import PseudoLabels
from incdet.distillation.thresholds import Thresholds
from incdet.training import provider
from incdet.training.increment import StepOutcome
from incdet.training.log import RunLog

LONG: dict[str, Any] = {"increment": {"iterations": 16}}
"""Enough draws for filling to pay in training, not in fine-tuning."""


class Told:
    """Hears what an engine tells, and may stop it."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.lines, self.parts = stop, list[str](), list[str]()

    def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
        if done == self.stop:
            raise KeyboardInterrupt

    def advance(self, phase: str, done: int, total: int) -> None:
        self.parts.append(f"{phase} {done}/{total}")

    def say(self, text: object) -> None:
        self.lines.append(str(text))

    @property
    def teachers(self) -> list[str]:
        return [line for line in self.lines if line.startswith("teacher:")]


@pytest.fixture
def long_step(
    finished: Finished, settings: Callable[..., Config], tmp_path: Path
) -> Iterator[Callable[..., tuple[StepOutcome, Told]]]:
    """A maker of step 2 with many draws: in ``folder``, with ``cache`` MiB for responses."""
    journals: list[RunLog] = []

    def make(
        folder: str, cache: int = 64, told: Told | None = None, name: str = "cldetr", **changes: Any
    ) -> tuple[StepOutcome, Told]:
        config = settings(methods=[name], train=LONG, engine={"response_cache": cache}, **changes)
        made, told = Scenery(finished, config, tmp_path / folder), told or Told()
        journals.append(made.log)
        made.engine.progress = told
        return learn(made, name), told

    yield make
    for log in journals:
        log.close()


@pytest.mark.parametrize("name", ["incdet", "cldetr", "eeil", "pseudo"])
def test_a_step_from_the_cache_is_a_step_with_the_teacher(
    long_step: Callable[..., tuple[StepOutcome, Told]], tmp_path: Path, name: str
) -> None:
    cached, told = long_step("one", name=name)
    online, heard = long_step("other", cache=0, name=name)
    said = re.fullmatch(r"teacher: responses of (\d+) images cached, 0\.\d MiB(; online .*)?", told.teachers[0])
    assert (
        said is not None and bool(said[2]) == (name == "incdet") and int(said[1]) >= cached.images
    )  # an exemplar may be an image of the step as well
    pictures = 2 * int(said[1])
    assert heard.teachers[0] == "teacher: online, because engine.response_cache is 0"
    assert told.parts[-1] == f"step 2 train: teacher {pictures}/{pictures}" and not heard.parts
    losses = [
        [
            line
            for line in map(json.loads, (tmp_path / folder / "log.jsonl").read_text().splitlines())
            if line["event"] == "train" and line["phase"] == "step 2 train"
        ]
        for folder in ("one", "other")
    ]
    assert len(losses[0]) == len(losses[1]) == 16
    for mine, theirs in zip(*losses, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    # AdamW divides small gradients by their own size: rounding grows over 16 steps to a hundredth of a step's length.
    torch.testing.assert_close(state_of(cached.model), state_of(online.model), rtol=1e-3, atol=2e-5)


def test_fine_tuning_asks_the_teacher_itself_because_it_is_short(
    long_step: Callable[..., tuple[StepOutcome, Told]],
) -> None:
    _, told = long_step("one")
    assert told.teachers[1] == "teacher: online, because 8 draws of 24 pictures would not pay for asking about each"


def test_an_interrupted_step_takes_up_its_cache_and_ends_with_the_same_weights(
    long_step: Callable[..., tuple[StepOutcome, Told]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = long_step("whole")
    with pytest.raises(KeyboardInterrupt):
        long_step("part", told=Told(stop=7))
    assert {one.name for one in (tmp_path / "part").iterdir()} >= {"train.pt", "train.responses.safetensors"}
    monkeypatch.delattr(provider, "fill")
    resumed, told = long_step("part")
    assert "cached" in told.teachers[0] and not told.parts
    assert_equal_states(state_of(resumed.model), state_of(whole.model))


def test_a_spoilt_cache_is_filled_again(long_step: Callable[..., tuple[StepOutcome, Told]], tmp_path: Path) -> None:
    whole, _ = long_step("whole")
    with pytest.raises(KeyboardInterrupt):
        long_step("part", told=Told(stop=7))
    file = tmp_path / "part" / "train.responses.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    resumed, told = long_step("part")
    assert told.teachers[0].startswith(f"teacher: {file} is not used, because it cannot be read")
    assert "cached" in told.teachers[1] and told.parts
    assert_equal_states(state_of(resumed.model), state_of(whole.model))


@pytest.mark.parametrize("part", ["teacher", "rule"])
def test_a_cache_of_something_else_is_never_used(
    long_step: Callable[..., tuple[StepOutcome, Told]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        long_step("part", told=Told(stop=1))
    (tmp_path / "part" / "train.pt").unlink()
    if part == "teacher":

        def other(self: Teacher, *work: Any, **how: Any) -> None:
            before(self, *work, **how)
            with torch.no_grad():
                next(self.model.parameters()).add_(1e-3)

        before = Teacher.__init__
        monkeypatch.setattr(Teacher, "__init__", other)
    else:
        measured = Thresholds((0.7, 0.7), (0.6, 0.6))
        monkeypatch.setattr(PseudoLabels, "fit", lambda self, step: self.model_copy(update={"fitted": measured}))
    _, told = long_step("part")
    assert told.teachers[0].endswith(f"is not used, because it was made with another {part}")
    assert "cached" in told.teachers[1]


def test_a_cache_that_does_not_fit_leaves_the_teacher_to_answer(
    long_step: Callable[..., tuple[StepOutcome, Told]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "MIB", 10)
    _, told = long_step("one")
    assert re.fullmatch(
        r"teacher: online, because responses of \d+ images exceed .*response_cache=64 MiB", told.teachers[0]
    )
    assert not (tmp_path / "one" / "train.responses.safetensors").exists()


def test_the_old_model_leaves_the_device_when_the_cache_answers(
    long_step: Callable[..., tuple[StepOutcome, Told]], monkeypatch: pytest.MonkeyPatch
) -> None:
    moves: list[str] = []

    def moved(self: Teacher, device: torch.device | str) -> Teacher:
        moves.append(str(device))
        return self

    monkeypatch.setattr(Teacher, "to", moved)
    long_step("one", name="pseudo")
    assert moves == ["cpu", "cpu", "cpu"]  # learn_step's and train's device is the CPU too; the last one sends it away
    moves.clear()
    long_step("other", name="pseudo", cache=0)
    assert len(moves) == 2
