"""A run folder as the main job leaves it, made by hand, with class names that try to break out of a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from incdet.data.records import Record
from incdet.evaluation.comparison import compare
from incdet.evaluation.confusion import Confusion, Mistake
from incdet.evaluation.detections import Detections
from incdet.evaluation.match_file import save_matches
from incdet.evaluation.metrics import ClassScore, Interval, Matches
from incdet.evaluation.results import Results
from incdet.files import write_json
from incdet.report.samples import save_mistakes, save_samples

WILD = "<script>alert(1)</script>"
STEPS = [["cat", "$x_{$"], ["[/b]"], [WILD]]
NAMES = [name for step in STEPS for name in step]
PROTOCOL = {"name": "2+1+1", "order": "file", "images": "overlap", "hash": "5ca1ab1e", "steps": STEPS}


def results(method: str, keep: float) -> Results:
    made = Results(method, 7, "tiny & small", PROTOCOL)
    for step in (1, 2, 3):
        seen = [name for names in STEPS[:step] for name in names]
        scores = {n: ClassScore(0.3, 0.6 if n in STEPS[step - 1] else 0.6 * keep**step) for n in seen}
        more: dict[str, Any] = {}
        if step > 1 and method != "joint":
            more["changes"] = {"cat": Interval(-0.123, -0.2, -0.05)}
            more["since"] = {"cat": Interval(-0.25, -0.3, -0.2), "$x_{$": Interval(0.01, -0.02, 0.04)}
        if step == 3:
            counted = {"cat": {"cat": 5, WILD: 3}, WILD: {"$x_{$": 1}}
            more["confusion"] = Confusion(0.3, dict.fromkeys(NAMES, 10), counted, {WILD: 2})
            more["false_alarms"] = {"old": 0.5, "new": 0.25}
        if method != "joint" or step == 3:
            memory, seconds = {"images": 12, "bytes": 3_400_000}, {"train": 60.0, "evaluate": 6.0}
            made.add_step(step, scores, 90, memory, seconds, **more)
    return made


def matches(names: list[str]) -> dict[str, Matches]:
    """Three right detections of four objects, and one wrong one, of every class."""
    hits = np.array([True, True, False, True])
    one = Matches(np.array([0.9, 0.8, 0.7, 0.6]), hits, np.array([0, 0, 1, 1]), np.array([3, 1]))
    return dict.fromkeys(names, one)


def log_lines() -> list[dict[str, Any]]:
    split = {"images": 90, "objects": 200, "per_class": {"cat": 150, WILD: 50}, "hash": "feed"}
    start = {
        "event": "start",
        "incdet": "0.1",
        "commit": "c0ffee",
        "command": "incdet train --config 'a<b.yaml'",
        "python": "3.12",
        "torch": "2.9",
        "torchvision": "0.24",
        "device": "device: cpu, 1 threads",
        "data": {"format": "coco", "root": "coco<x>", "train": split, "test": {**split, "images": 20}},
    }
    lines: list[dict[str, Any]] = [start, {"event": "method", "method": "base"}]
    lines += [train("step 1 train", at, 2.0 / at) for at in (1, 2, 3)]
    for method in ("finetune", "incdet"):
        lines.append({"event": "method", "method": method})
        lines += [train("step 2 train", at, 1.0 / at) for at in (1, 2, 3)]
    return [{"time": 1.7e9, **line} for line in lines]


def train(phase: str, at: int, loss: float) -> dict[str, Any]:
    beside = {"lr": 0.1, "gradient": 9.0, "images_per_second": 7.0}
    return {"event": "train", "phase": phase, "iteration": at, "loss": loss, "focal": loss / 2, **beside}


def make_run(folder: Path) -> Path:
    """The run folder ``folder``/demo of finetune, incdet and joint; the data set is gone afterwards."""
    root = folder / "demo"
    root.mkdir(parents=True)
    (root / "config.yaml").write_text("seed: 7  # <sic>\n", "utf-8")
    (root / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_lines()), "utf-8")
    views = [{"step": t, "images": 40 + t, "boxes_visible": 99, "hash": "x", "names": STEPS[t - 1]} for t in (1, 2, 3)]
    write_json(root / "protocol.json", {"schema": 1, **PROTOCOL, "views": views})
    path = folder / "0.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    boxes = np.array([[5, 5, 40, 40], [30, 20, 80, 55]], np.float32)
    picture = Record(path, 0, 90, 60, boxes, ("cat", WILD), np.zeros(2, bool), frozenset(NAMES))
    found = {0: Detections(boxes, np.array([0.8, 0.7], np.float32), np.array([0, 3]))}
    first = {0: Detections(boxes[:1], np.array([0.9], np.float32), np.array([0]))}
    save_samples(root / "base" / "step_1", [picture], first, STEPS[0], output=root)
    save_matches(root / "base" / "step_1", matches(STEPS[0]))
    methods = [results("finetune", 0.5), results("incdet", 0.9), results("joint", 1.0)]
    for item in methods:
        place = root / item.method / "step_3"
        save_samples(place, [picture], found, NAMES, output=root)
        save_matches(place, matches(NAMES))
        mistake = Mistake(0, "cat", WILD, 0.8, (5.0, 5.0, 40.0, 40.0))
        save_mistakes(place, [picture], [mistake], output=root)
    exemplars = {"exemplars": {"cat": [{"names": ["cat", "cat"]}], WILD: [{"names": [WILD]}, {"names": []}]}}
    for method in ("incdet",):
        write_json(root / method / "memory" / "step_3.json", exemplars)
    write_json(root / "comparison.json", compare(methods))
    for item in methods:
        item.save(root / item.method / "results.json")
    path.unlink()
    return root
