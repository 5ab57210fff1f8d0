"""Ctrl-C and SIGTERM in a training loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from incdet.errors import Terminated


class Interrupt:
    """Ctrl-C and SIGTERM are heard when an iteration is whole, for half of one cannot be taken up again.

    A second one stops at once; the last stored state stands then.

    Args:
        patient: A second one does not: launchers of several processes send what the terminal has sent already.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._patient = patient
        self.came: KeyboardInterrupt | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes a KeyboardInterrupt raised inside for a Ctrl-C that came between two iterations."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            self.came = interrupt

    def _hear(self, number: int, _: object) -> None:
        self.came = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
        if not self._patient:
            self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
