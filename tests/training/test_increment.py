from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from helpers import assert_equal_states, record, state_of
from scenery import Scenery, learn

from incdet.config import Config
from incdet.data.protocols import step_view
from incdet.distillation.provider import Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.terms import PseudoLabels
from incdet.memory.exemplars import Memory
from incdet.methods.method import Averaging, Interim, Method, Precedence, Replay
from incdet.methods.penalty import Penalty
from incdet.methods.registry import get_method
from incdet.network.paired import PairedRetinaNet
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training import increment
from incdet.training.engine import Engine
from incdet.training.increment import (
    TrainingSet,
    Workshop,
    average,
    build_training_set,
    choose_exemplars,
    fitted,
    grown,
    interim_set,
    learn_step,
    phase_seed,
)
from incdet.training.schedule import Phase


def test_a_step_leaves_its_teacher_as_it_is_and_returns_a_grown_student(scenery: Scenery) -> None:
    before = state_of(scenery.before)
    outcome = learn(scenery, "cldetr")
    assert_equal_states(before, state_of(scenery.before))
    assert outcome.model.vocab.steps == scenery.protocol.steps[:2]
    assert not outcome.model.training
    assert len(outcome.memory) == 6 and list(outcome.memory.exemplars) == list(outcome.model.vocab.names)
    assert outcome.seconds > 0
    pictures = {one.image for one in (*scenery.view.records, *scenery.memory)}
    assert outcome.images == len(pictures)
    assert outcome.iterations == {"train": 4, "finetune": 2}
    assert any(re.match(r"pseudo-labels: \d+ boxes in \d+ of the step's images", line) for line in scenery.said())


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


@pytest.mark.parametrize("name", ["finetune", "cldetr"])
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
    assert outcome.iterations == {"train": 4}
    assert any("pseudo-labels" in line for line in scenery.said()) is (name == "pseudo")


def test_label_propagation_has_the_memory_cover_every_class(scenery: Scenery) -> None:
    outcome = learn(scenery, Method("labelled", "here", replay=Replay(propagation=0.5)))
    assert {one.coverage for one in outcome.memory} == {frozenset(outcome.model.vocab.names)}


def test_a_penalty_holds_a_step_back(scenery: Scenery, tmp_path: Path) -> None:
    def moved(weight: float) -> float:
        scenery.folder = tmp_path / f"{weight}"
        method = Method("held", "here", penalty=Penalty(importance="sensitivity", weight=weight))
        after, before = state_of(learn(scenery, method).model), state_of(scenery.before)
        return sum(float((after[name] - value).abs().sum()) for name, value in before.items() if "tower" in name)

    assert moved(1e4) < 0.9 * moved(0.0)


# --- the first call: the training set


def test_exemplars_join_the_steps_records_with_their_own_coverage(scenery: Scenery) -> None:
    method = replace(get_method("eeil"), replay=Replay(share=0.25))
    built = build_training_set(scenery.view, scenery.memory, method)
    assert built.records == (*scenery.view.records, *scenery.memory)
    assert built.exemplars == 6 and built.share == 0.25
    assert {one.coverage for one in built.records[-6:]} == {frozenset(scenery.protocol.steps[0])}
    alone = build_training_set(scenery.view, scenery.memory, get_method("finetune"))
    assert alone == TrainingSet(tuple(scenery.view.records))


def test_groups_of_a_batch() -> None:
    rows = tuple(record(f"{i}.png", ["a"]) for i in range(5))
    assert TrainingSet(rows, 2, 0.25).groups() == [(range(3), 0.75), (range(3, 5), 0.25)]
    assert TrainingSet(rows, 2).groups() is None and TrainingSet(rows, 0, 0.25).groups() is None


# --- the third: balanced fine-tuning


class Trained:
    """A phase that was to be trained."""

    def __init__(self, model: IncrementalRetinaNet, method: Method, teachers: Any, rest: tuple[Any, ...]) -> None:
        self.model, self.method, self.teachers = model, method, dict(teachers)
        self.training_set, self.schedule, self.iterations, self.phase = rest


@pytest.fixture
def phases(monkeypatch: pytest.MonkeyPatch) -> list[Trained]:
    """What is given to ``train``, which does nothing."""
    found: list[Trained] = []

    def remember(_: Workshop, model: IncrementalRetinaNet, method: Method, teachers: Any, *rest: Any) -> None:
        found.append(Trained(model, method, teachers, rest))

    monkeypatch.setattr(increment, "train", remember)
    return found


