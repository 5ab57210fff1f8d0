"""How long a training is going to take, said once, when a few of its steps have shown how long one takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

STEPS = 4
"""So many steps are looked at, after the first, which pays for what is done once."""
SECONDS = 4.0
"""And for so long, where steps are short."""


class Estimate:
    """Time for the planned optimiser steps.

    Args:
        steps: By phase, in their order; those that are not known yet are left out.
        clock: Seconds from anywhere.
    """

    def __init__(self, steps: Mapping[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._steps, self._clock = dict(steps), clock
        self._first: tuple[int, float] | None = None
        self._told = False

    def line(self, done: int, total: int) -> str:
        """What to say after step ``done`` of ``total`` of the phase at work; empty if nothing is due."""
        if self._told:
            return ""
        now = self._clock()
        if self._first is None:
            self._first = (done, now)
            return ""
        counted, spent = done - self._first[0], now - self._first[1]
        if counted <= 0 or done < total and (counted < STEPS or spent < SECONDS):
            return ""
        self._told = True
        each, kinds = spent / counted, list(self._steps.items())
        place = next((i for i, (_, count) in enumerate(kinds) if count == total), 0)
        left = total - done + sum(count for _, count in kinds[place + 1 :])
        parts = " + ".join(f"{count:,} ({kind})" for kind, count in kinds)
        return f"a step takes {each:.2g} s: {duration(each * left)} to go for {parts} steps, scoring aside"


def duration(seconds: float) -> str:
    """Seconds for people, to two places."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 100 else f"about {minutes // 60} h {minutes % 60} min"
