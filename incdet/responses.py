"""Cached responses: what the teacher says about every image of a phase, asked once instead of at every draw.

With one image size and no augmentation but the flip, a draw of an image is one of two pictures, and the teacher, which
never changes, has one answer to each. An entry is computed on the picture in its own canvas (its size rounded up to the
padding's multiple). In a batch of that canvas it equals the teacher's answer there, to what the blocking of
convolutions by batch size leaves (1e-5 of logits of about 5 on a CPU). In a batch that a larger image has padded
further, rows are moved to the same level, row, column and anchor shape; they then lack what the teacher would have made
of the padding beyond the canvas: the reach of its border, and the last levels' strides, which torchvision rounds.

Shape letters: I images, E entries (an image, flipped or not), N rows, O teacher columns, L levels, D detections.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from incdet.archive import Archive, Key, load, save
from incdet.batches import plain_images
from incdet.config import Config
from incdet.data.cache import MIB
from incdet.data.dataset import DetectionDataset, collate
from incdet.data.dataset import Key as Draw
from incdet.data.records import Record
from incdet.distill import Responses
from incdet.engine import Engine
from incdet.model import Dense, IncrementalRetinaNet, Prepared
from incdet.recipe import Recipe
from incdet.teacher import OnlineResponder, Question, Responder, Shadow, Teacher

EARLY = 0.1
"""Share of the entries after which the size of all of them is foreseen."""
MARGIN = 1.2
"""How much more than the budget a foreseen size must be for filling to stop early."""


WORTH = 1.25
"""Draws for each entry from which on filling pays: it costs a forward an entry, and reading what it found."""


class Lookup(NamedTuple):
    """A phase whose teacher is to answer.

    Attributes:
        teacher: On the engine's device.
        question: What it will be asked.
        student: On the engine's device; prepares the images.
        records: What the phase draws from.
        draws: Images it draws in all, on this process.
        phase: Its name.
        file: Where the archive lies while the step lasts.
    """

    teacher: Teacher
    question: Question
    student: IncrementalRetinaNet
    records: Sequence[Record]
    draws: int
    phase: str
    file: Path


def choose_responder(engine: Engine, work: Lookup, config: Config) -> Responder:
    """A cache of the teacher's responses where that is exact, pays and fits; else the teacher itself. Says which.

    After the cache is filled, or taken up from its file, the teacher leaves the device.
    """
    flips = [flipped for flipped, drawn in ((False, config.augment.flip < 1), (True, config.augment.flip > 0)) if drawn]
    reason = obstacle(work.question, work.student.recipe, config, work.draws, len(work.records) * len(flips))
    archive = None
    if reason is None:
        archive = _archive(engine, work, config, flips)
        reason = (
            f"responses of {len(work.records):,} images exceed engine.response_cache={config.engine.response_cache} MiB"
        )
    if archive is None:
        engine.say(f"teacher: online, because {reason}")
        return OnlineResponder(work.teacher, work.question)
    engine.say(f"teacher: responses of {len(work.records):,} images cached, {archive.nbytes / MIB:.1f} MiB")
    work.teacher.to("cpu")
    return CachedResponder(archive, work.question, work.student.recipe.anchors_per_cell)


def obstacle(question: Question, recipe: Recipe, config: Config, draws: int, entries: int) -> str | None:
    """Why the responses to ``entries`` pictures are not to be cached for ``draws`` draws; None if they are."""
    augment = config.augment
    if config.engine.response_cache == 0:
        return "engine.response_cache is 0"
    if any(selection.kind == "all" for selection in question.selections):
        return "the method listens to every anchor"
    if changing := [name for name in ("crop", "photometric", "scale") if getattr(augment, name)]:
        return f"augment.{changing[0]} makes every draw another picture"
    if len(recipe.min_size) > 1 and recipe.fixed_size is None and not recipe.skip_resize:
        return "model.min_size has several values, and every draw its own"
    if draws < WORTH * entries:
        return f"{draws:,} draws of {entries:,} pictures would not pay for asking about each"
    return None


def _archive(engine: Engine, work: Lookup, config: Config, flips: Sequence[bool]) -> Archive | None:
    """The archive from its file or filled anew; None where it exceeds the budget."""
    models = [model for model in (work.teacher.model, work.teacher.snapshot) if model is not None]
    geometry = {
        "recipe": [model.recipe.to_json() for model in models], "flips": [*flips], "precision": engine.precision,
        "selections": [[*selection] for selection in work.question.selections], "lowest": work.question.lowest,
    }  # fmt: skip
    key = Key.of([model.state_dict() for model in models], work.records, geometry)
    budget = config.engine.response_cache * MIB
    archive, fault = load(work.file, key)
    if archive is not None:
        return archive if archive.nbytes <= budget else None
    if fault:
        engine.say(f"teacher: {work.file} is not used, because {fault}")
    with engine.accelerator.autocast():
        archive = fill(
            work.teacher,
            work.question,
            work.student.train(),
            plain_images(engine, work.student, work.records, config),
            flips,
            budget=budget,
            batch_size=config.evaluation.batch_size,
            workers=min(config.engine.workers, os.cpu_count() or 1),
            progress=lambda done, total: engine.advance(f"{work.phase}: teacher", done, total),
        )
    if archive is not None and engine.accelerator.is_main_process:
        save(work.file, archive, key)
    return archive


class CachedResponder:
    """Answers for a teacher from an archive; the device never has to be waited for.

    Args:
        archive: Holds an entry for everything that will be drawn.
        question: What the archive was filled for.
        anchors_per_cell: Anchors at one position of a level.
    """

    def __init__(self, archive: Archive, question: Question, anchors_per_cell: int) -> None:
        self._archive, self._question, self._per_cell = archive, question, anchors_per_cell

    def __call__(self, prepared: Prepared, dense: Dense) -> Shadow:
        """The answer for a batch whose targets say ``index`` and ``flipped``, at the anchors of ``dense``."""
        archive, device = self._archive, dense.logits.device
        drawn = [(int(target["index"]), int(target["flipped"])) for target in prepared.targets or []]
        entries = archive.entry[tuple(zip(*drawn, strict=True))]
        rows, image, _ = _ranges(archive.row_ends, entries)
        grid = torch.tensor([feature.shape[-2:] for feature in dense.features])
        anchor = self._moved(archive.anchor[rows], image, archive.grids[entries], grid)
        heard = _sent(archive.heard[rows], device)
        responses = Responses(
            _sent(image, device),
            _sent(anchor, device),
            _sent(archive.logits[rows], device),
            _sent(archive.deltas[rows], device),
            {selection: heard[:, number] for number, selection in enumerate(self._question.selections)},
        )
        return Shadow(responses, None if self._question.lowest is None else self._detections(entries, device))

    def _moved(self, anchor: Tensor, image: Tensor, grids: Tensor, grid: Tensor) -> Tensor:
        """The anchors (N,) of canvases with ``grids`` (B, L, 2), at the same places of the one with ``grid`` (L, 2)."""
        ends = (grids.prod(dim=2) * self._per_cell).cumsum(dim=1)
        level = (anchor[:, None] >= ends[image]).sum(dim=1)
        place = anchor - torch.nn.functional.pad(ends, (1, 0))[image, level]
        cell, shape = place // self._per_cell, place % self._per_cell
        width = grids[image, level, 1]
        starts = torch.nn.functional.pad((grid.prod(dim=1) * self._per_cell).cumsum(dim=0), (1, 0))
        return starts[level] + ((cell // width) * grid[level, 1] + cell % width) * self._per_cell + shape

    def _detections(self, entries: Tensor, device: torch.device) -> list[dict[str, Tensor]]:
        archive = self._archive
        rows, _, counts = _ranges(archive.box_ends, entries)
        columns = (
            torch.split(_sent(values[rows], device), counts.tolist())
            for values in (archive.boxes, archive.scores, archive.labels)
        )
        return [dict(zip(("boxes", "scores", "labels"), one, strict=True)) for one in zip(*columns, strict=True)]


class _Part(NamedTuple):
    """The answers to one batch, as the archive's fields of the same names; counts in place of ends."""

    grids: Tensor
    rows: Tensor
    anchor: Tensor
    logits: Tensor
    deltas: Tensor
    heard: Tensor
    found: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor


