"""What a checkpoint knows of the steps before it: their results, the figures of each class only of the last one.

Every step's figures of every class are in ``results.json``, once; repeated in each checkpoint they would grow as steps
times classes, and with a thousand classes soon outgrow the weights.
"""

from __future__ import annotations

import json
from typing import Any

from incdet.evaluation.results import Results

PER_CLASS = "per_class"


def history(results: Results) -> list[dict[str, Any]]:
    """The steps so far as a JSON value."""
    steps: list[dict[str, Any]] = shortened(json.loads(json.dumps(results.to_json()["steps"])))
    return steps


def shortened(steps: Any) -> Any:
    """A history as it is written today: those of before have the figures of each class in every step.

    Args:
        steps: As read from a file; what is no list of steps comes back as it is, to differ from one.
    """
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        return steps
    earlier = [{key: value for key, value in step.items() if key != PER_CLASS} for step in steps[:-1]]
    return earlier + steps[-1:]
