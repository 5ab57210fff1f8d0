"""Cached responses: what the teacher says about every image of a phase, asked once instead of at every draw.

With one image size and no augmentation but the flip, a draw of an image is one of two pictures, and the teacher, which
never changes, has one answer to each; the annotations beside it never change either, so that it is kept as decided.
An entry is computed on the picture in its own canvas (its size rounded up to the padding's multiple). In a batch of
that canvas it equals the teacher's online: bit for bit if it was filled in batches of that size, else to what the
blocking of convolutions by batch size leaves (1e-5 of logits of about 5 on a CPU). In a batch that a larger image has
padded further, all anchors are moved to the same level, row, column and shape. What is lost is what the teacher would
have made of the padding beyond the canvas: near its right and lower border, and on levels whose stride torchvision
rounds to the canvas.

Shape letters: B images of a batch, L levels, N rows of responses, E entries (an image, flipped or not).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from incdet.data.augment import Changes, changed_boxes
from incdet.data.dataset import DetectionDataset, make_loader
from incdet.data.dataset import Key as Draw
from incdet.distillation.cache_file import Archive
from incdet.distillation.pseudo_labels import PseudoLabels
from incdet.distillation.teacher import Decide, Request, Teacher
from incdet.distillation.teacher_targets import BatchTargets, TeacherTargets
from incdet.distillation.terms import Responses
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.ops.assign import BACKGROUND, IGNORED, Assignment

EARLY = 0.1
"""Share of the entries after which the size of all of them is foreseen."""
MARGIN = 1.2
"""How much more than the budget a foreseen size must be for filling to stop early."""


class Consultation(NamedTuple):
    """A teacher, and what is done with it.

    Attributes:
        teacher: On the device.
        question: What it is asked.
        decide: What the method makes of an answer.
        terms: Names of the method's terms.
        rule: All that ``decide`` depends on, as a text: two equal rules decide alike.
    """

    teacher: Teacher
    question: Request
    decide: Decide
    terms: tuple[str, ...]
    rule: str


class CachedProvider:
    """Answers for a teacher from an archive; the device never has to be waited for.

    Args:
        archive: Holds an entry for everything that will be drawn.
        terms: Names of the method's terms, in the order of the archive's ``rows``.
        anchors_per_cell: Anchors at one position of a level.
    """

    def __init__(self, archive: Archive, terms: Sequence[str], anchors_per_cell: int) -> None:
        self._archive, self._terms, self._per_cell = archive, tuple(terms), anchors_per_cell

    def __call__(self, prepared: ImageBatch, dense: HeadOutputs, truth: BatchTargets) -> TeacherTargets:
        """What the teacher says about a batch whose targets tell ``index`` and ``flipped``."""
        archive, device = self._archive, dense.logits.device
        images, anchors = dense.logits.shape[:2]
        drawn = [(int(target["index"]), int(target["flipped"])) for target in truth.targets]
        entries = archive.entry[tuple(zip(*drawn, strict=True))]
        if min(entries.tolist()) < 0:
            raise KeyError(f"of the draws {drawn} (index, flipped) one was not foreseen")
        stretches = [
            _stretches(ends, entries)
            for ends in (archive.row_ends, archive.positive_ends, archive.between_ends, archive.void_ends)
        ]
        rows, positive, between, void = (place for place, _ in stretches)
        image = torch.cat([owner for _, owner in stretches])
        anchor = torch.cat(
            [
                archive.row_anchor[rows],
                archive.positive_anchor[positive],
                archive.between_anchor[between],
                archive.void_anchor[void],
            ]
        )
        grid = torch.tensor([feature.shape[-2:] for feature in dense.features])
        anchor = self._moved(anchor, image, archive.grids[entries], grid)
        counts = archive.positive_ends[entries + 1] - archive.positive_ends[entries]
        lengths = [len(place) for place, _ in stretches]
        # One copy to the device for each type of number.
        where, at, column, gone, positives = _sent(
            [image, anchor, archive.positive_column[positive], archive.void_column[void], counts], device
        )
        logits, deltas, boxes = _sent(
            [archive.logits[rows], archive.deltas[rows], archive.positive_box[positive]], device
        )
        heard, free, channels = _sent(
            [archive.rows[rows], archive.positive_free[positive], archive.channels[entries]], device
        )
        own, accepted, _, doubtful = zip(torch.split(where, lengths), torch.split(at, lengths), strict=True)
        flat = torch.split(where * anchors + at, lengths)
        matched = torch.full((images * anchors,), BACKGROUND, dtype=torch.int64, device=device)
        matched.index_fill_(0, flat[2], IGNORED).index_fill_(0, flat[1], 0)
        assignment = Assignment(matched.view(images, anchors), *accepted, column, boxes, positives)
        return TeacherTargets(
            Responses(*own, logits, deltas, {}),
            {name: heard[:, number] for number, name in enumerate(self._terms)},
            PseudoLabels(assignment, free, (*doubtful, gone), channels) if archive.channels.shape[1] else None,
        )

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
    criterion: Consultation,
    student: IncrementalRetinaNet,
    dataset: DetectionDataset,
    flips: Sequence[bool],
    *,
    budget: int,
    canvas: tuple[int, int] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Archive | None:
    """Asks the teacher about every image of ``dataset`` in each of ``flips``, under the autocast of the caller.

    Random generators are left as they are.

    Args:
        criterion: The teacher, on its device, what it is asked, and what the method makes of its answers.
        student: Prepares the images as it will while training, whose mode it must be in.
        dataset: Without augmentation.
        flips: False for the images as they are, True for flipped ones, or both.
        budget: Bytes the archive may take.
        canvas: (H, W) that the training pads every batch to; by default each picture has its own.
        batch_size: Pictures of a forward.
        workers: Processes that read images.
        progress: Told (entries done, entries in all).

    Returns:
        The archive, or None as soon as it is clear that it exceeds the budget.
    """
    entry = torch.full((len(dataset), 2), -1, dtype=torch.int64)
    total, done, held = len(dataset) * len(flips), 0, 0
    parts: list[tuple[Tensor, ...]] = []
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
            prepared = student.prepare(pictures, truths, canvas=canvas)
        parts.append(_ask(criterion, prepared, len(student.vocab)))
        for number, flipped in enumerate(flips):
            entry[index, int(flipped)] = torch.arange(len(index)) + done + number * len(index)
        done += len(pictures)
        held += sum(values.nbytes for values in parts[-1])
        if held > budget or (done >= EARLY * total and held * total > MARGIN * budget * done):
            return None
        if progress is not None:
            progress(done, total)
    joined = dict(zip(Archive._fields[1:], (torch.cat(values) for values in zip(*parts, strict=True)), strict=True))
    return Archive(entry, **{name: _ends(part) if name.endswith("_ends") else part for name, part in joined.items()})


@torch.no_grad()
def _ask(criterion: Consultation, prepared: ImageBatch, columns: int) -> tuple[Tensor, ...]:
    """What the teacher says about a batch, on the host, as the archive's fields; counts in place of ends."""
    dense = criterion.teacher(prepared)
    truth = BatchTargets.read(prepared.targets or [], dense.anchors, columns)
    responses, rows, labels = criterion.decide(criterion.teacher.excerpt(dense, prepared, criterion.question), truth)
    images, count = len(truth.targets), len(dense.anchors)
    nothing = responses.image.new_zeros(0)
    accepted, free, void, channels = labels or (None, nothing.bool(), (nothing,) * 3, nothing.bool().view(0, 0))
    if accepted is None:
        accepted = Assignment(nothing, nothing, nothing, nothing, responses.deltas[:0], nothing)
        channels = channels.new_zeros((images, 0))
    between = (accepted.matched == IGNORED).flatten().nonzero().squeeze(1)
    heard = torch.stack([*rows.values()], dim=1) if rows else nothing.bool().view(0, 0)
    parts = (
        torch.tensor([feature.shape[-2:] for feature in dense.features]).expand(images, -1, 2),
        channels,
        _counts(responses.image, images),
        responses.anchor,
        responses.logits,
        responses.deltas,
        heard,
        _counts(accepted.image, images),
        accepted.anchor,
        accepted.column,
        accepted.boxes,
        free,
        _counts(between // count, images),
        between % count,
        _counts(void[0], images),
        void[1],
        void[2],
    )
    return tuple(part.cpu() for part in parts)


def _drawn(dataset: DetectionDataset, target: Mapping[str, Any], width: int, flipped: bool) -> dict[str, Any]:
    """The target of an image ``width`` pixels wide as the training's pipeline gives it with or without a flip."""
    boxes, rows = changed_boxes(target["boxes"].numpy(), width, Changes(flipped=flipped))
    return dataset.target(target["index"], boxes, rows, flipped)


def _counts(image: Tensor, images: int) -> Tensor:
    return torch.bincount(image.cpu(), minlength=images)


def _equal_canvases(dataset: DetectionDataset, divisible: int, size: int) -> list[list[Draw]]:
    """Batches of images whose canvases are equal, in an order of which any part is a fair sample of the whole."""
    groups: dict[tuple[int, int], list[Draw]] = {}
    for index, place in enumerate(dataset.places):
        canvas = (-(-place.height // divisible), -(-place.width // divisible))
        groups.setdefault(canvas, []).append((0, index))
    batches = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    random.Random(0).shuffle(batches)
    return batches


def _ends(counts: Tensor) -> Tensor:
    """Where each of the (E,) stretches begins, and where the last one ends: (E + 1,)."""
    return pad(counts.cumsum(dim=0), (1, 0))


def _stretches(ends: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """The places (N,) of the stretches of ``entries`` (B,), and the position in ``entries`` that each belongs to."""
    starts, counts = ends[entries], ends[entries + 1] - ends[entries]
    owner = torch.arange(len(entries)).repeat_interleave(counts)
    before = counts.cumsum(dim=0) - counts
    return torch.arange(len(owner)) + (starts - before)[owner], owner


def _sent(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Host tensors of one type on ``device``, in one copy from pinned memory: any other would make the host wait."""
    joined = torch.cat([part.flatten() for part in parts])
    if device.type != "cpu":
        joined = joined.pin_memory().to(device, non_blocking=True)
    pieces = torch.split(joined, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]