def test_balanced_fine_tuning_keeps_all_exemplars_and_cuts_the_new_classes_to_their_number(
    scenery: Scenery, phases: list[Trained]
) -> None:
    learn(scenery, "cldetr")
    first, second = phases
    assert (first.phase, second.phase) == (Phase(2, "train"), Phase(2, "finetune"))
    assert (first.iterations, second.iterations) == (4, 2)
    assert (first.schedule, second.schedule) == (scenery.config.train.increment, scenery.config.train.finetune)
    records, old = second.training_set.records, tuple(scenery.memory)
    assert second.training_set.exemplars == 0 and records[: len(old)] == old
    most = max(len(ranked) for ranked in scenery.memory.exemplars.values())
    new = records[len(old) :]
    for name in scenery.view.names:
        assert sum(name in one.names for one in new) >= 1
    assert 0 < len(new) <= most * len(scenery.view.names)
    assert all(one in scenery.view.records for one in new)


def test_balanced_fine_tuning_distils_the_new_head_too(scenery: Scenery, phases: list[Trained]) -> None:
    learn(scenery, "cldetr")
    first, second = (phase.teachers["old"] for phase in phases)
    assert (first.columns, first.later) == (range(2), None)
    assert second.columns == range(4) and second.heads == (2, 2)
    assert_equal_states(state_of(second.model), state_of(scenery.before))
    assert_equal_states(state_of(second.later), state_of(phases[1].model))
    assert not any(parameter.requires_grad for parameter in second.later.parameters())
    thresholds = [term.fitted for term in phases[1].method.terms if isinstance(term, PseudoLabels)]
    (own,) = thresholds
    assert own is not None and len(own.high) == 2
    wide = own.widened(4)
    assert wide.high[:2] == own.high and wide.high[2] == pytest.approx(sum(own.high) / 2)
    assert all(low <= high for low, high in zip(wide.low, wide.high, strict=True))


def test_the_temporary_teacher_gives_boxes_from_the_network_whose_class_speaks(scenery: Scenery) -> None:
    student = grown(scenery.config, scenery.before, scenery.view)
    with torch.no_grad():
        student.box_head.bbox_reg.bias.add_(1.0)
        student.class_head.predictors[-1].weight.normal_(std=0.5)  # type: ignore[operator]
    batch = student.eval().prepare([torch.rand(3, 48, 48)])
    answer = Teacher(scenery.before, later=student)(batch)
    old, new = (Teacher(model)(batch) for model in (scenery.before, student))
    assert torch.equal(answer.logits[..., :2], old.logits) and torch.equal(answer.logits[..., 2:], new.logits[..., 2:])
    louder = new.logits[..., 2:].amax(dim=-1) > old.logits.amax(dim=-1)
    assert 0 < int(louder.sum()) < louder.numel()
    assert torch.equal(answer.deltas[louder], new.deltas[louder])
    assert torch.equal(answer.deltas[~louder], old.deltas[~louder])


def test_fine_tuning_without_a_length_is_a_tenth_of_its_step(
    scenery: Scenery, settings: Callable[..., Config], phases: list[Trained]
) -> None:
    scenery.config = settings(methods=["eeil"], train={"increment": {"iterations": 50}, "finetune": {"warmup": 0}})
    assert learn(scenery, "eeil").iterations == {"train": 50, "finetune": 5}


def test_without_a_memory_there_is_no_balanced_fine_tuning(scenery: Scenery, phases: list[Trained]) -> None:
    scenery.memory = Memory.empty(scenery.memory.budget)
    assert learn(scenery, "eeil").iterations == {"train": 4}
    assert [phase.phase.kind for phase in phases] == ["train"]


# --- a second teacher


DOUBLE = replace(
    get_method("eeil"), name="double", interim=Interim(length=0.5), averaging=Averaging(old=0.75), replay=Replay()
)


def test_an_interim_network_learns_the_new_classes_alone_and_the_student_starts_beside_it(
    scenery: Scenery, phases: list[Trained]
) -> None:
    outcome = learn(scenery, DOUBLE)
    assert [(str(phase.phase), phase.iterations) for phase in phases] == [
        ("step 2 interim", 2),
        ("step 2 train", 4),
        ("step 2 finetune", 2),
    ]
    assert outcome.iterations == {"interim": 2, "train": 4, "finetune": 2}
    interim, student = phases[0], phases[1]
    assert interim.training_set == TrainingSet(tuple(scenery.view.records)) and not interim.teachers
    assert interim.method.name == "finetune" and interim.model is not student.model
    assert set(student.teachers) == {"old"}  # no term of this method listens to the other


