from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from incdet.evaluation.confusion import Confusion
from incdet.evaluation.figures import deployed, figures, fires
from incdet.evaluation.metrics import ClassScore, Matches, average_precision, bootstrap_mean_change
from incdet.evaluation.results import Results

PROTOCOL = {"name": "1+1", "order": "file", "images": "overlap", "hash": "x", "steps": [["a"], ["b"]]}


def matches(scores: list[float], hits: list[bool], image: list[int], positives: list[int]) -> Matches:
    return Matches(np.array(scores), np.array(hits), np.array(image), np.array(positives))


def run(**last: Any) -> Results:
    made = Results("incdet", 0, "tiny", PROTOCOL)
    made.add_step(1, {"a": ClassScore(0.4, 0.8)}, seconds={"train": 60.0}, iterations={"train": 1000})
    more = {"memory": {"images": 5, "bytes": 2_000_000}, "seconds": {"train": 120.0}, **last}
    made.add_step(2, {"a": ClassScore(0.3, 0.6), "b": ClassScore(0.1, 0.2)}, 90, **more)
    return made


def test_a_row_has_the_figures_of_the_last_step_and_counts_every_teacher() -> None:
    found = figures(run(iterations={"interim": 30, "train": 40, "finetune": 5}, false_alarms={"new": 0.25}), {})
    expected = {"old_AP50": 0.6, "new_AP50": 0.2, "all_AP50": 0.4, "old_AP": 0.3, "new_AP": 0.1, "all_AP": 0.2}
    expected |= {"kept": 0.75, "forgetting": 0.2, "false_alarms": 0.25, "exemplars": 5, "MB": 2.0}
    expected |= {"steps": 75, "minutes": 2.0}
    assert {key: found[key] for key in expected} == pytest.approx(expected)
    assert found["old_to_new"] is None and found["precision_old"] is None


def test_step_1_alone_has_no_old_class() -> None:
    alone = Results("base", 0, "tiny", PROTOCOL)
    alone.add_step(1, {"a": ClassScore(0.4, 0.8)}, seconds={"train": 60.0}, iterations={"train": 1000})
    found = figures(alone, {}, step=1)
    assert (found["old_AP50"], found["new_AP50"], found["kept"], found["steps"]) == (None, 0.8, None, 1000)


def test_confusions_are_shares_of_the_objects_of_a_group() -> None:
    seen = Confusion(0.3, {"a": 8, "b": 4, "c": 2}, {"a": {"a": 5, "c": 2}, "b": {"c": 1}, "c": {"a": 1}}, {})
    assert fires(seen, ["a", "b"], ["c"]) == 3 / 12 and fires(seen, ["c"], ["a", "b"]) == 1 / 2
    assert fires(seen, ["a"], []) is None and fires(None, ["a"], ["c"]) is None


def test_thresholds_are_chosen_on_the_other_half_of_the_images() -> None:
    """Even images ask for 0.75 (both right above it), odd ones for 0.35: each half is judged by the other's."""
    scores, hits = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3], [True, True, False, False, True, True, False]
    one = matches(scores, hits, [0, 2, 0, 2, 1, 3, 1], [6, 6, 6, 6])
    found = deployed({"a": one})
    # Even by 0.35: 2 right of 4. Odd by 0.75: none shown. 24 objects.
    assert found["a"] == (0.5, 2 / 24)


def test_the_interval_of_a_mean_is_paired_and_seeds_share_their_draws() -> None:
    rng = np.random.default_rng(0)

    def drawn(right: float) -> Matches:
        score = np.sort(rng.random(60))[::-1]
        return matches(list(score), list(rng.random(60) < right), list(rng.integers(20, size=60)), [3] * 20)

    before, after = [drawn(0.3), drawn(0.4)], [drawn(0.7), drawn(0.8)]
    found = bootstrap_mean_change(before, after, draws=100)
    ends = [[average_precision(one) or 0.0 for one in side] for side in (before, after)]
    assert found.change == pytest.approx(np.mean(ends[1]) - np.mean(ends[0]))
    low, change, high = (value or 0.0 for value in (found.low, found.change, found.high))
    assert 0 < low < change < high
    assert bootstrap_mean_change(before, before) == (0.0, 0.0, 0.0)
    twice = bootstrap_mean_change(before * 2, after * 2, draws=100)  # what is in every draw alike narrows nothing
    assert twice == pytest.approx(found)
    empty = matches([], [], [], [0] * 20)
    assert bootstrap_mean_change([empty], [empty]) == (None, None, None)
    with pytest.raises(ValueError, match="same records"):
        bootstrap_mean_change([empty], [before[0]])
