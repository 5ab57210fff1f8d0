"""Kill runs of incdet, and tell whether what is resumed equals what nobody disturbed, bit for bit.

    python tools/chaos.py kills --count 200        SIGKILL at random moments, resumed ones among them
    python tools/chaos.py operations               SIGKILL before each operation on a file
    python tools/chaos.py both --count 2 --stride 200
    python tools/chaos.py disk --count 15          disks too small, one read-only; needs the right to mount
    python tools/chaos.py quota --count 15         quotas too small; needs btrfs-progs too

A tiny but whole run (``train``: three steps with interim teacher, fine-tune, memory and report; with ``--extend`` one
class more for a checkpoint) is done in real processes. Compared are the names of all files that are left, and the
content of every checkpoint, results file, memory and judgement but for times. Words ``key=value`` replace settings of
the run. Exit code 1 if anything deviated.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trust.kills import Told


def main(words: Sequence[str] | None = None) -> int:
    """Do what ``words`` say; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "operations", "both", "disk", "quota"))
    parser.add_argument("--count", type=int, default=20, metavar="N", help="kills at random, or sizes of disks [20]")
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="take every Nth operation [1]")
    parser.add_argument("--first", type=int, default=1, metavar="N", help="begin with the Nth operation [1]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments [0]")
    parser.add_argument("--extend", action="store_true", help="extend a checkpoint in place of training")
    parser.add_argument("--fresh", action="store_true", help="start an interpreter for each process, do not fork")
    parser.add_argument("--root", type=Path, metavar="DIR", help="where to work [a temporary folder, removed]")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args(words)
    if options.fresh and options.what in ("operations", "both"):
        parser.error("operations are counted in forks: leave --fresh out")

    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.root or temporary).resolve()
        return tell(_trials(options, root))


def _trials(options: argparse.Namespace, root: Path) -> Iterator[Told]:
    from trust.disk import over_quota, too_small
    from trust.kills import at_random, before_every_operation
    from trust.scene import Scene

    scene = (Scene.extend if options.extend else Scene.train)(root, options.overrides, fresh=options.fresh)
    if options.what == "disk":
        yield from too_small(scene, options.count)
    if options.what == "quota":
        yield from over_quota(scene, options.count)
    if options.what in ("kills", "both"):
        yield from at_random(scene, options.count, options.seed)
    if options.what in ("operations", "both"):
        yield from before_every_operation(scene, options.stride, options.first)


def tell(trials: Iterable[Told]) -> int:
    """Prints every trial and the sum; the exit code."""
    start, done, kills, bad = time.monotonic(), 0, 0, 0
    for trial in trials:
        done, kills, bad = done + 1, kills + trial.kills, bad + bool(trial.faults)
        print(trial.what, "; ".join(trial.faults) or "as undisturbed", sep=": ", flush=True)
    counts = {"trials": done, "kills": kills, "deviating": bad, "seconds": round(time.monotonic() - start)}
    print(json.dumps(counts))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
