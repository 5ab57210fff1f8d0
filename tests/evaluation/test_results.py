from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from measured import PROTOCOL, one, run

from incdet.errors import InputError
from incdet.evaluation.comparison import compare
from incdet.evaluation.metrics import ClassScore, Interval
from incdet.evaluation.results import Results, decimal, percent


def test_the_file_has_the_published_schema(tmp_path: Path) -> None:
    results = run("incdet", 0.6, 0.5, 0.4)
    compare([results, run("joint", 0.8, steps=(3,))])
    results.save(tmp_path / "results.json")
    value = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert list(value) == [
        "schema",
        "method",
        "changed",
        "seed",
        "detector",
        "protocol",
        "steps",
        "matrix_AP50",
        "summary",
        "seal",
    ]
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
        "iterations": {},
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
    whole = path.read_text("utf-8")
    path.write_text(edit(re.sub(r',\s*"seal": "\w+"', "", whole)), "utf-8")
    with pytest.raises(InputError, match=problem):
        Results.load(path)
    if (edited := edit(whole)) != whole:  # with a digest the reason is another
        path.write_text(edited, "utf-8")
        with pytest.raises(InputError, match="cannot be read|schema|damaged or edited"):
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
