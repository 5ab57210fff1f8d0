"""The size at which pictures travel: resized once, in uint8, to what the detector would make of them.

Shape letters: H, W image size, M boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from incdet.config.architecture import Architecture
from incdet.data.records import Boxes, Record
from incdet.errors import Finding, InputError, shown
from incdet.ops.sizes import resized_shape

Image = NDArray[np.uint8]
Planes = NDArray[np.uint8]
"""(3, H, W) uint8 RGB, contiguous: the layout of a network's input, so that a batch is nothing but copies."""


@dataclass(frozen=True)
class Geometry:
    """How large the detector wants an image; see ``resized_shape`` for the arithmetic.

    Attributes:
        min_size: Shorter side in pixels.
        max_size: Upper bound of the longer side in pixels.
        fixed_size: (width, height) of every image instead.
    """

    min_size: int
    max_size: int
    fixed_size: tuple[int, int] | None = None

    @classmethod
    def smallest(cls, architecture: Architecture) -> Geometry | None:
        """The smallest size that a detector may resize a picture to, which a thin one may not survive.

        None for a detector that resizes nothing.
        """
        if architecture.skip_resize:
            return None
        return cls(min(architecture.min_size), architecture.max_size, architecture.fixed_size)

    def shape(self, record: Record) -> tuple[int, int]:
        """(height, width) that the picture of ``record`` is resized to.

        Raises:
            InputError: The picture is so thin that a side would vanish.
        """
        try:
            return resized_shape(record.height, record.width, self.min_size, self.max_size, self.fixed_size)
        except InputError as error:
            found = error.findings[0]
            raise InputError(
                Finding(str(record.image), f"image {shown(record.source_id)}", found.problem, found.fix)
            ) from None


def resize(image: Image, shape: tuple[int, int]) -> Image:
    """The (H, W, 3) uint8 image at ``shape`` (height, width), bilinear without antialiasing as the detector's resize.

    Within one grey level of ``torch.nn.functional.interpolate`` on the same pixels.
    """
    if image.shape[:2] == shape:
        return image
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def resize_boxes(boxes: Boxes, before: tuple[int, int], after: tuple[int, int]) -> Boxes:
    """(M, 4) float32 xyxy boxes of an image of (height, width) ``before`` at ``after``, in torchvision's arithmetic."""
    if before == after:
        return boxes
    down, across = (np.float32(new) / np.float32(old) for new, old in zip(after, before, strict=True))
    moved = boxes * np.array([across, down, across, down], dtype=np.float32)
    # A factor rounded upwards must not push an edge out of the picture.
    return np.asarray(np.minimum(moved, np.array([after[1], after[0]] * 2, dtype=np.float32)), dtype=np.float32)


def to_planes(image: Image, out: Planes | None = None) -> Planes:
    """(H, W, 3) to contiguous (3, H, W), into ``out`` where it is given."""
    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8) if out is None else out
    cv2.split(image, list(planes))  # ten times as fast as a transposed copy
    return planes


def to_image(planes: Planes) -> Image:
    """(3, H, W) to contiguous (H, W, 3)."""
    return np.asarray(cv2.merge(list(planes)), dtype=np.uint8)
