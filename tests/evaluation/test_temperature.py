from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from incdet.evaluation.temperature import (
    HIGHEST,
    LOWEST,
    calibration_error,
    fit_temperature,
    negative_log_likelihood,
    scale_scores,
)


def drawn(temperature: float, count: int = 20_000) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Detections whose scores are right only after they are scaled by ``temperature``."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, count)
    hits = rng.random(count) < 1 / (1 + np.exp(-logits))
    return 1 / (1 + np.exp(-logits * temperature)), hits


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_spoiled_the_scores_is_found(temperature: float) -> None:
    scores, hits = drawn(temperature)
    found = fit_temperature(scores, hits)
    assert found == pytest.approx(temperature, rel=0.05)
    mended = scale_scores(scores, found)
    assert calibration_error(mended, hits) < 0.015
    if temperature != 1.0:
        assert calibration_error(scores, hits) > 3 * calibration_error(mended, hits)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_no_other_temperature_is_likelier(pairs: list[tuple[float, bool]]) -> None:
    scores, hits = np.array([score for score, _ in pairs]), np.array([hit for _, hit in pairs])
    best = fit_temperature(scores, hits)
    assert LOWEST * 0.99 <= best <= HIGHEST * 1.01
    if hits.any() and not hits.all():
        least = negative_log_likelihood(scores, hits, best)
        for other in np.geomspace(LOWEST, HIGHEST, 41):
            assert least <= negative_log_likelihood(scores, hits, float(other)) + 1e-6


@given(st.lists(st.floats(0.001, 0.999), min_size=2, max_size=20, unique=True), st.floats(0.2, 5))
def test_scaling_keeps_the_order_and_one_half(values: list[float], temperature: float) -> None:
    scores = np.sort(np.array(values))
    scaled = scale_scores(scores, temperature)
    assert (np.diff(scaled) >= 0).all() and ((scaled >= 0) & (scaled <= 1)).all()
    assert scale_scores(np.array([0.5]), temperature)[0] == pytest.approx(0.5)
    assert scale_scores(scores, 1.0) == pytest.approx(scores, abs=1e-6)


def test_where_nothing_can_be_learned_the_temperature_is_one() -> None:
    assert fit_temperature(np.zeros(0), np.zeros(0, bool)) == 1.0
    assert fit_temperature(np.array([0.9, 0.2]), np.array([True, True])) == 1.0
    assert (
        negative_log_likelihood(np.zeros(0), np.zeros(0, bool))
        == calibration_error(np.zeros(0), np.zeros(0, bool))
        == 0
    )
    assert np.isfinite(negative_log_likelihood(np.array([0.0, 1.0]), np.array([True, False])))


def test_the_calibration_error_is_the_distance_of_score_and_share() -> None:
    scores, hits = np.array([0.85, 0.85, 0.25, 1.0]), np.array([True, False, False, True])
    assert calibration_error(scores, hits) == pytest.approx((abs(1 - 1.7) + 0.25 + 0) / 4)


def test_a_temperature_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        scale_scores(np.array([0.5]), 0.0)
