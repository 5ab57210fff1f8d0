"""The engine: batch, forward, losses, guard, backward, clip, step, log. It knows nothing of methods or steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from incdet.config import Engine as EngineConfig
from incdet.config import Schedule
from incdet.errors import InputError, TrainingError
from incdet.journal import Journal
from incdet.model import Dense, IncrementalRetinaNet, Prepared

Batch = tuple[Sequence[Tensor], Sequence[Mapping[str, Any]]]
Batches = Callable[[int], Iterable[Batch]]
"""Number of batches already drawn -> the endless rest of the stream; a pure function of its argument."""


class Lesson(Protocol):
    """What a phase of training minimises: named scalars whose sum is the loss of the batch."""

    def __call__(self, dense: Dense, prepared: Prepared) -> dict[str, Tensor]:
        """Scalars of one batch."""
        ...


class Progress(Protocol):
    """Something that is told how far a phase is, and what was decided for it."""

    def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
        """``done`` of ``total`` optimiser steps of ``phase``; ``loss`` is a running mean."""
        ...

    def say(self, text: object) -> None:
        """A line for the person who waits."""
        ...


class Engine:
    """Trains detectors on one device or, under ``accelerate launch``, on several.

    With ``device=cpu`` a run is a pure function of its seed. On a GPU the order of the additions in convolution
    gradients is not fixed, so two runs agree only to rounding unless ``torch.use_deterministic_algorithms`` is on.

    Args:
        settings: Section ``engine`` of the configuration.
        journal: Receives a line every ``log_every`` optimiser steps.
        progress: Told after every optimiser step.
    """

    def __init__(self, settings: EngineConfig, journal: Journal, progress: Progress | None = None) -> None:
        # accelerate keeps one state a process and refuses a second precision; a new engine starts afresh.
        AcceleratorState._reset_state()
        if settings.device.startswith("cuda:"):
            torch.cuda.set_device(settings.device)
        precision = {"off": "no"}.get(settings.precision, settings.precision)
        self.accelerator = Accelerator(cpu=settings.device == "cpu", mixed_precision=precision)
        self.settings = settings
        self.journal = journal
        self.progress = progress

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return torch.device(self.accelerator.device)

    def say(self, text: str) -> None:
        """Puts a choice that was made for the user on the screen and into the log."""
        self.journal.write("message", text=text)
        if self.progress is not None and self.accelerator.is_main_process:
            self.progress.say(text)

    def fit(
        self,
        model: IncrementalRetinaNet,
        lesson: Lesson,
        batches: Batches,
        schedule: Schedule,
        iterations: int,
        *,
        phase: str,
        state: Path | None = None,
    ) -> None:
        """Trains ``model`` in place for ``iterations`` optimiser steps.

        Args:
            model: The student; moved to the device and left in training mode.
            lesson: The loss.
            batches: Micro-batches: ``accumulation`` of them make an optimiser step.
            schedule: Optimiser and learning rate.
            iterations: Optimiser steps in all, those before an interruption included.
            phase: Name in the log.
            state: File to resume from if it exists, written every ``checkpoint_every`` steps, on Ctrl-C and at the
                end; resuming gives the weights of an uninterrupted run, bit for bit on a CPU.

        Raises:
            TrainingError: A loss was not finite; batch and random state lie beside ``state``.
        """
        model.to(self.device).train()
        optimizer = make_optimizer(model, schedule)
        student: nn.Module = model
        if self.accelerator.num_processes > 1:
            student = self.accelerator.prepare_model(model)
        stepper = self.accelerator.prepare_optimizer(optimizer)
        progress = _Phase(model, optimizer, self.accelerator.scaler, state)
        done = progress.restore(self.device)
        stream = iter(batches(done * self.settings.accumulation))
        meter = _Meter()
        with _Interrupt() as interrupt:
            while done < iterations:
                random = torch.get_rng_state()
                try:
                    prepared = self._draw(model, stream)
                except InputError:
                    # An image that cannot be read: the weights are sound, and nothing of this iteration has happened.
                    progress.store(done, random)
                    raise
                _set_rate(optimizer, learning_rate(schedule, done, iterations))
                losses = self._accumulate(student, lesson, prepared, state, done, random)
                if schedule.clip is not None:
                    self.accelerator.clip_grad_norm_(model.parameters(), schedule.clip)
                stepper.step()
                stepper.zero_grad()
                done += 1
                meter.add(losses, schedule.batch_size)
                with interrupt.listening():
                    self._report(meter, optimizer, phase, done, iterations)
                if interrupt.came or done % self.settings.checkpoint_every == 0 or done == iterations:
                    progress.store(done, torch.get_rng_state())
                if interrupt.came:
                    raise KeyboardInterrupt

    def _draw(self, model: IncrementalRetinaNet, stream: Iterator[Batch]) -> list[Prepared]:
        """The prepared micro-batches of one optimiser step, all of them before anything is computed."""
        return [model.prepare(*move(next(stream), self.device)) for _ in range(self.settings.accumulation)]

    def _accumulate(
        self,
        student: nn.Module,
        lesson: Lesson,
        batches: Sequence[Prepared],
        state: Path | None,
        done: int,
        random: Tensor,
    ) -> dict[str, float]:
        """Forward and backward of the micro-batches of one optimiser step; returns their mean losses."""
        sums: dict[str, float] = {}
        count = len(batches)
        for number, prepared in enumerate(batches, start=1):
            with nullcontext() if number == count else self.accelerator.no_sync(student):
                with self.accelerator.autocast():
                    losses = lesson(student(prepared), prepared)
                total = torch.stack(list(losses.values())).sum()
                values = torch.stack([total.detach(), *(loss.detach() for loss in losses.values())]).tolist()
                if not all(math.isfinite(value) for value in values):
                    _refuse(losses, prepared, state, done, random)
                self.accelerator.backward(total / count)
            for name, value in zip(["loss", *losses], values, strict=True):
                sums[name] = sums.get(name, 0.0) + value / count
        return sums

    def _report(self, meter: _Meter, optimizer: torch.optim.Optimizer, phase: str, done: int, total: int) -> None:
        if not self.accelerator.is_main_process:
            return
        if self.progress is not None:
            self.progress(phase, done, total, meter.mean("loss"))
        if done % self.settings.log_every == 0 or done == total:
            rate = optimizer.param_groups[0]["lr"]
            self.journal.scalars(phase, {**meter.take(), "lr": rate}, done)


def learning_rate(schedule: Schedule, done: int, total: int) -> float:
    """The rate of the optimiser step after ``done`` of ``total``: linear warm-up, then the schedule's course.

    It is our own function of the global step because accelerate advances a prepared scheduler once a process.
    """
    warmup = min(schedule.warmup, max(1, total // 2))
    if done < warmup:
        return schedule.lr * (done + 1) / warmup
    if schedule.schedule == "cosine":
        return schedule.lr * 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, total - warmup)))
    if schedule.schedule == "step":
        return float(schedule.lr * 0.1 ** sum(done >= share * total for share in schedule.milestones))
    return schedule.lr


def make_optimizer(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """A fused optimiser over the parameters that train: the fused form is the fastest on CPU and GPU alike."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if schedule.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, fused=True)
    return torch.optim.SGD(
        parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay, fused=True
    )


