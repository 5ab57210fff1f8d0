"""The sections of a report that show what was learned and lost; each is empty where the run has nothing for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from incdet.errors import Finding, InputError
from incdet.evaluation.metrics import Interval, Matches, paired_changes
from incdet.evaluation.results import JOINT, Results
from incdet.report import bars, charts, photos, tables
from incdet.report.bars import Bar
from incdet.report.markup import Markup, join, tag
from incdet.report.palette import class_colours, looks
from incdet.report.saved import SavedMethod, SavedRun
from incdet.report.words import certain

PANELS = 12
"""Precision-recall panels that are shown."""
PAIRS = 8
"""Pairs of classes in a chart of confusions."""


def over_steps(run: SavedRun) -> list[Markup]:
    """The panels of old, new and all classes over the steps."""
    chosen = looks([method.name for method in run.methods])
    return [drawn for group in charts.GROUPS if (drawn := charts.over_steps(run.results, group, chosen)) is not None]


def matrices(run: SavedRun) -> list[Markup]:
    """The matrix of every method that went through two steps or more."""
    return [
        tables.matrix(result)
        for result in run.results
        if len(result.steps) > 1 and any(value is not None for row in result.matrix() for value in row)
    ]


def gains_and_losses(run: SavedRun) -> list[Markup]:
    """A panel a method with the changes of its old classes, and what they come to in words."""
    panels = []
    for method in run.methods:
        moved = _moved(method)
        if method.incremental and moved:
            drawn, _ = bars.changes(method.name, moved)
            panels.append(_figure(drawn, certain(moved)))
    return panels


def _moved(method: SavedMethod) -> dict[str, Any]:
    last = method.results.steps[max(method.results.steps)]
    return {name: one for name, one in (last.since or last.changes).items() if one.change is not None}


def against_first(run: SavedRun) -> list[Markup]:
    """In a comparison of runs: how the classes differ from those of the first run with the same method, with intervals.

    Raises:
        InputError: The runs were scored on different test images.
    """
    if not run.parts:
        return []
    panels: list[Markup] = []
    firsts: dict[str, SavedMethod] = {}
    for method in run.methods:
        if not method.incremental or method.results.last is None:
            continue
        first = firsts.setdefault(method.name.rpartition("/")[2], method)
        if first is not method:
            drawn, _ = bars.changes(f"{method.name} against {first.name}", moved := _difference(first, method))
            panels.append(_figure(drawn, certain(moved, "classes")))
    return panels


def _difference(first: SavedMethod, other: SavedMethod) -> dict[str, Interval]:
    last = max(first.results.steps)
    before, after = first.matches(last), other.matches(last)
    try:
        return paired_changes(before, after, list(before))
    except ValueError:
        problem = f"{first.name} and {other.name} were scored on different test images"
        raise InputError(Finding(str(other.folder), "comparison", problem, "score both on one test set")) from None


def per_class(run: SavedRun) -> list[Markup]:
    """The final AP50 of every class."""
    if not any(score for result in run.results if result.last for score in result.last.scores.values()):
        return []
    return [bars.per_class(run.results, looks([method.name for method in run.methods]))[0]]


def curves(run: SavedRun) -> tuple[list[Markup], int]:
    """Precision-recall panels: of all classes, or of the ``PANELS`` whose AP50 differs most between before and after.

    Returns:
        The panels, and how many classes there are.
    """
    chosen = looks([method.name for method in run.methods])
    final = {m.name: m.matches(max(m.results.steps)) for m in run.methods if m.results.last is not None}
    first = _first_matches(run)
    names = [name for names in run.results[0].classes for name in names]
    names = [name for name in names if any(_shows(found.get(name)) for found in final.values())]
    picked = sorted(names, key=lambda name: -_movement(run.results, name))[:PANELS]
    panels = []
    for name in (name for name in names if name in picked):
        lines = [(one, chosen[m].css, chosen[m].dash) for m, found in final.items() if _shows(one := found.get(name))]
        if name in first:
            lines.insert(0, (first[name], "hue-muted", "2 2"))
        panels.append(charts.precision_recall(name, [(one, css, dash) for one, css, dash in lines if one is not None]))
    return panels, len(names)


def _first_matches(run: SavedRun) -> dict[str, Matches]:
    """The old classes as the first step that all methods share left them."""
    for method in run.methods:
        steps = list(method.results.steps)
        if method.incremental and len(steps) > 1:
            return {name: one for name, one in method.matches(steps[0]).items() if _shows(one)}
    return {}


def _shows(matches: Matches | None) -> bool:
    return matches is not None and bool(matches.positives.any())


def _movement(results: Sequence[Results], name: str) -> float:
    moved = [0.0]
    for result in results:
        end, start = result.last.scores.get(name) if result.last else None, result.learned.get(name)
        if result.method != JOINT and end is not None and start is not None:
            moved.append(abs(end.AP50 - start.AP50))
    return max(moved)


def confusions(run: SavedRun) -> list[Markup]:
    """For every method: on which old objects the new classes fire, and on which new ones the old classes do."""
    panels = []
    for method in run.methods:
        step = max(method.results.steps)
        counts = method.results.steps[step].confusion
        old = [name for names in method.results.classes[: step - 1] for name in names]
        if counts is None or not any(counts.objects.values()) or not method.incremental or not old:
            continue
        new = method.results.classes[step - 1]
        rows = [("hue-loss", row) for row in counts.between(old, new)[:PAIRS]]
        rows += [("hue-mark", row) for row in counts.between(new, old)[:PAIRS]]
        made = [
            Bar(f"{detected} on {true}", 100 * share, f"{100 * share:.0f} % ({number} of {counts.objects[true]})", css)
            for css, (true, detected, number, share) in rows
        ]
        alarms = method.results.steps[step].false_alarms.get("new")
        note = "" if alarms is None else f"False alarms of new classes per image without any: {alarms:.2f}."
        if made:
            panels.append(_figure(bars.bars(method.name, made, "share of the objects", most=100)[0], note))
        else:
            panels.append(_figure("", f"{method.name}: no such detection scores more than {counts.threshold}. {note}"))
    return panels


def mistakes(run: SavedRun) -> list[Markup]:
    """Pictures of the confusions."""
    colours = _colours(run)
    return [
        _figure(photos.mistake(entry, colours), f"{method.name}: {entry['detected']} on {entry['true']}")
        for method in run.methods
        if method.incremental
        for entry in method.mistakes()
    ]


def photographs(run: SavedRun) -> list[Markup]:
    """For every sample picture a row: the truth, the first step, and the last one of every method."""
    colours, names = _colours(run), [name for names in run.results[0].classes for name in names]
    incremental = [method for method in run.methods if method.incremental]
    if not incremental:
        return []
    first = min(incremental[0].results.steps)
    before = {entry["image_id"]: entry for entry in incremental[0].samples(first)}
    after = {
        (method.name, step): {entry["image_id"]: entry for entry in method.samples(step)}
        for method in run.methods
        if (step := max(method.results.steps)) > first
    }
    known = [name for names in run.results[0].classes[:first] for name in names]
    rows = []
    for image_id, entry in before.items():
        row = [_figure(photos.truth(entry, names, colours), "annotated")]
        row.append(_figure(photos.found(entry, known, colours), f"before: after step {first}"))
        for (method, step), entries in after.items():
            if image_id in entries:
                seen = [name for names in run.results[0].classes[:step] for name in names]
                row.append(_figure(photos.found(entries[image_id], seen, colours), f"{method}, after step {step}"))
        rows.append(tag("div", *row, class_="panels photos"))
    return rows


def class_key(run: SavedRun) -> Markup:
    """The colours of the classes that the photographs show, and what the frames mean."""
    shown = {item["name"] for entry in _entries(run) for item in (*entry["truth"], *entry.get("detections", ()))}
    swatches = [
        tag("span", tag("i", class_="swatch", style=f"background:{colour}"), name)
        for name, colour in _colours(run).items()
        if name in shown
    ]
    return tag("div", *swatches, class_="legend")


def store(run: SavedRun) -> Markup:
    """Every picture of the page, once."""
    return photos.store(_entries(run))


def _entries(run: SavedRun) -> list[dict[str, Any]]:
    entries = []
    for method in run.methods:
        for step in {min(method.results.steps), max(method.results.steps)}:
            entries += method.samples(step)
        entries += method.mistakes() if method.incremental else []
    return entries


def _colours(run: SavedRun) -> dict[str, str]:
    return class_colours([name for names in run.results[0].classes for name in names])


def _figure(drawn: object, words: str = "") -> Markup:
    return tag("figure", drawn, tag("figcaption", words) if words else "")


def panels(parts: Sequence[object], css: str = "panels") -> Markup:
    """Parts side by side where there is room."""
    return tag("div", *parts, class_=css) if parts else join(())
