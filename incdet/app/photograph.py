"""A picture to look at, whatever it came as: a file, an array, a tensor, Pillow's image."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from incdet.data.dataset import image_size, read_image
from incdet.data.records import Record
from incdet.data.resize import to_image, to_planes
from incdet.errors import Finding, InputError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""How the names of picture files end."""
_FORMS = "give a path, an (H, W, 3) array, a (3, H, W) tensor, or an image of Pillow"


class Photograph(NamedTuple):
    """The pixels of a picture, and the file they came from.

    Attributes:
        planes: (3, H, W) RGB, uint8 or float32 in 0..1.
        file: Where it lies; None for one in memory.
    """

    planes: Tensor
    file: Path | None = None

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.planes.shape[-1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.planes.shape[-2])

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        planes = self.planes
        if planes.is_floating_point():
            planes = (planes * 255).round().clamp(0, 255).to(torch.uint8)
        return to_image(planes.cpu().numpy())


def photograph(given: Any) -> Photograph:
    """A picture from a path, an array, a tensor or an image of Pillow, turned as its camera says.

    Args:
        given: A path; an RGB array (H, W, 3), with alpha (H, W, 4) or grey (H, W), uint8 or float in 0..1 (OpenCV's
            arrays are BGR: turn them round); an RGB tensor (3, H, W) of the same kinds; an image of Pillow of any mode.

    Raises:
        InputError: The file is missing, cut off or no picture, or ``given`` has another form.
    """
    if isinstance(given, str | os.PathLike):
        return read_photograph(Path(given))
    if isinstance(given, Tensor):
        return Photograph(_checked(given.detach(), "tensor"))
    if isinstance(given, Image.Image):
        given = np.asarray(ImageOps.exif_transpose(given).convert("RGB"))
    if not isinstance(given, np.ndarray):
        raise _refusal(type(given).__name__, "is no picture")
    planes = given[None].repeat(3, 0) if given.ndim == 2 else np.moveaxis(given, -1, 0) if given.ndim == 3 else given
    if planes.ndim != 3 or len(planes) not in (3, 4):
        raise _refusal("array", f"has the shape {given.shape}")
    return Photograph(_checked(torch.from_numpy(np.ascontiguousarray(planes[:3])), "array"))


def read_photograph(file: Path) -> Photograph:
    """The picture in ``file``, turned as its camera says.

    Raises:
        InputError: It is missing, cut off, too large or no picture.
    """
    return Photograph(torch.from_numpy(to_planes(read_image(record_of(file, 1)))), file)


def record_of(file: Path, number: int) -> Record:
    """A picture file as a record without annotations, whose image id is ``number``.

    Raises:
        InputError: As ``read_photograph``.
    """
    width, height = image_size(file)
    nothing = np.zeros((0, 4), np.float32)
    return Record(file, number, width, height, nothing, (), np.zeros(0, np.bool_), frozenset())


def _checked(planes: Tensor, kind: str) -> Tensor:
    if planes.dim() != 3 or planes.shape[0] != 3 or 0 in planes.shape:
        raise _refusal(kind, f"has the shape {tuple(planes.shape)}")
    if planes.dtype == torch.uint8:
        return planes
    if not planes.is_floating_point():
        raise _refusal(kind, f"is of {planes.dtype}", "give uint8, or floats in 0..1")
    planes = planes.float()
    low, high = float(planes.min()), float(planes.max())
    if not (low >= 0 and high <= 1):
        raise _refusal(kind, f"has values from {low:.3g} to {high:.3g}", "give uint8, or floats in 0..1")
    return planes


def _refusal(kind: str, problem: str, fix: str = _FORMS) -> InputError:
    return InputError(Finding("picture", kind, problem, fix))
