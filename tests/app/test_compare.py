from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from saved_run import make_run

from incdet.app.cli import VERBS


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / name).rename(tmp_path / f"run_{name}") for name in ("a", "b")]


def test_runs_are_put_into_one_page(runs: list[Path], tmp_path: Path, incdet_command: Callable[..., Any]) -> None:
    page = tmp_path / "pages" / "compared.html"
    done = incdet_command("compare", *runs, "--output", page)
    assert (done.code, done.out) == (0, f"written: {page}\n")
    assert "b/incdet against a/incdet" in page.read_text("utf-8")


def test_a_folder_without_results_is_refused_and_nothing_is_written(
    runs: list[Path], tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    page = tmp_path / "compared.html"
    done = incdet_command("compare", runs[0], tmp_path / "none", "--output", page)
    assert done.code == 2 and "holds no results" in done.err and not page.exists()
    done = incdet_command("compare", *runs, "--output", tmp_path)
    assert done.code == 2 and "is no file" in done.err


def test_the_example_of_the_help_is_a_command(incdet_command: Callable[..., Any]) -> None:
    done = incdet_command(*VERBS["compare"].example.split()[1:])
    assert done.code == 2 and "holds no results" in done.err
