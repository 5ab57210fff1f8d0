"""What a reader of a report wants to know of a run and no result says: version, command, device, data set, commit."""

from __future__ import annotations

import hashlib
import platform
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import incdet
from incdet.config import Config
from incdet.data.datasets import Source
from incdet.data.records import Record
from incdet.files import sha256


def facts(config: Config, source: Source, device: str) -> dict[str, Any]:
    """The ``start`` event of log.jsonl, JSON values only.

    Args:
        config: The run's settings.
        source: Its records.
        device: What it computes on, in a few words.

    Returns:
        ``{"incdet", "commit", "command", "python", "torch", "torchvision", "device", "data"}``; ``commit`` and
        ``command`` are None where they are not known. ``data`` is ``{"format", "root", "train", "test"}`` with
        ``{"images", "objects", "per_class", "hash"}`` of each split.
    """
    import torch
    import torchvision

    return {
        "incdet": incdet.__version__,
        "commit": commit(Path(incdet.__file__).resolve().parents[1]),
        "command": command(sys.argv),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": device,
        "data": {
            "format": config.data.format if config.extend is None else "own annotations",
            "root": str(config.data.root if config.extend is None else config.extend.annotations),
            "train": _split(source.train),
            "test": _split(source.test),
        },
    }


def maker(found: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the outcome beside the configuration, out of ``facts``: versions, code, device, data."""
    kept = {key: found[key] for key in ("incdet", "python", "torch", "torchvision", "device")}
    return {**kept, "code": code(), **{f"{split} data": found["data"][split]["hash"] for split in ("train", "test")}}


def code() -> str:
    """16 hex digits over the sources of this package, as they are installed."""
    home, total = Path(incdet.__file__).resolve().parent, hashlib.sha256()
    for path in sorted(home.rglob("*.py"), key=lambda path: path.relative_to(home).as_posix()):
        total.update(f"{path.relative_to(home).as_posix()} {sha256(path)}\n".encode())
    return total.hexdigest()[:16]


def command(words: Sequence[str]) -> str | None:
    """What was typed to start this process, ready to be pasted into a shell; None if incdet was called from Python."""
    program = Path(words[0]) if words and words[0] else Path("python")
    if program.stem == "incdet":
        start = ["incdet"]
    elif program.name == "__main__.py" and program.parent.name == "incdet":
        start = ["python", "-m", "incdet"]
    elif program.suffix == ".py" and program.resolve().parent == Path(incdet.__file__).resolve().parents[1] / "tools":
        start = ["python", f"tools/{program.name}"]
    else:
        return None
    return shlex.join([*start, *words[1:]])


def commit(folder: Path) -> str | None:
    """The commit of the checkout ``folder``, with ``-dirty`` where files differ from it; None if it is no checkout."""
    if not (folder / ".git").exists():
        return None
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None


def digest(records: Sequence[Record]) -> str:
    """16 hex digits over file names, sizes, boxes, class names, flags and coverage, wherever the pictures lie."""
    total = hashlib.sha256()
    for record in records:
        words = (record.image.name, record.width, record.height, record.names, sorted(record.coverage))
        total.update(repr(words).encode("utf-8", "surrogatepass"))
        total.update(record.boxes.tobytes() + record.ignore.tobytes())
    return total.hexdigest()[:16]


def _split(records: Sequence[Record]) -> dict[str, Any]:
    counts = Counter(name for record in records for name in record.names)
    return {
        "images": len(records),
        "objects": sum(counts.values()),
        "per_class": dict(sorted(counts.items())),
        "hash": digest(records),
    }
