"""``incdet push``: a detector to a hub, or into a folder."""

from __future__ import annotations

import argparse

from incdet.app.verbs.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A detector and where it goes."""
    parser.add_argument("source", metavar="DETECTOR", help="a checkpoint or run folder, or what else predict takes")
    parser.add_argument("target", metavar="TARGET", help="hub:OWNER/NAME, hub:OWNER/NAME@BRANCH, or a folder")
    parser.add_argument("--public", action="store_true", help="let everybody see it, where the place is new [private]")


def push(arguments: argparse.Namespace) -> int:
    """Pushes and says where it lies."""
    from incdet.app.hub import push as send
    from incdet.app.load import load

    model = load(arguments.source).model
    print(f"pushed: {send(model, arguments.target, private=not arguments.public)}")
    return 0


VERB = Verb(
    "put a detector on a hub, or into a folder, with a page that says what it is",
    "incdet push runs/demo/incdet/step_2 shared/birds",
    add_arguments,
    push,
)
