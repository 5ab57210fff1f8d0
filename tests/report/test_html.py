from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from saved_run import PROTOCOL, WILD, make_run

from incdet.errors import InputError
from incdet.evaluation.match_file import load_matches, save_matches
from incdet.evaluation.metrics import ClassScore
from incdet.evaluation.results import Results
from incdet.report.html import write_comparison, write_report
from incdet.seal import write_sealed


class Page(HTMLParser):
    """Collects what a page refers to and checks that its tags close in order."""

    VOID = {"meta", "img", "source", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.cells: list[str] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self.identities: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.sources += [str(value) for key, value in attrs if key in ("src", "srcset", "href")]
        self.identities += [str(value) for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


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


def test_a_page_can_be_written_elsewhere_and_the_run_folder_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    before = sorted(folder.rglob("*"))
    page = write_report(folder, tmp_path / "pages" / "mine.html")
    assert page == tmp_path / "pages" / "mine.html" and sorted(folder.rglob("*")) == before
    assert write_report(folder).read_text("utf-8") == page.read_text("utf-8")


def page_of(folder: Path) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


def test_the_report_stands_alone(reported: Path) -> None:
    text = (reported / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.open == [] and not page.seen & {"script", "link", "img"}
    pictures = [source for source in page.sources if not source.startswith("#")]
    assert len(pictures) == 1  # however often it is shown
    assert re.fullmatch(r"data:image/jpeg;base64,[A-Za-z0-9+/=]{1000,}", pictures[0])
    anchors = {source[1:] for source in page.sources if source.startswith("#")}
    assert anchors <= set(page.identities) and len(page.identities) == len(set(page.identities))
    assert "prefers-color-scheme: dark" in text and "@media print" in text and "url(" not in text
    assert str(reported.parents[1]) not in text


def test_every_part_of_a_report_is_there(reported: Path) -> None:
    assert page_of(reported).headings == [
        "After the last step",
        "Old and new classes over the steps",
        "Step by step",
        "Gain and loss of the old classes",
        "Every class",
        "Precision and recall, before and after",
        "New classes on old objects, and back",
        "The same photographs before and after",
        "Losses",
        "Memory",
        "Cost",
        "Protocol",
        "How to make it again",
    ]


def test_the_report_says_what_the_results_say(reported: Path) -> None:
    text = (reported / "report.html").read_text("utf-8")
    page = Page(text)
    assert "tiny &amp; small" in text and "seed: 7  # &lt;sic&gt;" in text and WILD not in text
    assert page.cells.index("finetune") < page.cells.index("incdet") < page.cells.index("joint")
    row = page.cells[page.cells.index("incdet") + 1 :][:13]
    # old 0.6 * 0.9**3, new 0.6, all, AP 0.3, kept, FPP 0.6 - old, forgetting, incremental AP, RelGap, alarms, memory
    assert row == ["43.7", "60.0", "47.8", "30.0", "72.9", "16.3", "16.3", "30.0", "20.3", "0.25", "12", "3.4", "3.3"]
    assert '<td class="best">43.7</td>' in text and '<td class="best">7.5</td>' not in text
    assert "\u221220.0 to \u22125.0" in text and "boxes visible" in text and "5ca1ab1e" in text


def test_the_summary_puts_the_result_into_words(reported: Path) -> None:
    words = " ".join(page_of(reported).words)
    assert (
        "incdet: the old classes keep 73 % of the AP50 they had when they were first measured (43.7 of 60.0)" in words
    )
    assert "the new ones reach 60.0; all together 47.8, 20.3 % short of joint training." in words
    assert "Of 2 old classes: lost 1 (cat \u221225.0); 1 within what chance may do." in words


def test_the_report_says_how_it_came_about(reported: Path) -> None:
    words = " ".join(page_of(reported).words)
    for fact in (
        "incdet train --config 'a<b.yaml'",
        "2023-11-14 22:13 UTC",
        "0.1, commit c0ffee; python 3.12, torch 2.9, torchvision 0.24",
        "cpu, 1 threads",
        "coco coco<x>",
        "90 images, 200 objects of 2 classes, hash",
        "feed",
    ):
        assert fact in words


def test_confusions_and_memory_are_counted(reported: Path) -> None:
    words = page_of(reported).words
    assert "30 % (3 of 10)" in words and "10 % (1 of 10)" in words
    assert "False alarms of new classes per image without any: 0.25." in words
    assert "1 (2)" in words and "3 images, 3.4 MB" in words


def test_the_memory_of_many_classes_is_shown_step_by_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incdet.report.costs.CLASSES", 1)
    words = Page(write_report(folder).read_text("utf-8")).words
    assert "step 1, 2 classes" in words and "1 (2)" in words and "2 (1)" in words and "0 (0)" in words


def test_a_run_of_one_method_keeps_its_results_at_the_top(folder: Path) -> None:
    for name in ("finetune", "joint"):
        shutil.rmtree(folder / name)
    (folder / "comparison.json").unlink()
    for path in list((folder / "incdet").iterdir()):
        shutil.move(path, folder / path.name)
    page = Page(write_report(folder).read_text("utf-8"))
    assert page.cells.count("old AP50") == 2 and "The same photographs before and after" in page.headings


def test_a_run_folder_may_be_called_base(folder: Path) -> None:
    moved = folder.rename(folder.parent / "base")
    shutil.move(moved / "incdet" / "results.json", moved / "results.json")
    assert "incdet" in page_of_report(moved).cells


def page_of_report(folder: Path) -> Page:
    return Page(write_report(folder).read_text("utf-8"))


def test_a_run_that_has_just_begun_can_be_looked_at(tmp_path: Path) -> None:
    begun = Results("incdet", 7, "tiny", PROTOCOL)
    begun.add_step(1, {"cat": ClassScore(0.1, 0.2), "$x_{$": None})
    begun.save(tmp_path / "results.json")
    page = page_of_report(tmp_path)
    assert "20.0" in page.cells and "Not finished yet: incdet." in page.words
    assert set(page.headings) == {"After the last step", "Cost", "Protocol", "How to make it again"}


def test_a_run_without_test_images_has_no_dead_panel(tmp_path: Path) -> None:
    blind = Results("incdet", 7, "tiny", PROTOCOL)
    for step in (2, 3):
        blind.add_step(step, dict.fromkeys([name for names in PROTOCOL["steps"][:step] for name in names]))
    blind.save(tmp_path / "results.json")
    page = page_of_report(tmp_path)
    assert "svg" not in page.seen and any(word.startswith("Nothing was measured") for word in page.words)
    assert set(page.headings) == {"After the last step", "Cost", "Protocol", "How to make it again"}


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no results"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("incdet/step_3/samples.json", b"{"),
        ("incdet/step_3/mistakes.json", b"{"),
        ("incdet/step_3/matches.npz", b"PK"),
        ("incdet/memory/step_3.json", b'{"exemplars": 3}'),
        ("comparison.json", b"[]"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(folder: Path, file: str, content: bytes) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(Path(file).name)):
        write_report(folder)


def test_a_sample_picture_that_is_gone_is_refused_with_its_name(folder: Path) -> None:
    next((folder / "samples" / "images").iterdir()).unlink()
    with pytest.raises(InputError, match=r"0\.jpg.*cannot be read"):
        write_report(folder)


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / name).rename(tmp_path / f"run_{name}") for name in ("a", "b")]


def test_two_runs_stand_side_by_side_in_one_page(two: list[Path], tmp_path: Path) -> None:
    text = write_comparison(two, tmp_path / "compared.html").read_text("utf-8")
    page = Page(text)
    assert {"a/incdet", "b/incdet", "a/finetune", "joint"} <= set(page.cells) and "b/joint" not in page.cells
    assert "Run against run" in page.headings and "run_a" in page.words and "run_b" in page.words
    assert "b/incdet against a/incdet" in page.words
    assert "Of 4 classes: all within what chance may do." in page.words
    assert len([source for source in page.sources if source.startswith("data:")]) == 1  # the same picture in both
    assert not (two[0] / "report.html").exists() and not (two[0] / "plots").exists()


def test_runs_of_several_seeds_say_so(two: list[Path], tmp_path: Path) -> None:
    path = two[1] / "incdet" / "results.json"
    other = Results.load(path)
    other.seed = 8
    other.save(path)
    assert "seeds 7, 8" in write_comparison(two, tmp_path / "compared.html").read_text("utf-8")
    assert "seed 7<" in write_report(two[0]).read_text("utf-8")


def test_runs_on_different_test_images_are_not_compared(two: list[Path], tmp_path: Path) -> None:
    place = two[1] / "incdet" / "step_3"
    found = load_matches(place)
    assert found is not None
    save_matches(place, {name: one._replace(positives=one.positives + 1) for name, one in found.items()})
    with pytest.raises(InputError, match="different test images"):
        write_comparison(two, tmp_path / "compared.html")


def test_runs_of_different_protocols_are_not_compared(two: list[Path], tmp_path: Path) -> None:
    path = two[1] / "incdet" / "results.json"
    value = json.loads(path.read_text("utf-8").replace("5ca1ab1e", "0ther"))
    write_sealed(path, value)
    with pytest.raises(InputError, match="different protocols"):
        write_comparison(two, tmp_path / "compared.html")
