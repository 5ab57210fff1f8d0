from __future__ import annotations

import numpy as np
import pytest

from incdet.errors import InputError
from incdet.evaluation.detections import Detections
from incdet.evaluation.shown import Threshold, above, best_of_place, threshold_of_columns


def found(*rows: tuple[list[float], float, int]) -> Detections:
    boxes, scores, labels = zip(*rows, strict=True)
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels))


PLACE = [0.0, 0.0, 10.0, 10.0]
NEAR = [0.0, 0.0, 10.0, 8.0]  # IoU 0.8
FAR = [20.0, 0.0, 30.0, 10.0]


def test_each_class_has_its_own_threshold_and_one_that_is_left_out_the_usual_one() -> None:
    least = threshold_of_columns({"b": 0.6}, ["a", "b"])
    assert least.tolist() == [0.3, 0.6]
    kept = above(found((PLACE, 0.9, 1), (PLACE, 0.5, 1), (PLACE, 0.4, 0), (PLACE, 0.2, 0)), least)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.4])


def test_of_several_classes_in_one_place_the_best_stays() -> None:
    everything = found((PLACE, 0.9, 1), (NEAR, 0.8, 0), (FAR, 0.7, 0))
    assert best_of_place(everything, 0.5).labels.tolist() == [1, 0]
    assert best_of_place(everything, 0.5).boxes.tolist() == [PLACE, FAR]
    assert len(best_of_place(everything, 0.85).scores) == 3
    assert len(best_of_place(Detections.empty(), 0.5).scores) == 0


@pytest.mark.parametrize(
    ("threshold", "said"),
    [(1.5, "is 1.5"), (float("nan"), "is nan"), ({"c": 0.5}, "class 'c': is unknown"), ({"a": -1}, "is -1")],
)
def test_thresholds_out_of_range_and_unknown_names_are_refused(threshold: Threshold, said: str) -> None:
    with pytest.raises(InputError, match=said):
        threshold_of_columns(threshold, ["a", "b"])
