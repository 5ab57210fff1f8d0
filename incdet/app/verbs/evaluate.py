"""``incdet evaluate``: scores of a checkpoint on an annotation file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incdet.app.verbs.verb import Verb, add_data, add_detector, add_device, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, annotations, and where the scores go."""
    add_detector(parser)
    add_data(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the scores there as JSON")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="images in a forward pass [8]")
    add_device(parser)


def evaluate(arguments: argparse.Namespace) -> int:
    """Scores and prints a table."""
    from incdet.app.evaluate import evaluate as score_on

    scores = score_on(
        arguments.checkpoint,
        arguments.data,
        arguments.images,
        split=arguments.split,
        exif=arguments.exif,
        output=arguments.output,
        batch_size=arguments.batch_size,
        device=arguments.device,
        arch=arguments.arch,
        known_classes=arguments.known_classes,
    )
    if "data" in scores:
        print(scores["data"])
    for warning in scores.get("warnings", ()):
        print(f"warning: {warning}")
    print(score_table(scores))
    if arguments.output is not None:
        print(f"written: {arguments.output}")
    return 0


def score_table(scores: Mapping[str, Any]) -> str:
    """AP and AP50 of every class and of all, a line each."""
    rows = [*scores.get("per_class", {}).items(), ("all", scores)]
    width = max(len(name) for name, _ in rows)
    lines = [f"{'class':<{width}}  {'AP':>6}  {'AP50':>6}"]
    for name, score in rows:
        cells = [score.get(metric) if score else None for metric in ("AP", "AP50")]
        lines.append(f"{name:<{width}}  " + "  ".join("     -" if cell is None else f"{cell:6.3f}" for cell in cells))
    return "\n".join(lines)


VERB = Verb(
    "score a checkpoint on an annotation file by COCO's rules",
    "incdet evaluate --checkpoint runs/demo/incdet/step_3 --data test.json --images images/",
    add_arguments,
    evaluate,
)
