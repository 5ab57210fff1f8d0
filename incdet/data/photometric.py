"""Photometric jitter as a value: drawn once, applied by one table and one blend, on the host or on a device.

No hue: it costs ten times all the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from incdet.data.geometry import Planes, to_image

Table = NDArray[np.uint8]
BRIGHTNESS = CONTRAST = 0.2
"""A grey level x becomes (1 +- contrast) x +- brightness * 255, in half of the images."""
GAMMA = (0.8, 1.25)
"""Exponents of x / 255, in a quarter of the images."""
SATURATION = (0.6, 1.4)
"""Weights of the picture against its grey version, in a quarter of the images."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
_LEVELS = np.arange(256) / 255


class Jitter(NamedTuple):
    """What happens to the grey levels of one image.

    Attributes:
        table: (256,) uint8, the new value of every level; None leaves them.
        saturation: 1 leaves the colours, 0 would make them grey.
    """

    table: Table | None = None
    saturation: float = 1.0


STILL = Jitter()
"""Changes nothing."""


def draw_jitter(rng: np.random.Generator) -> Jitter:
    """Brightness, contrast and gamma, fused into one table, and a saturation."""
    # The same number of draws whatever happens, so that one choice does not move the next.
    chance, values = rng.random(3), rng.uniform(-1, 1, 4)
    levels = _LEVELS
    if chance[0] < 0.5:
        levels = np.clip(levels * (1 + CONTRAST * values[0]) + BRIGHTNESS * values[1], 0, 1)
    if chance[1] < 0.25:
        levels = levels ** _within(GAMMA, values[2])
    saturation = _within(SATURATION, values[3]) if chance[2] < 0.25 else 1.0
    if levels is _LEVELS:
        return Jitter(None, saturation)
    return Jitter(np.round(levels * 255).astype(np.uint8), saturation)


def apply_jitter(planes: Planes, jitter: Jitter) -> Planes:
    """The (3, H, W) image after ``jitter``; ``planes`` itself where that changes nothing, and never written to."""
    if jitter.table is not None:
        rows = cv2.LUT(planes.reshape(-1, planes.shape[-1]), jitter.table)
        planes = np.asarray(rows, dtype=np.uint8).reshape(planes.shape)
    if jitter.saturation == 1.0:
        return planes
    grey, blend = cv2.cvtColor(to_image(planes), cv2.COLOR_RGB2GRAY), np.empty_like(planes)
    for plane, place in zip(planes, blend, strict=True):
        cv2.addWeighted(plane, jitter.saturation, grey, 1 - jitter.saturation, 0, dst=place)
    return blend


def _within(bounds: tuple[float, float], value: float) -> float:
    """``value`` in [-1, 1] spread over ``bounds``."""
    return float((bounds[0] + bounds[1]) / 2 + value * (bounds[1] - bounds[0]) / 2)

