"""Values of annotation files, strict where a guess would be silent: numbers, sizes, ids and flags."""

from __future__ import annotations

import math
from typing import Any

LARGEST_SIDE = 10**6
"""Pixels: a picture that claims a longer side is a mistake."""
LARGEST_ID = 2**53
"""Of an image id that every program can hold: JSON readers and scorers keep numbers as float64."""
_NO, _YES = ("", "0", "0.0", "false", "no"), ("1", "1.0", "true", "yes")


def parse_flag(value: Any) -> bool | None:
    """Yes or no as people and programs write it (true, 1, 1.0, "1", "False", null); None if it is neither."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    word = value.strip().lower() if isinstance(value, str) else "?"
    return False if word in _NO else True if word in _YES else None


def parse_side(value: Any) -> int | None:
    """A width or height in pixels, also from ``96.0`` and ``"96"``; None if it is no whole number from 1."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 1 <= value <= LARGEST_SIDE and value == int(value) else None


def is_id(value: Any) -> bool:
    """Whether a source may call an image, an annotation or a category so: any whole number, or a text."""
    if isinstance(value, str):
        return bool(value.strip())
    return isinstance(value, int) and not isinstance(value, bool)


def numbers(value: Any, count: int) -> list[float] | None:
    """``value`` as ``count`` floats, None if it is anything else (NaN passes: it has its own message)."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in value):
        return None
    return [as_float(v) for v in value]


def as_float(value: float) -> float:
    """The number as a float, infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
