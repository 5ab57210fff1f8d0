"""The sections of a report on how the figures came about: losses, memory, time, protocol, data and command."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from incdet.evaluation.results import decimal
from incdet.report import bars, charts, tables
from incdet.report.bars import Bar
from incdet.report.events import Phase
from incdet.report.markup import Markup, tag
from incdet.report.palette import HUES, looks
from incdet.report.saved import SavedRun

CLASSES = 24
"""With more classes their exemplars are shown step by step."""


def losses(run: SavedRun) -> list[Markup]:
    """A panel a phase with the loss of every method, or with the terms of the loss where there is one method."""
    by_name: dict[str, list[Phase]] = {}
    for phase in run.log.phases:
        by_name.setdefault(phase.name, []).append(phase)
    chosen = looks([method.name for method in run.methods])
    panels = []
    for name, phases in by_name.items():
        if len(phases) == 1:
            only = phases[0]
            curves = {term: only.curve(term) for term in ("loss", *only.terms)}
            css = {
                term: "hue-ink" if term == "loss" else f"hue-{place % len(HUES)}" for place, term in enumerate(curves)
            }
            title = name if only.method in ("", "base") or name.startswith(only.method) else f"{name}, {only.method}"
        else:
            curves = {phase.method: phase.curve() for phase in phases}
            css = {method: chosen[method].css if method in chosen else "hue-muted" for method in curves}
            title = name
        curves = {term: curve for term, curve in curves.items() if len(curve) > 1}
        if curves:
            panels.append(charts.losses(title, curves, css))
    return panels


def memory(run: SavedRun) -> list[Markup]:
    """A panel a method with the exemplars of every class."""
    panels = []
    for method in run.methods:
        kept = method.memory()
        if kept:
            size = method.results.steps[max(method.results.steps)].megabytes
            if len(kept) > CLASSES:
                kept = _by_step(kept, method.results.classes)
            rows = [Bar(name, float(images), f"{images} ({objects})") for name, (images, objects) in kept.items()]
            note = f"{sum(images for images, _ in kept.values())} images, {decimal(size)} MB"
            panels.append(bars.bars(method.name, rows, note)[0])
    return panels


def _by_step(kept: dict[str, tuple[int, int]], steps: Sequence[Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Images and objects of all classes of a step together."""
    sums = {}
    for step, names in enumerate(steps, start=1):
        parts = [kept.get(name, (0, 0)) for name in names]
        sums[f"step {step}, {len(names)} classes"] = sum(one for one, _ in parts), sum(other for _, other in parts)
    return sums


def cost(run: SavedRun) -> list[Markup]:
    """The minutes of every method."""
    rows = [
        Bar(result.method, result.minutes, f"{decimal(result.minutes)} min", looks([result.method])[result.method].css)
        for result in run.results
        if result.minutes
    ]
    return [bars.bars("Training and evaluation", rows, "all steps")[0]] if rows else []


def facts(run: SavedRun) -> Markup:
    """Version, date, command, device, data and commit, as far as the log tells."""
    first = run.results[0]
    rows: list[tuple[str, object]] = []
    if run.log.starts:
        start = run.log.starts[-1]
        begun = [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(one["time"]))) for one in run.log.starts]
        rows.append(("started", begun[0] if len(begun) == 1 else f"{begun[0]}, resumed {', '.join(begun[1:])}"))
        rows.append(("command", tag("code", start["command"]) if start.get("command") else "called from Python"))
        packages = ", ".join(f"{key} {start[key]}" for key in ("python", "torch", "torchvision") if start.get(key))
        rows.append(("incdet", f"{start.get('incdet', '?')}{_commit(start)}; {packages}"))
        rows.append(("device", str(start.get("device", "?")).removeprefix("device: ")))
        rows += _data(start.get("data") or {})
    rows.append(("detector", first.detector))
    rows.append(("seed", first.seed))
    rows.append(
        ("protocol", f"{first.protocol['name']}, classes {first.protocol['order']}, images {first.protocol['images']}")
    )
    rows.append(("protocol hash", tag("code", first.protocol["hash"])))
    body = [tag("tr", tag("td", name, class_="muted"), tag("td", value)) for name, value in rows]
    return tag("table", tag("tbody", *body), class_="facts")


def _commit(start: dict[str, Any]) -> str:
    return f", commit {start['commit']}" if start.get("commit") else ""


def _data(data: dict[str, Any]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if data:
        rows.append(("data set", f"{data.get('format', '')} {data.get('root', '')}"))
    for split, words in (("train", "training set"), ("test", "test set")):
        if part := data.get(split):
            text = f"{part['images']:,} images, {part['objects']:,} objects of {len(part['per_class'])} classes, hash "
            rows.append((words, tag("span", text, tag("code", part["hash"])) if part["images"] else "none"))
    return rows


def data_table(run: SavedRun) -> Markup | None:
    """Objects of every class in both splits."""
    data = run.log.starts[-1].get("data") or {} if run.log.starts else {}
    train, test = (data.get(split, {}).get("per_class", {}) for split in ("train", "test"))
    names = [name for names in run.results[0].classes for name in names]
    rows = [[name, train.get(name, 0), test.get(name, 0)] for name in names]
    return tables.table(["class", "training objects", "test objects"], rows) if train or test else None
