"""Pseudo-labels: the teacher's detections stand in for the classes that an image does not annotate, in three zones.

A detection of an uncovered class with a score of at least ``high`` is a positive; between ``low`` and ``high`` its
anchors are ignored for that class alone; everything else is background.

Shape letters: B images, A anchors, K student columns, O <= K teacher columns, N detections, P positive anchors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torchvision.ops import box_iou

from incdet.data.records import Record
from incdet.distillation.teacher import TeacherOutputs
from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.term import Answers, PlainTerm, StepData
from incdet.distillation.thresholds import Thresholds, fit_thresholds
from incdet.evaluation.detections import Detections, detect
from incdet.evaluation.scoring import match
from incdet.network.retinanet import HeadOutputs
from incdet.ops.assign import BACKGROUND, IGNORED, Assignment
from incdet.ops.losses import ClassTargets, box_loss

FIT_IMAGES = 400
"""Images of a step that the two-means thresholds are fitted on; more change them little and cost a forward each."""

# Pairs of a doubtful box and an anchor whose overlap is computed at once.
CPU_PAIRS = 1 << 20
GPU_PAIRS = 1 << 26


class PseudoLabels(PlainTerm):
    """Focal and box loss on the teacher's detections, divided by the batch's own pseudo-positive anchors.

    An image without any is background for the old classes; divided by its own count it would weigh as much as an
    object, so the batch shares one normaliser.
    """

    name: ClassVar[str] = "pseudo_labels"
    needs: ClassVar[frozenset[str]] = frozenset({"logits", "deltas"})
    highest: float = Field(0.7, ge=0, le=1)
    """Upper bound of the threshold of a positive."""
    lowest: float = Field(0.15, ge=0, le=1)
    """Lower bound of the threshold of a positive: a class seen in few exemplars must not switch itself off."""
    low_share: float = Field(0.5, ge=0, le=1)
    """Detections above this share of the threshold are doubtful: neither positive nor background."""
    duplicate_iou: float = Field(0.7, ge=0, le=1)
    """A detection that overlaps an annotated box by more is that object under an old name: dropped."""
    ignore_iou: float = Field(0.4, ge=0, le=1)
    """Anchors that overlap a doubtful box by at least this are ignored for its class."""
    fitted: Thresholds | None = Field(None, exclude=True)

    def fit(self, step: StepData) -> PseudoLabels:
        """With thresholds: the cut of best F1 on the exemplars, two means of the scores on the step's images elsewhere.

        Says how many boxes will be positives, and how many of them lie on annotated objects.
        """
        model, size = step.teachers["old"].model, step.batch_size
        names = model.vocab.names
        sample = step.records[:: max(1, math.ceil(len(step.records) / FIT_IMAGES))]
        found = detect(model, sample, batch_size=size)
        scores = [_scores([*found.values()], column) for column in range(len(names))]
        exemplars = [replace(record, image_id=number) for number, record in enumerate(step.exemplars)]
        guesses = detect(model, exemplars, batch_size=size)
        matches = [match(exemplars, guesses, names, name) if exemplars else None for name in names]
        thresholds = fit_thresholds(scores, matches, bounds=(self.lowest, self.highest), low_share=self.low_share)
        positives, touching = _on_objects(sample, found, thresholds, self.duplicate_iou)
        step.say(
            f"pseudo-labels: {positives:,} boxes in {len(sample):,} of the step's images, "
            f"{touching:,} of them on annotated objects (IoU 0.4 to {self.duplicate_iou:g})"
        )
        return self.model_copy(update={"fitted": thresholds})

    def targets(self, answers: Answers, batch: BatchTargets) -> TermTargets:
        """The anchors of the accepted boxes, those between them and background, and the doubtful entries."""
        if self.fitted is None:
            raise ValueError("the thresholds of pseudo-labels are fitted to a step first")
        teacher = answers["old"]
        return pseudo_targets(teacher, batch, self.fitted.widened(teacher.logits.shape[-1]), self)

    def count(self, targets: Any, batch: BatchTargets) -> Tensor:
        """The number of pseudo-positive anchors."""
        return batch.anchors.new_full((), len(targets["positive"].image))

    def class_targets(self, targets: Any, batch: BatchTargets, total: Tensor) -> ClassTargets | None:
        """The focal loss on the channels that nobody annotated and the teacher knows."""
        ignored: Entries = targets["ignored"]
        assignment = _assignment(targets, batch)
        scale = total.clamp(min=1).expand(len(assignment.positives))
        return ClassTargets(
            assignment, targets["uncovered"]["channels"], (ignored.image, ignored.anchor, ignored["column"]), scale
        )

    def losses(
        self, student: HeadOutputs, targets: Any, batch: BatchTargets, total: Tensor, focal: Tensor | None
    ) -> dict[str, Tensor]:
        """``pseudo_focal`` and ``pseudo_box``, the latter on anchors that no annotated object has taken."""
        assignment = _assignment(targets, batch)._replace(mask=targets["positive"]["free"])
        scale = total.clamp(min=1).expand(len(assignment.positives))
        boxes = box_loss(student.deltas, batch.anchors, assignment, kind=batch.box_kind, normaliser=scale)
        found = {} if focal is None else {"pseudo_focal": self.weight * focal}
        return {**found, "pseudo_box": self.weight * boxes}


@torch.no_grad()
def pseudo_targets(
    teacher: TeacherOutputs, batch: BatchTargets, thresholds: Thresholds, rule: PseudoLabels
) -> dict[str, Entries]:
    """What the teacher's detections mean for the channels that nobody annotated.

    The whole batch is one list of boxes, so that a GPU is asked as often for thirty images as for one.

    Returns:
        ``positive``: places of the accepted boxes, with ``column``, ``box`` (P, 4) and ``free``, True where no
        annotated object has taken the anchor: these alone may pull a box. ``between``: anchors that are neither
        positive nor background. ``ignored``: doubtful entries, with ``column``. ``uncovered``: one an image, with
        ``channels`` (B, K), those that the teacher speaks for.
    """
    # Rounded down: a device that errs in the last digit asks the same question when a run is resumed.
    found = teacher.detections(math.floor(1000 * min(thresholds.low, default=0.0)) / 1000)
    boxes, scores, labels = (torch.cat([one[key] for one in found]) for key in ("boxes", "scores", "labels"))
    high, low = (torch.tensor(part, device=boxes.device) for part in thresholds)
    image, channels = _owners(found, boxes.device), uncovered_channels(batch.trained, len(high))
    truth = torch.cat([target["boxes"] for target in batch.targets])
    owner = _owners(batch.targets, boxes.device)
    usable = channels[image, labels] & (scores >= low[labels])
    if len(boxes) and len(truth):
        stranger = image[:, None] != owner
        usable &= box_iou(boxes, truth).masked_fill_(stranger, 0).amax(dim=1) <= rule.duplicate_iou
    sure = usable & (scores >= high[labels])
    fixed = torch.cat(
        [target["ignore"] if "ignore" in target else _none_of(target["boxes"]) for target in batch.targets]
    )
    accepted = _regroup(
        torch.cat([boxes, truth]),
        torch.cat([labels, torch.zeros_like(owner)]),
        torch.cat([image, owner]),
        torch.cat([sure, fixed]),
        len(boxes),
        len(batch.targets),
    )
    assignment = teacher.teacher.model.match(batch.anchors, accepted).compact()
    doubtful = (usable & ~sure).nonzero().squeeze(1)
    row, place = _near(boxes[doubtful], batch.anchors, rule.ignore_iou)
    ignored = Entries(image[doubtful[row]], place, {"column": labels[doubtful[row]]})
    free = batch.untaken(assignment.image, assignment.anchor)
    everywhere = torch.arange(len(batch.targets), device=boxes.device)
    return {
        "positive": Entries(
            assignment.image,
            assignment.anchor,
            {"column": assignment.column, "box": assignment.boxes, "free": free},
        ),
        "between": Entries.of(assignment.matched == IGNORED),
        "ignored": _without_positives(ignored, assignment, batch.trained.shape[1]),
        "uncovered": Entries(everywhere, torch.zeros_like(everywhere), {"channels": channels}),
    }


def uncovered_channels(coverage: Tensor, columns: int) -> Tensor:
    """The channels (B, K) bool that nobody annotated and a teacher of ``columns`` classes speaks for."""
    known = torch.arange(coverage.shape[1], device=coverage.device) < columns
    return ~coverage & known


def _assignment(targets: Mapping[str, Entries], batch: BatchTargets) -> Assignment:
    """The anchors of the accepted boxes; no step of it waits for a device."""
    positive, between = targets["positive"], targets["between"]
    images, anchors = len(batch.targets), len(batch.anchors)
    matched = positive.image.new_full((images * anchors,), BACKGROUND)
    matched.index_fill_(0, between.flat(anchors), IGNORED).index_fill_(0, positive.flat(anchors), 0)
    counts = positive.image.new_zeros(images).index_add_(0, positive.image, torch.ones_like(positive.image))
    return Assignment(
        matched.view(images, anchors), positive.image, positive.anchor, positive["column"], positive["box"], counts
    )


def _scores(found: Sequence[Detections], column: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.concatenate([np.zeros(0, np.float32), *(item.scores[item.labels == column] for item in found)])


def _on_objects(
    records: Sequence[Record], found: Mapping[int, Detections], thresholds: Thresholds, most: float
) -> tuple[int, int]:
    """How many detections will be positives, and how many of those overlap an annotated object by 0.4 to ``most``."""
    high = np.asarray(thresholds.high, np.float32)
    positives = touching = 0
    for record in records:
        item = found[record.image_id]
        sure = torch.from_numpy(item.boxes[item.scores >= high[item.labels]])
        overlap = torch.zeros(len(sure))
        if len(sure) and len(record.boxes):
            overlap = box_iou(sure, torch.from_numpy(record.boxes.copy())).amax(dim=1)
        positives += int((overlap <= most).sum())
        touching += int(((overlap >= 0.4) & (overlap <= most)).sum())
    return positives, touching


def _owners(parts: Sequence[Mapping[str, Tensor]], device: torch.device) -> Tensor:
    """The image of every box of a batch, (N,) int64."""
    counts = torch.tensor([len(part["boxes"]) for part in parts], dtype=torch.int64)
    return torch.arange(len(parts)).repeat_interleave(counts).to(device, non_blocking=True)


def _none_of(boxes: Tensor) -> Tensor:
    return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)


def _regroup(
    boxes: Tensor, labels: Tensor, image: Tensor, kept: Tensor, border: int, images: int
) -> list[dict[str, Tensor]]:
    """The ``kept`` (N,) boxes as targets, one an image, in their order; those from ``border`` on are to be ignored."""
    rows = kept.nonzero().squeeze(1)
    rows = rows[image[rows].argsort(stable=True)]
    held = torch.zeros(images, dtype=torch.int64, device=image.device)
    counts = held.index_add_(0, image[rows], torch.ones_like(rows)).tolist()
    columns = (torch.split(values, counts) for values in (boxes[rows], labels[rows], rows >= border))
    return [dict(zip(("boxes", "labels", "ignore"), one, strict=True)) for one in zip(*columns, strict=True)]


def _near(boxes: Tensor, anchors: Tensor, iou: float) -> tuple[Tensor, Tensor]:
    """Rows and anchors of all pairs that overlap by at least ``iou``, both (P,) int64."""
    step = max(1, (GPU_PAIRS if boxes.is_cuda else CPU_PAIRS) // max(1, len(anchors)))
    rows, places = [boxes.new_zeros(0, dtype=torch.int64)], [boxes.new_zeros(0, dtype=torch.int64)]
    for start in range(0, len(boxes), step):
        row, place = (box_iou(boxes[start : start + step], anchors) >= iou).nonzero(as_tuple=True)
        rows.append(row + start)
        places.append(place)
    return torch.cat(rows), torch.cat(places)


def _without_positives(ignored: Entries, assignment: Assignment, columns: int) -> Entries:
    """The ignored entries that no accepted box has made positive."""
    anchors = assignment.matched.shape[1]
    keys = ignored.flat(anchors) * columns + ignored["column"]
    taken = (assignment.image * anchors + assignment.anchor) * columns + assignment.column
    return ignored.only((~torch.isin(keys, taken)).nonzero().squeeze(1))
