"""comparison.json and the printed table: the methods of one protocol side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from incdet.errors import Finding, InputError
from incdet.evaluation import metrics
from incdet.evaluation.results import JOINT, SCHEMA, Results, decimal, percent, same_protocol


def compare(results: Sequence[Results]) -> dict[str, Any]:
    """The content of comparison.json; also sets every method's gaps to the ``joint`` run, if there is a complete one.

    ``summary`` is that of results.json; ``summary_AP`` gives FPP, forgetting, BWT and the gaps in AP [.50:.95].

    Raises:
        InputError: Two runs follow different protocols or bear the same method name.
    """
    if not results:
        return {"schema": SCHEMA, "methods": {}}
    for other in results[1:]:
        same_protocol(results[0], other)
    names = [result.method for result in results]
    if len(set(names)) != len(names):
        raise InputError(Finding("comparison", "methods", "two results have the same method", "give each its own name"))
    joint = next((result for result in results if result.method == JOINT and result.last is not None), None)
    methods = {}
    for result in results:
        if joint is not None:  # otherwise gaps that were measured earlier stand
            result.measure_against(joint)
        methods[result.method] = _method_json(result, joint)
    first = results[0]
    head = {"schema": SCHEMA, "detector": first.detector, "seed": first.seed, "protocol": first.protocol}
    return {**head, "reference": joint.method if joint else None, "methods": methods}


def _method_json(result: Results, joint: Results | None) -> dict[str, Any]:
    reference = joint if joint is not result else None
    best = reference.last.scores if reference is not None and reference.last is not None else None
    final = result.last or (list(result.steps.values())[-1] if result.steps else None)
    scores = result.last.scores if result.last is not None else {}
    old = [name for names in result.classes[:-1] for name in names]
    steps = []
    for step, item in result.steps.items():
        entry: dict[str, Any] = {"step": step}
        for metric in ("AP50", "AP", "voc07", "voc12"):
            entry.update({f"{group}_{metric}": value for group, value in result.groups(step, metric).items()})
        steps.append({**entry, "exemplars": item.memory, "minutes": item.minutes})
    pick = ("FPP", "forgetting", "BWT", "average_incremental_AP", "AbsGap", "RelGap")
    by_ap, by_ap50 = result.summary_against(reference, "AP"), result.summary
    return {
        "steps": steps,
        "summary": by_ap50,
        "summary_AP": {key: by_ap[key] for key in pick},
        "average_incremental_AP50": metrics.average_incremental(
            [result.groups(t)["all"] if t in result.steps else None for t in range(1, len(result.classes) + 1)]
        ),
        "intransigence": metrics.intransigence(
            result.matrix(),
            [None] * (len(result.classes) - 1)
            + [None if best is None else metrics.group_mean(best, result.classes[-1])],
        ),
        "RSD": None if best is None else metrics.relative_drop(scores, best, old),
        "RPD": None if best is None else metrics.relative_drop(scores, best, result.classes[-1]),
        "kept": result.kept,
        "false_alarms": result.last.false_alarms.get("new") if result.last is not None else None,
        "exemplars": {"images": final and final.memory["images"], "MB": final and final.megabytes},
        "minutes": result.minutes,
    }


class ResultTable:
    """Old, new and all AP50 in percent after every step for the terminal, a block of rows a method.

    FPP and RelGap stand in the row of the last step; minutes are those of the step, training and evaluation. Where the
    terminal is too narrow, every method gets a line for its name, and what its exemplars take is left out.
    """

    def __init__(self, results: Sequence[Results]) -> None:
        self.results = results

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """One table, or one below the other."""
        whole = _grid(
            "method", *HEADS, title="AP50, FPP and RelGap in %; exemplars in images and MB; minutes of the step"
        )
        for result in self.results:
            for number, row in enumerate(_rows(result)):
                whole.add_row(
                    Text(result.title if number == 0 else ""), *row, end_section=number + 1 == len(result.steps)
                )
        if console.measure(whole, options=options.update(max_width=1000)).maximum <= options.max_width:
            yield whole
            return
        yield Text("AP50, FPP and RelGap in %; minutes of the step")
        for result in self.results:
            yield Text(result.title, style="bold", overflow="fold")
            narrow = _grid(*(head for head in HEADS if head not in WIDE), least=5)  # one below the other in line
            for row in _rows(result):
                narrow.add_row(*(cell for head, cell in zip(HEADS, row, strict=True) if head not in WIDE))
            yield narrow


def table(results: Sequence[Results]) -> ResultTable:
    """What a run prints at its end."""
    return ResultTable(results)


HEADS = ("step", "old", "new", "all", "FPP", "RelGap", "exemplars", "MB", "minutes")
WIDE = ("exemplars", "MB")
TITLE = "AP50, FPP and RelGap in %; exemplars in images and MB; minutes of the step"


def _grid(*heads: str, title: str | None = None, least: int | None = None) -> Table:
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for head in heads:
        named = head == "method"
        grid.add_column(
            head,
            justify="left" if named else "right",
            style="bold" if named else None,
            no_wrap=True,
            min_width=least,
        )
    return grid


def _rows(result: Results) -> list[list[str]]:
    """The cells under ``HEADS`` after every step."""
    rows = []
    for step, item in result.steps.items():
        means, final = result.groups(step), item is result.last
        rows.append(
            [
                str(step),
                *(percent(means[group]) for group in ("old", "new", "all")),
                percent(result.summary["FPP"] if final else None),
                percent(result.summary["RelGap"] if final else None),
                "-" if item.memory["images"] is None else str(item.memory["images"]),
                decimal(item.megabytes),
                decimal(item.minutes),
            ]
        )
    return rows
