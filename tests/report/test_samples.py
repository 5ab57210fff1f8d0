from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from measured import NAMES, STEPS

from incdet.data.records import Record
from incdet.errors import InputError
from incdet.evaluation.confusion import Mistake
from incdet.evaluation.detections import Detections
from incdet.report.samples import (
    LONGEST,
    load_mistakes,
    load_samples,
    pick_mistakes,
    pick_samples,
    save_mistakes,
    save_samples,
)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Record]:
    records = []
    shows = [["cat"], ["cat", "boat"], ["zebra"], ["bird", "boat", "dog"], []]
    for number, names in enumerate(shows):
        path = tmp_path / "data" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((600, 1200, 3), 40 * number, np.uint8))
        boxes = np.array([[100 * i, 50, 100 * i + 300, 400] for i in range(len(names))], np.float32).reshape(-1, 4)
        cover = frozenset([*NAMES, "zebra"])
        records.append(Record(path, number, 1200, 600, boxes, tuple(names), np.zeros(len(names), bool), cover))
    return records


def test_the_samples_are_those_that_show_most_classes_of_most_steps(pictures: list[Record]) -> None:
    assert [record.image_id for record in pick_samples(pictures, STEPS, 2)] == [3, 1]
    assert pick_samples(pictures[::-1], STEPS, 2) == pick_samples(pictures, STEPS, 2)
    assert {record.image_id for record in pick_samples(pictures, STEPS, 9)} == {0, 1, 3}


def test_samples_hold_pixels_truth_and_detections(tmp_path: Path, pictures: list[Record]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    boxes = np.array([[0, 0, 120, 60], [10, 10, 600, 300], [5, 5, 9, 9]], np.float32)
    detections = {1: Detections(boxes, np.array([0.4, 0.9, 0.01], np.float32), np.array([0, 2, 1]))}
    folder = tmp_path / "run" / "incdet" / "step_2"
    save_samples(folder, pictures[:2], detections, NAMES[:3])
    for record in pictures:
        record.image.unlink()  # the report may not need the data
    save_samples(folder, pictures[:2], detections, NAMES[:3])
    entries = load_samples(folder)
    assert entries is not None and [entry["image_id"] for entry in entries] == [0, 1]
    picture = cv2.imread(str(tmp_path / "run" / entries[1]["image"]))
    assert picture is not None and picture.shape == (256, LONGEST, 3)
    assert (entries[1]["width"], entries[1]["height"]) == (LONGEST, 256)
    scale = LONGEST / 1200
    assert [(item["name"], item["score"]) for item in entries[1]["detections"]] == [("bird", 0.9), ("cat", 0.4)]
    assert entries[1]["detections"][0]["box"] == pytest.approx([10 * scale, 10 * scale, 512 / 2, 128], abs=0.01)
    assert entries[1]["truth"][1] == {
        "box": pytest.approx([100 * scale, 50 * scale, 400 * scale, 400 * scale], abs=0.01),
        "name": "boat",
        "ignore": False,
    }
    assert entries[0]["detections"] == []
    assert load_samples(tmp_path) is None


def test_a_sample_whose_picture_is_gone_is_an_input_error(tmp_path: Path, pictures: list[Record]) -> None:
    pictures[0].image.unlink()
    with pytest.raises(InputError, match=r"0\.jpg"):
        save_samples(tmp_path / "run", pictures[:1], {}, NAMES)


def mistake(image_id: int, true: str, detected: str, score: float) -> Mistake:
    return Mistake(image_id, true, detected, score, (100.0, 50.0, 400.0, 400.0))


def test_the_mistakes_shown_are_of_new_classes_on_old_objects_and_back_and_of_many_pairs() -> None:
    made = [
        mistake(1, "cat", "boat", 0.9),
        mistake(2, "cat", "boat", 0.8),
        mistake(3, "boat", "dog", 0.4),
        mistake(4, "cat", "dog", 0.95),  # both are old
    ]
    chosen = pick_mistakes(made, ["cat", "dog"], 2)
    assert [(one.true, one.detected, one.image_id) for one in chosen] == [("cat", "boat", 1), ("boat", "dog", 3)]
    assert [one.image_id for one in pick_mistakes(made, ["cat", "dog"], 9)] == [1, 3, 2]
    assert pick_mistakes(made, []) == []


def test_mistakes_are_kept_with_their_pictures(tmp_path: Path, pictures: list[Record]) -> None:
    save_mistakes(tmp_path / "step_2", pictures, [mistake(1, "cat", "boat", 0.87654)], output=tmp_path)
    for record in pictures:
        record.image.unlink()
    (entry,) = load_mistakes(tmp_path / "step_2")
    assert (entry["true"], entry["detected"], entry["score"]) == ("cat", "boat", 0.8765)
    assert entry["box"] == pytest.approx([100 * LONGEST / 1200, 21.33, 400 * LONGEST / 1200, 170.67], abs=0.01)
    assert cv2.imread(str(tmp_path / entry["image"])) is not None
    assert load_mistakes(tmp_path) == []
