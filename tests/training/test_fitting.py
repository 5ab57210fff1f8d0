from __future__ import annotations

import pytest

from incdet.config import Schedule
from incdet.training.fitting import LEAST_STEPS, MOST_STEPS, fit, fitted_batch, fitted_steps, refresh


@pytest.mark.parametrize(
    ("images", "most", "batch"),
    [
        (3, 99, 4),
        (36, 99, 4),
        (63, 99, 4),
        (64, 99, 8),
        (128, 99, 16),
        (9999, 99, 16),
        (9999, 9, 8),
        (36, 3, 2),
        (36, 0, 1),
    ],
)
def test_the_batch_fits_images_and_memory(images: int, most: int, batch: int) -> None:
    assert fitted_batch(images, most) == batch


def test_few_images_are_seen_often_and_many_as_often_as_is_usual() -> None:
    passes = [fitted_steps(images, 10**6, 4) * 4 / images for images in (36, 100, 400, 1000, 4000)]
    assert 30 < passes[0] < 40 and passes == sorted(passes, reverse=True)
    assert passes[-2:] == pytest.approx([12, 12], rel=0.01)
    assert fitted_steps(36, 10, 4) == 327  # not the 27 of twelve passes in batches of 16


def test_there_is_a_least_and_a_most() -> None:
    assert fitted_steps(1, 1, 16) == LEAST_STEPS
    assert fitted_steps(10**7, 10**7, 16) == MOST_STEPS


def test_a_rare_class_makes_it_longer_but_twice_at_most() -> None:
    plain = fitted_steps(1000, 10**6, 16)
    assert fitted_steps(1000, 20, 16) == round(15 * 1000 / 16) > plain
    assert fitted_steps(1000, 1, 16) == 2 * plain


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.0025), ("adamw", 0.005)])
def test_a_smaller_batch_learns_more_slowly(optimizer: str, lr: float) -> None:
    schedule = Schedule(optimizer=optimizer, lr=0.01, batch_size=16, warmup=500)  # type: ignore[arg-type]
    found = fit(schedule, 36, 10, 99)
    assert (found.batch_size, found.lr) == (4, lr)
    assert found.warmup == found.iterations // 10


def test_known_classes_are_refreshed_gently() -> None:
    schedule = Schedule(optimizer="adamw", lr=0.01, batch_size=16, warmup=500)
    assert refresh(schedule, 30, 99) == (4, 90, 0.0005, 9)
    assert refresh(schedule, 1, 1).iterations == 12
