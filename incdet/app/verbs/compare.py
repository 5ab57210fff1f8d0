"""``incdet compare``: several runs of one protocol side by side."""

from __future__ import annotations

import argparse
from pathlib import Path

from incdet.app.verbs.verb import Verb


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Run folders, and where the page goes."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders; the first is compared with")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the page to write")


def compare(arguments: argparse.Namespace) -> int:
    """Draws and says where the page is."""
    from incdet.files import require_output
    from incdet.report.html import write_comparison

    require_output(arguments.output)
    print(f"written: {write_comparison(arguments.folders, arguments.output)}")
    return 0


VERB = Verb(
    "put runs of one protocol side by side in one page",
    "incdet compare runs/demo runs/other --output compared.html",
    add_arguments,
    compare,
)
