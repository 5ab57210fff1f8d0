"""``incdet report``: plots and page of a run, drawn again."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A run folder."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="run folder")


def report(arguments: argparse.Namespace) -> int:
    """Draws and says where the page is."""
    from incdet.report.html import write_report

    print(f"written: {write_report(arguments.folder)}")
    return 0


VERB = Verb("draw plots and report.html again from a run folder", "incdet report runs/demo", add_arguments, report)
