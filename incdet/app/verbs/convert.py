"""``incdet convert``: annotations in another format."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_data

FORMATS = ("coco", "voc", "yolo", "labelme", "csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Annotations, the format to write, and where."""
    add_data(parser)
    parser.add_argument("--to", required=True, choices=FORMATS, help="the format to write")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--link", action="store_true", help="make links to the pictures in place of copies")


def convert(arguments: argparse.Namespace) -> int:
    """Converts every split, or the named one, and says what was written and what the format cannot hold."""
    from incdet.app.annotations import picture_progress
    from incdet.data.formats.convert import convert as write

    with picture_progress() as progress:
        written = write(
            arguments.data,
            arguments.to,
            arguments.output,
            images=arguments.images,
            split=arguments.split,
            exif=arguments.exif,
            link=arguments.link,
            progress=progress,
        )
    for one in written:
        print(one.describe())
        for warning in one.warnings:
            print(f"warning: {warning}")
    print(f"written: {arguments.output}")
    return 0


VERB = Verb(
    "write annotations in another format: coco, voc, yolo, labelme or csv",
    "incdet convert --data my/voc --to coco --output my/coco",
    add_arguments,
    convert,
)
