"""``incdet extend``: new classes for a checkpoint from somebody's own annotations."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import ClassWords, Verb, add_checkpoint, add_data, add_overrides, add_split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint, annotations of the new classes, and what helps to keep and measure the old ones."""
    add_checkpoint(parser)
    add_data(parser)
    parser.add_argument(
        "--classes",
        nargs="+",
        action=ClassWords,
        metavar="NAME",
        help="classes to add [all in the data]: cat dog, or cat,dog; 'salt, pepper' is one class where the data has it",
    )
    parser.add_argument(
        "--keep-old-images", action="store_true", help="train on images too that show known classes alone"
    )
    parser.add_argument("--method", default="incdet", metavar="NAME", help="how to learn them [incdet]")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="run folder of its own")
    parser.add_argument("--resume", action="store_true", help="go on; the same command does so by itself")
    parser.add_argument("--old-data", type=Path, metavar="PATH", help="annotations to choose old exemplars from")
    parser.add_argument("--old-images", type=Path, metavar="DIR", help="folder of their images")
    add_split(parser, "--old-split", "--old-data")
    parser.add_argument("--test-data", type=Path, metavar="PATH", help="annotations to measure on, before and after")
    parser.add_argument("--test-images", type=Path, metavar="DIR", help="folder of their images")
    add_split(parser, "--test-split", "--test-data")
    add_overrides(parser)


def extend(arguments: argparse.Namespace) -> int:
    """Trains and says where the run is."""
    from incdet.app.extend import extend as teach

    folder = teach(
        arguments.checkpoint,
        arguments.data,
        arguments.images,
        split=arguments.split,
        exif=arguments.exif,
        classes=arguments.classes,
        keep_old_images=arguments.keep_old_images,
        method=arguments.method,
        output=arguments.output,
        overrides=arguments.overrides,
        old_data=arguments.old_data,
        old_images=arguments.old_images,
        old_split=arguments.old_split,
        test_data=arguments.test_data,
        test_images=arguments.test_images,
        test_split=arguments.test_split,
        resume=arguments.resume,
        arch=arguments.arch,
        known_classes=arguments.known_classes,
    )
    print(f"written: {folder}")
    return 0


VERB = Verb(
    "teach a checkpoint new classes from your own annotations",
    "incdet extend --checkpoint runs/demo/incdet/step_3 --data my.json --images my/ --output runs/mine",
    add_arguments,
    extend,
)
