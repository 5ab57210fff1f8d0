"""``incdet verify``: whether a run is still what it was."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run folder, and whether its data are there."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder; nothing is written there")
    parser.add_argument("--without-data", action="store_true", help="do not look at annotations and pictures")


def verify(arguments: argparse.Namespace) -> int:
    """Looks at everything and says what it was."""
    from incdet.app.verify import verify as look

    print("\n".join(look(arguments.folder, data=not arguments.without_data)))
    return 0


VERB = Verb(
    "compare every file of a run, and its data, with the digests the run kept",
    "incdet verify runs/demo",
    add_arguments,
    verify,
)
