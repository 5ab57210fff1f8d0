"""Which run made a checkpoint: its settings and its memory are those to go on with."""

from __future__ import annotations

import json
from pathlib import Path

from incdet.app import run_manifest
from incdet.app.history import shortened
from incdet.app.run_folder import CONFIG
from incdet.app.run_manifest import RunManifest
from incdet.network.checkpoint import DESCRIPTION


def run_of(checkpoint: Path) -> Path | None:
    """The folder of the run that wrote ``checkpoint``; None where it lies in none, though a foreign one be near.

    A run knows the digests of its files. One of the time before has to name in its results the very steps that the
    checkpoint has in its history.

    Args:
        checkpoint: Folder of one step.
    """
    place = checkpoint.resolve()
    for root in list(place.parents)[:2]:
        if (root / CONFIG).is_file() and _wrote(root, place):
            return root
    return None


def _wrote(root: Path, place: Path) -> bool:
    if (root / run_manifest.FILE).is_file():
        return RunManifest.load(root).holds(place / DESCRIPTION)
    try:
        steps = json.loads((place.parent / "results.json").read_text(encoding="utf-8"))["steps"]
        history = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))["history"]
        return bool(history) and shortened(steps[: len(history)]) == shortened(history)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
