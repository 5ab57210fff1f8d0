"""Compare incdet with torchvision's own code: time, peak memory and equality, turn by turn in one process.

    python tools/benchmark.py                            every suite
    python tools/benchmark.py losses --json losses.jsonl

``ratio`` is theirs / ours; the A/A figure beside it is what the machine makes of theirs against itself. Peak memory
is the most that torch's allocator held during a call (on a CPU from a profiler trace of all allocations). With
``--json FILE`` every case becomes one line of JSON with the keys suite, case, ours, theirs (seconds), ratio, aa,
equal, peak_ratio, device, torch, commit. A suite that fails is told and does not stop the others, and a short table
comes last. The exit code is 1 if a suite failed or a result was not equal.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import suite, suite_names

if TYPE_CHECKING:
    from benchmarks.harness import Row


def main(words: Sequence[str] | None = None) -> int:
    """Run the suites that ``words`` name."""
    names = suite_names()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"one or more of: {', '.join(names)}; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write one line of JSON per case; replaces FILE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small inputs, few rounds: shows that it works, not more")
    options = parser.parse_args(words)
    unknown = sorted(set(options.suites) - set(names))
    if unknown:
        parser.error(f"unknown suite {', '.join(unknown)}; known: {', '.join(names)}")

    import torch  # --help answers without it
    from benchmarks.harness import Options

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here")
    if options.json and options.json.is_dir():
        parser.error(f"--json {options.json}: is a folder")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text("", encoding="utf-8")
    settings = Options(device=options.device, quick=options.quick)
    found, failed = [], []
    for name in options.suites or names:
        try:
            for row in suite(name)(settings):
                print(row.to_text(), flush=True)
                found.append(row)
                if options.json:
                    with options.json.open("a", encoding="utf-8") as file:
                        file.write(row.to_json() + "\n")
        except Exception:
            failed.append(name)
            traceback.print_exc()
    summarise(found, failed)
    return 0 if not failed and all(row.equal for row in found) else 1


def summarise(rows: Sequence[Row], failed: Sequence[str]) -> None:
    """Prints the short table, and the suites that failed."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None)
    for name in ("suite", "case"):
        table.add_column(name)
    for name in ("ratio", "A/A", "peak", "equal"):
        table.add_column(name, justify="right")
    for row in rows:
        peak = "-" if row.peak_ratio is None else f"{row.peak_ratio:.2f}"
        table.add_row(row.suite, row.case, f"{row.ratio:.2f}", f"{row.aa:.2f}", peak, "yes" if row.equal else "NO")
    console = Console(soft_wrap=True)
    console.print(table)
    if failed:
        console.print(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    sys.exit(main())
