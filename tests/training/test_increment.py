from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_run import Finished
from helpers import assert_equal_states, record, state_of, target

from incdet.app.train import prepare_data
from incdet.config import Config, Schedule
from incdet.data.protocols import StepView, step_view
from incdet.distillation.pseudo_labels import Thresholds, fit_thresholds
from incdet.distillation.teacher import Teacher
from incdet.evaluation.detections import detect
from incdet.evaluation.scoring import match
from incdet.memory.exemplars import Memory
from incdet.memory.manifest import load_memory
from incdet.methods.base import METHODS, Replay
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training import increment, provider
from incdet.training.engine import Engine
from incdet.training.increment import (
    MethodCriterion,
    TrainingSet,
    build_training_set,
    choose_exemplars,
    fit_teacher,
    learn_step,
    schedule_length,
    update_memory,
)
from incdet.training.log import RunLog


class Scenery:
    """Everything that step 2 of the finished run started from."""

    def __init__(self, finished: Finished, config: Config, folder: Path) -> None:
        source, self.protocol = prepare_data(config)
        self.config, self.folder = config, folder
        self.view: StepView = step_view(source.train, self.protocol, 2)
        self.before: IncrementalRetinaNet = checkpoint.load(finished.root / "base" / "step_1").model
        self.memory = load_memory(finished.root / "base" / "memory" / "step_1.json")
        self.log = RunLog(folder)
        self.journal_file = folder / "log.jsonl"
        self.engine = Engine(config.engine, self.log)


@pytest.fixture
def scenery(finished: Finished, settings: Callable[..., Config], tmp_path: Path) -> Iterator[Scenery]:
    made = Scenery(finished, settings(methods=["incdet"]), tmp_path / "scenery")
    yield made
    made.log.close()


def learn(scenery: Scenery, name: str) -> increment.StepOutcome:
    return learn_step(
        scenery.engine, scenery.before, scenery.view, scenery.memory, METHODS[name], scenery.config, scenery.folder
    )


def test_a_step_leaves_its_teacher_as_it_is_and_returns_a_grown_student(scenery: Scenery) -> None:
    before = state_of(scenery.before)
    outcome = learn(scenery, "incdet")
    assert_equal_states(before, state_of(scenery.before))
    assert outcome.model.vocab.steps == scenery.protocol.steps[:2]
    assert not outcome.model.training
    assert len(outcome.memory) == 6 and list(outcome.memory.exemplars) == list(outcome.model.vocab.names)
    assert outcome.seconds > 0
    pictures = {one.image for one in (*scenery.view.records, *scenery.memory)}
    assert outcome.images == len(pictures)
    assert outcome.thresholds is not None and outcome.thresholds.high.shape == (2,)


