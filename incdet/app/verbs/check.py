"""``incdet check``: what annotations hold and what is wrong with them."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_checkpoint, add_data, add_device, add_split, share


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Annotations, others not to share pictures with, a detector to ask, and where a repaired copy goes."""
    add_data(parser)
    parser.add_argument(
        "--against", type=Path, metavar="PATH", help="tell pictures that stand in these annotations too"
    )
    parser.add_argument("--against-images", type=Path, metavar="DIR", help="folder of their images")
    add_split(parser, "--against-split", "--against")
    add_checkpoint(parser, "--detector", "tell what it sees that is not annotated")
    parser.add_argument(
        "--lowest", type=share, default=0.5, metavar="SCORE", help="least score of what the detector sees [0.5]"
    )
    add_device(parser)
    parser.add_argument("--fix", type=Path, metavar="DIR", help="write a copy without what is wrong, as COCO JSON")


def check(arguments: argparse.Namespace) -> int:
    """Prints counts and every finding; the exit code is 2 if one of them is an error."""
    from incdet.app.check import check as look_through
    from incdet.app.check import write_fixed

    model = None
    if arguments.detector is not None:
        from incdet.app.load import load
        from incdet.network.device import device_named

        place = device_named(arguments.device)
        model = load(arguments.detector, arguments.arch, arguments.known_classes).model.to(place)
    report = look_through(
        arguments.data,
        arguments.images,
        arguments.split,
        exif=arguments.exif,
        against=arguments.against,
        against_images=arguments.against_images,
        against_split=arguments.against_split,
        detector=model,
        lowest=arguments.lowest,
    )
    for line in report.lines():
        print(line)
    print(f"{arguments.data}: {report.errors} error(s), {len(report.findings) - report.errors} warning(s)")
    if arguments.fix is not None:
        for line in write_fixed(report, arguments.fix):
            print(f"written without them, to be used by {line}")
    return 2 if report.errors else 0


VERB = Verb(
    "count what annotations hold and report what is wrong with them",
    "incdet check --data my.json --images my/",
    add_arguments,
    check,
)
