"""log.jsonl read again: what a run was started with, and the losses of its phases."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from incdet.seal import unsealed_lines

_NOT_LOSSES = {"time", "event", "phase", "iteration", "images_per_second", "lr", "epoch", "method", "gradient"}


@dataclass
class Phase:
    """One training phase of one method.

    Attributes:
        method: Whose, empty in logs that do not say.
        name: For example ``step 2 train``.
        losses: By iteration: ``loss`` and its terms.
    """

    method: str
    name: str
    losses: dict[int, dict[str, float]] = field(default_factory=dict)

    def curve(self, term: str = "loss") -> list[tuple[float, float]]:
        """(iteration, value) in order."""
        return [(float(at), values[term]) for at, values in sorted(self.losses.items()) if term in values]

    @property
    def terms(self) -> list[str]:
        """What the loss is the sum of, in the order of the log."""
        return list(dict.fromkeys(term for values in self.losses.values() for term in values if term != "loss"))


@dataclass
class Log:
    """What a report takes from log.jsonl.

    Attributes:
        starts: The ``start`` event of every part of the run, see ``app.facts``; one, if it was never resumed.
        phases: In the order they were trained.
    """

    starts: list[dict[str, Any]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)


def read_log(path: Path) -> Log:
    """Reads what is whole; a line that is not as it was written is passed over, as is a missing file."""
    log, method = Log(), ""
    phases: dict[tuple[str, str], Phase] = {}
    for line in unsealed_lines(path):
        if line is None:
            continue
        event = line.get("event")
        if event == "start":
            log.starts.append(line)
        elif event == "method":
            method = str(line.get("method", ""))
        elif event == "train" and isinstance(line.get("iteration"), int):
            name = str(line.get("phase", ""))
            phase = phases.setdefault((method, name), Phase(method, name))
            values = {key: float(value) for key, value in line.items() if _is_loss(key, value)}
            phase.losses[line["iteration"]] = values  # a resumed part writes some iterations again
    log.phases = [phase for phase in phases.values() if phase.losses]
    return log


def _is_loss(key: str, value: object) -> bool:
    return key not in _NOT_LOSSES and isinstance(value, int | float) and value == value and abs(value) != float("inf")
