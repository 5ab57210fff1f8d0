from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import assert_equal_states, network, state_of
from torch import Tensor
from training_steps import Plain, lines, schedule, stream

from incdet.config import Schedule
from incdet.errors import InputError, Terminated
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.batches import Batch
from incdet.training.engine import Engine
from incdet.training.schedule import learning_rate

# --- training


def test_training_lowers_the_loss_and_moves_only_what_trains(make_engine: Callable[..., Engine]) -> None:
    model = network()
    model.freeze_norm()
    before, seen = state_of(model), list[float]()
    fixed = next(stream()(0))
    criterion = Plain(model, lambda _, losses: seen.append(sum(float(loss.detach()) for loss in losses.values())))

    def same(drawn: int) -> Iterator[Batch]:
        while True:
            yield fixed

    make_engine().fit(model, criterion, same, schedule(optimizer="adamw", lr=0.0005), 12, phase="x")
    assert model.training and len(seen) == 12 and seen[-1] < 0.9 * seen[0]
    after, training = state_of(model), set(model.trainable_names())
    assert {name for name in before if not torch.equal(before[name], after[name])} == training


def test_the_log_has_a_line_every_few_steps_and_one_at_the_end(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    engine = make_engine(progress=lambda phase, done, total, loss: told.append((phase, done, total)), log_every=2)
    model, seen = network(), list[dict[str, float]]()
    criterion = Plain(
        model, lambda _, losses: seen.append({name: float(loss.detach()) for name, loss in losses.items()})
    )
    engine.fit(model, criterion, stream(), schedule(schedule="cosine"), 5, phase="step 1 train")
    found = lines(tmp_path)
    assert [line["iteration"] for line in found] == [2, 4, 5]
    assert all(line["event"] == "train" and line["phase"] == "step 1 train" for line in found)
    names = {"loss", "focal", "box", "gradient"}
    assert found[0].keys() == {"time", "event", "phase", "iteration", "lr", "images_per_second"} | names
    for line, rows in zip(found, ([0, 1], [2, 3], [4]), strict=True):
        for name in ("focal", "box"):
            assert line[name] == pytest.approx(sum(seen[row][name] for row in rows) / len(rows), abs=2e-6)
        assert line["loss"] == pytest.approx(line["focal"] + line["box"], abs=1e-5)
        assert line["lr"] == pytest.approx(learning_rate(schedule(schedule="cosine"), rows[-1], 5))
        assert line["images_per_second"] > 0 and line["gradient"] > 0
    assert told == [("step 1 train", done, 5) for done in range(1, 6)]


def test_automatic_precision_is_full_on_a_cpu(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    assert engine.settings.precision == "auto" and engine.precision == "off"
    assert "precision off" in engine.describe() and "processes" not in engine.describe()


def test_engines_of_different_precision_work_side_by_side_in_one_process(make_engine: Callable[..., Engine]) -> None:
    dtypes: list[tuple[str, torch.dtype]] = []

    class Watching(Plain):
        def __init__(self, model: IncrementalRetinaNet, name: str) -> None:
            super().__init__(model)
            model.box_head.register_forward_hook(lambda *found: dtypes.append((name, found[2].dtype)))

    engines = {"bf16": make_engine(precision="bf16"), "off": make_engine(precision="off")}
    models = {name: network() for name in engines}
    criteria = {name: Watching(model, name) for name, model in models.items()}
    for _ in range(2):  # turn by turn
        for name, engine in engines.items():
            engine.fit(models[name], criteria[name], stream(), schedule(), 1, phase="x")
    assert dtypes == [("bf16", torch.bfloat16), ("off", torch.float32)] * 2
    alone = network()
    for _ in range(2):
        make_engine().fit(alone, Plain(alone), stream(), schedule(), 1, phase="x")
    assert_equal_states(state_of(models["off"]), state_of(alone))


# --- resuming


def interrupted_then_resumed(
    make: Callable[..., Engine], state: Path, plan: Schedule, stop: Callable[[int], None], accumulation: int
) -> dict[str, Tensor]:
    """The weights after an interruption by ``stop``, which is told every step, and a fresh start from the state."""

    def progress(phase: str, done: int, total: int, loss: float) -> None:
        stop(done)

    model = network()
    engine = make(progress=progress, accumulation=accumulation)
    with pytest.raises(KeyboardInterrupt):
        engine.fit(model, Plain(model), stream(), plan, 6, phase="x", state=state)
    fresh = network(seed=9)
    criterion = Plain(fresh)
    make(accumulation=accumulation).fit(fresh, criterion, stream(), plan, 6, phase="x", state=state)
    assert 0 < criterion.calls < 6 * accumulation
    return state_of(fresh)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_resuming_equals_uninterrupted_training_bit_for_bit(
    make_engine: Callable[..., Engine], tmp_path: Path, optimizer: str, accumulation: int
) -> None:
    plan = schedule(optimizer=optimizer, schedule="cosine", warmup=2, clip=1.0, gradient_noise=1e-6)
    whole = network()
    make_engine(accumulation=accumulation).fit(whole, Plain(whole), stream(), plan, 6, phase="x")

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    state = tmp_path / "states" / "train.pt"
    assert_equal_states(interrupted_then_resumed(make_engine, state, plan, stop, accumulation), state_of(whole))


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
    assert [path.name for path in state.parent.glob("*.tmp*")] == []


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


def test_an_image_that_cannot_be_read_costs_no_finished_step(
    make_engine: Callable[..., Engine], tmp_path: Path
) -> None:
    state, plan = tmp_path / "train.pt", schedule(optimizer="adamw")
    whole, part = network(), network()
    make_engine().fit(whole, Plain(whole), stream(), plan, 6, phase="x")

    def torn(drawn: int) -> Iterator[Batch]:
        images = stream()(drawn)
        for _ in range(4):
            yield next(images)
        raise InputError([])

    with pytest.raises(InputError):
        make_engine().fit(part, Plain(part), torn, plan, 6, phase="x", state=state)
    fresh = network(seed=9)
    criterion = Plain(fresh)
    make_engine().fit(fresh, criterion, stream(), plan, 6, phase="x", state=state)
    assert criterion.calls == 2
    assert_equal_states(state_of(fresh), state_of(whole))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", None])
def test_a_state_that_cannot_be_taken_up_is_named(
    make_engine: Callable[..., Engine], tmp_path: Path, content: bytes | None
) -> None:
    state, other = tmp_path / "train.pt", network(("a", "b", "c"))
    if content is None:
        make_engine().fit(other, Plain(other), stream(), schedule(), 1, phase="x", state=state)
    else:
        state.write_bytes(content)
    model = network()
    with pytest.raises(InputError, match=r"train\.pt.*cannot be taken up.*remove the file"):
        make_engine().fit(model, Plain(model), stream(), schedule(), 1, phase="x", state=state)


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
