from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from incdet.distillation.thresholds import Thresholds, fit_thresholds
from incdet.evaluation.metrics import Matches


def matches(scores: list[float], hits: list[bool], objects: int) -> Matches:
    return Matches(np.array(scores), np.array(hits), np.zeros(len(scores), np.int64), np.array([objects]))


def scores(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def test_the_cut_of_best_f1() -> None:
    # F1 after 1, 2, 3, 4 kept: 2/5, 4/6, 4/7, 6/8 of 4 objects: the fourth is best, at 0.3.
    match = matches([0.65, 0.5, 0.4, 0.3, 0.2], [True, True, False, True, False], 4)
    fitted = fit_thresholds([scores(0.9, 0.9)], [match])
    assert fitted.high == pytest.approx((0.3,)) and fitted.low == pytest.approx((0.15,))


@given(
    hits=st.lists(st.booleans(), min_size=1, max_size=12).filter(any),
    missed=st.integers(0, 5),
)
def test_no_other_cut_has_a_better_f1(hits: list[bool], missed: int) -> None:
    values = np.linspace(0.69, 0.16, len(hits)).tolist()
    high = float(fit_thresholds([scores()], [matches(values, hits, sum(hits) + missed)]).high[0])

    def f1(cut: float) -> float:
        kept = [hit for value, hit in zip(values, hits, strict=True) if value >= cut - 1e-6]
        return 2 * sum(kept) / (len(kept) + sum(hits) + missed)

    assert f1(high) == pytest.approx(max(f1(value) for value in values))


def test_two_means_where_the_truth_is_unknown() -> None:
    bimodal = scores(*[0.1] * 30, *[0.2] * 30, *[0.8] * 5, *[0.9] * 5)
    wrong = matches([0.6, 0.5], [False, False], 3)
    for match in (None, wrong):
        assert float(fit_thresholds([bimodal], [match]).high[0]) == pytest.approx((0.15 + 0.85) / 2, abs=1e-4)


@pytest.mark.parametrize("values", [(), (0.3,), (0.3, 0.3, 0.3)])
def test_nothing_to_cluster(values: tuple[float, ...]) -> None:
    assert float(fit_thresholds([scores(*values)], [None]).high[0]) == pytest.approx(0.4)


@given(
    st.lists(st.integers(0, 100).map(lambda n: n / 100), min_size=1, max_size=20),
    st.sampled_from([(0.15, 0.7), (0.3, 0.4)]),
)
def test_thresholds_stay_within_their_bounds(values: list[float], bounds: tuple[float, float]) -> None:
    fitted = fit_thresholds([scores(*values)], [None], bounds=bounds, low_share=0.4)
    assert bounds[0] - 1e-6 <= float(fitted.high[0]) <= bounds[1] + 1e-6
    assert float(fitted.low[0]) == pytest.approx(0.4 * float(fitted.high[0]))


def test_classes_are_fitted_one_by_one() -> None:
    fitted = fit_thresholds([scores(0.1, 0.9), scores(), scores(0.2, 0.3)], [None, None, matches([0.25], [True], 1)])
    assert fitted.high == pytest.approx((0.5, 0.4, 0.25)) and fitted.low == pytest.approx((0.25, 0.2, 0.125))


def test_classes_that_were_not_fitted_get_the_mean_of_those_that_were() -> None:
    fitted = Thresholds((0.6, 0.4), (0.3, 0.1))
    assert fitted.widened(2) == fitted
    wider = fitted.widened(4)
    assert wider.high == pytest.approx((0.6, 0.4, 0.5, 0.5)) and wider.low == pytest.approx((0.3, 0.1, 0.2, 0.2))
    assert Thresholds((), ()).widened(1) == Thresholds((0.0,), (0.0,))


def test_neighbouring_scores_do_not_switch_a_class_off() -> None:
    lower = np.float32(0.3)
    for _ in range(4):  # the middle of two float32 neighbours is no float32: it rounds to either
        upper = np.nextafter(lower, np.float32(1))
        high = float(fit_thresholds([np.array([lower, upper], np.float32)], [None]).high[0])
        assert high == pytest.approx(0.3, abs=1e-3)
        lower = upper