def of_one_class(scenery: Scenery) -> None:
    """Makes the step one of its first class alone."""
    view, name = scenery.view, scenery.view.names[0]
    assert len(view.names) > 1
    own = tuple(one.restrict([name]) for one in view.records)
    scenery.view = replace(view, names=(name,), records=tuple(one for one in own if one.names))


def test_a_single_class_has_an_interim_network_that_is_shown_what_it_is_not(
    scenery: Scenery, phases: list[Trained]
) -> None:
    method = replace(DOUBLE, interim=Interim(exemplars=0.25))
    learn(scenery, method)
    assert phases[0].training_set == TrainingSet(tuple(scenery.view.records))  # its classes tell it of each other
    phases.clear()
    of_one_class(scenery)
    learn(scenery, method)
    shown, student, new = phases[0].training_set, phases[1].training_set, set(scenery.view.names)
    others = [one for one in scenery.memory if one.image not in {own.image for own in scenery.view.records}]
    assert shown.records[: -len(others)] == tuple(scenery.view.records)
    assert shown.records[-len(others) :] == tuple(replace(one, coverage=one.coverage | new) for one in others)
    assert shown.exemplars == len(others) > 0 and shown.share == 0.25
    assert student.records[-len(scenery.memory) :] == tuple(scenery.memory)  # which the student takes as they are
    phases.clear()
    learn(scenery, replace(method, replay=None, balanced_finetune=None))
    assert phases[0].training_set == TrainingSet(tuple(scenery.view.records))


def test_exemplars_that_the_step_annotates_too_are_not_taken_to_be_without_its_class(scenery: Scenery) -> None:
    of_one_class(scenery)
    before = interim_set(scenery.view, scenery.memory, 0.5)
    known = before.records[-1]
    again = replace(known.restrict(()), coverage=frozenset(scenery.view.names))
    after = interim_set(replace(scenery.view, records=(*scenery.view.records, again)), scenery.memory, 0.5)
    assert known.image not in [one.image for one in after.records[-after.exemplars :]]
    assert 0 < after.exemplars == before.exemplars - 1


def test_what_incdet_does_for_few_new_classes_is_nothing_where_they_are_as_many_as_the_old(scenery: Scenery) -> None:
    assert len(scenery.view.names) >= len(scenery.before.vocab)
    plain: dict[str, Any] = {"kd_quality": {"growth": 0.0}, "interim": {"exemplars": 0.0}}
    found, expected = (learn(scenery, get_method("incdet", settings=given)) for given in ({}, {"incdet": plain}))
    assert_equal_states(state_of(found.model), state_of(expected.model))


def test_averaging_moves_the_shared_parameters_and_takes_the_new_predictor(scenery: Scenery) -> None:
    student = grown(scenery.config, scenery.before, scenery.view)
    start, interim = state_of(student), grown(scenery.config, scenery.before, scenery.view)
    with torch.no_grad():
        for parameter in interim.parameters():
            parameter.add_(1.0)
    average(student, interim, 0.75)
    newest = "class_head.predictors.1."
    for name, parameter in student.named_parameters():
        moved = 1.0 if name.startswith(newest) else 0.25
        torch.testing.assert_close(parameter.detach(), start[name] + moved)
    assert any(name.startswith(newest) for name in start)


@pytest.mark.parametrize(("old", "used"), [(0.9, 0.9), (None, None)])
def test_the_old_network_weighs_as_much_as_its_share_of_the_classes(
    scenery: Scenery, monkeypatch: pytest.MonkeyPatch, old: float | None, used: float | None
) -> None:
    told: list[float] = []
    monkeypatch.setattr("incdet.training.increment.average", lambda _student, _interim, share: told.append(share))
    before, new = len(scenery.before.vocab), len(scenery.view.names)
    learn(scenery, replace(DOUBLE, averaging=Averaging(old=old)))
    assert told == [before / (before + new) if used is None else used]


def test_from_its_step_on_earlier_classes_go_first(scenery: Scenery) -> None:
    assert learn(scenery, DOUBLE).model.architecture.precedence == 0.0
    method = replace(DOUBLE, precedence=Precedence(power=0.5))
    assert learn(scenery, method).model.architecture.precedence == 0.5
    assert scenery.before.architecture.precedence == 0.0


def test_a_step_with_an_interim_network_is_learned_to_its_end(scenery: Scenery) -> None:
    outcome = learn(scenery, DOUBLE)
    assert outcome.iterations == {"interim": 2, "train": 4, "finetune": 2} and len(outcome.memory) == 6
    assert not (scenery.folder / "interim.responses.safetensors").exists()
    assert (scenery.folder / "interim.pt").is_file()  # a stopped step takes it up again


