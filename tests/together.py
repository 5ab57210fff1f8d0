"""What several processes do together, each started as ``torchrun`` would; the tests do the same in one and compare.

As a script (``python together.py FOLDER``) it is one of the processes: the environment says which. Each job leaves what
it found, or what it raised, in ``FOLDER/told_RANK.json``; the first process writes what was learned.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from helpers import network, target, tiny_settings
from torch import Tensor
from training_steps import BOX, Plain, schedule, sure_network

import incdet
import incdet.app.steps
from incdet.app.cli import main
from incdet.app.train import prepare_data, train
from incdet.config import Config
from incdet.config import Engine as Settings
from incdet.data.protocols import step_view
from incdet.distillation.provider import Teaching
from incdet.distillation.teacher import Teacher
from incdet.errors import is_relayed
from incdet.memory.exemplars import Budget, Memory
from incdet.methods.registry import get_method
from incdet.seal import unsealed_lines
from incdet.training.batches import Batch
from incdet.training.criterion import MethodCriterion
from incdet.training.engine import Engine
from incdet.training.increment import Workshop, build_training_set, fitted, grown
from incdet.training.increment import train as train_phase
from incdet.training.log import RunLog
from incdet.training.schedule import Lengths, Phase
from incdet.training.train_step import TrainStep

METHODS = ("finetune", "eeil", "cldetr", "incdet-mixup")
STEPS = 20
PLAN = {"batch_size": 4, "optimizer": "sgd", "lr": 0.01, "warmup": 0, "schedule": "constant", "clip": 5.0}
GENTLE = {"cldetr": 0.003}
"""Learning rates of methods that left the bound by rounding with the plan's, on one processor (1.4e-5 at step 6).

