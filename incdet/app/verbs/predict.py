"""``incdet predict``: detections in photographs and videos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_detector, add_device, positive, share

FORMATS = ("json", "coco", "yolo", "csv", "pictures")
_CODES = "exit codes: 0 done; 3 done, but for files that could not be read; 2 the input was refused"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A detector, pictures, and a folder for what is found."""
    parser.epilog = _CODES
    add_detector(parser)
    parser.add_argument(
        "--images",
        required=True,
        type=Path,
        nargs="+",
        metavar="PATH",
        help="pictures, videos, folders, or patterns in quotes ('photos/**/*.jpg')",
    )
    parser.add_argument("--recursive", action="store_true", help="look into the folders below a folder too")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder for what is found")
    parser.add_argument(
        "--as",
        dest="formats",
        nargs="+",
        choices=FORMATS,
        default=["json", "pictures"],
        metavar="FORMAT",
        help="what to write: json, coco, yolo (labels without scores), csv, pictures [json pictures]",
    )
    parser.add_argument(
        "--threshold",
        type=threshold,
        default=0.3,
        metavar="S",
        help="lowest score that is kept; auto: for each class the one that was measured [0.3]",
    )
    parser.add_argument(
        "--across-classes", action="store_true", help="where detections of several classes overlap, keep the best alone"
    )
    parser.add_argument("--every", type=positive, default=1, metavar="N", help="of a video every N-th frame [1]")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="pictures in a forward pass [8]")
    add_device(parser)


def threshold(text: str) -> float | str:
    """A score, or ``auto``, for argparse."""
    return text if text == "auto" else share(text)


def predict(arguments: argparse.Namespace) -> int:
    """Detects, and says what was found, where it is and what was left out."""
    from incdet.app.load import load
    from incdet.app.predict import predict_files
    from incdet.app.sources import find_sources
    from incdet.files import require_output
    from incdet.network.device import device_named

    place = device_named(arguments.device)
    require_output(arguments.output, folder=True)
    sources = find_sources(arguments.images, recursive=arguments.recursive)
    detector = load(arguments.checkpoint, arguments.arch, arguments.known_classes).to(place)
    done = predict_files(
        detector,
        sources,
        arguments.output,
        formats=arguments.formats,
        threshold=arguments.threshold,
        across=arguments.across_classes,
        batch_size=arguments.batch_size,
        every=arguments.every,
    )
    print(f"{done.found} detections in {done.pictures} pictures; {done.scale}")
    for file in done.files:
        print(f"written: {file}")
    if done.skipped:
        print(f"{len(done.skipped)} file(s) could not be read and were skipped, see above", file=sys.stderr)
    return 3 if done.skipped else 0


VERB = Verb(
    "find the known classes in your own photographs and videos",
    "incdet predict runs/demo/incdet/step_3 --images photos/ --output runs/found",
    add_arguments,
    predict,
)
