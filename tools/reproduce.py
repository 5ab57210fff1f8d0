"""Reproduce a benchmark: step 1 once for every seed, every method from it, one table.

    python tools/reproduce.py --suite voc20-small data.root=DIR
    python tools/reproduce.py --suite voc20 --device cuda --methods finetune incdet incdet-kd_box joint --seeds 0

Call it again whenever it was stopped: what is finished is not trained again, what was begun goes on. Runs lie in
OUTPUT/PROTOCOL/seed-S/NAME, each a run folder of `incdet train`; to adopt runs that were trained elsewhere with the
same settings, link or copy their folders there under any name:

    mkdir -p runs/reproduce/5+5/seed-0 && ln -s /path/to/run runs/reproduce/5+5/seed-0/

The table goes to docs/results/SUITE.json and .md after every finished run and says what is missing. Rows that are in
the JSON already, from another machine or another day, stay as long as their settings are those asked for.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from incdet.app.cli import run_tool
from incdet.app.verbs.verb import SETTING, Verb

ROOT = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to run, where, for how long."""
    from incdet.app.suites import SUITES

    parser.add_argument("--suite", required=True, choices=sorted(SUITES), help="which protocols")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="NAME",
        help="methods, parts to go without after dashes (incdet-kd_box) [all]",
    )
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], metavar="N", help="seeds [0 1 2]")
    parser.add_argument("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps [as configured]")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "reproduce", metavar="DIR", help="of the runs")
    parser.add_argument("--results", type=Path, metavar="FILE", help="the table's JSON [docs/results/SUITE.json]")
    parser.add_argument("--limit-minutes", type=float, metavar="N", help="stop after that time; call again to go on")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="two iterations of everything on 60 small images, to see that it runs here; the table goes to OUTPUT",
    )
    parser.add_argument("--again", action="store_true", help="measure finished runs anew from their folders")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="settings of every run")


def run(arguments: argparse.Namespace) -> int:
    """Runs the suite; 0 if its table is complete, 3 if something is missing."""
    from incdet.app.facts import command
    from incdet.app.reproduce import Suite, reproduce
    from incdet.app.suites import REHEARSAL

    # `--methods a b seed=1`: settings may stand anywhere, where argparse takes them for names.
    words = {name: [w for w in getattr(arguments, name) if not SETTING.fullmatch(w)] for name in ("methods", "seeds")}
    settings = [w for name in words for w in getattr(arguments, name) if SETTING.fullmatch(w)] + arguments.overrides
    bad = [word for word in words["seeds"] if not word.isdigit()]
    if bad:
        arguments.parser.error(f"--seeds: {bad[0]!r} is no seed; give whole numbers such as 0 1 2")
    if arguments.device:
        settings.append(f"engine.device={arguments.device}")
    output, home = arguments.output.absolute(), ROOT / "docs" / "results"
    if arguments.rehearse:
        settings, output = [*REHEARSAL, *settings], output / "rehearsal" / arguments.suite
        home = output
    results = arguments.results or home / f"{arguments.suite}.json"
    suite = Suite(
        arguments.suite,
        words["methods"],
        [int(word) for word in words["seeds"]],
        output,
        results,
        ROOT / "configs",
        settings,
        command(sys.argv) or "",
        arguments.again,
    )
    limit = arguments.limit_minutes
    complete = reproduce(suite, limit=None if limit is None else 60 * limit)
    print(f"written: {results.with_suffix('.md')}", file=sys.stderr)
    return 0 if complete else 3


VERB = Verb(
    "train every method of a suite from one step 1, and write their table",
    "python tools/reproduce.py --suite voc20-small data.root=DIR",
    add_arguments,
    run,
)

if __name__ == "__main__":
    sys.exit(run_tool(VERB))
