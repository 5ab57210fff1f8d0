from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_equal_states, network, state_of, target
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from incdet.config import Engine as Settings
from incdet.config import Schedule
from incdet.errors import Terminated, TrainingError
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.training.engine import Batch, Engine, learning_rate
from incdet.training.log import RunLog
from incdet.training.train_step import NonFiniteCheck, make_optimizer

BOX = [6.0, 6.0, 28.0, 30.0]


def schedule(**values: Any) -> Schedule:
    return Schedule(**{"iterations": 6, "batch_size": 2, "lr": 0.01, "warmup": 0, "schedule": "constant", **values})


def stream(size: int = 2) -> Callable[[int], Iterator[Batch]]:
    """Batch s of ``size`` images is a function of s alone; with ``size`` 1 the same images come one by one."""

    def batches(drawn: int) -> Iterator[Batch]:
        for number in count(drawn):
            images, targets = [], []
            for place in range(number * size, (number + 1) * size):
                generator = torch.Generator().manual_seed(place)
                images.append(torch.rand(3, 48, 48, generator=generator))
                targets.append(target([BOX], [place % 2]) if place % 3 else target())
            yield images, targets

    return batches


class Plain:
    """The detector's own losses; ``before`` is told how often it has been called, and may change them."""

    def __init__(
        self, model: IncrementalRetinaNet, before: Callable[[int, dict[str, Tensor]], object] | None = None
    ) -> None:
        self.model, self.before, self.calls = model, before, 0

    def __call__(self, dense: HeadOutputs, prepared: ImageBatch) -> dict[str, Tensor]:
        self.calls += 1
        losses = self.model.compute_losses(dense, prepared.targets or [])
        if self.before is not None:
            self.before(self.calls, losses)
        return losses


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    journals = []

    def make(progress: Any = None, **settings: Any) -> Engine:
        journals.append(RunLog(tmp_path / "run"))
        values = {"workers": 0, "device": "cpu", "log_every": 1, **settings}
        return Engine(Settings(**values), journals[-1], progress)

    yield make
    for log in journals:
        log.close()


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]


# --- the learning rate


def rates(total: int, **values: Any) -> list[float]:
    return [learning_rate(schedule(lr=0.1, **values), done, total) for done in range(total)]


@pytest.mark.parametrize("total", [5, 12])
def test_cosine_is_torchs(total: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    course = CosineAnnealingLR(optimizer, total)
    expected = []
    for _ in range(total):
        expected.append(course.get_last_lr()[0])
        optimizer.step()
        course.step()
    assert rates(total, schedule="cosine") == pytest.approx(expected)


def test_steps_are_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    course = MultiStepLR(optimizer, [8, 11])
    expected = []
    for _ in range(12):
        expected.append(course.get_last_lr()[0])
        optimizer.step()
        course.step()
    assert rates(12, schedule="step", milestones=(8 / 12, 11 / 12)) == pytest.approx(expected)


@pytest.mark.parametrize("course", ["constant", "cosine", "step"])
def test_warmup_rises_linearly_to_the_full_rate(course: str) -> None:
    found = rates(40, schedule=course, warmup=10, milestones=(0.5,))
    assert found[:10] == pytest.approx([0.1 * step / 10 for step in range(1, 11)])
    assert found[10] == pytest.approx(0.1) and max(found) <= 0.1 + 1e-9
    assert all(rate > 0 for rate in found)
    if course != "constant":
        assert found[-1] < 0.02


def test_cosine_runs_from_the_end_of_the_warmup_to_zero() -> None:
    found = rates(20, schedule="cosine", warmup=4)
    assert found[4:] == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 16)) for step in range(16)])


def test_a_warmup_longer_than_the_training_takes_half_of_it() -> None:
    found = rates(10, warmup=500)
    assert found[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1]) and found[5:] == pytest.approx([0.1] * 5)
    assert rates(1, warmup=500) == pytest.approx([0.1])


# --- optimisers


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimisers_are_fused_and_hold_what_trains(name: str, kind: type[torch.optim.Optimizer]) -> None:
    model = network()
    model.freeze_norm()
    optimizer = make_optimizer(model, schedule(optimizer=name, lr=0.3, weight_decay=0.02, momentum=0.7))
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert group["fused"] is True and group["lr"] == 0.3 and group["weight_decay"] == 0.02
    assert name == "adamw" or group["momentum"] == 0.7
    assert len(group["params"]) == len(model.trainable_names()) < len(list(model.parameters()))


# --- training


