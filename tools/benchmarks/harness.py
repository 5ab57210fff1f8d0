"""How two ways of doing one thing are compared: one process, the same tensors, turn by turn.

Time: after a warm-up, every round runs theirs, ours, and theirs once more; the medians over the rounds are compared.
A noisy neighbour then slows all three. ``aa``, the ratio of the two medians of *theirs*, is what the machine makes
of no difference at all: a ``ratio`` within ``aa`` of 1 means nothing. On a CPU one thread is used.

Peak memory: the most bytes that one call holds above what was allocated before it. On a CPU that is the running sum
of every allocation and release that torch's allocator reports to the profiler (a trace of one call), on a GPU the
counter of the caching allocator. Memory that does not come from torch's allocator is not seen.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

# The profiler's own log lines (a missing driver, for example) are no part of the table.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import torch  # noqa: E402


@dataclass(frozen=True)
class Options:
    """What a person asked for.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        quick: Small inputs and few rounds, to see that a suite works; the ratios then mean little.
    """

    device: str = "cpu"
    quick: bool = False

    @property
    def rounds(self) -> int:
        """Rounds of a case that takes well under a second."""
        return 3 if self.quick else 15


@dataclass(frozen=True)
class Equality:
    """Whether two results agree within the stated tolerance, and what was found."""

    holds: bool
    found: str


@dataclass(frozen=True)
class Row:
    """One measured case; the fields of the JSON line.

    Attributes:
        suite: Name of the suite.
        case: Name of the case in its suite.
        ours: Median seconds of a call of ours.
        theirs: Median seconds of a call of theirs.
        ratio: ``theirs / ours``: above 1 ours is faster.
        aa: The same ratio of theirs with itself.
        equal: Whether the results agree within the suite's tolerance.
        peak_ratio: Peak memory of ours over theirs; null where theirs needs none.
        device: The hardware.
        torch: Version of torch.
        commit: Short hash of the checkout, with ``-dirty`` if files were changed; null outside one.
        found: The equality in words; printed, but not part of the JSON line.
        unit: ``"ms"`` if ours and theirs are times, else what they count; not part of the JSON line.
    """

    suite: str
    case: str
    ours: float
    theirs: float
    ratio: float
    aa: float
    equal: bool
    peak_ratio: float | None
    device: str
    torch: str
    commit: str | None
    found: str = ""
    unit: str = "ms"

    def to_json(self) -> str:
        """The row as one line of JSON."""
        content = asdict(self)
        del content["found"], content["unit"]
        return json.dumps({key: _rounded(value) for key, value in content.items()})

    def to_text(self) -> str:
        """The row as one line for people."""
        peak = "     -" if self.peak_ratio is None else f"{self.peak_ratio:5.2f}x"
        scale = 1e3 if self.unit == "ms" else 1.0
        ours, theirs = (f"{scale * value:8.2f} {self.unit}".rstrip() for value in (self.ours, self.theirs))
        return (
            f"{self.suite:<12} {self.case:<14} {self.ratio:6.2f}x (A/A {self.aa:4.2f})  ours {ours}  theirs {theirs}"
            f"  peak {peak}  {'equal' if self.equal else 'DIFFERENT'}: {self.found}"
        )


def measure(
    suite: str,
    case: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    equality: Equality,
    options: Options,
    rounds: int | None = None,
) -> Row:
    """Time ``ours`` against ``theirs`` and compare their peaks.

    Both are called many times and must leave nothing behind that a later call would see, gradients included.
    """
    if options.device == "cpu":
        torch.set_num_threads(1)
    for call in (theirs, ours):
        call()
    laps: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(options.rounds if rounds is None else rounds):
        for lap, call in zip(laps, (theirs, ours, theirs), strict=True):
            lap.append(_seconds(call, options.device))
    first, mine, second = (statistics.median(lap) for lap in laps)
    their_peak = peak_bytes(theirs, options.device)
    return Row(
        suite=suite,
        case=case,
        ours=mine,
        theirs=first,
        ratio=first / mine,
        aa=first / second,
        equal=equality.holds,
        peak_ratio=peak_bytes(ours, options.device) / their_peak if their_peak else None,
        device=device_name(options.device),
        torch=torch.__version__,
        commit=commit(),
        found=equality.found,
    )


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> int:
    """The most bytes of torch memory that ``call`` holds at once beyond what was held before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0]
    held = peak = 0
    for event in sorted(changes, key=lambda event: float(event["ts"])):
        held += int(event["args"]["Bytes"])
        peak = max(peak, held)
    return peak


def device_name(device: str) -> str:
    """The hardware in words."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return f"{names[0] if names else 'CPU'}, 1 thread"


def commit() -> str | None:
    """Short hash of the checkout this code runs from, ``-dirty`` if tracked files differ; None outside one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _seconds(call: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _rounded(value: object) -> object:
    """Six significant digits: more would suggest that a time is known so well."""
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value
