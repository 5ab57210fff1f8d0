from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from incdet.evaluation import metrics
from incdet.evaluation.metrics import ClassScore, Interval, Matches

STEPS = (("cat", "dog"), ("bird",), ("boat", "bus"))
# Worked by hand: AP is half of AP50 throughout; "dog" has no ground truth.
AFTER = {
    1: {"cat": 0.8, "dog": None},
    2: {"cat": 0.9, "dog": None, "bird": 0.6},
    3: {"cat": 0.5, "dog": None, "bird": 0.3, "boat": 0.4, "bus": 0.2},
}
JOINT = {"cat": 0.8, "dog": None, "bird": 0.6, "boat": 0.0, "bus": 0.4}


def per_class(values: dict[str, float | None]) -> dict[str, ClassScore | None]:
    return {name: None if value is None else ClassScore(value / 2, value) for name, value in values.items()}


SCORES = {step: per_class(values) for step, values in AFTER.items()}


def test_the_matrix_holds_the_means_of_every_steps_classes() -> None:
    table = metrics.matrix(SCORES, STEPS)
    assert table[0] == [0.8, None, None]
    assert table[1] == [0.9, 0.6, None]
    assert table[2] == pytest.approx([0.5, 0.3, 0.3])
    early = {1: {**SCORES[1], "bird": ClassScore(0.0, 0.0)}}
    assert metrics.matrix(early, STEPS)[0] == [0.8, None, None]  # a class that is not yet taught is unknown, not 0
    half = metrics.matrix(SCORES, STEPS, "AP")
    assert half[2] == pytest.approx([0.25, 0.15, 0.15])


def test_the_summary_is_what_the_formulas_give_by_hand() -> None:
    summary = metrics.summary(SCORES, STEPS, per_class(JOINT))
    assert summary == pytest.approx(
        {
            "AP": 0.175,  # (0.5 + 0.3 + 0.4 + 0.2) / 4 / 2
            "AP50": 0.35,
            "old_AP50": 0.4,
            "new_AP50": 0.3,
            "FPP": 0.3,  # 0.8 - 0.5
            "forgetting": 0.35,  # ((0.9 - 0.5) + (0.6 - 0.3)) / 2
            "BWT": -0.3,  # ((0.5 - 0.8) + (0.3 - 0.6)) / 2
            "average_incremental_AP": 0.275,  # ((0.9 + 0.6) / 2 / 2 + 0.175) / 2
            "AbsGap": 0.1,  # 0.45 - 0.35
            "RelGap": 0.1 / 0.45,
        }
    )


def test_the_gaps_can_be_asked_in_ap() -> None:
    summary = metrics.summary(SCORES, STEPS, per_class(JOINT), "AP")
    assert summary["AbsGap"] == pytest.approx(0.05) and summary["FPP"] == pytest.approx(0.15)
    assert summary["AP50"] == pytest.approx(0.35) and summary["average_incremental_AP"] == pytest.approx(0.275)


def test_what_is_unknown_is_none() -> None:
    started = metrics.summary({1: SCORES[1]}, STEPS, per_class(JOINT))
    assert set(started.values()) == {None}
    only_last = metrics.summary({3: SCORES[3]}, STEPS)
    assert only_last["AP50"] == pytest.approx(0.35) and only_last["new_AP50"] == pytest.approx(0.3)
    unknown = {"FPP", "forgetting", "BWT", "average_incremental_AP", "AbsGap", "RelGap"}
    assert {name for name, value in only_last.items() if value is None} == unknown
    single = metrics.summary({1: SCORES[1]}, STEPS[:1])
    assert single["AP50"] == 0.8 and single["FPP"] == 0.0
    assert single["old_AP50"] is None and single["forgetting"] is None and single["average_incremental_AP"] is None
    assert set(metrics.summary({}, ()).values()) == {None}


def test_gaps_to_a_joint_run_that_finds_nothing_have_no_rate() -> None:
    assert metrics.gaps(0.2, 0.0) == (-0.2, None)
    assert metrics.gaps(None, 0.4) == (None, None)
    assert metrics.gaps(0.3, 0.4) == pytest.approx((0.1, 0.25))


def test_intransigence_and_relative_drops_by_hand() -> None:
    table = metrics.matrix(SCORES, STEPS)
    assert metrics.intransigence(table, [0.85, 0.7, 0.35]) == pytest.approx((0.05 + 0.1 + 0.05) / 3)
    assert metrics.intransigence(table, [None, None, 0.35]) == pytest.approx(0.05)
    joint = per_class(JOINT)
    assert metrics.relative_drop(SCORES[3], joint, ["cat", "dog", "bird"]) == pytest.approx((0.375 + 0.5) / 2)
    assert metrics.relative_drop(SCORES[3], joint, ["boat", "bus"]) == pytest.approx(0.5)  # joint has 0 for boat
    assert metrics.relative_drop(SCORES[3], joint, ["dog"]) is None


@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_identities_between_the_measures_of_forgetting(values: list[float]) -> None:
    a, b, c, d, e, f = values
    table: metrics.Matrix = [[a, None, None], [b, c, None], [d, e, f]]
    transfer, lost = metrics.backward_transfer(table), metrics.forgetting(table)
    assert transfer is not None and lost is not None
    assert lost >= -transfer - 1e-12  # the best ever is at least what was learned first
    assert metrics.fpp(table) == pytest.approx(a - d)
    assert metrics.forgetting([[a, None], [d, e]]) == metrics.fpp([[a, None], [d, e]])


