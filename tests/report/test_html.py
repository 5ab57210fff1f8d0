from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from incdet.data.records import Record
from incdet.errors import InputError
from incdet.evaluation.comparison import compare
from incdet.evaluation.detections import Detections
from incdet.evaluation.metrics import ClassScore, Interval
from incdet.evaluation.results import Results
from incdet.files import write_json
from incdet.report import plots as viz
from incdet.report.html import write_report
from incdet.report.samples import save_samples

STEPS = [["cat", "dog"], ["bird"], ["<boat>"]]
NAMES = [name for step in STEPS for name in step]
PROTOCOL = {"name": "2+1+1", "order": "file", "images": "overlap", "hash": "5ca1ab1e", "steps": STEPS}


class Page(HTMLParser):
    """Collects what a page refers to and checks that its tags close in order."""

    VOID = {"meta", "img", "source", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.cells: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.sources += [str(value) for key, value in attrs if key in ("src", "srcset", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)


def results(method: str, keep: float) -> Results:
    made = Results(method, 7, "tiny & small", PROTOCOL)
    for step in (1, 2, 3):
        seen = [name for names in STEPS[:step] for name in names]
        scores = {n: ClassScore(0.3, 0.6 if n in STEPS[step - 1] else 0.6 * keep**step) for n in seen}
        change = {"cat": Interval(-0.123, -0.2, -0.05)} if step == 2 else None
        if method != "joint" or step == 3:
            memory, seconds = {"images": 12, "bytes": 3_400_000}, {"train": 60.0, "evaluate": 6.0}
            made.add_step(step, scores, 90, memory, seconds, change)
    return made


def make_run(tmp_path: Path) -> Path:
    """A run folder as the main job leaves it, without a model in it."""
    root = tmp_path / "runs" / "demo"
    root.mkdir(parents=True)
    (root / "config.yaml").write_text("seed: 7  # <sic>\n", "utf-8")
    views = [{"step": t, "images": 40 + t, "boxes_visible": 99, "hash": "x", "names": STEPS[t - 1]} for t in (1, 2, 3)]
    write_json(root / "protocol.json", {"schema": 1, **PROTOCOL, "views": views})
    path = tmp_path / "0.png"
    cv2.imwrite(str(path), np.full((60, 90, 3), 128, np.uint8))
    boxes = np.array([[5, 5, 40, 40], [30, 20, 80, 55]], np.float32)
    picture = Record(path, 0, 90, 60, boxes, ("cat", "<boat>"), np.zeros(2, bool), frozenset(NAMES))
    found = {0: Detections(boxes, np.array([0.8, 0.7], np.float32), np.array([0, 3]))}
    first = {0: Detections(boxes[:1], np.array([0.9], np.float32), np.array([0]))}
    save_samples(root / "base" / "step_1", [picture], first, STEPS[0], output=root)
    methods = [results("finetune", 0.5), results("incdet", 0.9), results("joint", 1.0)]
    for item in methods:
        save_samples(root / item.method / "step_3", [picture], found, NAMES, output=root)
    write_json(root / "comparison.json", compare(methods))
    for item in methods:
        item.save(root / item.method / "results.json")
    path.unlink()
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that was moved away from where it was made, and its report; for reading only."""
    made = make_run(tmp_path_factory.mktemp("made"))
    moved = made.rename(tmp_path_factory.mktemp("moved") / "run")
    assert write_report(moved) == moved / "report.html"
    return moved


def test_the_report_stands_alone(reported: Path) -> None:
    text = (reported / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.open == [] and not page.seen & {"script", "link"}
    assert len(page.sources) == 7  # two plots on light and on dark paper, one picture for each method
    assert all(re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]{1000}", source) for source in page.sources)
    assert "prefers-color-scheme: dark" in text and str(reported.parents[1]) not in text


def test_the_report_says_what_the_results_say(reported: Path) -> None:
    text = (reported / "report.html").read_text("utf-8")
    page = Page(text)
    assert "tiny &amp; small" in text and "seed: 7  # &lt;sic&gt;" in text and "<boat>" not in text
    assert page.cells.index("finetune") < page.cells.index("incdet") < page.cells.index("joint")
    row = page.cells[page.cells.index("incdet") + 1 :][:11]
    # old 0.6 * 0.9**3, new 0.6, all, AP 0.3, FPP 0.6 - old, forgetting, incremental AP, RelGap, memory, minutes
    assert row == ["43.7", "60.0", "47.8", "30.0", "16.3", "16.3", "30.0", "20.3", "12", "3.4", "3.3"]
    assert "<td class=best>43.7</td>" in text and "<td class=best>7.5</td>" not in text
    assert "-20.0 to -5.0" in text and "boxes visible" in text and "5ca1ab1e" in text


def test_the_plots_are_drawn_from_the_folder_alone(reported: Path) -> None:
    names = sorted(path.name for path in (reported / "plots").iterdir())
    assert names == [
        "ap_over_steps.png",
        "per_class.png",
        "samples_finetune.png",
        "samples_incdet.png",
        "samples_joint.png",
    ]
    for name in names:
        pixels = imread(reported / "plots" / name)
        assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.02


def colours(path: Path) -> set[int]:
    red, green, blue = np.moveaxis(np.round(imread(path)[..., :3] * 255).astype(int), -1, 0)
    return set(np.unique((red << 16) + (green << 8) + blue).tolist())


def shade(colour: str) -> int:
    return int(colour.removeprefix("#"), 16)


def test_every_method_has_its_colour_in_the_plots(reported: Path) -> None:
    looks = viz.looks(["finetune", "incdet"])
    for name in ("ap_over_steps.png", "per_class.png"):
        assert {shade(look[0]) for look in looks.values()} <= colours(reported / "plots" / name)
    assert {shade(viz.OLD), shade(viz.NEW)} <= colours(reported / "plots" / "samples_incdet.png")


def test_a_run_of_one_method_keeps_its_results_at_the_top(folder: Path) -> None:
    for name in ("finetune", "joint"):
        shutil.rmtree(folder / name)
    (folder / "comparison.json").unlink()
    for path in list((folder / "incdet").iterdir()):
        shutil.move(path, folder / path.name)
    assert Page(write_report(folder).read_text("utf-8")).cells.count("RelGap") == 1
    assert (folder / "plots" / "samples_incdet.png").is_file()


def test_a_run_that_has_just_begun_can_be_looked_at(tmp_path: Path) -> None:
    begun = Results("incdet", 7, "tiny", PROTOCOL)
    begun.add_step(1, {"cat": ClassScore(0.1, 0.2), "dog": None})
    begun.save(tmp_path / "results.json")
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "20.0" in page.cells and len(page.sources) == 4


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        write_report(tmp_path)


def test_a_broken_sample_file_is_refused(folder: Path) -> None:
    (folder / "incdet" / "step_3" / "samples.json").write_text("{", "utf-8")
    with pytest.raises(InputError, match=r"samples\.json"):
        write_report(folder)


def luminance(colour: str) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [viz.LIGHT, viz.DARK])
def test_every_line_stands_out_from_the_paper_and_from_the_others(theme: viz.Theme) -> None:
    methods = ["finetune", "eeil", "incdet", "pseudo", "lwf", "masked", "joint", "mine", "yours", "theirs", "a", "b"]
    looks = viz.looks(methods, theme)
    assert len({(colour, marker, style) for colour, marker, style in looks.values()}) == len(methods)
    for colour, _, _ in looks.values():
        light, dark = sorted((luminance(colour), luminance(theme.paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0  # WCAG 2.1, 1.4.11


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9).map(sorted), st.floats(0.5, 8))
def test_labels_are_spread_in_order_and_no_further_than_needed(values: list[float], gap: float) -> None:
    places = viz.spread(values, gap)
    assert all(after - before >= gap - 1e-9 for before, after in zip(places, places[1:], strict=False))
    assert sum(places) == pytest.approx(sum(values), abs=1e-6)
    if all(after - before >= gap for before, after in zip(values, values[1:], strict=False)):
        assert places == pytest.approx(values)
