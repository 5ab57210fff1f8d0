"""Charts and one self-contained report.html, made from the saved files of a run folder and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from incdet.evaluation.comparison import compare
from incdet.files import write_text
from incdet.report import charts, costs, sections, tables
from incdet.report.markup import Markup, join, tag
from incdet.report.palette import looks
from incdet.report.plots import write_plots
from incdet.report.saved import SavedRun
from incdet.report.sections import panels
from incdet.report.style import page_style
from incdet.report.words import summary

Section = tuple[str, str, Sequence[object]]
"""An anchor, a title and what stands below it; a section without content is left out."""


def write_report(folder: Path | str, target: Path | str | None = None) -> Path:
    """Draws ``folder``/plots/*.svg and writes ``folder``/report.html, which needs no other file to be read.

    Args:
        folder: A run folder; one that still runs gives a page of what is there already.
        target: Write the page there instead, and nothing into the run folder.

    Returns:
        The path of the page.

    Raises:
        InputError: The folder holds no results, a file is cut off, or the runs follow different protocols.
    """
    run = SavedRun.load(folder)
    comparison = compare(run.results)
    if target is None:
        write_plots(run)
    path = run.root / "report.html" if target is None else Path(target)
    write_text(path, page(run, comparison))
    return path


def write_comparison(folders: Sequence[Path | str], target: Path | str) -> Path:
    """Puts several runs of one protocol side by side in one page at ``target``.

    Returns:
        ``target``.

    Raises:
        InputError: A folder holds no results, a file is cut off, or the runs differ in protocol or test images.
    """
    run = SavedRun.beside([SavedRun.load(folder) for folder in folders])
    target = Path(target)
    write_text(target, page(run, compare(run.results)))
    return target


def page(run: SavedRun, comparison: dict[str, Any]) -> Markup:
    """The whole page."""
    protocol = run.results[0].protocol
    names = [method.name for method in run.methods]
    title = f"{protocol['name']}: {', '.join(names) if len(names) <= 4 else f'{len(names)} methods'}"
    shown = [section for section in _sections(run, comparison) if any(section[2])]
    body = (
        sections.store(run),
        tag("h1", title),
        tag("div", _subtitle(run), class_="muted"),
        tag("div", tag("ul", *(tag("li", words) for words in summary(run.results))), class_="lead"),
        tag("nav", *(tag("a", name, href=f"#{anchor}") for anchor, name, _ in shown)),
        *(tag("section", tag("h2", name, id=anchor), *content) for anchor, name, content in shown),
    )
    head = (
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(page_style())),
    )
    return join((Markup("<!doctype html>\n"), tag("html", tag("head", *head), tag("body", *body), lang="en"), "\n"))


def _subtitle(run: SavedRun) -> str:
    first = run.results[0]
    steps = [len(names) for names in first.classes]
    seeds = sorted({result.seed for result in run.results})
    chance = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
    return f"{first.detector} · {' + '.join(map(str, steps))} classes · {chance}"


def _sections(run: SavedRun, comparison: dict[str, Any]) -> list[Section]:
    key = charts.key(looks([method.name for method in run.methods]))
    return [
        (
            "figures",
            "After the last step",
            [tables.headline(comparison), _details("What the figures mean", tag("p", tables.WORDS))],
        ),
        ("steps", "Old and new classes over the steps", _noted(panels(sections.over_steps(run)), STEPS)),
        ("matrix", "Step by step", _noted(panels(sections.matrices(run)), MATRIX)),
        ("against", "Run against run", _noted(panels(sections.against_first(run)), AGAINST)),
        ("changes", "Gain and loss of the old classes", _noted(panels(sections.gains_and_losses(run)), CHANGES)),
        ("classes", "Every class", _every_class(run, key)),
        ("curves", "Precision and recall, before and after", _curves(run, key)),
        ("confusion", "New classes on old objects, and back", _confusion(run)),
        ("photographs", "The same photographs before and after", _photographs(run)),
        ("losses", "Losses", _noted(panels(costs.losses(run)), LOSSES)),
        ("memory", "Memory", _noted(panels(costs.memory(run)), MEMORY)),
        ("cost", "Cost", [panels(costs.cost(run)), tables.steps(run.results)]),
        ("protocol", "Protocol", [tables.protocol(run.results[0].protocol, run.protocol)]),
        ("facts", "How to make it again", _facts(run)),
    ]


STEPS = """The lines of the old classes start with the classes of the first step, just learned: where they end is what
is left of them and of those learned since."""
MATRIX = "AP50 in % of the classes of every step (columns, with their number) after every step (rows)."
CHANGES = """How the AP50 of every old class changed since it was learned, with 95 % intervals of a paired bootstrap
over the test images. Grey: the interval holds zero, so it may be chance."""
AGAINST = """The AP50 of every class after the last step, compared with the first run that has the same method, with
95 % intervals of a paired bootstrap over the test images. Grey: the interval holds zero, so it may be chance."""
RING = "The ring: where a class of the first step stood after it."
CONFUSION = """The share of a class's objects in the test set on which a class of the other group fires (score above
0.3, IoU 0.5 or more). Orange: new classes on old objects. Blue: old classes on new objects."""
FRAMES = """Detections scoring 30 % or more. A broken frame is a false alarm, a dotted one an object that was missed. A
class has the same colour in every picture."""
LOSSES = "The mean loss between two lines of the log."
MEMORY = "Exemplar images kept for every class, in brackets the annotated objects in all exemplars."


def _noted(drawn: Markup, words: str) -> list[Markup]:
    return [tag("p", words, class_="note"), drawn] if drawn else []


def _details(title: str, *content: object) -> Markup:
    return tag("details", tag("summary", title), *content)


def _every_class(run: SavedRun, key: Markup) -> list[Markup]:
    drawn = sections.per_class(run)
    if not drawn:
        return []
    changed = tables.changes(run.results)
    note = "Precision and recall are those at IoU 0.5 of detections scoring 0.5 or more."
    return [
        tag("p", RING, class_="note"),
        key,
        panels(drawn),
        _details("All figures of every class", tables.classes(run.results), tag("p", note, class_="note")),
        *([_details("All changes with their intervals", changed)] if changed else []),
    ]


def _curves(run: SavedRun, key: Markup) -> list[Markup]:
    drawn, total = sections.curves(run)
    words = "Precision over recall at IoU 0.5, in %. Grey and dotted: after the first step."
    if len(drawn) < total:
        words += f" The {len(drawn)} of {total} classes whose AP50 changed most."
    return [tag("p", words, class_="note"), key, panels(drawn, "panels small")] if drawn else []


def _confusion(run: SavedRun) -> list[Markup]:
    drawn = panels(sections.confusions(run))
    return [tag("p", CONFUSION, class_="note"), drawn, panels(sections.mistakes(run), "panels photos")] if drawn else []


def _photographs(run: SavedRun) -> list[Markup]:
    rows = sections.photographs(run)
    return [tag("p", FRAMES, class_="note"), sections.class_key(run), *rows] if rows else []


def _facts(run: SavedRun) -> list[Markup]:
    parts = []
    for one in run.parts or (run,):
        parts += [tag("h3", one.root.name), costs.facts(one)] if run.parts else [costs.facts(one)]
        counted = costs.data_table(one)
        if counted:
            parts.append(_details("Objects of every class", counted))
        if one.config:
            parts.append(_details("Configuration", tag("pre", one.config)))
    return parts
