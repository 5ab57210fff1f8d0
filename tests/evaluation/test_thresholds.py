from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from measured import CLASSES, scene

from incdet.evaluation.matching import match_classes
from incdet.evaluation.metrics import Matches, precision_recall
from incdet.evaluation.thresholds import choose_thresholds, f1, pooled


def judged(scores: list[float], hits: list[bool], objects: int) -> Matches:
    order = np.argsort(-np.array(scores, np.float64), kind="stable")
    return Matches(
        np.array(scores, np.float64)[order],
        np.array(hits, np.bool_)[order],
        np.zeros(len(scores), np.int64),
        np.array([objects]),
    )


detections = st.lists(st.tuples(st.integers(1, 99).map(lambda n: n / 100), st.booleans()), max_size=30)


@given(detections, st.integers(0, 5))
def test_no_other_threshold_has_a_better_f1(found: list[tuple[float, bool]], missed: int) -> None:
    one = judged([score for score, _ in found], [hit for _, hit in found], sum(hit for _, hit in found) + missed)
    chosen = choose_thresholds({"cat": one}, least=1)["cat"]

    def quality(threshold: float) -> float:
        shown = one.scores >= threshold
        total = int(shown.sum()) + int(one.positives.sum())
        return 2 * int(one.hits[shown].sum()) / total if total else 0.0

    if one.hits.any():
        assert chosen.source == "class"
        assert quality(chosen.score) == pytest.approx(max(quality(n / 200) for n in range(201)))
        assert quality(chosen.score) == pytest.approx(f1(one)[1].max())
    else:
        assert (chosen.score, chosen.source) == (0.3, "fallback")


@given(detections, st.sampled_from([0.3, 0.5, 0.9, 1.0]))
def test_a_wanted_precision_is_reached_with_the_greatest_recall(found: list[tuple[float, bool]], wanted: float) -> None:
    one = judged([score for score, _ in found], [hit for _, hit in found], max(1, sum(hit for _, hit in found)))
    chosen = choose_thresholds({"cat": one}, precision=wanted, least=1)["cat"]
    reached = [precision_recall(one, n / 200) for n in range(1, 200)]
    able = [recall for precision, recall in reached if precision is not None and recall and precision >= wanted]
    if able:
        assert chosen.precision is not None and chosen.precision >= wanted
        assert chosen.recall is not None and chosen.recall == pytest.approx(max(recall for recall in able if recall))
    else:
        assert chosen.source == "fallback"


def test_the_threshold_stands_between_two_scores_so_that_rounding_loses_nothing() -> None:
    one = judged([0.9, 0.8, 0.4, 0.3], [True, True, False, False], 12)
    chosen = choose_thresholds({"cat": one})["cat"]
    assert (chosen.precision, chosen.source) == (1.0, "class")
    assert (chosen.score, chosen.recall) == pytest.approx((0.6, 2 / 12))


def test_a_rare_class_takes_the_threshold_of_all() -> None:
    many = judged([0.9, 0.8, 0.2], [True, True, False], 10)
    few = judged([0.15], [True], 1)
    chosen = choose_thresholds({"cat": many, "dog": few})
    assert (chosen["cat"].source, chosen["dog"].source) == ("class", "all")
    common = choose_thresholds({"both": pooled([many, few])})["both"].score
    assert chosen["dog"].score == common
    assert choose_thresholds({"dog": few}, least=1)["dog"].source == "class"


def test_where_nothing_is_known_the_fallback_is_taken() -> None:
    nothing = judged([], [], 0)
    chosen = choose_thresholds({"cat": nothing}, fallback=0.45)["cat"]
    assert chosen == (0.45, None, None, "fallback")
    assert choose_thresholds({}) == {}
    wrong = judged([0.9], [False], 20)
    assert choose_thresholds({"cat": wrong}, precision=0.5)["cat"][0] == 0.3


@pytest.mark.parametrize("more", [{"precision": 0.0}, {"precision": 1.1}, {"fallback": -0.1}])
def test_impossible_wishes_are_refused(more: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be in"):
        choose_thresholds({}, **more)  # type: ignore[arg-type]


def test_pooled_classes_keep_every_detection_and_object() -> None:
    records, found = scene(5)
    every = match_classes(records, found, CLASSES)
    whole = pooled(every)
    assert len(whole.scores) == sum(len(one.scores) for one in every)
    assert whole.hits.sum() == sum(one.hits.sum() for one in every)
    assert whole.positives.sum() == sum(one.positives.sum() for one in every)
    assert (np.diff(whole.scores) <= 0).all()
