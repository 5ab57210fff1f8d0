"""``incdet pull``: a detector from a hub, or from a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where it lies and where it goes."""
    parser.add_argument("source", metavar="SOURCE", help="hub:OWNER/NAME, hub:OWNER/NAME@REVISION, or a folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the checkpoint")


def pull(arguments: argparse.Namespace) -> int:
    """Fetches, checks, and says what it knows."""
    from incdet.app.hub import pull as fetch

    model = fetch(arguments.source, arguments.output)
    print(f"{len(model.vocab)} classes: {', '.join(model.vocab.names)}")
    print(f"written: {arguments.output}")
    return 0


VERB = Verb(
    "fetch a detector from a hub, or from a folder, and check that it is whole",
    "incdet pull shared/birds --output runs/birds",
    add_arguments,
    pull,
)
