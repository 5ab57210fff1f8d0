"""Measure what grows over a long sequence of increments of one class each, and draw it.

    python tools/long_sequence.py measure --base 5 --steps 40 --output runs/long --json long.json
    python tools/long_sequence.py draw long.json wide.json --output docs/images/long_sequence.svg

Pictures of 64 px with polygons are drawn on the spot: a class is a number of corners and a hue, as far as 56 classes
go; beyond that classes look alike, and their AP means nothing. The run is a whole one of ``incdet train`` with a tiny
network and the method incdet. Per step: seconds of training and of evaluation, bytes of the checkpoint and of all that
the step leaves, seconds to load the checkpoint, memory of the process, exemplars, and AP50 of the classes of step 1.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from incdet.config import Config
    from incdet.report.markup import Markup

SIDE, CORNERS, HUES = 64, (3, 4, 5, 6, 8, 24, -5), 8
"""Pixels of a picture; corners of a class (a star has a negative number); and how many hues there are."""
HEIGHT, WIDTH = 170.0, 360.0
CHARTS = {
    "train": ("training of a step, s", 1.0),
    "evaluate": ("evaluation after a step, s", 1.0),
    "checkpoint": ("checkpoint, kB", 1e-3),
    "left": ("all that a step leaves, kB", 1e-3),
    "load": ("loading the checkpoint, ms", 1e3),
    "memory": ("memory of the process, MB", 1e-6),
    "exemplars": ("exemplars", 1.0),
    "first_AP50": ("AP50 of the first classes", 100.0),
}
"""Key of a step's figures -> title of its chart, factor."""


def main(words: Sequence[str] | None = None) -> int:
    """Do what ``words`` say; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    measured = verbs.add_parser("measure")
    measured.add_argument("--base", type=int, default=5, metavar="N", help="classes of step 1 [5]")
    measured.add_argument("--steps", type=int, default=40, metavar="N", help="increments of one class [40]")
    measured.add_argument("--images", type=int, default=400, metavar="N", help="training pictures [400]")
    measured.add_argument("--output", type=Path, required=True, metavar="DIR", help="run folder")
    measured.add_argument("--json", type=Path, required=True, metavar="FILE", help="the figures")
    measured.add_argument("overrides", nargs="*", metavar="key=value")
    drawn = verbs.add_parser("draw")
    drawn.add_argument("figures", nargs="+", type=Path, metavar="FILE")
    drawn.add_argument("--output", type=Path, required=True, metavar="FILE", help="the SVG file to write")
    options = parser.parse_args(words)

    from incdet.files import write_json, write_text

    if options.verb == "measure":
        write_json(options.json, measure(options))
    else:
        write_text(options.output, draw([json.loads(path.read_text(encoding="utf-8")) for path in options.figures]))
    return 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Does the run; its figures as JSON values."""
    from incdet.app.progress import Display
    from incdet.app.train import train

    class Watching(Display):
        """Notes the process's memory when a step is scored."""

        def __init__(self) -> None:
            super().__init__()
            self.memory: dict[int, int] = {}

        def say(self, text: object) -> None:
            if isinstance(text, str) and (told := re.match(r"\w+ step (\d+): .*AP50", text)):
                self.memory[int(told[1])] = _resident()
            super().say(text)

    config, display = settings(options), Watching()
    try:
        train(config, resume=(options.output / "config.yaml").is_file(), display=display)
    except KeyboardInterrupt:
        print("interrupted: the figures are those of the steps that are finished")
    return figures(options, display.memory)


def figures(options: argparse.Namespace, memory: Mapping[int, int]) -> dict[str, Any]:
    """What the finished steps of a run took and left; ``memory`` is that of the process after each."""
    from incdet.app.facts import commit

    results = json.loads((options.output / "results.json").read_text(encoding="utf-8"))
    first = results["protocol"]["steps"][0]
    steps = []
    for entry in results["steps"]:
        folder = options.output / ("base" if entry["step"] == 1 else "") / f"step_{entry['step']}"
        aps = [entry["per_class"][name]["AP50"] for name in first]
        known = [ap for ap in aps if ap is not None]
        steps.append(
            {
                "step": entry["step"],
                **entry["seconds"],
                "checkpoint": sum((folder / name).stat().st_size for name in ("model.safetensors", "checkpoint.json")),
                "left": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
                "load": _seconds_to_load(folder),
                "memory": memory.get(entry["step"]),
                "exemplars": entry["memory"]["images"],
                "first_AP50": sum(known) / len(known) if known else None,
            }
        )
    about = {"base": options.base, "steps": options.steps, "images": options.images, "overrides": options.overrides}
    return {**about, "commit": commit(Path(__file__).resolve().parents[1]), "figures": steps}


