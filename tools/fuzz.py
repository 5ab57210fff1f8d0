"""Spoil the files that incdet reads, and tell what is neither read nor refused by the one documented error.

    python tools/fuzz.py --seconds 600                 every reader in turn, as often as the time allows
    python tools/fuzz.py config coco --inputs 2000

Bytes are changed, lost, repeated or replaced; half of the JSON files get other values instead, with the digest that
fits them, so that what is behind the digest is reached. A reader has 5 seconds and the process 1 GiB beyond what it has
when it begins. Prints a line a reader and the counts as JSON; exit code 1 if anything was not as documented.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trust.readers import Reader

LIMIT = 5.0
MEMORY = 1 << 30


class Hang(BaseException):
    """A reader took longer than it has; no reader catches this."""


def main(words: Sequence[str] | None = None) -> int:
    """Do what ``words`` say; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", nargs="*", help="readers by name [all]")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all readers together [60]")
    parser.add_argument("--inputs", type=int, default=10**9, metavar="N", help="most of a reader")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from trust.readers import readers

    with tempfile.TemporaryDirectory() as folder:
        os.environ["INCDET_CACHE"] = str(Path(folder) / "pictures")
        every = readers(Path(folder))
        known = [reader.name for reader in every]
        if unknown := set(options.reader) - set(known):
            parser.error(f"no reader: {', '.join(unknown)}; known: {', '.join(known)}")
        chosen = [reader for reader in every if not options.reader or reader.name in options.reader]
        before = peak()
        resource.setrlimit(resource.RLIMIT_DATA, (_data() + MEMORY, resource.RLIM_INFINITY))
        share = options.seconds / len(chosen)
        counts = {reader.name: fuzz(reader, share, options.inputs, options.seed) for reader in chosen}
    print(json.dumps({"readers": counts, "peak_growth_mib": (peak() - before) >> 20}))
    return int(any(one["faults"] for one in counts.values()))


def fuzz(reader: Reader, seconds: float, most: int, seed: int) -> dict[str, Any]:
    """Spoils and reads for so long; the counts of inputs, refusals and faults, and the slowest reading in seconds."""
    from trust.spoil import spoilt, spoilt_json

    from incdet.errors import InputError

    chance, until = random.Random(f"{seed} {reader.name}"), time.monotonic() + seconds
    inputs, refused, faults, slowest = 0, 0, 0, 0.0
    whole = {path: path.read_bytes() for path in reader.files}
    reader.read()
    signal.signal(signal.SIGALRM, _hang)
    while inputs < most and time.monotonic() < until:
        path = chance.choice(reader.files)
        structured = path.suffix == ".json" and chance.random() < 0.5
        spoilt_bytes = (spoilt_json if structured else spoilt)(whole[path], chance)
        path.write_bytes(spoilt_bytes)
        start, inputs = time.monotonic(), inputs + 1
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        try:
            reader.read()
        except InputError as error:
            refused += 1
            str(error).encode("utf-8")
        except (Exception, Hang):
            faults += 1
            if faults <= 3:
                print(f"{reader.name}: {path.name}: {spoilt_bytes[:3000]!r}", traceback.format_exc(), sep="\n")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        slowest = max(slowest, time.monotonic() - start)
        path.write_bytes(whole[path])
    found = {"inputs": inputs, "refused": refused, "faults": faults, "slowest_s": round(slowest, 2)}
    print(f"{reader.name}: " + ", ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    return found


def peak() -> int:
    """The most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _data() -> int:
    """Bytes of data this process has now, on Linux."""
    words = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(words[5]) * resource.getpagesize()


def _hang(*_: Any) -> None:
    raise Hang


if __name__ == "__main__":
    sys.exit(main())
