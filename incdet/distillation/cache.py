"""Cached teachers: what they say about every image of a phase, asked once instead of at every draw.

With one image size and no augmentation but the flip, a draw of an image is one of two pictures, and the teachers, which
never change, have one answer to each; the annotations beside it never change either, so that what is kept is what the
terms make of both. An entry is computed on the picture in its own canvas (its size rounded up to the padding's
multiple). In a batch of that canvas it equals the teachers' online: bit for bit if it was filled in batches of that
size, else to what the blocking of convolutions by batch size leaves (1e-5 of logits of about 5 on a CPU). In a batch
that a larger image has padded further, all anchors are moved to the same level, row, column and shape. What is lost is
what the teachers would have made of the padding beyond the canvas: near its right and lower border, and on levels whose
stride torchvision rounds to the canvas.

Shape letters: B images of a batch, L levels, N places, E entries (an image, flipped or not).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from incdet.data.augment import Changes, changed_boxes
from incdet.data.dataset import DetectionDataset, make_loader
from incdet.data.dataset import Key as Draw
from incdet.distillation.cache_file import CachedTargets, Ragged
from incdet.distillation.provider import Teaching
from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.network.targets import move_together

EARLY = 0.1
"""Share of the entries after which the size of all of them is foreseen."""
MARGIN = 1.2
"""How much more than the budget a foreseen size must be for filling to stop early."""


class CachedProvider:
    """Answers for teachers from a cache; the device never has to be waited for.

    Args:
        cached: Holds an entry for everything that will be drawn.
        student: Whose batches come.
    """

    def __init__(self, cached: CachedTargets, student: IncrementalRetinaNet) -> None:
        self._cached, self._student = cached, student
        self._per_cell = student.architecture.anchors_per_cell

    def __call__(self, batch: ImageBatch, targets: BatchTargets) -> Mapping[str, TermTargets]:
        """What the terms keep for a batch whose targets tell ``index`` and ``flipped``."""
        drawn = [(int(target["index"]), int(target["flipped"])) for target in targets.targets]
        entries = self._cached.entry[tuple(zip(*drawn, strict=True))]
        if min(entries.tolist()) < 0:
            raise KeyError(f"of the draws {drawn} (index, flipped) one was not foreseen")
        grid = torch.tensor(self._student.grids(batch))
        found = {}
        for name, ragged in self._cached.lists.items():
            places = ragged.stretches(entries)
            anchor = self._moved(places.anchor, places.image, self._cached.grids[entries], grid)
            found[name] = replace(places, anchor=anchor)
        return _grouped(_sent(found, batch.images.device))

    def _moved(self, anchor: Tensor, image: Tensor, grids: Tensor, grid: Tensor) -> Tensor:
        """The anchors (N,) of canvases with ``grids`` (B, L, 2), at the same places of the one with ``grid`` (L, 2)."""
        ends = (grids.prod(dim=2) * self._per_cell).cumsum(dim=1)
        level = (anchor[:, None] >= ends[image]).sum(dim=1)
        place = anchor - pad(ends, (1, 0))[image, level]
        cell, shape = place // self._per_cell, place % self._per_cell
        width = grids[image, level, 1]
        starts = pad((grid.prod(dim=1) * self._per_cell).cumsum(dim=0), (1, 0))
        return starts[level] + ((cell // width) * grid[level, 1] + cell % width) * self._per_cell + shape


def fill(
    teaching: Teaching,
    student: IncrementalRetinaNet,
    dataset: DetectionDataset,
    flips: Sequence[bool],
    *,
    budget: int,
    masked: bool = True,
    canvas: tuple[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> CachedTargets | None:
    """Asks the teachers about every image of ``dataset`` in each of ``flips``, under the autocast of the caller.

    Random generators are left as they are.

    Args:
        teaching: The teachers, on their device, and the terms that listen.
        student: Prepares the images as it will while training, whose mode it must be in.
        dataset: Without augmentation.
        flips: False for the images as they are, True for flipped ones, or both.
        budget: Bytes that may be kept.
        masked: See ``BatchTargets.read``.
        canvas: (H, W) that the training pads every batch to; by default each picture has its own.
        batch_size: Pictures of a forward.
        workers: Processes that read images.
        progress: Told (entries done, entries in all).

    Returns:
        What is kept, or None as soon as it is clear that it exceeds the budget.
    """
    entry = torch.full((len(dataset), 2), -1, dtype=torch.int64)
    total, done, held = len(dataset) * len(flips), 0, 0
    lists: dict[str, list[tuple[Entries, int]]] = {}
    grids = []
    batches = _equal_canvases(dataset, student.architecture.size_divisible, max(1, batch_size // len(flips)))
    for images, targets in make_loader(dataset, batches, workers):
        index = torch.tensor([target["index"] for target in targets])
        pictures = [image.flip(-1) if flipped else image for flipped in flips for image in images]
        truths = [
            _drawn(dataset, target, image.shape[-1], flipped)
            for flipped in flips
            for image, target in zip(images, targets, strict=True)
        ]
        with torch.random.fork_rng(devices=[]):  # preparing a batch for training draws its size
            batch = student.prepare(pictures, truths, canvas=canvas)
        for name, entries in _asked(teaching, student, batch, masked).items():
            lists.setdefault(name, []).append((entries, len(pictures)))
            held += sum(part.nbytes for part in (entries.anchor, *entries.values.values()))
        grids.append(torch.tensor(student.grids(batch)).expand(len(pictures), -1, 2))
        for number, flipped in enumerate(flips):
            entry[index, int(flipped)] = torch.arange(len(index)) + done + number * len(index)
        done += len(pictures)
        if held > budget or (done >= EARLY * total and held * total > MARGIN * budget * done):
            return None
        if progress is not None:
            progress(done, total)
    cached = CachedTargets(entry, torch.cat(grids), {name: Ragged.joined(parts) for name, parts in lists.items()})
    return cached if cached.nbytes <= budget else None


def _asked(teaching: Teaching, student: IncrementalRetinaNet, batch: ImageBatch, masked: bool) -> dict[str, Entries]:
    """What the terms keep of a batch, on the host, by ``term/list``."""
    kept = teaching.targets(batch, BatchTargets.read(student, batch, masked=masked))
    found: dict[str, Entries] = {}
    for term, lists in kept.items():
        for name, entries in lists.items():
            if not isinstance(entries, Entries):
                raise TypeError(f"{term} keeps whole maps of {name}, which are never cached")
            values = {key: value.cpu() for key, value in entries.values.items()}
            found[f"{term}/{name}"] = Entries(entries.image.cpu(), entries.anchor.cpu(), values)
    return found


def _sent(found: Mapping[str, Entries], device: torch.device) -> dict[str, Entries]:
    """The entries on ``device``, in one copy for each type of number: any other would make the host wait."""
    parts = [part for one in found.values() for part in (one.image, one.anchor, *one.values.values())]
    moved = iter(move_together(parts, device))
    return {
        name: Entries(next(moved), next(moved), {key: next(moved) for key in one.values}) for name, one in found.items()
    }


def _grouped(found: Mapping[str, Entries]) -> dict[str, TermTargets]:
    """Entries by ``term/list`` as lists by term."""
    terms: dict[str, dict[str, Entries]] = {}
    for name, entries in found.items():
        term, _, kind = name.partition("/")
        terms.setdefault(term, {})[kind] = entries
    return {**terms}


def _drawn(dataset: DetectionDataset, target: Mapping[str, Any], width: int, flipped: bool) -> dict[str, Any]:
    """The target of an image ``width`` pixels wide as the training's pipeline gives it with or without a flip."""
    boxes, rows = changed_boxes(target["boxes"].numpy(), width, Changes(flipped=flipped))
    return dataset.target(target["index"], boxes, rows, flipped)


def _equal_canvases(dataset: DetectionDataset, divisible: int, size: int) -> list[list[Draw]]:
    """Batches of images whose canvases are equal, in an order of which any part is a fair sample of the whole."""
    groups: dict[tuple[int, int], list[Draw]] = {}
    for index, place in enumerate(dataset.places):
        canvas = (-(-place.height // divisible), -(-place.width // divisible))
        groups.setdefault(canvas, []).append((0, index))
    batches = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    random.Random(0).shuffle(batches)
    return batches
