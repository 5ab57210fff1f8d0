from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from helpers import assert_equal_states, network, state_of
from torch import Tensor
from training_steps import BOX, Plain, lines, schedule, stream

from incdet.distillation.teacher_targets import Targets
from incdet.network.retinanet import HeadOutputs, IncrementalRetinaNet
from incdet.training.engine import Engine
from incdet.training.processes import Processes
from incdet.training.train_step import Precision, TrainStep, add_noise, make_optimizer


def make_step(
    model: IncrementalRetinaNet, criterion: Plain, dtype: torch.dtype | None = None, **plan: Any
) -> TrainStep:
    return TrainStep(Processes("cpu"), Precision("cpu", dtype), model.train(), criterion, schedule(**plan))


def batch(model: IncrementalRetinaNet, number: int = 0) -> Any:
    return model.prepare(*next(stream()(number)))


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


def test_momentum_begins_as_torchs_does() -> None:
    states = []
    for ours in (True, False):
        model = network()
        plan = schedule(momentum=0.9, weight_decay=0.01)
        optimizer = make_optimizer(model, plan) if ours else torch.optim.SGD(model.parameters(), 0.01, 0.9)
        if not ours:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01, fused=True)
        for number in range(3):
            sum(model.compute_losses(model.dense(found := batch(model, number)), found.targets).values()).backward()  # type: ignore[union-attr]
            optimizer.step()
            optimizer.zero_grad()
        states.append(state_of(model))
    assert_equal_states(*states)


def test_a_first_step_that_a_loss_scaler_skips_leaves_no_rubbish_behind() -> None:
    """torch keeps what lay in the memory of the momentum when the first fused step is skipped."""
    model = network()
    criterion = Plain(model, lambda call, losses: losses.update(box=losses["box"] * (math.inf if call == 1 else 1)))
    step = make_step(model, criterion, torch.float16, momentum=0.9)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    step(batch(model), 0.01)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    buffers = [state["momentum_buffer"] for state in step.optimizer.state.values()]
    assert len(buffers) == len(before) and not any(buffer.any() for buffer in buffers)
    losses, _ = step(batch(model, 1), 0.01)  # the scaler goes on
    assert losses.values.isfinite().all()
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())


# --- pieces


def test_the_pieces_of_a_batch_give_the_losses_and_weights_of_the_whole(
    make_engine: Callable[..., Engine], tmp_path: Any
) -> None:
    states = []
    for accumulation in (1, 2, 4):
        model = network()
        model.freeze_norm()  # the statistics of a batch depend on its size
        criterion = Plain(model)
        make_engine(accumulation=accumulation).fit(model, criterion, stream(4), schedule(batch_size=4), 3, phase="x")
        assert criterion.calls == 3 * accumulation
        states.append(state_of(model))
    names = ("loss", "focal", "box", "gradient")
    found = [[line[name] for name in names] for line in lines(tmp_path)]
    for row in range(3):
        assert found[row] == pytest.approx(found[row + 3], rel=1e-5)
        assert found[row] == pytest.approx(found[row + 6], rel=1e-5)
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-5, atol=1e-5)


def test_a_batch_smaller_than_its_pieces_is_cut_into_single_images(make_engine: Callable[..., Engine]) -> None:
    model = network()
    criterion = Plain(model)
    make_engine(accumulation=4).fit(model, criterion, stream(2), schedule(), 3, phase="x")
    assert criterion.calls == 6


# --- the step


def test_the_gradient_is_clipped_to_its_norm_and_told_before(make_engine: Callable[..., Engine], tmp_path: Any) -> None:
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
    assert [line["gradient"] for line in lines(tmp_path)] == pytest.approx([free] * 3, rel=1e-4)


def test_noise_on_the_gradient_is_gaussian_and_the_same_for_a_random_state() -> None:
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        gradients = [torch.full((200, 300), 5.0), torch.full((7,), 5.0)]
        add_noise(gradients, 0.2)
        draws.append(gradients)
    noise = draws[0][0] - 5.0
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.004) and float(noise.std()) == pytest.approx(0.2, rel=0.02)
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[2][0]) and not torch.equal(draws[0][1], draws[0][0].flatten()[:7])


def test_noise_moves_weights_and_is_not_told_as_gradient(make_engine: Callable[..., Engine], tmp_path: Any) -> None:
    weights = []
    for noise in (0.0, 1e-4):
        model = network()
        plan = schedule(lr=1.0, momentum=0.0, weight_decay=0.0, clip=0.01, gradient_noise=noise)
        make_engine().fit(model, Plain(model), stream(), plan, 1, phase="x", images=4)
        weights.append(torch.cat([one.detach().flatten() for one in model.parameters() if one.requires_grad]))
    assert float((weights[1] - weights[0]).std()) == pytest.approx(0.01, rel=0.05)
    first, second = (line["gradient"] for line in lines(tmp_path))
    assert first == second


def test_bfloat16_on_the_cpu_keeps_losses_boxes_and_weights_in_float32(make_engine: Callable[..., Engine]) -> None:
    dtypes: list[list[torch.dtype]] = []

    class Watching(Plain):
        def __call__(self, outputs: HeadOutputs, targets: Targets, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
            losses = super().__call__(outputs, targets, totals)
            dtypes.append([one.dtype for one in (outputs.logits, outputs.deltas, outputs.anchors, *losses.values())])
            return losses

    model = network()
    make_engine(precision="bf16").fit(model, Watching(model), stream(), schedule(), 2, phase="x")
    low, full = torch.bfloat16, torch.float32
    assert dtypes == [[low, low, full, full, full]] * 2
    assert all(parameter.dtype == full and torch.isfinite(parameter).all() for parameter in model.parameters())
    plain = network()
    make_engine().fit(plain, Plain(plain), stream(), schedule(), 2, phase="x")  # a new engine, a new precision
    assert all(torch.allclose(a, b, atol=0.02) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_no_weight_nor_does_a_step_after_it(value: float) -> None:
    model = network()
    criterion = Plain(model, lambda call, losses: losses.update(box=losses["box"] * (value if call == 2 else 1)))
    step = make_step(model, criterion)
    step(batch(model), 0.01)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = [step(batch(model, number), 0.01)[0] for number in (1, 2)]
    assert [bool(losses.values[0].isfinite()) for losses in found] == [False, True]
    assert found[0].names == ("loss", "focal", "box", "gradient")
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_a_step_tells_what_the_batch_was_compared_with() -> None:
    model = network()
    prepared = batch(model)
    _, (targets,) = make_step(model, Plain(model))(prepared, 0.01)
    assert [one["boxes"].tolist() for one in targets.batch.targets] == [[], [BOX]] and float(
        targets.counts["images"]
    ) == 2
