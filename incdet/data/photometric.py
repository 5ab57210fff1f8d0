"""Photometric jitter as a value: drawn once, applied by one table and one blend, on the host or on a device.

No hue: it costs ten times all the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from incdet.data.resize import Planes, to_image

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
        line: (scale, shift) where the table is the clipped level * scale + shift and nothing else: the host computes
            that twice as fast as it looks it up.
    """

    table: Table | None = None
    saturation: float = 1.0
    line: tuple[float, float] | None = None


STILL = Jitter()
"""Changes nothing."""


def draw_jitter(rng: np.random.Generator) -> Jitter:
    """Brightness, contrast and gamma, fused into one table, and a saturation."""
    # The same number of draws whatever happens, so that one choice does not move the next.
    tone, curve, colour, contrast, brightness, gamma, saturation = rng.random(7).tolist()
    levels, line = _LEVELS, None
    if tone < 0.5:
        scale = _within((1 - CONTRAST, 1 + CONTRAST), contrast)
        line = (scale, 255 * _within((-BRIGHTNESS, BRIGHTNESS), brightness))
        levels = (levels * line[0] + line[1] / 255).clip(0, 1)
    if curve < 0.25:
        levels, line = levels ** _within(GAMMA, gamma), None
    table = None if levels is _LEVELS else (levels * 255 + 0.5).astype(np.uint8)
    return Jitter(table, _within(SATURATION, saturation) if colour < 0.25 else 1.0, line)


def apply_jitter(planes: Planes, jitter: Jitter) -> None:
    """Changes the contiguous (3, H, W) image in place."""
    rows = planes.reshape(-1, planes.shape[2])
    if jitter.line is not None:
        cv2.addWeighted(rows, jitter.line[0], rows, 0, jitter.line[1], dst=rows)
    elif jitter.table is not None:
        cv2.LUT(rows, jitter.table, dst=rows)
    if jitter.saturation != 1.0:
        grey = cv2.cvtColor(to_image(planes), cv2.COLOR_RGB2GRAY)
        for plane in planes:
            cv2.addWeighted(plane, jitter.saturation, grey, 1 - jitter.saturation, 0, dst=plane)


def _within(bounds: tuple[float, float], value: float) -> float:
    """``value`` in [0, 1) spread over ``bounds``."""
    return bounds[0] + value * (bounds[1] - bounds[0])
