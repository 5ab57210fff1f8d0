"""A step whose loss or gradient is not finite: noticed without waiting, saved whole, and done again at leisure."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from incdet.config import Schedule
from incdet.config.architecture import EXTERNAL, Architecture
from incdet.distillation.teacher_targets import BatchTargets, Entries, Targets
from incdet.errors import Finding, InputError, TrainingError
from incdet.methods.method import Method
from incdet.methods.registry import get_method, settings_tree
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.training.criterion import MethodCriterion
from incdet.training.digested import first_sentence, load_digested, save_digested
from incdet.training.processes import Processes
from incdet.training.train_step import Losses, Precision, TrainStep
from incdet.vocab import Vocabulary

FORMAT = "incdet failed step 1"
FAILED_STEP = "nonfinite.pt"
"""Beside the states of a run."""
FIXES = "lower the learning rate, lengthen the warm-up, set a clip, or use engine.precision=off, and resume"


class Attempt(NamedTuple):
    """One optimiser step, as it was tried.

    Attributes:
        batch: As the network saw it.
        targets: Of each piece of it.
        random: State of the host's random generator before the batch was prepared.
        done: Optimiser steps before it.
        rate: Learning rate.
    """

    batch: ImageBatch
    targets: Sequence[Targets]
    random: Tensor
    done: int
    rate: float


class NonFiniteCheck:
    """Reads losses back and stops at one that is not finite, with its step saved.

    On a GPU the reading of a step is awaited when the next one has been launched, so that the GPU never idles for it.

    Args:
        save: Writes the failed step, and says where in words.
        lag: Optimiser steps that may be launched before an earlier one is read.
        gradients: Whether a gradient that is not finite stops too; a loss scaler expects some.
    """

    def __init__(self, save: Callable[[Attempt], str], lag: int, *, gradients: bool = True) -> None:
        self._save, self._lag, self._gradients = save, lag, gradients
        self._waiting: deque[tuple[Losses, torch.cuda.Event | None, Attempt]] = deque()

    def watch(self, losses: Losses, attempt: Attempt) -> None:
        """Starts the copy of the losses of a step to the host, and keeps what they came from."""
        values, copied = losses.values, None
        if values.is_cuda:
            values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            values.copy_(losses.values, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self._waiting.append((losses._replace(values=values), copied, attempt))

    def read(self, *, everything: bool = False) -> Iterator[dict[str, float]]:
        """The losses of the steps that are due, oldest first; with ``everything`` of all that were watched.

        Raises:
            TrainingError: A loss, or the gradient, was not finite.
        """
        while len(self._waiting) > (0 if everything else self._lag):
            losses, copied, attempt = self._waiting.popleft()
            if copied is not None:
                copied.synchronize()
            values = dict(zip(losses.names, losses.values.tolist(), strict=True))
            bad = [name for name, value in values.items() if not math.isfinite(value)]
            if bad and (self._gradients or bad != ["gradient"]):
                what = "gradient" if bad == ["gradient"] else "loss"
                raise TrainingError(
                    f"{what} is not finite at iteration {attempt.done + 1}: {values}; {self._save(attempt)}; {FIXES}"
                )
            yield values


def save_failure(
    path: Path, model: IncrementalRetinaNet, method: Method | None, schedule: Schedule, attempt: Attempt
) -> str:
    """Writes all that is needed to do a failed step again (``replay``); returns where it is, in words."""
    tensors = {key: value for key, value in attempt.batch._asdict().items() if key not in ("stem", "static")}
    values = {
        "format": FORMAT,
        "architecture": model.architecture.to_json(),
        "vocabulary": model.vocab.to_json(),
        "model": model.state_dict(),
        "trainable": model.trainable_names(),
        "method": None if method is None else [method.name.split("-")[0], method.name.split("-")[1:]],
        "settings": {} if method is None else settings_tree(method),
        "schedule": schedule.model_dump(mode="json"),
        "batch": tensors,
        "terms": [_plain(targets) for targets in attempt.targets],
        "rate": attempt.rate,
        "rng": attempt.random,
        "iteration": attempt.done,
    }
    save_digested(path, values)
    return f"batch, weights and random state are in {path}: incdet replay {path}"


def replay(path: Path, dtype: torch.dtype | None = None) -> dict[str, float]:
    """Does a saved step again, on the CPU: the losses by name, with the sum ``loss`` and the norm ``gradient``.

    Args:
        path: What a failed run left.
        dtype: Of autocast; None computes in float32.

    Raises:
        InputError: The file is missing, cut off, from something else, or of a detector that cannot be rebuilt.
    """
    values = read_failure(path)
    architecture = Architecture.from_json(values["architecture"])
    if architecture.backbone == EXTERNAL:
        raise _refused(path, "is of a detector with an external backbone", "replay it where that module is at hand")
    model = IncrementalRetinaNet(architecture, Vocabulary.from_json(values["vocabulary"]))
    model.load_state_dict(values["model"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in values["trainable"])
    name, without = values["method"] or ("masked", [])
    if name == "base":  # step 1 is no method by name: what its images cover, as masked trains it
        name = "masked"
    method = get_method(name, without, {name: values["settings"]} if values["settings"] else None)
    batch = ImageBatch(**values["batch"])
    step = TrainStep(
        Processes("cpu"),
        Precision("cpu", dtype),
        model.train(),
        _Stored(MethodCriterion(method, model), iter(values["terms"])),
        Schedule.model_validate_json(json.dumps(values["schedule"])),
        len(values["terms"]),
    )
    losses, _ = step(batch, values["rate"])
    return dict(zip(losses.names, losses.values.tolist(), strict=True))


class _Stored:
    """A method's criterion whose teachers' answers were written down."""

    needs_features = False

    def __init__(self, criterion: MethodCriterion, terms: Iterator[Mapping[str, Any]]) -> None:
        self._criterion, self._terms = criterion, terms

    def targets(self, batch: ImageBatch) -> Targets:
        method = self._criterion.method
        own = BatchTargets.read(self._criterion.student, batch, masked=method.masked)
        stored = next(self._terms)
        terms = {term: {name: Entries(**entries) for name, entries in lists.items()} for term, lists in stored.items()}
        return method.targets(own, {term.name: terms[term.name] for term in method.terms if term.name in terms})

    def __call__(self, outputs: HeadOutputs, targets: Targets, totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._criterion(outputs, targets, totals)


def _plain(targets: Targets) -> dict[str, Any]:
    """What the terms keep, as nested dicts of tensors; whole feature maps are left out."""
    return {
        term: {
            name: {"image": one.image.cpu(), "anchor": one.anchor.cpu(), "values": _on_host(one.values)}
            for name, one in lists.items()
            if isinstance(one, Entries)
        }
        for term, lists in targets.terms.items()
        if all(isinstance(one, Entries) for one in lists.values())
    }


def _on_host(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in values.items()}


def read_failure(path: Path) -> dict[str, Any]:
    """What a failed run left of the step that failed.

    Raises:
        InputError: The file is missing, damaged or from something else.
    """
    if not path.is_file():
        raise _refused(path, "does not exist", "give the nonfinite.pt that a failed run names")
    try:
        values = load_digested(path, "cpu")
    except Exception as fault:  # torch raises whatever its parts do
        problem = f"cannot be read ({first_sentence(fault)})"
        raise _refused(path, problem, "it is cut off, damaged or no file of incdet: train again") from fault
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise _refused(path, "is no failed step of this incdet", "give the nonfinite.pt that a failed run names")
    return values


def _refused(path: Path, problem: str, fix: str) -> InputError:
    return InputError(Finding(str(path), "failed step", problem, fix))
