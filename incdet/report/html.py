"""Plots and one self-contained report.html, made from the saved files of a run folder and nothing else."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.evaluation.comparison import compare
from incdet.evaluation.metrics import Number
from incdet.evaluation.results import JOINT, Results, decimal, percent, read_json
from incdet.files import write_text
from incdet.report import plots as viz
from incdet.report.samples import load_samples

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --muted: #59636e; --line: #e3e6ea; --card: #f6f7f9;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --paper: #16191d; --ink: #e8eaed; --muted: #a3acb5; --line: #30363d;
  --card: #1e2227; --mark: #4aa8e8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 32px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 10px; }
p, figcaption, .muted { color: var(--muted); } p { max-width: 78ch; margin: 6px 0 12px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--muted); font-weight: 600; font-size: 13px; } td:first-child, th:first-child { text-align: left; }
td.wide { text-align: left; white-space: normal; } tr.first td { border-top: 2px solid var(--line); }
td.best { font-weight: 700; color: var(--mark); } tr.reference td { font-style: italic; color: var(--muted); }
figure { margin: 12px 0 28px; } figure img { width: 100%; height: auto; border-radius: 8px; display: block; }
figure.photo img { background: #fff; padding: 6px; border: 1px solid var(--line); }
details { margin: 10px 0; } summary { cursor: pointer; font-weight: 600; }
pre { background: var(--card); padding: 14px 16px; border-radius: 8px; overflow-x: auto; font-size: 13px; }
"""

# title, value of a method's entry in comparison.json, how to write it, is more better (None: neither)
_Column = tuple[str, Callable[[dict[str, Any]], Number], Callable[[Number], str], "bool | None"]
COLUMNS: tuple[_Column, ...] = (
    ("old AP50", lambda entry: entry["summary"]["old_AP50"], percent, True),
    ("new AP50", lambda entry: entry["summary"]["new_AP50"], percent, True),
    ("all AP50", lambda entry: entry["summary"]["AP50"], percent, True),
    ("all AP", lambda entry: entry["summary"]["AP"], percent, True),
    ("FPP", lambda entry: entry["summary"]["FPP"], percent, False),
    ("forgetting", lambda entry: entry["summary"]["forgetting"], percent, False),
    ("avg. incr. AP", lambda entry: entry["summary"]["average_incremental_AP"], percent, True),
    ("RelGap", lambda entry: entry["summary"]["RelGap"], percent, False),
    ("exemplars", lambda entry: entry["exemplars"]["images"], lambda value: _whole(value), None),
    ("MB", lambda entry: entry["exemplars"]["MB"], decimal, None),
    ("minutes", lambda entry: entry["minutes"], decimal, None),
)

