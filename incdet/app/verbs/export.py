"""``incdet export``: a detector for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_detector, add_names, positive

FORMATS = ("state", "onnx", "onnx-raw", "torchscript")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A detector, a format, a file, and pictures to verify it on."""
    add_detector(parser)
    parser.add_argument(
        "--as",
        dest="kind",
        required=True,
        choices=FORMATS,
        help="state: torchvision's state dict; onnx: from picture to detections; onnx-raw: the network alone; "
        "torchscript: torchvision's module",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the file to write")
    add_names(parser, "--classes", what="classes to keep [all]")
    parser.add_argument(
        "--images", type=Path, nargs="+", metavar="PATH", help="pictures to verify the file on [drawn ones]"
    )
    parser.add_argument("--pictures", type=positive, default=6, metavar="N", help="how many of them [6]")


def export(arguments: argparse.Namespace) -> int:
    """Writes, verifies, and says what was found."""
    from incdet.app.export import export as write
    from incdet.app.load import load
    from incdet.app.proof_pictures import proof_pictures
    from incdet.files import require_output

    require_output(arguments.output)
    pictures = proof_pictures(arguments.images, arguments.pictures)
    detector = load(arguments.checkpoint, arguments.arch, arguments.known_classes)
    done = write(detector, arguments.output, arguments.kind, pictures, classes=arguments.classes)
    if done.exporter is not None:
        print(f"exporter: {done.exporter}")
    print(f"verified: {done.proof}")
    print(f"written: {done.file} and {done.description}")
    return 0


VERB = Verb(
    "write a detector for other programs, and keep the file only if it finds the same",
    "incdet export runs/demo/incdet/step_3 --as state --output runs/exported/model.pth",
    add_arguments,
    export,
)
