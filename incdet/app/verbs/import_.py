"""``incdet import``: somebody's state dict as a checkpoint of incdet."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A state dict, what it belongs to, and a folder for the checkpoint."""
    parser.add_argument(
        "state", metavar="STATE", help="state dict (.pth, .safetensors), or BUILDER:WEIGHTS of torchvision"
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2, or a backbone"
    )
    add_names(parser, "--classes", what="name of each column of its head; N/A for one without a class")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the checkpoint")


def import_(arguments: argparse.Namespace) -> int:
    """Writes the checkpoint and says what it knows."""
    from incdet.app.import_detector import import_detector

    model = import_detector(arguments.state, arguments.output, arch=arguments.arch, classes=arguments.classes)
    print(f"{len(model.vocab)} classes: {', '.join(model.vocab.names)}")
    print(f"written: {arguments.output}")
    return 0


VERB = Verb(
    "make a checkpoint of a torchvision RetinaNet that somebody saved as a state dict",
    "incdet import model.pth --arch retinanet_resnet50_fpn --classes - cat dog --output runs/imported",
    add_arguments,
    import_,
)
