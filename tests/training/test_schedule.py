from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR
from training_steps import schedule

from incdet.config import Schedule, Train, parse_config
from incdet.training.schedule import Lengths, Phase, iterations, learning_rate, noise_deviation

# --- the gradient's noise


def test_the_variance_of_the_noise_falls_with_the_passes() -> None:
    noisy = schedule(batch_size=4, gradient_noise=0.3)
    found = [noise_deviation(noisy, done, images=10) ** 2 for done in (0, 2, 3, 7, 8)]
    assert found == pytest.approx([0.3, 0.3, 0.3 / 2**0.55, 0.3 / 3**0.55, 0.3 / 4**0.55])
    assert noise_deviation(schedule(), 5, images=10) == 0.0


# --- the learning rate


def rates(total: int, **values: Any) -> list[float]:
    return [learning_rate(schedule(lr=0.1, **values), done, total) for done in range(total)]


def torchs(optimizer: torch.optim.Optimizer, course: LRScheduler, total: int) -> list[float]:
    found = []
    for _ in range(total):
        found.append(float(course.get_last_lr()[0]))
        optimizer.step()
        course.step()
    return found


@pytest.mark.parametrize("total", [5, 12])
def test_cosine_is_torchs(total: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = torchs(optimizer, CosineAnnealingLR(optimizer, total), total)
    assert rates(total, schedule="cosine") == pytest.approx(expected)


def test_steps_are_torchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = torchs(optimizer, MultiStepLR(optimizer, [8, 11]), 12)
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


# --- lengths


@pytest.mark.parametrize(
    ("given", "images", "steps"),
    [
        (Schedule(iterations=7), 1000, 7),
        (Schedule(epochs=3, batch_size=16), 160, 30),
        (Schedule(epochs=1.5, batch_size=10), 100, 15),
        (Schedule(epochs=1, batch_size=16), 3, 1),
    ],
)
def test_the_length_of_a_schedule_of_its_own(given: Schedule, images: int, steps: int) -> None:
    assert iterations(given, images) == steps


def train(**sections: Any) -> Train:
    return parse_config({"train": sections}).train


def test_lengths_that_nobody_gives_are_derived_from_the_images() -> None:
    lengths = Lengths(train(base={"iterations": 100, "batch_size": 8}), [200, 50, 400])
    assert lengths.base() == 100
    assert [lengths.increment(step) for step in (2, 3)] == [25, 200]  # four passes each, as step 1
    assert [lengths.finetune(step, 12) for step in (2, 3)] == [2, 20]
    assert lengths.passes() == 4.0 and lengths.joint(500) == 250


def test_lengths_in_epochs_count_the_images_of_their_own_step() -> None:
    lengths = Lengths(train(base={"epochs": 6, "batch_size": 10}), [100, 30])
    assert (lengths.base(), lengths.increment(2), lengths.joint(130)) == (60, 18, 78)


def test_a_batch_of_another_size_makes_as_many_passes() -> None:
    lengths = Lengths(
        train(base={"iterations": 100, "batch_size": 8}, increment={"batch_size": 4}, joint={"batch_size": 16}),
        [200, 50],
    )
    assert lengths.increment(2) == 50 and lengths.passes() == 4.0 and lengths.joint(240) == 60


def test_lengths_that_are_given_are_taken() -> None:
    given = {"base": {"iterations": 100}, "increment": {"iterations": 7}, "finetune": {"epochs": 3, "batch_size": 4}}
    lengths = Lengths(train(**given, joint={"epochs": 2, "batch_size": 10}), [200, 50])
    assert (lengths.increment(2), lengths.finetune(2, 12), lengths.joint(250)) == (7, 9, 50)


def test_joint_training_sees_its_images_as_often_as_the_steps_together_see_theirs() -> None:
    lengths = Lengths(train(base={"iterations": 100, "batch_size": 8}, increment={"iterations": 50}), [200, 100])
    assert lengths.passes() == pytest.approx((100 + 50) * 8 / 300)
    assert lengths.joint(250) == round((100 + 50) * 8 / 300 * 250 / 8)


def test_an_image_of_two_steps_is_drawn_by_both_and_joint_training_makes_up_for_it() -> None:
    """Overlapping steps: 300 drawn images of 200 different ones, at 4 passes a step."""
    lengths = Lengths(train(base={"epochs": 4, "batch_size": 10}), [150, 150])
    assert lengths.base() + lengths.increment(2) == 120 and lengths.joint(200) == 80


def test_every_phase_has_an_optimiser_step() -> None:
    lengths = Lengths(train(base={"epochs": 0.5, "batch_size": 16}), [4, 1])
    assert (lengths.base(), lengths.increment(2), lengths.finetune(2, 1), lengths.joint(1)) == (1, 1, 1, 1)


def test_the_passes_of_a_step_that_nobody_saw_cannot_be_counted() -> None:
    """A detector that is extended: its own step 1 was trained elsewhere."""
    assert Lengths(train(base={"iterations": 90}), [0, 50]).increment(2) == 90
    assert Lengths(train(base={"epochs": 6, "batch_size": 10}), [0, 50]).increment(2) == 30


def test_lengths_are_told_in_a_line() -> None:
    lengths = Lengths(train(base={"iterations": 2000, "batch_size": 10}), [1000, 500])
    assert lengths.describe() == "optimiser steps: step 1 2,000, step 2 1,000"
    assert lengths.describe(1500).endswith("joint 3,000 (20.0 passes; the steps together 20.0)")
    assert "step 1" not in Lengths(train(base={"iterations": 20}), [0, 500]).describe()


def test_a_phase_has_a_name_for_the_eye() -> None:
    assert (str(Phase(2, "interim")), str(Phase(None, "train"))) == ("step 2 interim", "joint train")
