"""``incdet calibrate``: thresholds to deploy, and scores that mean what they say."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_data, add_detector, add_device, positive, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A detector, labelled pictures that it did not learn from, and a folder for the new checkpoint."""
    add_detector(parser)
    add_data(parser)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the new checkpoint")
    parser.add_argument(
        "--precision", type=share, metavar="P", help="share of shown detections that has to be right [best F1]"
    )
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pictures in a forward pass [8]")
    add_device(parser)


def calibrate(arguments: argparse.Namespace) -> int:
    """Measures, prints a line for each class, and says where the checkpoint is."""
    from incdet.app.calibrate import calibrate as measure
    from incdet.app.load import load
    from incdet.network.device import device_named

    place = device_named(arguments.device)
    detector = load(arguments.checkpoint, arguments.arch, arguments.known_classes).to(place)
    done = measure(
        detector,
        arguments.data,
        arguments.images,
        arguments.output,
        split=arguments.split,
        exif=arguments.exif,
        precision=arguments.precision or None,
        batch_size=arguments.batch_size,
    )
    width = max(len(name) for name in ("class", *done.thresholds))
    print(f"{'class':<{width}}  threshold  precision  recall  from")
    for name, one in done.thresholds.items():
        right, seen = ("-" if value is None else f"{value:.2f}" for value in (one.precision, one.recall))
        print(f"{name:<{width}}  {one.score:9.3f}  {right:>9}  {seen:>6}  {_FROM[one.source]}")
    before, after = done.errors
    told = f"{before:.3f} before, {after:.3f} after"
    print(f"temperature {done.calibration.temperature:g}; distance of score and share of right ones: {told}")
    print(f"written: {arguments.output} (`incdet predict {arguments.output} --threshold auto` uses it)")
    return 0


_FROM = {
    "class": "its own objects",
    "all": "all classes together: it has few objects",
    "fallback": "no right detection",
}

VERB = Verb(
    "find the threshold of each class on labelled pictures, and store it in the checkpoint",
    "incdet calibrate runs/demo/incdet/step_3 --data test.json --images images/ --output runs/calibrated",
    add_arguments,
    calibrate,
)
