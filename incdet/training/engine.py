"""The engine: batch, forward, losses, guard, backward, clip, step, log. It knows nothing of methods or steps."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch

from incdet.config import Engine as EngineConfig
from incdet.config import Schedule
from incdet.data.cache import MIB, ImageCache
from incdet.errors import Finding, InputError
from incdet.network.bn_folding import folded_once
from incdet.network.cuda_graph import graph_of
from incdet.network.device import device_named
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.training.batches import Batch, Batches
from incdet.training.criterion import Criterion
from incdet.training.failure import FAILED_STEP, Attempt, NonFiniteCheck, save_failure
from incdet.training.interrupt import Interrupt
from incdet.training.log import RunLog
from incdet.training.phase_state import PhaseState
from incdet.training.processes import Processes
from incdet.training.schedule import learning_rate, noise_deviation
from incdet.training.train_step import Precision, TrainStep


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
    """Trains detectors in one process or, under ``torchrun`` or ``accelerate launch``, in several.

    With ``device=cpu`` a run is a pure function of its seed and the number of threads. On a GPU the order of the
    additions in convolution gradients is not fixed, so two runs agree only to rounding unless ``engine.deterministic``.

    Args:
        settings: Section ``engine`` of the configuration.
        log: Receives a line every ``log_every`` optimiser steps.
        progress: Told after every optimiser step.

    Attributes:
        owner: Whose training it is, for the states it leaves; may be set between two phases.
        accumulation: Pieces of a batch; more than the settings say where the memory did not suffice.
    """

    def __init__(self, settings: EngineConfig, log: RunLog, progress: Progress | None = None) -> None:
        self.processes = Processes(settings.device)
        self.precision = chosen_precision(settings)
        self.settings = settings
        self.log = log
        self.progress = progress
        self.owner = ""
        self.accumulation = settings.accumulation
        self._said: list[str] = []

    @cached_property
    def images(self) -> ImageCache:
        """Resized images, for all phases: the methods and steps after the first find most of theirs."""
        return ImageCache(self.settings.image_cache * MIB // self.processes.local)

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self.processes.device

    @property
    def computing(self) -> Precision:
        """What the networks compute in."""
        dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
        return Precision(self.device.type, dtypes.get(self.precision))

    def describe(self) -> str:
        """The choices that depend on the device, in a line."""
        several = f", {self.processes.world} processes" if self.processes.world > 1 else ""
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
            return f"device: {name}, precision {self.precision}, channels last{several}"
        return f"device: {self.device.type}, {torch.get_num_threads()} threads, precision {self.precision}{several}"

    def say(self, text: str) -> None:
        """Puts a choice that was made for the user on the screen and into the log."""
        self.log.write("message", text=text)
        if self.progress is not None and self.processes.main:
            self.progress.say(text)
        if self.processes.world > 1:
            self._said.append(text)

    def advance(self, phase: str, done: int, total: int) -> None:
        """Tells how far a phase without a loss is."""
        if self.progress is not None and self.processes.main:
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
        images: int = 1,
        state: Path | None = None,
        canvas: tuple[int, int] | None = None,
    ) -> None:
        """Trains ``model`` in place for ``iterations`` optimiser steps.

        Args:
            model: The student; moved to the device and left in training mode.
            criterion: The loss.
            batches: One is an optimiser step of this process; ``accumulation`` cuts it into pieces.
            schedule: Optimiser and learning rate.
            iterations: Optimiser steps in all, those before an interruption included.
            phase: Name in the log.
            images: Of a pass, which the gradient's noise falls with.
            state: File to resume from if it exists, written every ``checkpoint_every`` steps, on Ctrl-C or SIGTERM
                and at the end; resuming gives the weights of an uninterrupted run, bit for bit on a CPU.
            canvas: (H, W) to pad every batch to. On a GPU the network then runs as one CUDA graph, if its norms are
                frozen and it proves equal; see ``incdet.network.cuda_graph``.

        Raises:
            TrainingError: A loss was not finite; what repeats the step lies beside ``state``.
        """
        self._place(model)
        with self.processes.talking():
            step = self._step(model, criterion, schedule, canvas)
            progress = PhaseState(model, step.optimizer, step.scaler, state, f"{self.owner} {phase}".strip())
            check = self._check(model, criterion, schedule, step, state)
            done = stored = self._resumed(progress)
        stream = iter(batches(done))
        meter = _Meter()
        with self.processes.talking(), Interrupt(patient=self.processes.world > 1) as interrupt, folded_once(model):
            while True:
                random, batch = torch.get_rng_state(), None
                own: BaseException | None = interrupt.came
                if done < iterations and own is None:
                    batch, own = _next_batch(model, stream, canvas)
                asked = [own is not None, batch is not None and step.may_overflow(batch)]
                stops, careful = self.processes.highest(asked)
                if stops and stored != done:
                    # A state is stored only when all its losses are known to have been finite.
                    for values in check.read(everything=True):
                        meter.add(values, schedule.batch_size)
                    self._store(progress, done, random)
                if (stop := self.processes.stop_of(own, stops)) is not None:
                    raise stop
                if batch is None:
                    break
                rate = learning_rate(schedule, done, iterations)
                noise = noise_deviation(schedule, done, images)
                losses, targets = step(batch, rate, noise=noise, careful=bool(careful) or self.processes.world == 1)
                check.watch(losses, Attempt(batch, targets, random, done, rate))
                done += 1
                stores = done % self.settings.checkpoint_every == 0 or done == iterations
                for values in check.read(everything=stores):
                    meter.add(values, schedule.batch_size)
                with interrupt.listening():
                    self._report(meter, rate, phase, done, iterations)
                if stores:
                    self._store(progress, done, torch.get_rng_state())
                    stored = done
        self.accumulation = step.accumulation
        self._gather_messages()

    def _resumed(self, progress: PhaseState) -> int:
        """Optimiser steps that are done already; every process reads them for itself."""
        self.processes.wait()  # rank 0 may have been writing
        done = self.processes.together(lambda: progress.restore(self.device))
        if len(set(self.processes.gathered(done))) > 1:
            problem, fix = "is not seen by all processes alike", "put the run folder on a disk that all machines share"
            raise InputError(Finding(str(progress.path), "state of a phase", problem, fix))
        return done

    def _store(self, progress: PhaseState, done: int, random: torch.Tensor) -> None:
        """Rank 0 writes for all, who hear it if the disk refuses; their random states are the same."""
        self.processes.once(lambda: progress.store(done, random))

    def _gather_messages(self) -> None:
        """Puts into the log what a process said that rank 0 did not."""
        for rank, texts in enumerate(self.processes.gathered(self._said)):
            for text in texts:
                if text not in self._said:
                    self.log.write("message", text=text, process=rank)
        self._said.clear()

    def _place(self, model: IncrementalRetinaNet) -> None:
        model.to(self.device).train()
        if self.device.type == "cuda":
            model.to(memory_format=torch.channels_last)

    def _step(
        self,
        model: IncrementalRetinaNet,
        criterion: Criterion,
        schedule: Schedule,
        canvas: tuple[int, int] | None,
    ) -> TrainStep:
        graph = None
        accumulation = self.accumulation
        # A replay writes its gradients where those of the one before lie, which a second piece still needs.
        if canvas is not None and self.processes.world == accumulation == 1:
            graph = graph_of(model, self.precision, self.say, features=criterion.needs_features)
        return TrainStep(self.processes, self.computing, model, criterion, schedule, accumulation, graph, self.say)

    def _check(
        self,
        model: IncrementalRetinaNet,
        criterion: Criterion,
        schedule: Schedule,
        step: TrainStep,
        state: Path | None,
    ) -> NonFiniteCheck:
        def save(attempt: Attempt) -> str:
            if state is None:
                return "nothing was saved"
            method = getattr(criterion, "method", None)
            return save_failure(state.with_name(FAILED_STEP), model, method, schedule, attempt)

        return NonFiniteCheck(save, 1 if self.device.type == "cuda" else 0, gradients=step.scaler is None)

    def _report(self, meter: _Meter, rate: float, phase: str, done: int, total: int) -> None:
        if not self.processes.main:
            return
        if self.progress is not None:
            self.progress(phase, done, total, meter.mean("loss"))
        if done % self.settings.log_every == 0 or done == total:
            self.log.scalars(phase, {**meter.take(), "lr": rate}, done)


def _next_batch(
    model: IncrementalRetinaNet, stream: Iterator[Batch], canvas: tuple[int, int] | None
) -> tuple[ImageBatch | None, InputError | None]:
    """The batch, or why an image of it cannot be read: the weights are sound, and nothing of the step has happened."""
    try:
        return model.prepare(*next(stream), canvas=canvas), None
    except InputError as error:
        return None, error


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
