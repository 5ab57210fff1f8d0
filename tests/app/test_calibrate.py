from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_run import Finished

import incdet
from incdet.evaluation.detections import Detections
from incdet.network import checkpoint


def words(finished: Finished, output: Path) -> list[object]:
    detector = finished.root / "incdet" / "step_3"
    data = ["--data", finished.data / "test.json", "--images", finished.data / "images"]
    return ["calibrate", detector, *data, "--output", output, "--device", "cpu"]


def test_a_run_calibrates_every_step_it_measures(finished: Finished) -> None:
    known = checkpoint.load(finished.root / "incdet" / "step_3").model.calibration
    assert known is not None and known.source == "the run's test images"
    assert known.images == finished.config.data.test_images and known.thresholds


def test_a_calibrated_copy_is_written_and_used(
    finished: Finished, tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    done = incdet_command(*words(finished, tmp_path / "new"))
    assert done.code == 0, done.err
    made, before = (checkpoint.load(path) for path in (tmp_path / "new", finished.root / "incdet" / "step_3"))
    assert made.model.calibration is not None and made.history == before.history
    assert made.model.calibration.source == "test.json"  # a checkpoint is handed on, and names no folder
    assert [line.split()[0] for line in done.out.splitlines()[1 : 1 + 2]] == list(made.vocab.names[:2])
    picture = next((finished.data / "images").rglob("*.*"))
    prediction = incdet.load(tmp_path / "new").predict(picture, threshold="auto")
    assert all(0 <= score <= 1 for score in prediction.scores)
    again = incdet_command(*words(finished, tmp_path / "new"))
    assert again.code == 2 and "already holds a checkpoint" in again.err


def seen(model: Any, records: Any, **_: Any) -> dict[int, Detections]:
    """Every object at a score of 0.8, and in its place another class at 0.4."""
    found = {}
    for record in records:
        right = np.array(model.vocab.columns(record.names), np.int64)
        boxes, wrong = np.concatenate([record.boxes] * 2), (right + 1) % len(model.vocab)
        scores = np.repeat(np.array([0.8, 0.4], np.float32), len(right))
        found[record.image_id] = Detections(boxes, scores, np.concatenate([right, wrong]))
    return found


def test_a_wanted_precision_raises_the_thresholds(
    finished: Finished, tmp_path: Path, incdet_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incdet.app.calibrate.detect", seen)
    known = []
    for number, more in enumerate((["--precision", "0.01"], ["--precision", "1"])):
        assert incdet_command(*words(finished, tmp_path / str(number)), *more).code == 0
        known.append(checkpoint.load(tmp_path / str(number)).model.calibration)
    assert known[0] is not None and known[1] is not None
    assert all(score <= 0.4 for score in known[0].thresholds.values())
    assert all(0.4 < score <= 0.8 for score in known[1].thresholds.values())
    assert known[0].thresholds.keys() == known[1].thresholds.keys() != set()


@pytest.mark.parametrize("more", [["--precision", "1.5"], ["--split", "nowhere"], ["--data", "gone.json"]])
def test_bad_input_is_refused(
    finished: Finished, tmp_path: Path, incdet_command: Callable[..., Any], more: list[str]
) -> None:
    done = incdet_command(*words(finished, tmp_path / "new"), *more)
    assert done.code == 2 and "Traceback" not in done.err and not (tmp_path / "new").exists()


def test_pictures_of_other_classes_are_refused(
    finished: Finished, tmp_path: Path, make_coco: Callable[..., Any], incdet_command: Callable[..., Any]
) -> None:
    data = make_coco(("tram", "bus"))
    detector = finished.root / "incdet" / "step_3"
    given = ["--data", data.annotations, "--images", data.images, "--output", tmp_path / "new"]
    done = incdet_command("calibrate", detector, *given)
    assert done.code == 2 and "show no object of" in done.err