# --- the fourth: the memory


def test_the_memory_is_cut_and_filled(scenery: Scenery) -> None:
    model = scenery.before
    model.grow(scenery.view.names)
    memory = choose_exemplars(
        scenery.engine, model, scenery.view.records, scenery.view.names, scenery.memory, scenery.config
    )
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
    memory = choose_exemplars(scenery.engine, scenery.before, scenery.view.records, scenery.view.names, empty, config)
    assert len(memory) == 6
    assert memory == empty.update(scenery.view.records, scenery.view.names, selection=selection, seed=config.seed)


# --- before training


def test_a_method_is_fitted_to_the_exemplars_and_the_images_of_the_step(scenery: Scenery) -> None:
    method = get_method("cldetr")
    teaching = Teaching({"old": Teacher(scenery.before)}, method.terms)
    with_memory, without = (
        fitted(scenery.shop, method, teaching, scenery.view, memory)
        for memory in (scenery.memory, Memory.empty(scenery.memory.budget))
    )
    assert [term.name for term in with_memory.terms] == [term.name for term in method.terms]
    for one in (with_memory, without):
        (term,) = (term for term in one.terms if isinstance(term, PseudoLabels))
        assert term.fitted is not None and len(term.fitted.high) == 2
    assert len(scenery.said()) == 2
    assert fitted(scenery.shop, method, Teaching({}, ()), scenery.view, scenery.memory) is method


def test_phases_have_seeds_of_their_own(settings: Callable[..., Config]) -> None:
    config = settings()
    seeds = {
        phase_seed(one, step, phase)
        for one in (config, settings(seed=1))
        for step in (1, 2)
        for phase in ("step 2 train", "growth")
    }
    assert len(seeds) == 8 and all(0 <= seed < 2**32 for seed in seeds)
    assert phase_seed(config, 1, "growth") == phase_seed(config, 1, "growth")


@pytest.mark.parametrize("trunk", ["own", "shared"])
def test_a_pair_learns_beside_the_old_detector(scenery: Scenery, trunk: str) -> None:
    before = state_of(scenery.before)
    outcome = learn(scenery, get_method("pair", settings={"pair": {"branch": {"trunk": trunk}}}))
    after = state_of(outcome.model)
    assert_equal_states(before, {name: value for name, value in after.items() if not name.startswith("branches.")})
    assert_equal_states(before, state_of(scenery.before))
    assert outcome.memory is scenery.memory and outcome.iterations == {"train": 4}
    assert outcome.model.vocab.steps == scenery.protocol.steps[:2]
    assert not torch.equal(after["branches.0.box_head.bbox_reg.weight"], before["box_head.bbox_reg.weight"])


@pytest.mark.parametrize("share", [0, 0.25])
def test_a_taught_pair_is_the_old_detector_beside_what_incdet_learns_without_memory(
    scenery: Scenery, share: float
) -> None:
    before, numbers = state_of(scenery.before), {"mixup": {"share": share}}
    alone = learn(scenery, get_method("incdet", ["replay", "precedence"], {"incdet": numbers}))
    outcome = learn(scenery, get_method("pair", settings={"pair": numbers}))
    after = state_of(outcome.model)
    assert_equal_states(before, {name: value for name, value in after.items() if not name.startswith("branches.")})
    own = {name.removeprefix("branches.0."): value for name, value in after.items() if name.startswith("branches.")}
    assert_equal_states(own, state_of(alone.model))
    assert outcome.memory is scenery.memory and outcome.iterations == {"interim": 4, "train": 4}
    assert outcome.model.vocab.steps == scenery.protocol.steps[:2]


def test_a_taught_pair_learns_step_after_step(scenery: Scenery) -> None:
    first = learn(scenery, get_method("pair"))
    view = step_view(scenery.source.train, scenery.protocol, 3)
    shop = scenery.shop._replace(folder=scenery.folder / "later")
    second = learn_step(shop, first.model, view, scenery.memory, get_method("pair"))
    known = state_of(first.model)
    later = state_of(second.model)
    assert_equal_states(known, {name: later[name] for name in known})
    assert second.model.vocab.steps == scenery.protocol.steps[:3]
    assert isinstance(second.model, PairedRetinaNet) and len(second.model.branches) == 2
    assert cast(IncrementalRetinaNet, second.model.branches[1]).vocab.steps == scenery.protocol.steps[:3]
