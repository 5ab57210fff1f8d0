"""Augmentation pipelines: no pipeline emits a degenerate box, loses a label, or changes a dtype on an empty image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from incdet.data.photometric import STILL, Jitter, apply_jitter, draw_jitter
from incdet.data.records import Boxes
from incdet.data.resize import Planes, to_image, to_planes

SMALLEST_SIDE = 0.1
"""Pixels: a thinner box after the transforms is no object any more; resizing a box of one pixel can make it so."""
CANVAS = (124, 116, 104)
"""RGB around a picture that shrank: the ImageNet mean, which normalisation makes zero."""
MOST_CUT = 0.3
"""Share of the width or height that a crop takes away on one side, so that a small object is not blown up."""


class Changes(NamedTuple):
    """What one draw does to the pixels of an image whose frame stays as it is.

    Attributes:
        flipped: Whether it is mirrored from left to right.
        jitter: What happens to its grey levels.
    """

    flipped: bool = False
    jitter: Jitter = STILL


class Augmented(NamedTuple):
    """One image and its boxes after a draw.

    Attributes:
        planes: (3, H', W') uint8 RGB.
        boxes: (M', 4) float32 xyxy, inside the new image, sides of at least ``SMALLEST_SIDE``.
        rows: (M',) int64, ascending: which of the given boxes stayed.
        flipped: Whether the image was mirrored.
    """

    planes: Planes
    boxes: Boxes
    rows: NDArray[np.int64]
    flipped: bool


@dataclass(frozen=True)
class BoxPipeline:
    """Random changes of an image and its boxes; a pure function of its arguments, whatever process runs it.

    Attributes:
        flip: Probability of a horizontal flip.
        crop: Half of the images are cut, by up to 30 % on each side, to a window that holds every box whole.
        photometric: Random brightness, contrast, gamma and saturation, see ``draw_jitter``.
        scale: A range of zoom factors: the picture shrinks or grows around its centre on a canvas of its size, and
            boxes less than a third visible are dropped.
    """

    flip: float = 0.5
    crop: bool = False
    photometric: bool = False
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # Built before the workers are forked: otherwise each of them would import albumentations for a second.
        assert not self.moves_frame or self._compose is not None

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers that are not forked get the options and build the transforms, which cannot be pickled, themselves.
        return BoxPipeline, (self.flip, self.crop, self.photometric, self.scale)

    @property
    def moves_frame(self) -> bool:
        """Whether an image can come out as another part, or at another scale, of the picture."""
        return self.crop or self.scale is not None

    def changes(self, seed: int) -> Changes:
        """What ``seed`` decides about mirror and grey levels."""
        # A stream of its own: albumentations seeds the same generator with the bare number.
        rng = np.random.default_rng([seed, 1])
        flipped = bool(rng.random() < self.flip)
        return Changes(flipped, draw_jitter(rng) if self.photometric else STILL)

    def __call__(self, planes: Planes, boxes: Boxes, seed: int, out: Planes | None = None) -> Augmented:
        """Transform one image.

        Args:
            planes: (3, H, W) uint8 RGB; not written to.
            boxes: (M, 4) float32 xyxy pixels inside the image.
            seed: Decides every random choice.
            out: Memory of the same shape for the new image, unless the pipeline moves the frame.
        """
        rows = np.arange(len(boxes))
        if self.moves_frame:
            planes, boxes, rows = self._move_frame(planes, boxes, seed)
        changes = self.changes(seed)
        boxes, kept = changed_boxes(boxes, planes.shape[2], changes)
        return Augmented(apply_changes(planes, changes, out), boxes, rows[kept], changes.flipped)

    @cached_property
    def _compose(self) -> Any:
        albumentations = _import_albumentations()
        rules = albumentations.BboxParams(
            format="pascal_voc",
            label_fields=["rows"],
            clip=True,
            min_area=1e-4,
            min_visibility=1 / 3 if self.scale else 0.0,
            filter_invalid_bboxes=True,
        )
        steps: list[Any] = [_safe_crop()] if self.crop else []
        # The interpolation is the one of the model's own resize, which evaluation goes through.
        if self.scale is not None:
            steps.append(
                albumentations.Affine(
                    scale=tuple(self.scale), keep_ratio=True, interpolation=cv2.INTER_LINEAR, fill=CANVAS, p=1.0
                )
            )
        return albumentations.Compose(steps, bbox_params=rules)

    def _move_frame(self, planes: Planes, boxes: Boxes, seed: int) -> tuple[Planes, Boxes, NDArray[np.int64]]:
        """Crop and zoom; albumentations wants its pixels interleaved."""
        self._compose.set_random_seed(seed)
        done = self._compose(image=to_image(planes), bboxes=boxes, rows=np.arange(len(boxes)))
        height, width = done["image"].shape[:2]
        # An empty image comes back with lists and float labels: give everything its type again.
        moved = np.array(done["bboxes"], dtype=np.float32).reshape(-1, 4)
        moved = np.clip(moved, 0, np.array([width, height, width, height], dtype=np.float32))
        return to_planes(done["image"]), moved, np.array(done["rows"], dtype=np.int64).reshape(-1)


def apply_changes(planes: Planes, changes: Changes, out: Planes | None = None) -> Planes:
    """The (3, H, W) image after ``changes``, in ``out`` or in memory of its own; ``planes`` is not written to."""
    done: Planes = np.empty_like(planes) if out is None else out
    if changes.flipped:
        cv2.flip(planes.reshape(-1, planes.shape[2]), 1, dst=done.reshape(-1, planes.shape[2]))
    else:
        done[:] = planes
    apply_jitter(done, changes.jitter)
    return done


def changed_boxes(boxes: Boxes, width: int, changes: Changes) -> tuple[Boxes, NDArray[np.int64]]:
    """(M', 4) float32 xyxy boxes after ``changes`` of an image of ``width`` pixels, and the (M',) rows they were."""
    if changes.flipped:
        mirrored: Boxes = boxes[:, [2, 1, 0, 3]]
        mirrored[:, [0, 2]] = width - mirrored[:, [0, 2]]
        boxes = mirrored
    rows = np.flatnonzero(np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]) >= SMALLEST_SIDE)
    return boxes[rows], rows


def build_pipeline(
    flip: float = 0.5, crop: bool = False, photometric: bool = False, scale: tuple[float, float] | None = None
) -> BoxPipeline | None:
    """The training pipeline (see ``BoxPipeline`` for the options), None where nothing is asked for."""
    wanted = flip > 0 or crop or photometric or scale is not None
    return BoxPipeline(flip, crop, photometric, scale) if wanted else None


def _safe_crop() -> Any:
    """A crop at whole pixels around all boxes: albumentations' own rounds inwards and can cut a thin box away."""
    from albumentations.augmentations.crops.transforms import BaseCrop

    class SafeCrop(BaseCrop):  # type: ignore[misc]
        def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
            height, width = params["shape"][:2]
            boxes = np.asarray(data["bboxes"], dtype=np.float64).reshape(-1, data["bboxes"].shape[-1])[:, :4]
            edges = [*boxes[:, :2].min(axis=0), *(1 - boxes[:, 2:].max(axis=0))] if len(boxes) else [1.0] * 4
            sizes = (width, height, width, height)
            # A hundred-thousandth of the image allows for the rounding of normalised float32 boxes.
            free = [max(0.0, min(edge - 1e-5, MOST_CUT)) * size for edge, size in zip(edges, sizes, strict=True)]
            left, top, right, bottom = (int(room * self.py_random.random()) for room in free)
            return {"crop_coords": (left, top, width - right, height - bottom)}

    return SafeCrop(p=0.5)


def _import_albumentations() -> Any:
    # Asking the network for a newer version must not delay (or leak) a training run.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
