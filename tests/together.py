"""A few optimiser steps of step 2 with several methods, in this process or in one of several.

As a script (``python together.py FOLDER``) it is one of the processes that ``torchrun`` would start: the environment
says which, and the first one writes what it learned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from helpers import tiny_settings
from training_steps import sure_network

from incdet.app.train import prepare_data
from incdet.config import Config
from incdet.data.protocols import step_view
from incdet.distillation.provider import Teaching
from incdet.distillation.teacher import Teacher
from incdet.memory.exemplars import Budget, Memory
from incdet.methods.registry import get_method
from incdet.training.engine import Engine
from incdet.training.increment import Workshop, build_training_set, fitted, grown, train
from incdet.training.log import RunLog
from incdet.training.schedule import Lengths, Phase

METHODS = ("finetune", "eeil", "cldetr", "incdet")
STEPS = 3


def settings(folder: Path, accumulation: int = 1) -> Config:
    plan = {"iterations": STEPS, "batch_size": 4, "optimizer": "sgd", "lr": 0.02, "warmup": 0, "schedule": "constant"}
    return tiny_settings(
        folder / "run",
        train={"increment": plan},
        engine={"accumulation": accumulation, "workers": 0, "device": "cpu", "log_every": 1},
        data={"root": str(folder / "shapes")},
    )


def learn(folder: Path, logs: Path, accumulation: int = 1) -> dict[str, dict[str, Any]]:
    """By method, the ``losses`` of every optimiser step and the ``state`` of the student.

    Args:
        folder: Holds, or gets, the images.
        logs: Of this process.
        accumulation: Pieces of a batch.
    """
    config = settings(folder, accumulation)
    source, protocol = prepare_data(config)
    first, view = (step_view(source.train, protocol, step) for step in (1, 2))
    before = sure_network(protocol.steps[0])
    memory = Memory.empty(Budget(total=6)).update(first.records, first.names, selection="random", seed=0)
    found = {}
    for name in METHODS:
        place = logs / name
        with RunLog(place) as log:
            shop = Workshop(Engine(config.engine, log), config, Lengths(config.train, [9, 9]), place)
            student, method = grown(config, before, view), get_method(name)
            teachers = {"old": Teacher(before)} if method.teachers else {}
            method = fitted(shop, method, Teaching(teachers, method.terms), view, memory)
            records, schedule = build_training_set(view, memory, method), config.train.increment
            train(shop, student, method, teachers, records, schedule, STEPS, Phase(2, "train"))
        lines = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
        skipped = ("time", "event", "phase", "images_per_second")
        losses = [
            {key: value for key, value in line.items() if key not in skipped}
            for line in lines
            if line["event"] == "train"
        ]
        found[name] = {"losses": losses, "state": student.state_dict()}
    return found


if __name__ == "__main__":
    import torch.distributed

    from incdet.training.processes import Processes

    folder, processes = Path(sys.argv[1]), Processes("cpu")
    found = learn(folder, folder / f"process_{processes.rank}")
    sums = processes.summed(torch.tensor([float(processes.rank + 1)]))
    facts = {
        "world": processes.world,
        "sum": float(sums),
        "ranks": processes.gathered(processes.rank),
        "shared": processes.shared(f"from {processes.rank}"),
        "totals": {
            name: float(value)
            for name, value in processes.totals([{"a": torch.tensor(1), "b": torch.tensor(2.5)}] * 2).items()
        },
    }
    processes.wait()
    if processes.main:
        torch.save({"found": found, "facts": facts}, folder / "several.pt")
    torch.distributed.destroy_process_group()
