"""Detections of a test set and their score: COCO AP equal to pycocotools', VOC AP by the devkit's rules.

A test set is scored whole: every record given counts, whether or not it holds one of the classes, since leaving out
images without them hides false alarms. What a record does not cover is unknown, so a detection of an uncovered class
is neither right nor wrong there; in a fully annotated set, which is the rule, nothing is uncovered.
Shapes: N detections, M boxes, I images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from incdet.cocoeval import coco_scores
from incdet.matching import match_classes
from incdet.metrics import ClassScore, Interval, Matches, average_precision, bootstrap_change, precision_recall

if TYPE_CHECKING:
    from incdet.data.records import Record

__all__ = ["ClassScore", "Detections", "changes", "coco_scores", "detect", "match", "score"]


class Detections(NamedTuple):
    """What a detector found in one image, in the pixels of the image file.

    Attributes:
        boxes: (N, 4) float32 xyxy.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, index into the class names the scores are asked for.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Detections:
        """No detection."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def detect(
    model: torch.nn.Module,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    workers: int = 0,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Detections]:
    """Runs ``model`` in eval mode over ``records`` and returns its detections by image id.

    The model keeps the training mode it came with. On a GPU its weights are laid out channels last (the numbers stay),
    and the detections of a batch travel back while the next one is computed.

    Args:
        model: Called as ``model(images)`` with (3, H, W) float32 images in 0..1; returns a dict of ``boxes``,
            ``scores`` and ``labels`` (logit columns, 0-based) for every image.
        records: The test set; image ids are unique.
        batch_size: Images per forward.
        device: Where the images go; the model's own device if None.
        workers: Loader processes.
        precision: What a GPU computes in: ``off`` is float32, ``bf16`` and ``fp16`` are autocast, ``auto`` is bf16 for
            a detector of incdet, whose anchors and boxes stay float32, and float32 for any other model. A CPU always
            computes in float32.
        progress: Called with (images done, images in all) after every batch.

    Raises:
        ValueError: ``precision`` is none of the four.
    """
    from incdet.data.dataset import eval_loader

    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    device = torch.device(device)
    dtype = autocast_dtype(model, device, precision)
    on_gpu = device.type == "cuda"
    if on_gpu:
        model.to(memory_format=torch.channels_last)
    found: dict[int, Detections] = {}
    done, underway = 0, None
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
            for images, targets in eval_loader(records, batch_size, workers, pin_memory=on_gpu) if records else ():
                outputs = model([_as_floats(image.to(device, non_blocking=True)) for image in images])
                # The batch before lands only now: its copy had the time of this forward.
                if underway is not None:
                    found.update(underway.land())
                underway = _Flight.start([int(target["image_id"]) for target in targets], outputs)
                done += len(targets)
                if progress is not None:
                    progress(done, len(records))
            if underway is not None:
                found.update(underway.land())
    finally:
        for module, training in modes.items():
            module.training = training
    return found


def autocast_dtype(model: torch.nn.Module, device: torch.device, precision: str) -> torch.dtype | None:
    """What autocast computes in; None without autocast."""
    from incdet.model import IncrementalRetinaNet

    dtypes = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision == "auto":
        # torchvision computes anchors in the features' dtype: in bfloat16 two in five are off by up to 2 px.
        own = isinstance(model, IncrementalRetinaNet) and device.type == "cuda"
        precision = "bf16" if own and torch.cuda.is_bf16_supported(including_emulation=False) else "off"
    if precision not in dtypes:
        raise ValueError(f"precision must be auto, off, bf16 or fp16, not {precision!r}")
    return dtypes[precision] if device.type == "cuda" else None


def _as_floats(image: torch.Tensor) -> torch.Tensor:
    """An image as float32 in 0..1; uint8 is in 0..255."""
    return image if image.is_floating_point() else image.float().div_(255)


class _Flight(NamedTuple):
    """The detections of a batch on their way to the host, one copy for each kind."""

    image_ids: list[int]
    numbers: list[int]
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    landed: torch.cuda.Event | None

    @classmethod
    def start(cls, image_ids: list[int], outputs: Sequence[Mapping[str, torch.Tensor]]) -> _Flight:
        """Queues the copies and does not wait for them; ``outputs`` are those of the model, image by image."""
        if len(image_ids) != len(outputs):
            raise ValueError(f"the model returned {len(outputs)} results for {len(image_ids)} images")
        kinds = (("boxes", torch.float32), ("scores", torch.float32), ("labels", torch.int64))
        whole = [torch.cat([output[kind].detach().to(dtype) for output in outputs]) for kind, dtype in kinds]
        boxes, scores, labels = (values.to("cpu", non_blocking=True) for values in whole)
        landed = None
        if whole[0].is_cuda:
            landed = torch.cuda.current_stream(whole[0].device).record_event()
        return cls(
            image_ids, [len(output["scores"]) for output in outputs], boxes.reshape(-1, 4), scores, labels, landed
        )

    def land(self) -> Iterator[tuple[int, Detections]]:
        """Waits for the copies; image ids with their detections."""
        if self.landed is not None:
            self.landed.synchronize()
        parts = (torch.split(values, self.numbers) for values in (self.boxes, self.scores, self.labels))
        for image_id, boxes, scores, labels in zip(self.image_ids, *parts, strict=True):
            yield image_id, Detections(boxes.numpy(), scores.numpy(), labels.numpy())


def score(
    records: Sequence[Record],
    detections: Mapping[int, Detections],
    names: Sequence[str],
    *,
    threshold: float = 0.5,
) -> dict[str, ClassScore | None]:
    """The score of every class in ``names`` on all of ``records``; None for a class without ground truth there.

    Args:
        records: The whole test set. ``ignore`` boxes are COCO's crowds and VOC's difficult objects: not to be found,
            and no mistake if found.
        detections: By image id; an image without an entry has no detections.
        names: What the labels of the detections mean.
        threshold: The deployed score threshold for precision and recall.

    Raises:
        ValueError: Two records of one image id, detections of an image that is not among the records, a label outside
            ``names``, or a detection that is not finite.
    """
    found = _aligned(records, detections, names)
    scores: dict[str, ClassScore | None] = {}
    every = match_classes(records, found, names)
    for name, coco, matches in zip(names, coco_scores(records, found, names), every, strict=True):
        if coco is None:
            scores[name] = None
            continue
        scores[name] = ClassScore(
            *coco,
            average_precision(matches, "voc07"),
            average_precision(matches, "voc12"),
            *precision_recall(matches, threshold),
        )
    return scores


def _aligned(records: Sequence[Record], detections: Mapping[int, Detections], names: Sequence[str]) -> list[Detections]:
    """The detections of every record, those of uncovered classes removed, after all checks."""
    known = [record.image_id for record in records]
    if len(set(known)) != len(known):
        raise ValueError("two records have the same image_id: their detections cannot be told apart")
    if stray := set(detections) - set(known):
        raise ValueError(f"detections of images that are not among the records, e.g. image_id {min(stray)}")
    aligned = []
    masks: dict[frozenset[str], NDArray[np.bool_]] = {}
    for record in records:
        item = detections.get(record.image_id, Detections.empty())
        boxes = np.asarray(item.boxes, np.float32).reshape(-1, 4)
        scores, labels = np.asarray(item.scores, np.float32), np.asarray(item.labels, np.int64)
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(f"image_id {record.image_id}: boxes, scores and labels differ in number")
        if labels.size and (labels.min() < 0 or labels.max() >= len(names)):
            raise ValueError(f"image_id {record.image_id}: label outside 0..{len(names) - 1}")
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image_id {record.image_id}: a detection is not finite")
        if record.coverage not in masks:
            masks[record.coverage] = np.array([name in record.coverage for name in names], dtype=bool)
        keep = masks[record.coverage][labels] if labels.size else np.zeros(0, dtype=bool)
        aligned.append(Detections(boxes[keep], scores[keep], labels[keep]))
    return aligned


def match(
    records: Sequence[Record],
    detections: Mapping[int, Detections],
    names: Sequence[str],
    name: str,
    *,
    iou: float = 0.5,
) -> Matches:
    """The detections of class ``name`` matched to the truth by the rule of the VOC devkit; input of ``metrics``.

    See `match_classes`, which does all classes at once. Overlaps are of continuous boxes; the devkit's ``+ 1`` belongs
    to inclusive pixel corners, which the VOC reader has already turned into continuous ones.
    """
    column, found = list(names).index(name), []
    for item in _aligned(records, detections, names):
        mine = item.labels == column
        found.append(Detections(item.boxes[mine], item.scores[mine], np.zeros(int(mine.sum()), np.int64)))
    return match_classes(records, found, [name], iou)[0]


def changes(
    records: Sequence[Record],
    before: Mapping[int, Detections],
    after: Mapping[int, Detections],
    names: Sequence[str],
    *,
    draws: int = 500,
    seed: int = 0,
) -> dict[str, Interval]:
    """The AP50 change of every class of an earlier model, with paired bootstrap intervals over the test images.

    Args:
        records: The whole test set.
        before: Detections of the earlier model, labels into ``names``.
        after: Detections of the later model; labels beyond ``names`` are the classes it learned since and are left out.
        names: The classes of the earlier model.
        draws: Number of resamples.
        seed: Seed of the resampling.
    """
    later = {}
    for image_id, item in after.items():
        known = item.labels < len(names)
        later[image_id] = Detections(item.boxes[known], item.scores[known], item.labels[known])
    first, second = (match_classes(records, _aligned(records, side, names), names) for side in (before, later))
    return {
        name: bootstrap_change(old, new, draws=draws, seed=seed)
        for name, old, new in zip(names, first, second, strict=True)
    }