def settings(options: argparse.Namespace) -> Config:
    """The run's configuration; its pictures are drawn where they are missing."""
    from incdet.config import parse_config
    from incdet.config.yamlfile import parse_override, set_key

    names = [f"kind {number:04}" for number in range(options.base + options.steps)]
    data = options.output.parent / f"{options.output.name}_data"
    for split, images, seed in (("train", options.images, 1), ("test", max(40, options.images // 4), 2)):
        if not (data / f"{split}.json").is_file():
            draw_pictures(data, split, names, images, seed)
    places = {split: {"annotations": f"{split}.json", "images": "images"} for split in ("train", "test")}
    tree: dict[str, Any] = {
        "output": str(options.output),
        "methods": ["incdet"],
        "data": {"format": "coco", "root": str(data), **places},
        "protocol": {"steps": [names[: options.base], *([name] for name in names[options.base :])]},
        "model": {
            "backbone": "tiny",
            "channels": 24,
            "tower_depth": 1,
            "norm": "group",
            "min_size": [SIDE],
            "max_size": SIDE,
            "anchor_sizes": [[16], [24]],
            "aspect_ratios": [1.0],
            "detections_per_img": 20,
        },
        "train": {
            "base": {"iterations": 300, "batch_size": 8, "optimizer": "adamw", "lr": 0.003, "warmup": 10, "clip": 5.0},
            "increment": {"iterations": 30, "lr": 0.001},
            "finetune": {"iterations": 10, "lr": 0.0003, "warmup": 0},
        },
        "memory": {"total": 2 * len(names)},
        "engine": {"workers": 0, "device": "cpu"},
        "evaluation": {"batch_size": 20, "samples": 1},
    }
    for word in options.overrides:
        set_key(tree, *parse_override(word))
    return parse_config(tree)


def draw_pictures(folder: Path, split: str, names: Sequence[str], images: int, seed: int) -> None:
    """Writes a COCO file and its pictures: four polygons each, every class as often as any other."""
    import cv2
    import numpy as np

    from incdet.files import write_bytes, write_json

    chance = np.random.default_rng(seed)
    order = np.concatenate([chance.permutation(len(names)) for _ in range(-(-4 * images // len(names)))])
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }
    for number in range(images):
        canvas = np.full((SIDE, SIDE, 3), chance.uniform(90, 160), np.uint8)
        name = f"{split}_{number:05}.png"
        content["images"].append({"id": number + 1, "file_name": name, "width": SIDE, "height": SIDE})
        for place, kind in enumerate(order[4 * number : 4 * number + 4]):
            radius = chance.uniform(8, 14)
            centre = np.array([place % 2, place // 2]) * SIDE / 2 + chance.uniform(radius + 1, SIDE / 2 - radius - 1, 2)
            corners, hue = CORNERS[kind % len(CORNERS)], kind // len(CORNERS) % HUES / HUES
            points = np.round(centre + radius * _outline(corners)).astype(np.int32)
            cv2.fillPoly(canvas, [points], [round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 0.95)])
            (left, top), (right, bottom) = points.min(axis=0).tolist(), (points.max(axis=0) + 1).tolist()
            box = {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
            content["annotations"].append(
                {"id": len(content["annotations"]) + 1, "image_id": number + 1, "category_id": int(kind) + 1, **box}
                | {"iscrowd": 0}
            )
        write_bytes(folder / "images" / name, cv2.imencode(".png", canvas)[1].tobytes())
    write_json(folder / f"{split}.json", content, indent=None)


def _outline(corners: int) -> Any:
    """Points (N, 2) around 0 within a radius of 1; of a star where the number is negative."""
    import numpy as np

    count = corners if corners > 0 else -2 * corners
    turns = np.arange(count) * 2 * np.pi / count - np.pi / 2
    radius = np.ones(count) if corners > 0 else np.where(np.arange(count) % 2, 0.45, 1.0)
    return np.stack([np.cos(turns) * radius, np.sin(turns) * radius], axis=1)


def _resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _seconds_to_load(folder: Path) -> float:
    """The shortest of three times."""
    from incdet.network import checkpoint

    spent = []
    for _ in range(3):
        start = time.perf_counter()
        checkpoint.load(folder)
        spent.append(time.perf_counter() - start)
    return min(spent)


def draw(runs: Sequence[Mapping[str, Any]]) -> Markup:
    """One row of charts for every run: each figure against the number of increments."""
    from incdet.report.svg import standalone

    panels = [_chart(run, key) for run in runs for key in CHARTS]
    return standalone(panels, [(WIDTH, HEIGHT)] * len(panels), columns=4)


def _chart(run: Mapping[str, Any], key: str) -> Markup:
    from incdet.report.svg import Area, drawing, label, ticks

    title, factor = CHARTS[key]
    points = [(one["step"] - 1, factor * one[key]) for one in run["figures"] if one[key] is not None]
    top = 1.1 * max([value for _, value in points], default=0.0) or 1.0
    area = Area(46, 26, WIDTH - 12, HEIGHT - 30, (0, run["steps"]), (0, top))
    return drawing(
        WIDTH,
        HEIGHT,
        label(0, 14, f"{title} ({run['base']} + {run['steps']} classes)", "title"),
        area.grid(ticks(0, top, 4)),
        area.columns(ticks(0, run["steps"], 5)),
        area.curve(points, "hue-mark"),
        label(area.right, HEIGHT - 2, "increments", "muted right"),
        name=f"{title} against the number of increments",
    )


if __name__ == "__main__":
    sys.exit(main())
