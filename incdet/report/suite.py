"""A suite's table as Markdown: mean and standard deviation over seeds of every method, and what is still missing.

Drawn from the saved document alone (``docs/results/SUITE.json``); half of a suite makes a valid table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from incdet.evaluation.metrics import Number

FIRST, JOINT = "step 1", "joint"
"""Rows that are no method of learning a step."""


class Column(NamedTuple):
    """A column of figures.

    Attributes:
        head: What stands above it.
        key: Of a row's figures.
        scale: Factor of what is shown.
        digits: Decimals.
    """

    head: str
    key: str
    scale: float = 100
    digits: int = 1


ACCURACY = (
    Column("old", "old_AP50"),
    Column("new", "new_AP50"),
    Column("all", "all_AP50"),
    Column("old, AP", "old_AP"),
    Column("new, AP", "new_AP"),
    Column("all, AP", "all_AP"),
    Column("kept", "kept"),
    Column("RelGap", "RelGap"),
    Column("forgetting", "forgetting"),
)
USE = (
    Column("false alarms", "false_alarms", 1, 2),
    Column("old → new", "old_to_new"),
    Column("new → old", "new_to_old"),
    Column("precision, old", "precision_old"),
    Column("recall, old", "recall_old"),
    Column("precision, new", "precision_new"),
    Column("recall, new", "recall_new"),
    Column("exemplars", "exemplars", 1, 0),
    Column("MB", "MB", 1, 1),
    Column("steps", "steps", 1, 0),
    Column("minutes", "minutes", 1, 1),
)
LEGEND = """\
What stands in the columns: AP50 (old, new, all classes), COCO's AP, the share of AP50 kept of the old classes, RelGap
to the joint training of the same seed, and forgetting, in %; mean ± standard deviation over seeds. *Against the best
other*: the difference of the mean AP50 over all classes (VOC's area under the whole curve) to the best other method, in
points, with a paired bootstrap interval (95 %) over the test images, seeds averaged in every draw: it says what another
test set could change, not what another training could. *False alarms*: detections of new classes above 0.3 per image
without a new object. *old → new*: on how many of 100 old objects a new class fires above 0.3. Precision and recall
in %, at thresholds of best F1 that are chosen on one half of the test images and measured on the other. Exemplars in
images. Optimiser steps and minutes of training of all steps after the first; an interim teacher counts; joint's are the
whole of its training."""


def markdown(document: Mapping[str, Any]) -> str:
    """The page of a suite.

    Args:
        document: What ``tools/reproduce.py`` saves; see ``incdet.app.suite_document``.
    """
    rows, protocols = document["rows"], document["protocols"]
    parts = [f"# {document['suite']}", f"```bash\n{document['command']}\n```", _origin(rows)]
    own = {name: [row for row in rows if row["protocol"] == name] for name in protocols}
    if document.get("study"):
        parts.append("\n".join(f"- {name}: {protocol['about']}" for name, protocol in protocols.items()))
        parts += [f"{name}: {_missing(protocol)}" for name, protocol in protocols.items() if protocol["missing"]]
        parts += _tables(own, protocols)
        return "\n\n".join([*parts, LEGEND]) + "\n"
    for name, protocol in protocols.items():
        parts.append(f"## {name}\n\n{protocol['about']}")
        if protocol["missing"]:
            parts.append(_missing(protocol))
        if own[name]:
            parts += _tables({name: own[name]}, protocols)
    return "\n\n".join([*parts, LEGEND]) + "\n"


def _missing(protocol: Mapping[str, Any]) -> str:
    return f"Not measured yet: {'; '.join(protocol['missing'])}."


def _tables(rows: Mapping[str, Sequence[Mapping[str, Any]]], protocols: Mapping[str, Any]) -> list[str]:
    """Accuracy and use of the methods, protocol by protocol; who has one alone is not named in every line."""
    heads = ("setting", "method") if len(protocols) > 1 and len(rows) > 1 else ("method",)
    accuracy, use = [], []
    for name, own in rows.items():
        differences = protocols[name]["differences"]
        for method, figures in grouped(own).items():
            start = (name, method)[-len(heads) :]
            accuracy.append([*start, *_cells(figures, ACCURACY), _against(differences.get(method))])
            use.append([*start, *_cells(figures, USE)])
    return [
        _table(
            [*heads, "seeds", *(column.head for column in ACCURACY), "against the best other"], accuracy, len(heads)
        ),
        _table([*heads, "seeds", *(column.head for column in USE)], use, len(heads)),
    ]


def grouped(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The figures of every method, seed by seed, RelGap added; step 1, then methods by AP50, then joint."""
    best = {row["seed"]: row["figures"]["all_AP50"] for row in rows if row["method"] == JOINT}
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        reference, own = best.get(row["seed"]), row["figures"]["all_AP50"]
        gap = (reference - own) / reference if reference and own is not None else None
        named = row["method"] in (FIRST, JOINT)
        found.setdefault(row["method"], []).append({**row["figures"], "RelGap": None if named else gap})

    def place(method: str) -> tuple[int, float]:
        mean = center(one["all_AP50"] for one in found[method])
        return {FIRST: 0, JOINT: 2}.get(method, 1), -(mean or 0.0)

    return {method: found[method] for method in sorted(found, key=place)}


def center(values: Iterable[Number]) -> Number:
    """The mean of what is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def cell(values: Sequence[Number], scale: float = 1, digits: int = 1) -> str:
    """``mean ± standard deviation`` (of a sample); the mean alone of one value, "-" of none."""
    known = [scale * value for value in values if value is not None]
    if not known:
        return "-"
    middle = f"{np.mean(known) + 0.0:.{digits}f}"
    if len(known) == 1 or digits == 0:
        return middle
    return f"{middle} ± {np.std(known, ddof=1):.{digits}f}"


def _against(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return "-"
    low, high = (100 * difference[key] for key in ("low", "high"))
    return f"{100 * difference['change']:+.1f} [{low:+.1f}, {high:+.1f}] to {difference['rival']}"


def _cells(figures: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[str]:
    return [
        str(len(figures)),
        *(cell([one.get(column.key) for one in figures], column.scale, column.digits) for column in columns),
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    lines = [_line(heads), "|" + "---|" * words + "---:|" * (len(heads) - words)]
    return "\n".join([*lines, *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _origin(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which commits and machines the rows come from, and of which seeds, in a line each."""
    seeds: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        machine = f"{row['machine']}, torch {row['torch']}"
        seeds.setdefault((row["commit"] or "no commit", machine), set()).add(row["seed"])
    lines = [
        f"- commit {commit}: {machine}; seeds {', '.join(map(str, sorted(own)))}"
        for (commit, machine), own in sorted(seeds.items())
    ]
    return "\n".join(lines) or "Nothing has been measured yet."