def fill(
    teacher: Teacher,
    question: Question,
    student: IncrementalRetinaNet,
    dataset: DetectionDataset,
    flips: Sequence[bool],
    *,
    budget: int,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Archive | None:
    """Asks ``teacher`` about every image of ``dataset`` in each of ``flips``, under the autocast of the caller.

    Random generators are left as they are.

    Args:
        teacher: On its device.
        question: What it is asked.
        student: Prepares the images as it will while training, whose mode it must be in.
        dataset: Without augmentation.
        flips: False for the images as they are, True for flipped ones, or both.
        budget: Bytes the answers may take.
        batch_size: Pictures of a forward.
        workers: Processes that read images.
        progress: Told (entries done, entries in all).

    Returns:
        The archive, or None as soon as it is clear that it exceeds the budget.
    """
    entry = torch.full((len(dataset), 2), -1, dtype=torch.int64)
    total, done, held = len(dataset) * len(flips), 0, 0
    parts: list[_Part] = []
    batches = _equal_canvases(dataset, student.recipe.size_divisible, max(1, batch_size // len(flips)))
    for images, index in _images(dataset, batches, workers):
        pictures = [image.flip(-1) if flipped else image for flipped in flips for image in images]
        with torch.random.fork_rng(devices=[]):  # preparing a batch for training draws its size
            prepared = student.prepare(pictures)
        parts.append(_ask(teacher, question, prepared))
        for number, flipped in enumerate(flips):
            entry[index, int(flipped)] = torch.arange(len(index)) + done + number * len(index)
        done += len(pictures)
        held += sum(values.nbytes for values in parts[-1])
        if held > budget or (done >= EARLY * total and held * total > MARGIN * budget * done):
            return None
        if progress is not None:
            progress(done, total)
    grids, rows, anchor, logits, deltas, heard, found, boxes, scores, labels = (
        torch.cat(values) for values in zip(*parts, strict=True)
    )
    return Archive(entry, grids, _ends(rows), anchor, logits, deltas, heard, _ends(found), boxes, scores, labels)


def _ask(teacher: Teacher, question: Question, prepared: Prepared) -> _Part:
    """The teacher's answer to a batch, on the host."""
    dense = teacher(prepared)
    responses, detections = teacher.excerpt(dense, prepared, question)
    count = len(prepared.image_sizes)
    grids = torch.tensor([feature.shape[-2:] for feature in dense.features]).expand(count, -1, 2)
    heard = [responses.heard[selection] for selection in question.selections]
    found = detections or [_nothing(responses.logits)] * count
    return _Part(
        grids,
        torch.bincount(responses.image.cpu(), minlength=count),
        responses.anchor.cpu(),
        responses.logits.cpu(),
        responses.deltas.cpu(),
        (torch.stack(heard, dim=1) if heard else responses.logits.new_zeros((0, 0), dtype=torch.bool)).cpu(),
        torch.tensor([len(one["boxes"]) for one in found]),
        *(torch.cat([one[key] for one in found]).cpu() for key in ("boxes", "scores", "labels")),
    )


def _nothing(like: Tensor) -> dict[str, Tensor]:
    labels = like.new_zeros(0, dtype=torch.int64)
    return {"boxes": like.new_zeros((0, 4)), "scores": like.new_zeros(0), "labels": labels}


def _equal_canvases(dataset: DetectionDataset, divisible: int, size: int) -> list[list[Draw]]:
    """Batches of images whose canvases are equal, in an order of which any part is a fair sample of the whole."""
    groups: dict[tuple[int, int], list[Draw]] = {}
    for index, place in enumerate(dataset.places):
        canvas = (-(-place.height // divisible), -(-place.width // divisible))
        groups.setdefault(canvas, []).append((0, index))
    batches = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    random.Random(0).shuffle(batches)
    return batches


def _images(
    dataset: DetectionDataset, batches: list[list[Draw]], workers: int
) -> Iterator[tuple[list[Tensor], Tensor]]:
    """Images and their rows of the data set, batch by batch."""
    # With a generator of its own the loader leaves the training's random numbers alone.
    loader = DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, generator=torch.Generator()
    )
    for images, targets in loader:
        yield images, torch.tensor([target["index"] for target in targets])


def _ends(counts: Tensor) -> Tensor:
    """Where each of the (E,) stretches begins, and where the last one ends: (E + 1,)."""
    return torch.nn.functional.pad(counts.cumsum(dim=0), (1, 0))


def _ranges(ends: Tensor, entries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows (N,) of ``entries`` (B,), for each of them the position in ``entries``, and how many each has (B,)."""
    starts, counts = ends[entries], ends[entries + 1] - ends[entries]
    owner = torch.arange(len(entries)).repeat_interleave(counts)
    before = counts.cumsum(dim=0) - counts
    return torch.arange(len(owner)) + (starts - before)[owner], owner, counts


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """The host tensor on ``device``; from pinned memory, since the copy of any other makes the host wait."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)
