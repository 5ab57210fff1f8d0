"""The log: one JSON line an event, flushed at once, and TensorBoard scalars where they are asked for."""

from __future__ import annotations

import importlib.util
import json
import threading
import time
from pathlib import Path
from typing import IO, Any

from incdet.errors import Finding, InputError
from incdet.files import is_writer


def require_tensorboard() -> None:
    """Checks that TensorBoard can be written.

    Raises:
        InputError: The package is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            Finding(
                "config",
                "key engine.tensorboard",
                "is true, but the package tensorboard is not installed",
                "pip install 'incdet[tensorboard]', or set it to false",
            )
        )


class RunLog:
    """Appends events to ``log.jsonl``; a process that dies loses no finished line. Of several processes rank 0 writes.

    Args:
        folder: Run folder; made where it is missing.
        tensorboard: Also write scalars under ``folder/tensorboard`` (needs the ``tensorboard`` extra).
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self._file: IO[str] | None = None
        if is_writer():
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._writer: Any = None
        self._lock = threading.Lock()
        if tensorboard and is_writer():
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, event: str, **values: Any) -> None:
        """One line ``{"time", "event", ...values}``, whole from any thread; ``time`` is seconds since the epoch."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **values}) + "\n"
        if self._file is not None:
            with self._lock:
                self._file.write(line)
                self._file.flush()

    def scalars(self, tag: str, values: dict[str, float], iteration: int) -> None:
        """The values as a ``train`` line and, where it is on, as TensorBoard scalars under ``tag``."""
        self.write("train", phase=tag, iteration=iteration, **values)
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{tag}/{name}", value, iteration)

    def close(self) -> None:
        """Flush and close; writing afterwards is an error."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
