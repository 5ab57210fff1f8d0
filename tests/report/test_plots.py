from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from saved_run import WILD, make_run

from incdet.report.plots import write_plots
from incdet.report.saved import SavedRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_run(tmp_path_factory.mktemp("plots"))
    write_plots(SavedRun.load(made))
    return made


def test_the_charts_are_files_that_need_no_page(folder: Path) -> None:
    files = sorted((folder / "plots").iterdir())
    assert [file.name for file in files] == ["ap_over_steps.svg", "per_class.svg"]
    for file in files:
        words = list(ElementTree.parse(file).getroot().itertext())
        assert any("incdet" in word for word in words) and any("joint" in word for word in words)
        assert file.stat().st_size < 40_000


def test_a_name_that_is_markup_stays_a_name(folder: Path) -> None:
    assert WILD not in (folder / "plots" / "per_class.svg").read_text("utf-8")
    assert WILD[:19] + "…" in list(ElementTree.parse(folder / "plots" / "per_class.svg").getroot().itertext())