def device_named(name: str) -> torch.device:
    """``cpu``, ``cuda`` or ``cuda:1`` as they say; ``auto`` is the GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def move(batch: Batch, device: torch.device) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """The batch with every tensor on ``device``."""
    images, targets = batch

    def moved(value: Any) -> Any:
        return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

    boxed = [{key: moved(value) for key, value in target.items()} for target in targets]
    return [moved(image) for image in images], boxed


class _Meter:
    """Means of the losses since the last line of the log, and images a second."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0
        self._images = 0
        self._start = time.perf_counter()

    def add(self, losses: Mapping[str, float], images: int) -> None:
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._count += 1
        self._images += images

    def mean(self, name: str) -> float:
        return self._sums.get(name, 0.0) / max(1, self._count)

    def take(self) -> dict[str, float]:
        rate = self._images / max(1e-9, time.perf_counter() - self._start)
        means = {name: round(self.mean(name), 6) for name in self._sums} | {"images_per_second": round(rate, 2)}
        self.__init__()  # type: ignore[misc]
        return means


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


class _Phase:
    """What a phase resumes from: weights, optimiser, loss scale, random state and the number of steps done."""

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any | None, path: Path | None
    ) -> None:
        self._parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
        if scaler is not None:
            self._parts["scaler"] = scaler
        self._path = path

    def store(self, done: int, random: Tensor) -> None:
        """Writes the file whole or not at all."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".tmp")
        values = {name: part.state_dict() for name, part in self._parts.items()}
        torch.save({**values, "done": done, "rng": random}, temporary)
        temporary.replace(self._path)

    def restore(self, device: torch.device) -> int:
        """Loads the file, if there is one; returns the optimiser steps it had done."""
        if self._path is None or not self._path.is_file():
            return 0
        values = torch.load(self._path, map_location=device, weights_only=True)
        for name, part in self._parts.items():
            part.load_state_dict(values[name])
        torch.set_rng_state(values["rng"].cpu())
        return int(values["done"])


class _Interrupt:
    """Ctrl-C is heard when an iteration is whole, for half of one cannot be taken up again.

    A second one stops at once; the last stored state stands then.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes a KeyboardInterrupt raised inside for a Ctrl-C that came between two iterations."""
        try:
            yield
        except KeyboardInterrupt:
            self.came = True

    def _hear(self, *_: object) -> None:
        self.came = True
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


def _refuse(losses: Mapping[str, Tensor], prepared: Prepared, state: Path | None, done: int, random: Tensor) -> None:
    """Saves the batch as the network saw it, and the random state it was prepared from."""
    values = {name: float(loss.detach()) for name, loss in losses.items()}
    saved = "nothing was saved"
    if state is not None:
        path = state.with_name("nonfinite.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({**prepared._asdict(), "rng": random, "iteration": done}, path)
        saved = f"batch and random state are in {path}"
    raise TrainingError(
        f"loss is not finite at iteration {done + 1}: {values}; {saved}; lower the learning rate, lengthen the "
        "warm-up, set a clip, or use engine.precision=off"
    )
