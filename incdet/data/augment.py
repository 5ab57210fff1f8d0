"""Augmentation pipelines: no pipeline emits a degenerate box, loses a label, or changes a dtype on an empty image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from incdet.data.records import Boxes

Image = NDArray[np.uint8]
SMALLEST_SIDE = 0.1
"""Pixels: a thinner box after the transforms is no object any more; resizing a box of one pixel can make it so."""
CANVAS = (124, 116, 104)
"""RGB around a picture that shrank: the ImageNet mean, which normalisation makes zero."""
MOST_CUT = 0.3
"""Share of the width or height that a crop takes away on one side, so that a small object is not blown up."""


@dataclass(frozen=True)
class BoxPipeline:
    """albumentations transforms of an image and its boxes; a pure function of its arguments, whatever process runs it.

    Attributes:
        flip: Probability of a horizontal flip.
        crop: Half of the images are cut, by up to 30 % on each side, to a window that holds every box whole.
        photometric: Random brightness, contrast, gamma and saturation. No hue: it costs ten times all the rest.
        scale: A range of zoom factors: the picture shrinks or grows around its centre on a canvas of its size, and
            boxes less than a third visible are dropped. Or one whole number: the shorter side in pixels that the image
            is resized to, which saves time on large photographs (the model resizes anyway).
    """

    flip: float = 0.5
    crop: bool = False
    photometric: bool = False
    scale: int | tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # Built before the workers are forked: otherwise each of them would import albumentations for a second.
        assert self._compose is not None

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers that are not forked get the options and build the transforms, which cannot be pickled, themselves.
        return BoxPipeline, (self.flip, self.crop, self.photometric, self.scale)

    @cached_property
    def _compose(self) -> Any:
        albumentations = _import_albumentations()
        zooms = self.scale is not None and not isinstance(self.scale, int)
        rules = albumentations.BboxParams(format="pascal_voc", label_fields=["rows"], clip=True, min_area=1e-4,
                                          min_visibility=1 / 3 if zooms else 0.0, filter_invalid_bboxes=True)
        steps: list[Any] = [_safe_crop()] if self.crop else []
        # The interpolation is the one of the model's own resize, which evaluation goes through.
        if isinstance(self.scale, int):
            steps.append(albumentations.SmallestMaxSize(max_size=self.scale, interpolation=cv2.INTER_LINEAR))
        elif self.scale is not None:
            steps.append(albumentations.Affine(scale=tuple(self.scale), keep_ratio=True, interpolation=cv2.INTER_LINEAR,
                                               fill=CANVAS, p=1.0))
        steps.append(albumentations.HorizontalFlip(p=self.flip))
        if self.photometric:
            steps += [albumentations.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
                      albumentations.RandomGamma(gamma_limit=(80, 125), p=0.25),
                      albumentations.ColorJitter(brightness=(1, 1), contrast=(1, 1), saturation=(0.6, 1.4), hue=(0, 0),
                                                 p=0.25)]
        return albumentations.Compose(steps, bbox_params=rules)

    def __call__(self, image: Image, boxes: Boxes, seed: int) -> tuple[Image, Boxes, NDArray[np.int64]]:
        """Transform one image.

        Args:
            image: (H, W, 3) uint8 RGB; not written to.
            boxes: (M, 4) float32 xyxy pixels inside the image.
            seed: Decides every random choice.

        Returns:
            image: (H', W', 3) uint8.
            boxes: (M', 4) float32 xyxy, inside the new image, sides of at least ``SMALLEST_SIDE``.
            rows: (M',) int64, ascending: which of the given boxes stayed.
        """
        self._compose.set_random_seed(seed)
        done = self._compose(image=image, bboxes=boxes, rows=np.arange(len(boxes)))
        picture = np.ascontiguousarray(done["image"])
        height, width = picture.shape[:2]
        # An empty image comes back with lists and float labels: give everything its type again.
        moved = np.array(done["bboxes"], dtype=np.float32).reshape(-1, 4)
        rows = np.array(done["rows"], dtype=np.int64).reshape(-1)
        moved = np.clip(moved, 0, np.array([width, height, width, height], dtype=np.float32))
        wide = np.minimum(moved[:, 2] - moved[:, 0], moved[:, 3] - moved[:, 1]) >= SMALLEST_SIDE
        return picture, moved[wide], rows[wide]


def build_pipeline(flip: float = 0.5, crop: bool = False, photometric: bool = False,
                   scale: int | tuple[float, float] | None = None) -> BoxPipeline | None:
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
