"""``incdet doctor``: whether this machine is ready."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb, add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where runs are to be written, and on what they are to run."""
    parser.add_argument("--output", type=Path, default="runs", metavar="DIR", help="where runs are written [runs]")
    parser.add_argument("--quick", action="store_true", help="leave out the speed of a training step")
    add_device(parser)


def doctor(arguments: argparse.Namespace) -> int:
    """Prints what it looks at, a line each; the exit code is 2 if something has to be mended."""
    from incdet.app.doctor import examine

    errors = warnings = 0
    for check in examine(arguments.output, arguments.device, speed=not arguments.quick):
        print(check.line(), flush=True)
        if check.problem is not None:
            errors += check.problem.severity == "error"
            warnings += check.problem.severity == "warning"
    print(f"{errors} error(s), {warnings} warning(s)")
    return 2 if errors else 0


VERB = Verb(
    "look whether this machine is ready: versions, device, OpenCV, disk, speed of a training step",
    "incdet doctor --output runs",
    add_arguments,
    doctor,
)