The network makes 3e-4 of a weight's last digit at either rate: it is another path, not a calmer one.
"""
EXTENSION = ("memory.total=8", "train.increment.iterations=3", "train.finetune.iterations=2", "train.increment.lr=0.01")


# --- a few steps


def settings(folder: Path, accumulation: int = 1) -> Config:
    return tiny_settings(
        folder / "run",
        train={"increment": {"iterations": STEPS, **PLAN}},
        engine={"accumulation": accumulation, "workers": 0, "device": "cpu", "log_every": 1},
        data={"root": str(folder / "shapes")},
    )


def learn(
    folder: Path, logs: Path, accumulation: int = 1, methods: Sequence[str] = METHODS
) -> dict[str, dict[str, Any]]:
    """By method, the ``losses`` of every optimiser step, the ``state`` of the student and the ``pieces`` of a batch.

    Args:
        folder: Holds, or gets, the images.
        logs: Of this process.
        accumulation: Pieces of a batch.
        methods: What to learn with.
    """
    config = settings(folder, accumulation)
    source, protocol = prepare_data(config)
    first, view = (step_view(source.train, protocol, step) for step in (1, 2))
    before = sure_network(protocol.steps[0])
    memory = Memory.empty(Budget(total=6)).update(first.records, first.names, selection="random", seed=0)
    found = {}
    for name in methods:
        place = logs / name
        with RunLog(place) as log:
            engine = Engine(config.engine, log)
            shop = Workshop(engine, config, Lengths(config.train, [9, 9]), place)
            word, *parts = name.split("-")
            student, method = grown(config, before, view), get_method(word, parts).speaking()
            teachers = {"old": Teacher(before)} if method.teachers else {}
            method = fitted(shop, method, Teaching(teachers, method.terms), view, memory)
            records, plan = build_training_set(view, memory, method), config.train.increment
            plan = plan.model_copy(update={"lr": GENTLE.get(name, plan.lr)})
            train_phase(shop, student, method, teachers, records, plan, STEPS, Phase(2, "train"))
        found[name] = {"losses": losses_of(place), "state": student.state_dict(), "pieces": engine.accumulation}
    return found


def losses_of(place: Path) -> list[dict[str, float]]:
    """The losses of every step; none on a process that keeps no log."""
    if not (place / "log.jsonl").is_file():
        return []
    lines = [line for line in unsealed_lines(place / "log.jsonl") if line is not None]
    skipped = ("time", "event", "phase", "images_per_second")
    return [
        {key: value for key, value in line.items() if key not in skipped} for line in lines if line["event"] == "train"
    ]


def half_empty(rank: int, world: int) -> Callable[[int], Iterator[Batch]]:
    """Batches of four images, of which the last two hold no box; a second process has these."""

    def batches(drawn: int) -> Iterator[Batch]:
        for number in count(drawn):
            images = [
                torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(4 * number + place)) for place in range(4)
            ]
            targets = [target([BOX], [number % 2]), target([BOX], [0]), target(), target()]
            mine = slice(4 * rank // world, 4 * (rank + 1) // world)
            yield images[mine], targets[mine]

    return batches


def learn_half_empty(logs: Path, accumulation: int = 1) -> dict[str, Tensor]:
    """The weights after a few steps on them."""
    model = network()
    model.freeze_norm()
    with RunLog(logs) as log:
        engine = Engine(Settings(device="cpu", workers=0, accumulation=accumulation), log)
        engine.say("all of us")
        if engine.processes.rank == 1:
            engine.say("I alone")
        batches = half_empty(engine.processes.rank, engine.processes.world)
        engine.fit(model, Plain(model), batches, schedule(batch_size=4), 5, phase="x")
    return model.state_dict()


@contextmanager
def little_memory(rank: int) -> Iterator[None]:
    """The second process has the memory for one image at a time."""
    whole = MethodCriterion.__call__

    def short(self: Any, outputs: Any, targets: Any, totals: Any) -> dict[str, Tensor]:
        if rank == 1 and len(outputs.logits) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(self, outputs, targets, totals)

    MethodCriterion.__call__ = short  # type: ignore[method-assign]
    try:
        yield
    finally:
        MethodCriterion.__call__ = whole  # type: ignore[method-assign]


@contextmanager
def at_step(number: int, act: Callable[[], object]) -> Iterator[None]:
    """``act`` is called in the middle of an optimiser step, counted from 1."""
    whole, steps = TrainStep.__call__, count(1)

    def watched(self: TrainStep, *args: Any, **more: Any) -> Any:
        if next(steps) == number:
            act()
        return whole(self, *args, **more)

    TrainStep.__call__ = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        TrainStep.__call__ = whole  # type: ignore[method-assign]


# --- whole runs


def run_settings(folder: Path, name: str, **changes: Any) -> Config:
    """Two steps with copied exemplars, a ragged last test batch, and a teacher whose answers pay to be kept."""
    return tiny_settings(
        folder / name,
        protocol={"steps": "3+3"},
        model={"frozen_norm": True},  # live BatchNorm would see the images of each process alone
        train={
            "base": {"iterations": 4, **PLAN},
            "increment": {"iterations": 14, "lr": 0.01},
            "finetune": {"iterations": 2, "warmup": 0},
        },
        augment={"flip": 0},
        memory={"total": 6, "copy_images": True},
        evaluation={"batch_size": 2, "samples": 1},
        data={"root": str(folder / changes.pop("data", "shapes"))},
        **changes,
    )


def extend(folder: Path, name: str, checkpoint: Path) -> None:
    """Two classes more for a detector, from annotations that lie in ``folder``."""
    own = folder / "own"
    incdet.extend(checkpoint, own / "annotations.json", own / "images", output=folder / name, overrides=EXTENSION)


class Jobs:
    """Does one job after another and notes how each ended here."""

    def __init__(self, folder: Path, rank: int) -> None:
        self.told: dict[str, Any] = {}
        self._file = folder / f"told_{rank}.json"

    def do(self, name: str, job: Callable[[], Any]) -> None:
        start = time.monotonic()
        try:
            value = job()
            outcome = {"value": value if isinstance(value, int | str) else None}
        except BaseException as error:
            outcome = {"error": type(error).__name__, "text": str(error), "relayed": is_relayed(error)}
        self.told[name] = {**outcome, "seconds": time.monotonic() - start}
        self._file.write_text(json.dumps(self.told))


def work(folder: Path) -> None:
    """Everything that the tests look at."""
    from incdet.training.processes import Processes

    processes = Processes("cpu")
    rank, found, jobs = processes.rank, dict[str, Any](), Jobs(folder, processes.rank)
    logs = folder / "processes"
    found["found"] = learn(folder, logs)
    with little_memory(rank):
        found["short"] = learn(folder, logs / "short", methods=("finetune",))
    found["half_empty"] = learn_half_empty(logs / "half")
    sums = processes.summed(torch.tensor([float(rank + 1)]))
    parts = [{"a": torch.tensor(1), "b": torch.tensor(2.5)}] * 2
    found["facts"] = {
        "world": processes.world,
        "sum": float(sums),
        "ranks": processes.gathered(rank),
        "shared": processes.shared(f"from {rank}"),
        "highest": processes.highest([rank, -rank]),
        "share": processes.gathered(processes.share(range(7), 2)),
        "totals": {name: float(value) for name, value in processes.totals(parts).items()},
    }
    if processes.main:
        torch.save(found, folder / "several.pt")
    jobs.do("whole", lambda: train(run_settings(folder, "whole")))
    setattr(incdet.app.steps, "write_report", lambda folder: None)  # noqa: B010  (one report is enough)
    with at_step(9, lambda: signal.raise_signal(signal.SIGTERM) if rank == 1 else None):
        jobs.do("terminated", lambda: main(["train", "--config", str(folder / "terminated.yaml")]))
    jobs.do("resumed", lambda: train(run_settings(folder, "resumed"), resume=True))
    jobs.do("locked", lambda: main(["train", "--config", str(folder / "locked.yaml")]))
    jobs.do("torn", lambda: train(run_settings(folder, "torn", data="torn_shapes")))
    jobs.do("extended", lambda: extend(folder, "extended", folder / "whole" / "step_2"))
    with at_step(3, lambda: os._exit(9) if rank == 1 else None):
        jobs.do("died", lambda: main(["train", "--config", str(folder / "died.yaml")]))


if __name__ == "__main__":
    work(Path(sys.argv[1]))
    os._exit(0)  # the group has lost a process: there is nothing to be closed
