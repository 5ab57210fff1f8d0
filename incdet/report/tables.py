"""The tables of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from incdet.evaluation.metrics import Interval, Number
from incdet.evaluation.results import JOINT, Results, decimal, percent
from incdet.report.bars import points
from incdet.report.markup import Markup, tag

# title, value of a method's entry in comparison.json, how to write it, is more better (None: neither)
_Column = tuple[str, Callable[[dict[str, Any]], Number], Callable[[Number], str], "bool | None"]
COLUMNS: tuple[_Column, ...] = (
    ("old AP50", lambda entry: entry["summary"]["old_AP50"], percent, True),
    ("new AP50", lambda entry: entry["summary"]["new_AP50"], percent, True),
    ("all AP50", lambda entry: entry["summary"]["AP50"], percent, True),
    ("all AP", lambda entry: entry["summary"]["AP"], percent, True),
    ("kept", lambda entry: entry["kept"], percent, True),
    ("FPP", lambda entry: entry["summary"]["FPP"], percent, False),
    ("forgetting", lambda entry: entry["summary"]["forgetting"], percent, False),
    ("avg. incr. AP", lambda entry: entry["summary"]["average_incremental_AP"], percent, True),
    ("RelGap", lambda entry: entry["summary"]["RelGap"], percent, False),
    ("false alarms", lambda entry: entry["false_alarms"], lambda value: _hundredths(value), False),
    ("exemplars", lambda entry: entry["exemplars"]["images"], lambda value: whole(value), None),
    ("MB", lambda entry: entry["exemplars"]["MB"], decimal, None),
    ("minutes", lambda entry: entry["minutes"], decimal, None),
)

WORDS = """AP50 is average precision at IoU 0.5, AP its mean over IoU .50:.05:.95 (COCO), both in %, over all test
images and averaged over classes. Old are the classes of earlier steps, new those of the last one. Kept: the share of
the old classes' AP50 when they were first measured that is left. FPP: AP50 of the first step's classes after step 1
minus the same after the last step. Forgetting: mean over earlier steps' classes of the best AP50 they ever had minus
the final one. Avg. incr. AP: mean over steps 2 to the last of AP over all classes seen. RelGap: the share of joint
training's AP50 that is missing. False alarms: detections of new classes that score more than 0.3, per test image
without any of them. Exemplars are kept images. Minutes: training and evaluation of all steps, the shared first one
included. Bold: the best incremental method."""


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, css: str | None = None) -> Markup:
    """Rows of cells; a cell is text or ``td``. On a phone its first column stays while the others scroll."""
    head = tag("tr", *(cell if isinstance(cell, Markup) else tag("th", cell, scope="col") for cell in heads))
    body = [row if isinstance(row, Markup) else line(row) for row in rows]
    grid = tag("table", tag("thead", head), tag("tbody", *body), class_=css)
    hint = tag("div", "swipe the table sideways →", class_="hint") if len(heads) > 4 else ""
    frame = tag("div", grid, class_="scroll", tabindex="0", role="region", aria_label=f"table: {heads[0]} and more")
    return tag("div", hint, frame)


def line(cells: Iterable[object], css: str | None = None) -> Markup:
    """A row."""
    return tag("tr", *(cell if isinstance(cell, Markup) else tag("td", cell) for cell in cells), class_=css)


def headline(comparison: dict[str, Any]) -> Markup:
    """The figures of every method after the last step; columns that nobody has are left out."""
    methods: dict[str, dict[str, Any]] = comparison["methods"]
    columns = [column for column in COLUMNS if any(column[1](entry) is not None for entry in methods.values())]
    best: list[Number] = []
    for _, value, _, more in columns:
        known = [v for name, entry in methods.items() if name != JOINT and (v := value(entry)) is not None]
        best.append(None if more is None or len(known) < 2 else (max(known) if more else min(known)))
    rows = []
    for name, entry in methods.items():
        cells = [tag("td", name)]
        for (_, value, write, _), top in zip(columns, best, strict=True):
            leads = name != JOINT and top is not None and value(entry) == top
            cells.append(tag("td", write(value(entry)), class_="best" if leads else None))
        rows.append(line(cells, "reference" if name == JOINT else None))
    return table(["method", *(column[0] for column in columns)], rows)


def steps(results: Sequence[Results]) -> Markup:
    """What was measured and what it cost after every step."""
    heads = ["method", "step", "old AP50", "new AP50", "all AP50", "all AP", "training images", "exemplars", "minutes"]
    rows = []
    for result in results:
        for place, (step, item) in enumerate(result.steps.items()):
            means = result.groups(step)
            cells = [
                result.method if place == 0 else "",
                str(step),
                *(percent(means[group]) for group in ("old", "new", "all")),
                percent(result.groups(step, "AP")["all"]),
                whole(item.train_images),
                whole(item.memory["images"]),
                decimal(item.minutes),
            ]
            rows.append((cells, "first" if place == 0 else None))
    return _known_columns(heads, rows)


def _known_columns(heads: Sequence[str], rows: Sequence[tuple[list[str], str | None]]) -> Markup:
    """A table of (cells, css) rows without the columns in which nothing is known."""
    shown = [place for place, _ in enumerate(heads) if any(cells[place] not in ("-", "") for cells, _ in rows)]
    lines = [line([cells[place] for place in shown], css) for cells, css in rows]
    return table([heads[place] for place in shown], lines)


def matrix(result: Results) -> Markup:
    """AP50 of the classes of every step (columns) after every step (rows)."""
    known = [step for step in range(1, len(result.classes) + 1) if step in result.steps]
    values = result.matrix()
    columns = [k for k in range(known[-1]) if any(values[t - 1][k] is not None for t in known)]
    heads = [result.method, *(f"step {k + 1} ({len(result.classes[k])})" for k in columns)]
    rows = []
    for step in known:
        cells: list[object] = [f"after {step}"]
        for k in columns:
            value = values[step - 1][k]
            css, style = ("heat", f"--share:{value:.3f}") if value is not None else (None, None)
            cells.append(tag("td", percent(value) if value is not None else "", class_=css, style=style))
        rows.append(cells)
    return table(heads, rows)


def classes(results: Sequence[Results]) -> Markup:
    """AP, both VOC forms and what a deployed threshold returns, of every class and method."""
    heads = ["class", "step", "method", "AP", "AP50", "VOC 11 points", "VOC all points", "precision", "recall"]
    final = [(result.method, result.last.scores) for result in results if result.last is not None]
    rows = []
    for number, names in enumerate(results[0].classes, start=1):
        for name in names:
            for place, (method, scores) in enumerate(final):
                values = scores.get(name) or (None,) * 6
                cells = [name if place == 0 else "", str(number) if place == 0 else "", method, *map(percent, values)]
                rows.append((cells, "first" if place == 0 else None))
    return _known_columns(heads, rows)


def changes(results: Sequence[Results]) -> Markup | None:
    """AP50 changes of old classes from step to step and since they were learned, with intervals."""
    rows = []
    for result in results:
        for step, item in result.steps.items():
            for name, change in item.changes.items():
                since = item.since.get(name)
                rows.append([result.method, step, name, *_interval(change), *_interval(since)])
    heads = [
        "method",
        "step",
        "class",
        "from the step before",
        "95 % interval",
        "since it was learned",
        "95 % interval",
    ]
    return table(heads, rows) if rows else None


def _interval(one: Interval | None) -> tuple[str, str]:
    if one is None or one.change is None:
        return "-", "-"
    return points(one.change), "-" if one.low is None else f"{points(one.low)} to {points(one.high)}"


def protocol(value: dict[str, Any], stored: dict[str, Any] | None) -> Markup:
    """The classes of every step, and the plain figures of what each step sees where protocol.json has them."""
    views = (stored or {}).get("views") or [{} for _ in value["steps"]]
    skipped = {"step", "hash", "names", "classes", "schema"}
    keys = [key for key, item in views[0].items() if key not in skipped and isinstance(item, int | float | str)]
    heads = ["step", *(key.replace("_", " ") for key in keys), tag("th", "classes", class_="text")]
    rows = []
    for number, names in enumerate(value["steps"], start=1):
        view = views[number - 1] if number <= len(views) else {}
        rows.append([number, *(view.get(key, "-") for key in keys), tag("td", ", ".join(names), class_="text")])
    return table(heads, rows)


def whole(value: Number) -> str:
    """A number without decimals, "-" if unknown."""
    return "-" if value is None else f"{value:.0f}"


def _hundredths(value: Number) -> str:
    return "-" if value is None else f"{value:.2f}"
