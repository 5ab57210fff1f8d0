"""The log: a JSON line an event with its digest, flushed at once, and the numbers for trackers where asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from incdet.files import is_writer
from incdet.seal import sealed_line
from incdet.training.trackers import Trackers

FILE = "log.jsonl"


class RunLog:
    """Appends events to ``log.jsonl``; a process that dies loses no finished line. Of several processes rank 0 writes.

    Args:
        folder: Run folder; made where it is missing.
        trackers: Names of trackers that get the numbers too; see ``Trackers``.
        settings: Of the run, for the trackers.

    Attributes:
        prefix: Before the names of phases in the trackers, which know no other order than by name.
    """

    def __init__(
        self, folder: Path, *, trackers: Sequence[str] = (), settings: Mapping[str, Any] | None = None
    ) -> None:
        self._file: IO[str] | None = None
        if is_writer():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _opened(folder / FILE)
        self.prefix = ""
        self._lock = threading.Lock()
        self._trackers = Trackers(trackers if is_writer() else (), folder, settings or {})

    def write(self, event: str, **values: Any) -> None:
        """One line ``{"time", "event", ...values}``, whole from any thread; ``time`` is seconds since the epoch."""
        line = sealed_line({"time": round(time.time(), 3), "event": event, **values})
        if self._file is not None:
            with self._lock:
                self._file.write(line)
                self._file.flush()

    def scalars(self, tag: str, values: dict[str, float], iteration: int) -> None:
        """The values as a ``train`` line, and for the trackers."""
        self.write("train", phase=tag, iteration=iteration, **values)
        self.track(tag, values, iteration)

    def track(self, tag: str, values: Mapping[str, float], iteration: int) -> None:
        """The values for the trackers alone."""
        self._trackers.scalars(f"{self.prefix} {tag}".strip(), values, iteration)

    def close(self) -> None:
        """Flush and close; writing afterwards is an error."""
        if self._file is not None:
            self._file.close()
        self._trackers.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: Path) -> IO[str]:
    """The file, to be appended to, without the piece of a line that a killed process may have left at its end."""
    if path.is_file():
        with path.open("rb+") as file:
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)
    return path.open("a", encoding="utf-8")
