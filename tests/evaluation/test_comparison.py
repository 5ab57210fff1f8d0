from __future__ import annotations

import io
from pathlib import Path

import pytest
from measured import PROTOCOL, run
from rich.console import Console

from incdet.errors import InputError
from incdet.evaluation.comparison import compare, table
from incdet.evaluation.results import Results
from incdet.files import write_json


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
    assert entry["kept"] == pytest.approx(0.4 / 0.6) and entry["false_alarms"] is None
    assert value["methods"]["joint"]["kept"] is None
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


def printed(width: int, *results: Results) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(results))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [40, 50, 60, 70])
def test_a_narrow_terminal_still_shows_every_method_and_its_figures(width: int) -> None:
    name = "incdet without kd_box"
    results = [run("finetune", 0.6, 0.3, 0.1), run(name, 0.6, 0.5, 0.4), run("joint", 0.8, steps=(3,))]
    compare(results)
    lines = printed(width, *results)
    assert max(map(len, lines)) <= width
    assert {"finetune", name, "joint"} <= set(lines)
    after = [line.split() for line in lines[lines.index(name) :]]
    if width >= 60:
        assert ["step", "old", "new", "all", "FPP", "RelGap", "minutes"] in after
        assert ["3", "40.0", "60.0", "46.7", "20.0", "36.4", "1.0"] in after


def test_square_brackets_in_a_name_are_printed_as_they_are() -> None:
    assert any(line.split()[:1] == ["a[/b]"] for line in printed(100, run("a[/b]", 0.6, 0.5, 0.4)))