def test_the_original_leaves_the_device_before_training(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    to, fit = IncrementalRetinaNet.to, Engine.fit

    def moved(self: IncrementalRetinaNet, *where: Any, **how: Any) -> Any:
        if self is scenery.before:
            events.append(str(where[0]))
        return to(self, *where, **how)

    def fitted(self: Engine, *work: Any, **how: Any) -> None:
        events.append("fit")
        fit(self, *work, **how)

    monkeypatch.setattr(IncrementalRetinaNet, "to", moved)
    monkeypatch.setattr(Engine, "fit", fitted)
    learn(scenery, "finetune")
    assert events == ["cpu", "fit"]


def test_batch_norm_stands_still_after_step_one(scenery: Scenery) -> None:
    after = state_of(learn(scenery, "finetune").model)
    norms = [name for name in after if "running_" in name]
    assert norms and all(torch.equal(after[name], state_of(scenery.before)[name]) for name in norms)
    assert not torch.equal(after["box_head.bbox_reg.weight"], state_of(scenery.before)["box_head.bbox_reg.weight"])


@pytest.mark.parametrize("name", ["finetune", "incdet"])
def test_static_shapes_change_no_weight_beyond_rounding(
    scenery: Scenery, settings: Callable[..., Config], name: str
) -> None:
    """The images of the run are of one shape, so that the canvas pads nothing; the order of sums is another."""
    plain = state_of(learn(scenery, name).model)
    scenery.config = settings(methods=[name], engine={"static_shapes": True})
    scenery.folder = scenery.folder / "static"
    canvases = []
    prepare = IncrementalRetinaNet.prepare

    def note(self: IncrementalRetinaNet, *args: Any, **more: Any) -> Any:
        canvases.append(more.get("canvas"))
        return prepare(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IncrementalRetinaNet, "prepare", note)
        static = state_of(learn(scenery, name).model)
    assert (64, 64) in canvases
    for key, value in plain.items():
        torch.testing.assert_close(static[key], value, rtol=1e-3, atol=1e-4)


def test_static_shapes_are_off_where_a_draw_may_have_any_shape(
    scenery: Scenery, settings: Callable[..., Config]
) -> None:
    scenery.config = settings(methods=["finetune"], engine={"static_shapes": True}, augment={"crop": True})
    learn(scenery, "finetune")
    assert "static shapes: off, because a crop" in (scenery.journal_file.read_text())


@pytest.mark.parametrize("name", ["finetune", "masked", "pseudo"])
def test_a_method_without_replay_neither_uses_nor_changes_the_memory(scenery: Scenery, name: str) -> None:
    outcome = learn(scenery, name)
    assert outcome.memory is scenery.memory and outcome.images == scenery.view.images
    assert (outcome.thresholds is None) is (not METHODS[name].pseudo_labels)


# --- the first call: the training set


def test_exemplars_join_the_steps_records_with_their_own_coverage(scenery: Scenery) -> None:
    method = replace(METHODS["eeil"], replay=Replay(share=0.25))
    built = build_training_set(scenery.view, scenery.memory, method)
    assert built.records == (*scenery.view.records, *scenery.memory)
    assert built.exemplars == 6 and built.share == 0.25
    assert {one.coverage for one in built.records[-6:]} == {frozenset(scenery.protocol.steps[0])}
    alone = build_training_set(scenery.view, scenery.memory, METHODS["finetune"])
    assert alone == TrainingSet(tuple(scenery.view.records), 0)


def test_groups_of_a_batch() -> None:
    rows = tuple(record(f"{i}.png", ["a"]) for i in range(5))
    assert TrainingSet(rows, 2, 0.25).groups() == [(range(3), 0.75), (range(3, 5), 0.25)]
    assert TrainingSet(rows, 2).groups() is None and TrainingSet(rows, 0, 0.25).groups() is None


# --- the second: training


@pytest.mark.parametrize(
    ("schedule", "images", "steps"),
    [
        (Schedule(iterations=7), 1000, 7),
        (Schedule(epochs=3, batch_size=16), 160, 30),
        (Schedule(epochs=1.5, batch_size=10), 100, 15),
        (Schedule(epochs=1, batch_size=16), 3, 1),
    ],
)
def test_the_length_of_a_schedule(schedule: Schedule, images: int, steps: int) -> None:
    assert schedule_length(schedule, images) == steps


# --- the third: balanced fine-tuning


def test_balanced_fine_tuning_has_a_balanced_set_and_distils_the_new_head_too(
    scenery: Scenery, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[tuple[MethodCriterion, TrainingSet, str]] = []

    def remember(
        engine: Engine, model: IncrementalRetinaNet, criterion: MethodCriterion, training_set: TrainingSet, *rest: Any
    ) -> None:
        phases.append((criterion, training_set, rest[2]))

    monkeypatch.setattr(increment, "train", remember)
    learn(scenery, "incdet")
    (first, _, one), (second, balanced, two) = phases
    assert (one, two) == ("step 2 train", "step 2 finetune")
    assert balanced.exemplars == 0 and len(balanced.records) == 6
    known = [*scenery.protocol.steps[0], *scenery.protocol.steps[1]]
    for name in known:  # 6 images over 4 classes
        assert sum(name in one.names for one in balanced.records) >= 1
    assert first.teacher is not None and first.teacher.columns == 2
    assert second.teacher is not None and second.teacher.columns == 4
    assert_equal_states(state_of(second.teacher.model), state_of(scenery.before))
    assert first.thresholds is not None and second.thresholds is not None
    assert second.thresholds.high[:2].tolist() == first.thresholds.high.tolist()
    assert second.thresholds.high.shape == second.thresholds.low.shape == (4,)
    assert (second.thresholds.low <= second.thresholds.high).all()


def test_without_a_memory_there_is_no_balanced_fine_tuning(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[str] = []
    monkeypatch.setattr(increment, "train", lambda *values: phases.append(values[6]))
    scenery.memory = Memory.empty(scenery.memory.budget)
    learn(scenery, "eeil")
    assert phases == ["step 2 train"]


# --- the fourth: the memory


def test_the_memory_is_cut_and_filled(scenery: Scenery) -> None:
    model = scenery.before
    model.grow(scenery.view.names)
    memory = update_memory(model, scenery.view, scenery.memory, scenery.config)
    quotas = memory.budget.quotas(model.vocab.names)
    for name in scenery.protocol.steps[0]:
        assert memory.exemplars[name] == scenery.memory.exemplars[name][: quotas[name]]
    for name in scenery.view.names:
        assert len(memory.exemplars[name]) == quotas[name]
        assert all(one in scenery.view.records for one in memory.exemplars[name])


@pytest.mark.parametrize("selection", ["random", "class-balanced"])
def test_only_herding_looks_at_features(
    scenery: Scenery, settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, selection: str
) -> None:
    monkeypatch.delattr(increment, "object_features")
    config = settings(memory={"total": 6, "selection": selection})
    empty = Memory.empty(scenery.memory.budget)
    memory = choose_exemplars(scenery.before, scenery.view.records, scenery.view.names, empty, config)
    assert len(memory) == 6
    assert memory == empty.update(scenery.view.records, scenery.view.names, selection=selection, seed=config.seed)


# --- the teacher's thresholds


def test_thresholds_come_from_the_exemplars_where_there_are_any(scenery: Scenery) -> None:
    teacher = Teacher(scenery.before)
    fitted = fit_teacher(teacher, scenery.view, scenery.memory, scenery.config)
    names = scenery.before.vocab.names
    rows = [replace(one, image_id=number) for number, one in enumerate(scenery.memory)]
    found = detect(scenery.before, rows)
    seen = detect(scenery.before, scenery.view.records)
    values = [
        torch.cat([torch.from_numpy(one.scores[one.labels == column]) for one in seen.values()]).numpy()
        for column in range(2)
    ]
    expected = fit_thresholds(values, [match(rows, found, names, name) for name in names])
    torch.testing.assert_close(fitted.high, expected.high)
    unknown = fit_teacher(teacher, scenery.view, Memory.empty(scenery.memory.budget), scenery.config)
    torch.testing.assert_close(unknown.high, fit_thresholds(values, [None, None]).high)


def test_a_large_step_is_sampled(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(increment, "FIT_IMAGES", 4)
    seen: list[int] = []

    def counted(model: IncrementalRetinaNet, records: Any, **more: Any) -> Any:
        seen.append(len(records))
        return detect(model, records, **more)

    monkeypatch.setattr(increment, "detect", counted)
    fit_teacher(Teacher(scenery.before), scenery.view, Memory.empty(scenery.memory.budget), scenery.config)
    stride = math.ceil(scenery.view.images / 4)
    assert seen[0] == math.ceil(scenery.view.images / stride) <= 4


def test_phases_have_seeds_of_their_own(settings: Callable[..., Config]) -> None:
    config = settings()
    seeds = {
        increment._seed(one, step, phase)
        for one in (config, settings(seed=1))
        for step in (1, 2)
        for phase in ("step 2 train", "growth")
    }
    assert len(seeds) == 8 and all(0 <= seed < 2**32 for seed in seeds)
    assert increment._seed(config, 1, "growth") == increment._seed(config, 1, "growth")


def test_a_lesson_without_teacher_has_no_thresholds_to_heed(scenery: Scenery) -> None:
    criterion = MethodCriterion(METHODS["masked"], "l1", None, Thresholds(torch.ones(2), torch.ones(2)))
    prepared = scenery.before.prepare([torch.rand(3, 48, 48)], [target()])
    assert criterion(scenery.before.dense(prepared), prepared).keys() == {"focal", "box"}


# --- cached responses


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


@pytest.fixture
def long_step(
    finished: Finished, settings: Callable[..., Config], tmp_path: Path
) -> Iterator[Callable[..., tuple[increment.StepOutcome, Told]]]:
    """A maker of step 2 with many draws: in ``folder``, with ``cache`` MiB for responses."""
    journals: list[RunLog] = []

    def make(
        folder: str, cache: int = 64, told: Told | None = None, name: str = "incdet", **changes: Any
    ) -> tuple[increment.StepOutcome, Told]:
        config = settings(methods=[name], train=LONG, engine={"response_cache": cache}, **changes)
        made, told = Scenery(finished, config, tmp_path / folder), told or Told()
        journals.append(made.log)
        made.engine.progress = told
        return learn(made, name), told

    yield make
    for log in journals:
        log.close()


@pytest.mark.parametrize("name", ["incdet", "eeil", "pseudo"])
def test_a_step_from_the_cache_is_a_step_with_the_teacher(
    long_step: Callable[..., tuple[increment.StepOutcome, Told]], tmp_path: Path, name: str
) -> None:
    cached, told = long_step("one", name=name)
    online, heard = long_step("other", cache=0, name=name)
    said = re.fullmatch(r"teacher: responses of (\d+) images cached, 0\.\d MiB", told.lines[0])
    assert said is not None and int(said[1]) >= cached.images  # an exemplar may be an image of the step as well
    pictures = 2 * int(said[1])
    assert heard.lines[0] == "teacher: online, because engine.response_cache is 0"
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
    long_step: Callable[..., tuple[increment.StepOutcome, Told]],
) -> None:
    _, told = long_step("one")
    assert told.lines[1] == "teacher: online, because 8 draws of 12 pictures would not pay for asking about each"


def test_an_interrupted_step_takes_up_its_cache_and_ends_with_the_same_weights(
    long_step: Callable[..., tuple[increment.StepOutcome, Told]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = long_step("whole")
    with pytest.raises(KeyboardInterrupt):
        long_step("part", told=Told(stop=7))
    assert {one.name for one in (tmp_path / "part").iterdir()} >= {"train.pt", "train.responses.safetensors"}
    monkeypatch.delattr(provider, "fill")
    resumed, told = long_step("part")
    assert "cached" in told.lines[0] and not told.parts
    assert_equal_states(state_of(resumed.model), state_of(whole.model))


def test_a_spoilt_cache_is_filled_again(
    long_step: Callable[..., tuple[increment.StepOutcome, Told]], tmp_path: Path
) -> None:
    whole, _ = long_step("whole")
    with pytest.raises(KeyboardInterrupt):
        long_step("part", told=Told(stop=7))
    file = tmp_path / "part" / "train.responses.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    resumed, told = long_step("part")
    assert told.lines[0].startswith(f"teacher: {file} is not used, because it cannot be read")
    assert "cached" in told.lines[1] and told.parts
    assert_equal_states(state_of(resumed.model), state_of(whole.model))


@pytest.mark.parametrize("part", ["teacher", "geometry"])
def test_a_cache_of_something_else_is_never_used(
    long_step: Callable[..., tuple[increment.StepOutcome, Told]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        long_step("part", told=Told(stop=1))
    (tmp_path / "part" / "train.pt").unlink()
    if part == "teacher":

        def other(self: Teacher, model: IncrementalRetinaNet, snapshot: IncrementalRetinaNet | None = None) -> None:
            before(self, model, snapshot)
            with torch.no_grad():
                next(self.model.parameters()).add_(1e-3)

        before = Teacher.__init__
        monkeypatch.setattr(Teacher, "__init__", other)
    else:
        monkeypatch.setattr(
            increment, "fit_teacher", lambda *_: Thresholds(torch.tensor([0.7] * 2), torch.tensor([0.6] * 2))
        )
    _, told = long_step("part")
    assert told.lines[0].endswith(f"is not used, because it was made with another {part}")
    assert "cached" in told.lines[1]


def test_a_cache_that_does_not_fit_leaves_the_teacher_to_answer(
    long_step: Callable[..., tuple[increment.StepOutcome, Told]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider, "MIB", 10)
    _, told = long_step("one")
    assert re.fullmatch(
        r"teacher: online, because responses of \d+ images exceed .*response_cache=64 MiB", told.lines[0]
    )
    assert not (tmp_path / "one" / "train.responses.safetensors").exists()


def test_the_old_model_leaves_the_device_when_the_cache_answers(
    long_step: Callable[..., tuple[increment.StepOutcome, Told]], monkeypatch: pytest.MonkeyPatch
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