def test_training_lowers_the_loss_and_moves_only_what_trains(make_engine: Callable[..., Engine]) -> None:
    model = network()
    model.freeze_norm()
    before, seen = state_of(model), []
    fixed = next(stream()(0))
    criterion = Plain(model, lambda _, losses: seen.append(sum(float(loss.detach()) for loss in losses.values())))

    def same(drawn: int) -> Iterator[Batch]:
        while True:
            yield fixed

    make_engine().fit(model, criterion, same, schedule(optimizer="adamw", lr=0.0005), 12, phase="x")
    assert model.training and len(seen) == 12 and seen[-1] < 0.9 * seen[0]
    after, training = state_of(model), set(model.trainable_names())
    assert {name for name in before if not torch.equal(before[name], after[name])} == training


def test_accumulated_batches_equal_one_big_batch(make_engine: Callable[..., Engine]) -> None:
    states = []
    for accumulation, size in ((1, 4), (4, 1), (2, 2)):
        model = network()
        model.freeze_norm()  # the statistics of a batch depend on its size
        engine = make_engine(accumulation=accumulation)
        criterion = Plain(model)
        engine.fit(model, criterion, stream(size), schedule(batch_size=4), 3, phase="x")
        assert criterion.calls == 3 * accumulation
        states.append(state_of(model))
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_clipped_to_its_norm(make_engine: Callable[..., Engine]) -> None:
    def moved(clip: float | None) -> float:
        model = network()
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        plain = schedule(lr=1.0, momentum=0.0, weight_decay=0.0, clip=clip)
        make_engine().fit(model, Plain(model), stream(), plain, 1, phase="x")
        return math.sqrt(sum(float((p.detach() - before[name]).pow(2).sum()) for name, p in model.named_parameters()))

    free = moved(None)
    assert free > 0.1
    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(100 * free) == pytest.approx(free, rel=1e-3)


