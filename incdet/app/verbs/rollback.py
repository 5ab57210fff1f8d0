"""``incdet rollback``: a run as it was after an earlier step."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run folder and the step to go back to."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder that no process works in")
    what = "the last step to keep; the later ones are moved to RUN/rolled_back"
    parser.add_argument("--to-step", type=positive, required=True, metavar="N", help=what)


def rollback(arguments: argparse.Namespace) -> int:
    """Moves the later steps aside and says where they are."""
    from incdet.app.rollback import roll_back

    aside = roll_back(arguments.folder, arguments.to_step)
    if aside is None:
        print(f"nothing to do: no step after {arguments.to_step}")
    else:
        print(f"as after step {arguments.to_step}; what came later: {aside}")
        print(f"learn it again: incdet train --config {arguments.folder / 'config.yaml'} --resume")
    return 0


VERB = Verb(
    "go back to an earlier step of a run; what came later is set aside",
    "incdet rollback runs/demo --to-step 2",
    add_arguments,
    rollback,
)
