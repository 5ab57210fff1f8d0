"""The engine: batch, forward, losses, guard, backward, clip, step, log. It knows nothing of methods or steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from incdet.config import Engine as EngineConfig
from incdet.config import Schedule
from incdet.errors import InputError, Terminated
from incdet.files import replacing
from incdet.network.bn_folding import folded_once
from incdet.network.cuda_graph import graph_of
from incdet.network.device import device_named
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.training.log import RunLog
from incdet.training.train_step import Criterion, NonFiniteCheck, TrainStep

Batch = tuple[Sequence[Tensor], Sequence[Mapping[str, Any]]]
Batches = Callable[[int], Iterable[Batch]]
"""Number of batches already drawn -> the endless rest of the stream; a pure function of its argument."""


class Progress(Protocol):
    """Something that is told how far a phase is, and what was decided for it."""

    def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
        """``done`` of ``total`` optimiser steps of ``phase``; ``loss`` is a running mean."""
        ...

    def advance(self, phase: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of a phase that has no loss."""
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
        log: Receives a line every ``log_every`` optimiser steps.
        progress: Told after every optimiser step.
    """

    def __init__(self, settings: EngineConfig, log: RunLog, progress: Progress | None = None) -> None:
        # accelerate keeps one state a process and refuses a second precision; a new engine starts afresh.
        AcceleratorState._reset_state()
        if settings.device.startswith("cuda:"):
            torch.cuda.set_device(settings.device)
        self.precision = chosen_precision(settings)
        self.accelerator = Accelerator(
            cpu=device_named(settings.device, "key engine.device").type == "cpu",
            mixed_precision={"off": "no"}.get(self.precision, self.precision),
        )
        self.settings = settings
        self.log = log
        self.progress = progress

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return torch.device(self.accelerator.device)

    def describe(self) -> str:
        """The choices that depend on the device, in a line."""
        if self.device.type == "cuda":
            return f"device: {torch.cuda.get_device_name(self.device)}, precision {self.precision}, channels last"
        return f"device: {self.device.type}, {torch.get_num_threads()} threads, precision {self.precision}"

    def say(self, text: str) -> None:
        """Puts a choice that was made for the user on the screen and into the log."""
        self.log.write("message", text=text)
        if self.progress is not None and self.accelerator.is_main_process:
            self.progress.say(text)

    def advance(self, phase: str, done: int, total: int) -> None:
        """Tells how far a phase without a loss is."""
        if self.progress is not None and self.accelerator.is_main_process:
            self.progress.advance(phase, done, total)

    def fit(
        self,
        model: IncrementalRetinaNet,
        criterion: Criterion,
        batches: Batches,
        schedule: Schedule,
        iterations: int,
        *,
        phase: str,
        state: Path | None = None,
        canvas: tuple[int, int] | None = None,
    ) -> None:
        """Trains ``model`` in place for ``iterations`` optimiser steps.

        Args:
            model: The student; moved to the device and left in training mode.
            criterion: The loss.
            batches: Micro-batches: ``accumulation`` of them make an optimiser step.
            schedule: Optimiser and learning rate.
            iterations: Optimiser steps in all, those before an interruption included.
            phase: Name in the log.
            state: File to resume from if it exists, written every ``checkpoint_every`` steps, on Ctrl-C or SIGTERM
                and at the end; resuming gives the weights of an uninterrupted run, bit for bit on a CPU.
            canvas: (H, W) to pad every batch to. On a GPU the network then runs as one CUDA graph, if its norms are
                frozen and it proves equal; see ``incdet.network.cuda_graph``.

        Raises:
            TrainingError: A loss was not finite; batch and random state lie beside ``state``.
        """
        model.to(self.device).train()
        if self.device.type == "cuda":
            model.to(memory_format=torch.channels_last)
        graph = None
        # A replay writes its gradients where those of the one before lie, which a second micro-batch still needs.
        if canvas is not None and self.accelerator.num_processes == self.settings.accumulation == 1:
            graph = graph_of(model, self.precision, self.say)
        iteration = TrainStep(self.accelerator, model, criterion, schedule, network=graph)
        progress = _Phase(model, iteration.optimizer, self.accelerator.scaler, state)
        guard = NonFiniteCheck(state, lag=1 if self.device.type == "cuda" else 0)
        done = progress.restore(self.device)
        stream = iter(batches(done * self.settings.accumulation))
        meter = _Meter()
        with _Interrupt() as interrupt, folded_once(model):
            while done < iterations:
                random = torch.get_rng_state()
                try:
                    prepared = self._draw(model, stream, canvas)
                except InputError:
                    # An image that cannot be read: the weights are sound, and nothing of this iteration has happened.
                    progress.store(done, random)
                    raise
                rate = learning_rate(schedule, done, iterations)
                guard.watch(iteration(prepared, rate), prepared, random, done)
                done += 1
                stores = done % self.settings.checkpoint_every == 0 or done == iterations
                for losses in guard.read(everything=stores):
                    meter.add(losses, schedule.batch_size)
                with interrupt.listening():
                    self._report(meter, rate, phase, done, iterations)
                if interrupt.came or stores:
                    # A state is stored only when all its losses are known to have been finite.
                    for losses in guard.read(everything=True):
                        meter.add(losses, schedule.batch_size)
                    progress.store(done, torch.get_rng_state())
                if interrupt.came:
                    raise interrupt.came

    def _draw(
        self, model: IncrementalRetinaNet, stream: Iterator[Batch], canvas: tuple[int, int] | None
    ) -> list[ImageBatch]:
        """The prepared micro-batches of one optimiser step, all of them before anything is computed."""
        return [model.prepare(*next(stream), canvas=canvas) for _ in range(self.settings.accumulation)]

    def _report(self, meter: _Meter, rate: float, phase: str, done: int, total: int) -> None:
        if not self.accelerator.is_main_process:
            return
        if self.progress is not None:
            self.progress(phase, done, total, meter.mean("loss"))
        if done % self.settings.log_every == 0 or done == total:
            self.log.scalars(phase, {**meter.take(), "lr": rate}, done)


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


def chosen_precision(settings: EngineConfig) -> str:
    """``auto`` is bfloat16 on a GPU that computes in it; on a CPU it would be several times slower than float32."""
    if settings.precision != "auto":
        return settings.precision
    on_gpu = device_named(settings.device).type == "cuda"
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "off"


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
        values = {name: part.state_dict() for name, part in self._parts.items()}
        with replacing(self._path) as draft, draft.open("wb") as handle:
            torch.save({**values, "done": done, "rng": random}, handle)

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
    """Ctrl-C and SIGTERM are heard when an iteration is whole, for half of one cannot be taken up again.

    A second one stops at once; the last stored state stands then.
    """

    def __init__(self) -> None:
        self.came: KeyboardInterrupt | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Interrupt:
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
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