def test_the_log_has_a_line_every_few_steps_and_one_at_the_end(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    engine = make_engine(progress=lambda phase, done, total, loss: told.append((phase, done, total)), log_every=2)
    model, seen = network(), []
    criterion = Plain(
        model, lambda _, losses: seen.append({name: float(loss.detach()) for name, loss in losses.items()})
    )
    engine.fit(model, criterion, stream(), schedule(schedule="cosine"), 5, phase="step 1 train")
    found = lines(tmp_path)
    assert [line["iteration"] for line in found] == [2, 4, 5]
    assert all(line["event"] == "train" and line["phase"] == "step 1 train" for line in found)
    assert found[0].keys() == {
        "time",
        "event",
        "phase",
        "iteration",
        "loss",
        "classification",
        "bbox_regression",
        "lr",
        "images_per_second",
    }
    for line, rows in zip(found, ([0, 1], [2, 3], [4]), strict=True):
        for name in ("classification", "bbox_regression"):
            assert line[name] == pytest.approx(sum(seen[row][name] for row in rows) / len(rows), abs=2e-6)
        assert line["loss"] == pytest.approx(line["classification"] + line["bbox_regression"], abs=1e-5)
        assert line["lr"] == pytest.approx(learning_rate(schedule(schedule="cosine"), rows[-1], 5))
        assert line["images_per_second"] > 0
    assert told == [("step 1 train", done, 5) for done in range(1, 6)]


def test_bfloat16_on_the_cpu_keeps_losses_boxes_and_weights_in_float32(make_engine: Callable[..., Engine]) -> None:
    model, dtypes = network(), []

    def criterion(dense: HeadOutputs, prepared: ImageBatch) -> dict[str, Tensor]:
        losses = model.compute_losses(dense, prepared.targets or [])
        dtypes.append([value.dtype for value in (dense.logits, dense.deltas, dense.anchors, *losses.values())])
        return losses

    make_engine(precision="bf16").fit(model, criterion, stream(), schedule(), 2, phase="x")
    low, full = torch.bfloat16, torch.float32
    assert dtypes == [[low, low, full, full, full]] * 2
    assert all(parameter.dtype == full and torch.isfinite(parameter).all() for parameter in model.parameters())
    plain = network()
    make_engine().fit(plain, Plain(plain), stream(), schedule(), 2, phase="x")  # a new engine, a new precision
    assert all(torch.allclose(a, b, atol=0.02) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


# --- the guard


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_training_and_saves_the_batch(
    make_engine: Callable[..., Engine], tmp_path: Path, value: float
) -> None:
    model = network()
    kept: dict[str, Tensor] = {}

    def spoil(call: int, losses: dict[str, Tensor]) -> None:
        if call == 3:
            kept.update({name: p.detach().clone() for name, p in model.named_parameters()})
            losses["bbox_regression"] = losses["bbox_regression"] * value

    state = tmp_path / "states" / "train.pt"
    with pytest.raises(TrainingError, match="iteration 3") as caught:
        make_engine().fit(model, Plain(model, spoil), stream(), schedule(), 6, phase="x", state=state)
    assert "bbox_regression" in str(caught.value) and "nonfinite.pt" in str(caught.value)
    assert all(torch.equal(p, kept[name]) for name, p in model.named_parameters())  # nothing was learned from it
    saved = torch.load(state.with_name("nonfinite.pt"), weights_only=True)
    images, targets = next(stream()(2))
    assert saved["iteration"] == 2
    assert torch.equal(saved["images"], model.prepare(images, targets).images)
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(saved["targets"], targets, strict=True))
    assert saved["rng"].dtype == torch.uint8 and saved["rng"].shape == torch.get_rng_state().shape


def test_the_guard_works_without_a_place_to_save(make_engine: Callable[..., Engine]) -> None:
    model = network()
    criterion = Plain(model, lambda _, losses: losses.update(classification=losses["classification"] / 0))
    with pytest.raises(TrainingError, match="nothing was saved"):
        make_engine().fit(model, criterion, stream(), schedule(), 1, phase="x")


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard as it works on a GPU: a step is read when the next one has been launched."""
    monkeypatch.setattr("incdet.training.engine.NonFiniteCheck", lambda state, lag: NonFiniteCheck(state, lag=1))


def test_a_late_guard_names_the_step_and_its_micro_batch_and_no_weight_has_moved_by_it(
    make_engine: Callable[..., Engine], tmp_path: Path, late: None
) -> None:
    model, kept = network(), {}

    def spoil(call: int, losses: dict[str, Tensor]) -> None:
        if call in (5, 7):
            kept[call] = {name: p.detach().clone() for name, p in model.named_parameters()}
        if call == 6:
            losses["classification"] = losses["classification"] * math.nan

    state = tmp_path / "train.pt"
    with pytest.raises(TrainingError, match="iteration 3.*classification"):
        make_engine(accumulation=2).fit(model, Plain(model, spoil), stream(), schedule(), 6, phase="x", state=state)
    assert all(torch.equal(kept[5][name], kept[7][name]) for name in kept[5])
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    saved = torch.load(state.with_name("nonfinite.pt"), weights_only=True)
    assert saved["iteration"] == 2
    assert torch.equal(saved["images"], model.prepare(*next(stream()(5))).images)


def test_a_late_guard_stops_at_the_last_step_too_and_before_a_state_is_stored(
    make_engine: Callable[..., Engine], tmp_path: Path, late: None
) -> None:
    model = network()
    criterion = Plain(model, lambda call, losses: losses.update(bbox_regression=losses["bbox_regression"] / (3 - call)))
    state = tmp_path / "train.pt"
    with pytest.raises(TrainingError, match="iteration 3"):
        make_engine().fit(model, criterion, stream(), schedule(), 3, phase="x", state=state)
    assert not state.exists()


def test_a_late_guard_changes_neither_weights_nor_log(
    make_engine: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for lag in (0, 1):
        monkeypatch.setattr(
            "incdet.training.engine.NonFiniteCheck", lambda state, lag, wanted=lag: NonFiniteCheck(state, lag=wanted)
        )
        model = network()
        make_engine(log_every=6).fit(model, Plain(model), stream(), schedule(), 6, phase="x")
        found.append((state_of(model), lines(tmp_path)[-1]["loss"]))
    assert_equal_states(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_automatic_precision_is_full_on_a_cpu(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    assert engine.settings.precision == "auto" and engine.precision == "off"
    assert "precision off" in engine.describe()


# --- resuming


def interrupted_then_resumed(
    make: Callable[..., Engine], state: Path, plan: Schedule, stop: Callable[[int], None], **settings: Any
) -> dict[str, Tensor]:
    """The weights after an interruption by ``stop``, which is told every step, and a fresh start from the state."""

    def progress(phase: str, done: int, total: int, loss: float) -> None:
        stop(done)

    model = network()
    with pytest.raises(KeyboardInterrupt):
        make(progress=progress, **settings).fit(model, Plain(model), stream(), plan, 6, phase="x", state=state)
    fresh = network(seed=9)
    criterion = Plain(fresh)
    make(**settings).fit(fresh, criterion, stream(), plan, 6, phase="x", state=state)
    assert 0 < criterion.calls < 6 * settings.get("accumulation", 1)
    return state_of(fresh)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_resuming_equals_uninterrupted_training_bit_for_bit(
    make_engine: Callable[..., Engine], tmp_path: Path, optimizer: str, accumulation: int
) -> None:
    plan = schedule(optimizer=optimizer, schedule="cosine", warmup=2, clip=1.0)
    whole = network()
    make_engine(accumulation=accumulation).fit(whole, Plain(whole), stream(), plan, 6, phase="x")

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    parts = interrupted_then_resumed(
        make_engine, tmp_path / "states" / "train.pt", plan, stop, accumulation=accumulation
    )
    assert_equal_states(parts, state_of(whole))


def test_a_killed_process_goes_on_from_the_last_checkpoint(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    state, plan = tmp_path / "train.pt", schedule(optimizer="adamw")
    whole = network()
    make_engine().fit(whole, Plain(whole), stream(), plan, 6, phase="x")

    def die(call: int, losses: dict[str, Tensor]) -> None:
        if call == 6:
            raise MemoryError

    model = network()
    with pytest.raises(MemoryError):
        make_engine(checkpoint_every=2).fit(model, Plain(model, die), stream(), plan, 6, phase="x", state=state)
    assert torch.load(state, weights_only=True)["done"] == 4
    fresh = network(seed=9)
    make_engine().fit(fresh, Plain(fresh), stream(), plan, 6, phase="x", state=state)
    assert_equal_states(state_of(fresh), state_of(whole))
    assert [path.name for path in state.parent.glob("*.tmp")] == []


def test_a_finished_phase_is_not_trained_again(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    state = tmp_path / "train.pt"
    model, again = network(), network(seed=9)
    make_engine().fit(model, Plain(model), stream(), schedule(), 3, phase="x", state=state)
    criterion = Plain(again)
    make_engine().fit(again, criterion, stream(), schedule(), 3, phase="x", state=state)
    assert criterion.calls == 0
    assert_equal_states(state_of(again), state_of(model))


def test_the_random_state_is_restored(make_engine: Callable[..., Engine], tmp_path: Path) -> None:
    """Training at several sizes draws one for every image."""
    plan, state = schedule(), tmp_path / "train.pt"

    def build(seed: int) -> IncrementalRetinaNet:
        model = network(seed=seed, min_size=(40, 44, 48))
        torch.manual_seed(seed)
        return model

    whole = build(0)
    make_engine().fit(whole, Plain(whole), stream(), plan, 6, phase="x")

    def stop(phase: str, done: int, total: int, loss: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    part = build(0)
    with pytest.raises(KeyboardInterrupt):
        make_engine(progress=stop).fit(part, Plain(part), stream(), plan, 6, phase="x", state=state)
    fresh = build(9)
    make_engine().fit(fresh, Plain(fresh), stream(), plan, 6, phase="x", state=state)
    assert_equal_states(state_of(fresh), state_of(whole))


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [(3, signal.SIGINT, KeyboardInterrupt), (4, signal.SIGINT, KeyboardInterrupt), (4, signal.SIGTERM, Terminated)],
)
def test_an_interrupt_in_the_middle_of_an_iteration_does_not_count_half_of_it(
    make_engine: Callable[..., Engine], tmp_path: Path, call: int, number: int, error: type[BaseException]
) -> None:
    """Ctrl-C comes when it likes: mostly between forward and step, when BatchNorm has seen the batch already."""
    plan, state = schedule(optimizer="adamw"), tmp_path / "train.pt"
    whole = network()
    make_engine().fit(whole, Plain(whole), stream(), plan, 6, phase="x")

    def interrupt(done: int, losses: dict[str, Tensor]) -> None:
        if done == call:
            signal.raise_signal(number)

    part, before = network(), signal.getsignal(number)
    with pytest.raises(error):
        make_engine().fit(part, Plain(part, interrupt), stream(), plan, 6, phase="x", state=state)
    assert signal.getsignal(number) is before
    fresh = network(seed=9)
    make_engine().fit(fresh, Plain(fresh), stream(), plan, 6, phase="x", state=state)
    assert_equal_states(state_of(fresh), state_of(whole))


def test_the_saved_random_state_prepares_the_saved_batch_as_it_was(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    """Several sizes: the size is drawn in prepare, so the state has to be that before it."""
    model = network(min_size=tuple(range(32, 64, 4)))
    shapes: list[list[tuple[int, int]]] = []

    def criterion(dense: HeadOutputs, prepared: ImageBatch) -> dict[str, Tensor]:
        shapes.append(prepared.image_sizes)
        losses = model.compute_losses(dense, prepared.targets or [])
        return {name: loss * (math.nan if len(shapes) == 3 else 1) for name, loss in losses.items()}

    state = tmp_path / "train.pt"
    with pytest.raises(TrainingError):
        make_engine().fit(model, criterion, stream(), schedule(), 6, phase="x", state=state)
    saved = torch.load(state.with_name("nonfinite.pt"), weights_only=True)
    torch.set_rng_state(saved["rng"])
    images, targets = next(stream()(2))
    assert model.prepare(images, targets).image_sizes == shapes[-1] == saved["image_sizes"]