WORDS = """AP50 is average precision at IoU 0.5, AP its mean over IoU .50:.05:.95 (COCO), both in %, over all test
images and averaged over classes. Old are the classes of earlier steps, new those of the last one. FPP:
AP50 of the first step's classes after step 1 minus the same after the last step. Forgetting: mean over
earlier steps' classes of the best AP50 they ever had minus the final one. Avg. incr. AP: mean over steps
2 to the last of AP over all classes seen. RelGap: the share of joint training's AP50 that is missing.
Exemplars are kept images. Minutes: training and evaluation of all steps, the shared first one included.
Bold: the best incremental method."""


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds, loaded.

    Attributes:
        root: The folder.
        results: By place: results of every method with the folder that its steps lie in.
        config: The frozen configuration's text, empty if there is none.
        protocol: The content of protocol.json, None if there is none.
    """

    root: Path
    results: tuple[tuple[Path, Results], ...]
    config: str
    protocol: dict[str, Any] | None

    @classmethod
    def load(cls, root: Path | str) -> RunFiles:
        """Reads OUTPUT/results.json, or OUTPUT/<method>/results.json in the order of comparison.json.

        Raises:
            InputError: There are no results, or a file cannot be read.
        """
        root = Path(root)
        files = [root / "results.json"] if (root / "results.json").is_file() else sorted(root.glob("*/results.json"))
        loaded = [(path.parent, Results.load(path)) for path in files if path.parent.name != "base"]
        loaded = [(folder, results) for folder, results in loaded if results.steps]
        if not loaded:
            raise InputError(Finding(str(root), "run folder", "holds no results", "give the output folder of a run"))
        order: list[str] = []
        if (root / "comparison.json").is_file():
            order = list(read_json(root / "comparison.json")["methods"])
        rank = {method: place for place, method in enumerate(order)}
        last = len(rank)
        loaded.sort(key=lambda item: (rank.get(item[1].method, last), item[1].method == JOINT, item[1].method))
        config, protocol = root / "config.yaml", root / "protocol.json"
        return cls(
            root,
            tuple(loaded),
            config.read_text(encoding="utf-8") if config.is_file() else "",
            read_json(protocol) if protocol.is_file() else None,
        )


def write_report(folder: Path | str) -> Path:
    """Draws ``folder``/plots/*.png and writes ``folder``/report.html, which needs no other file to be read.

    Returns:
        The path of report.html.

    Raises:
        InputError: The folder holds no results, a file is cut off, or the runs follow different protocols.
    """
    files = RunFiles.load(folder)
    results = [item for _, item in files.results]
    comparison = compare(results)
    plots = files.root / "plots"
    figures = []
    for name, draw, caption in (
        ("ap_over_steps", viz.ap_over_steps, "AP50 over the steps; the lines of the old classes start after step 1."),
        ("per_class", viz.per_class, "AP50 of every class after the last step."),
    ):
        light, dark = plots / f"{name}.png", plots / f".{name}.dark.png"
        draw(results, light)
        draw(results, dark, viz.DARK)
        figures.append(_figure(light, caption, dark))
        dark.unlink()
    page = _page(files, results, comparison, figures, _draw_samples(files, plots))
    target = files.root / "report.html"
    write_text(target, page)
    return target


def _draw_samples(files: RunFiles, plots: Path) -> list[str]:
    """The figures of every method that stored samples after the first and the last step."""
    figures = []
    for folder, results in files.results:
        steps = results.classes
        before = load_samples(files.root / "base" / "step_1") or load_samples(folder / "step_1")
        after = load_samples(folder / f"step_{len(steps)}")
        if before and after and len(steps) > 1:
            path = plots / f"samples_{re.sub(r'[^A-Za-z0-9._+-]', '_', results.method)}.png"
            viz.samples(files.root, before, after, steps, path, method=results.method)
            if path.is_file():
                figures.append(_figure(path, f"{results.method}: detections with a score of {viz.DRAWN} or more."))
    return figures


def _page(
    files: RunFiles,
    results: Sequence[Results],
    comparison: dict[str, Any],
    figures: Sequence[str],
    samples: Sequence[str],
) -> str:
    first, changes = results[0], _changes(results)
    protocol = first.protocol
    methods = ", ".join(result.method for result in results) if len(results) <= 4 else f"{len(results)} methods"
    title = f"{protocol['name']}: {methods}"
    head = f"{first.detector} · protocol {protocol['name']}, images: {protocol['images']} · seed {first.seed}"
    parts = [
        f"<h1>{escape(title)}</h1><div class='muted'>{escape(head)}</div>",
        "<h2>After the last step</h2>",
        _headline(comparison),
        f"<p>{escape(WORDS)}</p>",
        *figures[:1],
        "<h2>After every step</h2>",
        _steps(results),
        *figures[1:],
        *(["<h2>The same test images before and after</h2>", *samples] if samples else []),
        "<h2>Protocol</h2>",
        _protocol(protocol, files.protocol),
        *([_details("AP50 change of old classes, with 95 % intervals", changes)] if changes else []),
        _details("Every class after the last step", _classes(results)),
    ]
    if files.config:
        parts.append(_details("Configuration", f"<pre>{escape(files.config)}</pre>"))
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _headline(comparison: dict[str, Any]) -> str:
    methods: dict[str, dict[str, Any]] = comparison["methods"]
    rows = [f"<tr>{_cells(['method', *(column[0] for column in COLUMNS)], 'th')}</tr>"]
    best: list[Number] = []
    for _, value, _, more in COLUMNS:
        known = [v for name, entry in methods.items() if name != JOINT and (v := value(entry)) is not None]
        best.append(None if more is None or len(known) < 2 else (max(known) if more else min(known)))
    for name, entry in methods.items():
        cells = [f"<td>{escape(name)}</td>"]
        for (_, value, write, _), top in zip(COLUMNS, best, strict=True):
            leads = name != JOINT and top is not None and value(entry) == top
            cells.append(f"<td{' class=best' if leads else ''}>{write(value(entry))}</td>")
        rows.append(f"<tr{' class=reference' if name == JOINT else ''}>{''.join(cells)}</tr>")
    return _table(rows)


def _steps(results: Sequence[Results]) -> str:
    heads = ["method", "step", "old AP50", "new AP50", "all AP50", "all AP", "training images", "exemplars", "minutes"]
    rows = [f"<tr>{_cells(heads, 'th')}</tr>"]
    for result in results:
        for place, (step, item) in enumerate(result.steps.items()):
            means = result.groups(step)
            cells = [
                result.method if place == 0 else "",
                str(step),
                *(percent(means[group]) for group in ("old", "new", "all")),
                percent(result.groups(step, "AP")["all"]),
                _whole(item.train_images),
                _whole(item.memory["images"]),
                decimal(item.minutes),
            ]
            rows.append(f"<tr{' class=first' if place == 0 else ''}>{_cells(cells)}</tr>")
    return _table(rows)


def _classes(results: Sequence[Results]) -> str:
    """AP, both VOC forms and what a deployed threshold returns, of every class and method."""
    heads = ["class", "step", "method", "AP", "AP50", "VOC 11 points", "VOC all points", "precision", "recall"]
    rows = [f"<tr>{_cells(heads, 'th')}</tr>"]
    for number, names in enumerate(results[0].classes, start=1):
        for name in names:
            for place, result in enumerate(result for result in results if result.last is not None):
                score = result.last.scores.get(name) if result.last else None
                values = score or (None,) * 6
                cells = [name if place == 0 else "", str(number) if place == 0 else "", result.method]
                start = " class=first" if place == 0 else ""
                rows.append(f"<tr{start}>{_cells([*cells, *(percent(value) for value in values)])}</tr>")
    return _table(rows) + "<p>Precision and recall are those at IoU 0.5 of detections scoring 0.5 or more.</p>"


def _changes(results: Sequence[Results]) -> str:
    rows = []
    for result in results:
        for step, item in result.steps.items():
            for name, (change, low, high) in item.changes.items():
                cells = [result.method, str(step), name, percent(change), f"{percent(low)} to {percent(high)}"]
                rows.append(f"<tr>{_cells(cells)}</tr>")
    heads = f"<tr>{_cells(['method', 'step', 'class', 'change', 'interval'], 'th')}</tr>"
    return _table([heads, *rows]) if rows else ""


def _protocol(protocol: dict[str, Any], stored: dict[str, Any] | None) -> str:
    """The classes of every step, and the plain figures of what each step sees where protocol.json has them."""
    views = (stored or {}).get("views") or [{} for _ in protocol["steps"]]
    skipped = {"step", "hash", "names", "classes", "schema"}
    keys = [key for key, value in views[0].items() if key not in skipped and isinstance(value, int | float | str)]
    heads = ["step", *(key.replace("_", " ") for key in keys)]
    rows = [f"<tr>{_cells(heads, 'th')}<th style='text-align:left'>classes</th></tr>"]
    for number, names in enumerate(protocol["steps"], start=1):
        view = views[number - 1] if number <= len(views) else {}
        cells = _cells([str(number), *(str(view.get(key, "-")) for key in keys)])
        rows.append(f"<tr>{cells}<td class=wide>{escape(', '.join(names))}</td></tr>")
    text = f"order: {protocol['order']} · images: {protocol['images']} · hash: {protocol['hash']}"
    return f"<p>{escape(text)}</p>{_table(rows)}"


def _figure(path: Path, caption: str, dark: Path | None = None) -> str:
    other = f"<source media='(prefers-color-scheme: dark)' srcset='{_data_uri(dark)}'>" if dark else ""
    shown = _data_uri(path) if dark else _photo_uri(path)
    picture = f"<picture>{other}<img src='{shown}' alt='{escape(caption, quote=True)}'></picture>"
    kind = "" if dark else " class=photo"
    return f"<figure{kind}>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _photo_uri(path: Path) -> str:
    """JPEG in the page, for photographs as PNG would make it ten times as large; plots/ has the PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _table(rows: Iterable[str]) -> str:
    return f"<div class=scroll><table>{''.join(rows)}</table></div>"


def _cells(values: Iterable[str], tag: str = "td") -> str:
    return "".join(f"<{tag}>{escape(value)}</{tag}>" for value in values)


def _details(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _whole(value: Number) -> str:
    return "-" if value is None else f"{value:.0f}"
