"""What a person sees while a run works: one progress bar with ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from incdet.app.estimate import Estimate
from incdet.files import is_writer

LINE_SECONDS = 20.0
"""Without a terminal, how often a line is printed."""
LONG_SECONDS = 5.0
"""What took longer is said to have."""


class Display:
    """Progress of the phases of a run. Of several processes rank 0 alone prints.

    Args:
        console: Where to print; stdout if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(soft_wrap=True)
        if not is_writer():
            self.console = Console(quiet=True, force_terminal=False)
        self.prefix = ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.estimate: Estimate | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self._started = self._printed = time.monotonic()

    @classmethod
    def on_stderr(cls) -> Display:
        """One that leaves stdout to results."""
        return cls(Console(stderr=True, soft_wrap=True))

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
        """Progress of a training phase; ``loss`` is the mean since the last log line."""
        self.advance(phase, done, total, f"loss {loss:.3f}")
        if self.estimate is not None and (line := self.estimate.line(done, total)):
            self.say(line)

    def advance(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Sets ``phase`` to ``done`` of ``total``; a new phase replaces the bar of the one before."""
        name = f"{self.prefix} {phase}".strip()
        if name != self._phase:
            self._phase, self._started = name, time.monotonic()
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=total, note=note)
        if self._task is not None:
            self._bar.update(self._task, completed=done, note=note)
        now = time.monotonic()
        if not self.console.is_terminal and (done == total or now - self._printed > LINE_SECONDS):
            self._printed = now
            left = (now - self._started) / max(1, done) * (total - done)
            line = f"{name}: {done}/{total} {note} ETA {left:.0f} s"
            self.console.print(line, highlight=False, markup=False, emoji=False)

    @contextmanager
    def doing(self, words: str) -> Iterator[None]:
        """Says what is done in the block, which cannot tell how far it is, and how long it took if that was long.

        A terminal shows it as a bar that moves; elsewhere a line is printed at once.
        """
        start = time.monotonic()
        task = self._bar.add_task(words, total=None, note="") if self._bar.live.is_started else None
        if task is None or not self.console.is_terminal:
            self.say(f"{words} ...")
        try:
            yield
        finally:
            if task is not None:
                self._bar.remove_task(task)
            spent = time.monotonic() - start
            if spent > LONG_SECONDS:
                self.say(f"{words}: {spent:.0f} s")

    def say(self, text: object) -> None:
        """A line (or a rich table) above the bar; what looks like markup in it, as a class `[red]` does, is text."""
        self.console.print(text, markup=False, emoji=False)
