"""What a detector's scores are worth: the threshold to deploy for each class and one temperature, as it was measured.

It stays with the detector: in its checkpoint, its copies, and through every later step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from incdet.errors import Finding, InputError


@dataclass(frozen=True)
class Calibration:
    """Thresholds of the network's own scores, and the temperature that turns those into probabilities.

    Attributes:
        thresholds: Least score to show, in [0, 1], by class; a class may be missing, which was never measured.
        temperature: ``sigmoid(logit(score) / temperature)`` is the share of right ones among detections of that score.
        images: How many pictures it was measured on.
        source: Which they were, for people.

    Raises:
        InputError: A number is out of its range.
    """

    thresholds: Mapping[str, float]
    temperature: float = 1.0
    images: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        for name, score in self.thresholds.items():
            if not (_is_number(score) and 0 <= score <= 1):
                raise _refusal(f"threshold of {name!r}", f"is {score!r}", "give a number in 0..1")
        if not (_is_number(self.temperature) and 0 < self.temperature < math.inf):
            raise _refusal("temperature", f"is {self.temperature!r}", "give a positive number")

    def renamed(self, names: Mapping[str, str | None]) -> Calibration:
        """With the classes under other names; those that become None, or stand not in ``names``, are left out."""
        kept = {new: self.thresholds[old] for old, new in names.items() if new is not None and old in self.thresholds}
        return replace(self, thresholds=kept)

    def updated(self, newer: Calibration) -> Calibration:
        """A newer measurement, and the thresholds of classes that it does not speak of."""
        return replace(newer, thresholds={**self.thresholds, **newer.thresholds})

    def to_json(self) -> dict[str, Any]:
        """A value that ``json.dump`` writes and ``from_json`` reads back."""
        return {
            "thresholds": dict(self.thresholds),
            "temperature": self.temperature,
            "images": self.images,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """The inverse of ``to_json``.

        Raises:
            InputError: A number is out of its range.
            KeyError, TypeError, ValueError: It is something else.
        """
        thresholds, temperature = dict(value["thresholds"]), value["temperature"]
        return cls(thresholds, temperature, int(value["images"]), str(value["source"]))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refusal(item: str, problem: str, fix: str) -> InputError:
    return InputError(Finding("calibration", item, problem, fix))
