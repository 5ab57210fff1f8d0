"""``incdet predict``: detections in photographs."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_detector, add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, pictures, and a folder for what is found."""
    add_detector(parser)
    parser.add_argument("--images", required=True, type=Path, nargs="+", metavar="PATH", help="pictures or folders")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="gets detections.json and drawings")
    parser.add_argument("--threshold", type=float, default=0.3, metavar="S", help="lowest score that is kept [0.3]")
    add_device(parser)


def predict(arguments: argparse.Namespace) -> int:
    """Detects and says where the detections are."""
    from incdet.app.predict import predict as find

    file = find(
        arguments.checkpoint,
        arguments.images,
        arguments.output,
        threshold=arguments.threshold,
        device=arguments.device,
        arch=arguments.arch,
        known_classes=arguments.known_classes,
    )
    print(f"written: {file}")
    return 0


VERB = Verb(
    "find the known classes in your own photographs",
    "incdet predict --checkpoint runs/demo/incdet/step_3 --images photos/ --output runs/found",
    add_arguments,
    predict,
)
