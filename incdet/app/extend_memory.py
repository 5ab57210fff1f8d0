"""The exemplars of the old classes that an extension begins with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from incdet.app.origin import run_of
from incdet.app.run import Run
from incdet.app.run_folder import RunFolder
from incdet.config import Extension
from incdet.data.records import Record
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.manifest import load_memory
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.increment import choose_exemplars


def stored_memory(extension: Extension) -> Memory | None:
    """The memory of the run that made the checkpoint, where it keeps one.

    Raises:
        InputError: It is damaged, or one of its pictures is gone.
    """
    path = Path(extension.checkpoint).resolve()
    step = re.fullmatch(r"step_(\d+)", path.name)
    if step is None or run_of(path) is None:
        return None
    manifest = RunFolder.memory(path.parent, int(step[1]))
    return load_memory(manifest) if manifest.is_file() else None


def old_memory(
    work: Run, model: IncrementalRetinaNet, stored: Memory | None, old: Sequence[Record] | None, budget: Budget
) -> Memory:
    """Exemplars of the old classes: chosen from ``old``, else the stored ones, else none."""
    folder, known = work.folder.root, model.vocab.names
    step = len(work.protocol.steps) - 1
    if work.has_memory(folder, step):
        return work.load_memory(folder, step)  # of an earlier part of this run
    if stored is not None:
        work.display.say(f"memory: {len(stored)} exemplars of the run that made the checkpoint")
        memory = replace(stored, budget=budget).reduce(list(stored.exemplars))
    elif old is not None:
        memory = choose_exemplars(work.engine, model, old, known, Memory.empty(budget), work.config)
        work.display.say(f"memory: {len(memory)} exemplars chosen from {len(old)} old images")
    else:
        work.display.say("memory: none (give --old-data to choose exemplars of the old classes)")
        memory = Memory.empty(budget)
    return work.save_memory(memory, folder, step)