def matches(hits: list[bool], image: list[int], positives: list[int]) -> Matches:
    scores = np.linspace(0.9, 0.1, len(hits))
    return Matches(scores, np.array(hits, bool), np.array(image, np.int64), np.array(positives, np.int64))


def test_ap_of_a_curve_that_was_drawn_by_hand() -> None:
    # Precision 1, 1/2, 2/3 at recall 1/4, 1/4, 2/4; the envelope is 1 up to 1/4 and 2/3 up to 2/4.
    curve = matches([True, False, True], [0, 0, 1], [2, 2])
    assert metrics.average_precision(curve) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert metrics.average_precision(curve, "voc07") == pytest.approx((3 * 1 + 3 * 2 / 3) / 11)
    assert metrics.average_precision(matches([], [], [0, 0])) is None
    assert metrics.average_precision(matches([], [], [1, 0])) == 0.0
    with pytest.raises(ValueError, match="voc12"):
        metrics.average_precision(curve, "coco")


@pytest.mark.parametrize("objects", [3, 7, 10, 11, 20, 30])
def test_eleven_points_count_a_recall_that_is_just_reached(objects: int) -> None:
    perfect = matches([True] * objects, [0] * objects, [objects])
    assert metrics.average_precision(perfect, "voc07") == 1.0
    most = matches([True] * (objects - 1), [0] * (objects - 1), [objects])
    reached = sum(10 * (objects - 1) >= level * objects for level in range(11))
    assert metrics.average_precision(most, "voc07") == pytest.approx(reached / 11)


def test_precision_and_recall_at_a_threshold() -> None:
    curve = matches([True, False, True], [0, 0, 1], [2, 2])  # scores 0.9, 0.5, 0.1
    assert metrics.precision_recall(curve, 0.5) == (0.5, 0.25)
    assert metrics.precision_recall(curve, 0.95) == (None, 0.0)
    assert metrics.precision_recall(matches([False], [0], [0]), 0.0) == (0.0, None)


def test_an_image_that_is_not_drawn_does_not_count_and_doubling_all_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    hits, image, positives = rng.random(40) < 0.6, rng.integers(0, 5, 40), np.full(5, 9)
    scores = np.sort(rng.random(40))[::-1]
    curve, kept = Matches(scores, hits, image, positives), np.array([1.0, 0.0, 1.0, 0.0, 1.0])
    rows = kept[image] > 0
    part = Matches(scores[rows], hits[rows], image[rows], positives * kept.astype(np.int64))
    for form in ("voc07", "voc12"):
        whole = metrics.average_precision(curve, form)
        assert metrics._weighted_ap(curve, kept, form) == pytest.approx(metrics.average_precision(part, form))
        assert metrics._weighted_ap(curve, np.full(5, 2.0), form) == pytest.approx(whole)
        assert metrics._weighted_ap(curve, kept, form) != pytest.approx(whole)


def test_the_interval_holds_the_change_and_shrinks_with_more_images() -> None:
    def pair(images: int) -> Interval:
        rng = np.random.default_rng(3)
        place = np.arange(images)
        one = np.ones(images, np.int64)
        scores = np.sort(rng.random(images))[::-1]
        before = Matches(scores, rng.random(images) < 0.8, place, one)
        after = Matches(scores, rng.random(images) < 0.5, place, one)
        return metrics.bootstrap_change(before, after, draws=200)

    few, many = pair(40), pair(1000)
    for interval in (few, many):
        assert interval.change is not None and interval.low is not None and interval.high is not None
        assert interval.low < interval.change < interval.high
    assert many.high is not None and many.high < 0
    assert few.low is not None and few.high is not None and many.low is not None and many.high is not None
    assert many.high - many.low < 0.4 * (few.high - few.low)
    assert pair(40) == few


def test_a_paired_interval_of_equal_sides_is_zero_and_unequal_records_are_refused() -> None:
    curve = matches([True, False, True], [0, 0, 1], [2, 2])
    assert metrics.bootstrap_change(curve, curve, draws=50) == (0.0, 0.0, 0.0)
    nothing = matches([], [], [0, 0])
    assert metrics.bootstrap_change(nothing, nothing) == (None, None, None)
    with pytest.raises(ValueError, match="same records"):
        metrics.bootstrap_change(curve, nothing)


def test_means_leave_out_classes_without_ground_truth() -> None:
    assert metrics.group_mean(SCORES[3], ["cat", "dog", "unheard"]) == 0.5
    assert metrics.group_mean(SCORES[3], ["dog"]) is None
    assert metrics.mean([]) is None


def test_kept_is_the_share_of_what_was_learned_that_is_left() -> None:
    learned = {"cat": ClassScore(0.1, 0.8), "dog": ClassScore(0.1, 0.4), "bird": None}
    final = {"cat": ClassScore(0.1, 0.6), "dog": ClassScore(0.1, 0.3), "bird": ClassScore(0.1, 0.9)}
    assert metrics.kept(learned, final, ["cat", "dog", "bird"]) == pytest.approx(0.75)
    assert metrics.kept(learned, final, ["bird"]) is None and metrics.kept(learned, {}, ["cat"]) is None
    assert metrics.kept({"cat": ClassScore(0.0, 0.0)}, final, ["cat"]) is None  # nothing was there to be kept
