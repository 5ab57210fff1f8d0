from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

from incdet.data.records import Record
from incdet.errors import InputError
from incdet.evaluation.detections import Detections
from incdet.evaluation.metrics import ClassScore, Interval
from incdet.evaluation.results import Results, compare, decimal, percent, table
from incdet.files import write_json
from incdet.report.samples import LONGEST, load_samples, pick_samples, save_samples

STEPS = [["cat", "dog"], ["bird"], ["boat"]]
PROTOCOL = {"name": "2+1+1", "order": "file", "images": "overlap", "hash": "5ca1ab1e", "steps": STEPS}
NAMES = [name for step in STEPS for name in step]


def one(ap50: float) -> ClassScore:
    return ClassScore(ap50 / 2, ap50, ap50 - 0.01, ap50 + 0.01, 0.75, None)


def run(method: str, *after: float, protocol: dict[str, Any] = PROTOCOL, steps: tuple[int, ...] = (1, 2, 3)) -> Results:
    """Results whose old classes score ``after[t - 1]`` after step t, the new class 0.6; no dog is in the test set."""
    results = Results(method, 7, "tiny", protocol)
    for step, old in zip(steps, after, strict=True):
        seen = [name for names in STEPS[:step] for name in names]
        scores: dict[str, ClassScore | None] = {name: one(0.6 if name in STEPS[step - 1] else old) for name in seen}
        scores["dog"] = None
        memory, seconds = {"images": 12, "bytes": 3_400_000}, {"train": 50.0, "evaluate": 10.0}
        results.add_step(step, scores, 100 * step, memory, seconds)
    return results


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


def test_the_comparison_holds_every_method_and_its_gap(tmp_path: Path) -> None:
    finetune, ours, joint = run("finetune", 0.6, 0.3, 0.1), run("incdet", 0.6, 0.5, 0.4), run("joint", 0.8, steps=(3,))
    value = compare([finetune, ours, joint])
    write_json(tmp_path / "comparison.json", value)  # every value is one that JSON has
    assert list(value["methods"]) == ["finetune", "incdet", "joint"] and value["reference"] == "joint"
    entry = value["methods"]["incdet"]
    assert [step["old_AP50"] for step in entry["steps"]] == pytest.approx([None, 0.5, 0.4])
    assert entry["steps"][2]["all_AP50"] == pytest.approx(1.4 / 3)
    assert entry["steps"][2]["old_voc07"] == pytest.approx(0.39)
    assert entry["steps"][2]["new_voc12"] == pytest.approx(0.61)
    assert entry["summary"] == ours.summary and ours.summary["RelGap"] == pytest.approx(0.8 / 2.2)
    assert entry["summary_AP"]["AbsGap"] == pytest.approx(0.4 / 3)
    assert entry["average_incremental_AP50"] == pytest.approx((0.55 + 1.4 / 3) / 2)
    assert (entry["RSD"], entry["RPD"]) == pytest.approx((0.5, 0.0))
    assert entry["exemplars"] == {"images": 12, "MB": 3.4} and entry["minutes"] == pytest.approx(3.0)
    assert value["methods"]["joint"]["summary"]["RelGap"] is None
    assert value["methods"]["finetune"]["summary"]["RelGap"] > entry["summary"]["RelGap"]


def test_without_a_joint_run_gaps_stay_as_they_were() -> None:
    ours = run("incdet", 0.6, 0.5, 0.4)
    assert compare([ours])["methods"]["incdet"]["summary"]["RelGap"] is None
    ours.measure_against(run("joint", 0.8, steps=(3,)))
    assert compare([ours])["methods"]["incdet"]["summary"]["RelGap"] == ours.summary["RelGap"] is not None
    assert compare([]) == {"schema": 1, "methods": {}}


def test_runs_that_cannot_be_compared_are_refused() -> None:
    other = run("eeil", 0.6, 0.5, 0.4, protocol={**PROTOCOL, "hash": "other"})
    with pytest.raises(InputError, match="different protocols"):
        compare([run("incdet", 0.6, 0.5, 0.4), other])
    with pytest.raises(InputError, match="same method"):
        compare([run("incdet", 0.6, 0.5, 0.4), run("incdet", 0.6, 0.5, 0.4)])


def test_the_table_shows_every_step_within_eighty_columns() -> None:
    results = [run("finetune", 0.6, 0.3, 0.1), run("incdet", 0.6, 0.5, 0.4), run("joint", 0.8, steps=(3,))]
    compare(results)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(results))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["method", "step", "old", "new", "all", "FPP", "RelGap", "exemplars", "MB", "minutes"] in lines
    assert ["incdet", "1", "-", "60.0", "60.0", "-", "-", "12", "3.4", "1.0"] in lines
    assert ["3", "40.0", "60.0", "46.7", "20.0", "36.4", "12", "3.4", "1.0"] in lines
    assert ["joint", "3", "80.0", "60.0", "73.3", "-", "-", "12", "3.4", "1.0"] in lines


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
