from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from measured import NAMES, PROTOCOL, STEPS, one, run

from incdet.data.records import Record
from incdet.errors import InputError
from incdet.evaluation.comparison import compare
from incdet.evaluation.detections import Detections
from incdet.evaluation.metrics import ClassScore, Interval
from incdet.evaluation.results import Results, decimal, percent
from incdet.report.samples import LONGEST, load_samples, pick_samples, save_samples


def test_the_file_has_the_published_schema(tmp_path: Path) -> None:
    results = run("incdet", 0.6, 0.5, 0.4)
    compare([results, run("joint", 0.8, steps=(3,))])
    results.save(tmp_path / "results.json")
    value = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert list(value) == ["schema", "method", "seed", "detector", "protocol", "steps", "matrix_AP50", "summary"]
    assert (value["schema"], value["method"], value["seed"], value["detector"]) == (1, "incdet", 7, "tiny")
    assert value["protocol"] == PROTOCOL
    assert value["steps"][0] == {
        "step": 1,
        "AP": 0.3,
        "AP50": 0.6,
        "old": None,
        "new": {"AP": 0.3, "AP50": 0.6},
        "per_class": {"cat": {"AP": 0.3, "AP50": 0.6}, "dog": {"AP": None, "AP50": None}},
        "train_images": 100,
        "memory": {"images": 12, "bytes": 3_400_000},
        "seconds": {"train": 50.0, "evaluate": 10.0},
    }
    assert value["steps"][2]["old"] == {"AP": 0.2, "AP50": 0.4}
    assert value["steps"][2]["new"] == {"AP": 0.3, "AP50": 0.6}
    assert value["matrix_AP50"] == [[0.6, None, None], [0.5, 0.6, None], [0.4, 0.4, 0.6]]
    assert list(value["summary"]) == [
        "AP",
        "AP50",
        "old_AP50",
        "new_AP50",
        "FPP",
        "forgetting",
        "BWT",
        "average_incremental_AP",
        "AbsGap",
        "RelGap",
    ]
    assert value["summary"]["FPP"] == pytest.approx(0.2)
    joint_all, ours = (0.8 + 0.8 + 0.6) / 3, (0.4 + 0.4 + 0.6) / 3
    assert value["summary"]["AbsGap"] == pytest.approx(joint_all - ours)
    assert value["summary"]["RelGap"] == pytest.approx((joint_all - ours) / joint_all)


def test_load_is_the_inverse_of_save(tmp_path: Path) -> None:
    results = run("incdet", 0.6, 0.5, 0.4)
    results.add_step(3, {"cat": one(0.3)}, None, None, None, {"cat": Interval(-0.2, -0.3, -0.1)})
    results.measure_against(run("joint", 0.8, steps=(3,)))
    results.save(tmp_path / "a" / "results.json")
    again = Results.load(tmp_path / "a" / "results.json")
    assert again.to_json() == results.to_json() and again.steps == results.steps
    assert again.summary["RelGap"] is not None
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["results.json", "scores.json"]


def test_results_without_their_second_file_still_have_ap(tmp_path: Path) -> None:
    run("eeil", 0.6, 0.5, 0.4).save(tmp_path / "results.json")
    (tmp_path / "scores.json").unlink()
    again = Results.load(tmp_path / "results.json")
    assert again.steps[1].scores["cat"] == ClassScore(0.3, 0.6) and again.steps[1].scores["dog"] is None


def test_a_run_can_go_on_after_loading_and_forgets_an_outdated_gap(tmp_path: Path) -> None:
    whole = run("incdet", 0.6, 0.5, 0.4)
    run("incdet", 0.6, 0.5, steps=(1, 2)).save(tmp_path / "results.json")
    again = Results.load(tmp_path / "results.json")
    assert again.last is None and again.summary["AP50"] is None
    again.add_step(3, whole.steps[3].scores, 300, whole.steps[3].memory, whole.steps[3].seconds)
    assert again.to_json() == whole.to_json()
    again.measure_against(run("joint", 0.8, steps=(3,)))
    assert again.summary["AbsGap"] is not None
    again.add_step(3, {"cat": one(0.1)})
    assert again.summary["AbsGap"] is None


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (lambda text: text[: len(text) // 2], "cut off"),
        (lambda text: text.replace('"schema": 1', '"schema": 2'), "schema"),
        (lambda text: text.replace('"per_class"', '"classes"'), "per_class"),
        (lambda text: text.replace('"step": 3', '"step": 9'), "step 9"),
        (lambda text: text.replace('"hash"', '"hush"'), "hash"),
        (lambda text: "[]", "schema"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(tmp_path: Path, edit: Any, problem: str) -> None:
    path = tmp_path / "results.json"
    run("incdet", 0.6, 0.5, 0.4).save(path)
    path.write_text(edit(path.read_text("utf-8")), "utf-8")
    with pytest.raises(InputError, match=problem):
        Results.load(path)
    path.unlink()
    with pytest.raises(InputError, match=r"results\.json.*cannot be read"):
        Results.load(path)


def test_impossible_steps_and_classes_are_refused() -> None:
    results = run("incdet", 0.6, 0.5, 0.4)
    with pytest.raises(ValueError, match="step 4"):
        results.add_step(4, {})
    with pytest.raises(ValueError, match="zebra"):
        results.add_step(3, {"zebra": one(0.5)})
    with pytest.raises(InputError, match="hash"):
        Results("incdet", 0, "tiny", {key: value for key, value in PROTOCOL.items() if key != "hash"})
    with pytest.raises(InputError, match="no step"):
        Results("incdet", 0, "tiny", {**PROTOCOL, "steps": []})


def test_numbers_are_written_for_people() -> None:
    assert (percent(None), percent(0.1234), percent(-0.0001), decimal(3.05)) == ("-", "12.3", "0.0", "3.0")


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
