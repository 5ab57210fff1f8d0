"""``incdet report``: plots and page of a run, drawn again."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run folder, and where the page goes."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")
    what = "write the page there, and nothing into the run folder [RUN/report.html]"
    parser.add_argument("--output", type=Path, metavar="FILE", help=what)


def report(arguments: argparse.Namespace) -> int:
    """Draws and says where the page is."""
    from incdet.files import require_output
    from incdet.report.html import write_report

    if arguments.output is None:
        print(f"written: {write_report(arguments.folder)}")
    else:
        require_output(arguments.output)
        print(f"written: {write_report(arguments.folder, arguments.output)}")
    return 0


VERB = Verb("draw plots and report.html again from a run folder", "incdet report runs/demo", add_arguments, report)
