from __future__ import annotations

from pathlib import Path

import pytest
from saved_run import WILD, make_run

from incdet.report.saved import SavedRun


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    return SavedRun.load(make_run(tmp_path))


def test_methods_stand_in_the_order_of_the_comparison(run: SavedRun) -> None:
    assert [method.name for method in run.methods] == ["finetune", "incdet", "joint"]
    assert [method.incremental for method in run.methods] == [True, True, False]


def test_the_first_step_is_that_of_the_base(run: SavedRun) -> None:
    incdet = run.methods[1]
    assert set(incdet.matches(1)) == {"cat", "$x_{$"} and len(incdet.matches(3)) == 4
    assert incdet.matches(2) == {} and incdet.samples(2) == []
    (entry,) = incdet.samples(1)
    assert Path(entry["image"]).is_file() and entry["detections"][0]["score"] == 0.9


def test_memory_is_counted_by_class(run: SavedRun) -> None:
    assert run.methods[1].memory() == {"cat": (1, 2), WILD: (2, 1)}
    assert run.methods[0].memory() == run.methods[2].memory() == {}


def test_methods_of_one_name_get_that_of_their_run(tmp_path: Path) -> None:
    roots = [make_run(tmp_path / str(i)).rename(tmp_path / f"demo_{name}") for i, name in enumerate(("one", "two"))]
    both = SavedRun.beside([SavedRun.load(root) for root in roots])
    names = [method.name for method in both.methods]
    assert names == ["one/finetune", "one/incdet", "two/finetune", "two/incdet", "joint"]
    assert {phase.method for phase in both.log.phases} >= {"one/base", "two/base", "two/incdet"}
    assert [part.root for part in both.parts] == roots
    alone = SavedRun.beside([SavedRun.load(roots[0])])
    assert [method.name for method in alone.methods] == ["finetune", "incdet", "joint"]


def test_runs_whose_folders_are_named_alike_are_numbered(tmp_path: Path) -> None:
    runs = [SavedRun.load(make_run(tmp_path / name)) for name in ("a", "b")]
    assert [method.name for method in SavedRun.beside(runs).methods][:2] == ["1/finetune", "1/incdet"]
