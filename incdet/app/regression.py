"""Watching the old classes: a step that loses more of them than is allowed does not become one."""

from __future__ import annotations

from pathlib import Path

from incdet.config import Config
from incdet.data.datasets import Source
from incdet.errors import Finding, InputError, Regression
from incdet.evaluation.results import Results
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet

CANDIDATE = "_refused"
"""What the name of a step's folder ends in if the step was refused."""


def refuse_unmeasured(config: Config, source: Source) -> None:
    """Checks before any work that what is to be watched can be measured.

    Raises:
        InputError: There is a bound, and no test data.
    """
    if config.evaluation.max_old_drop is not None and not source.test:
        problem = "cannot be watched: there are no test images of the old classes"
        raise InputError(Finding("settings", "key evaluation.max_old_drop", problem, "give test data, or leave it out"))


def refuse_regression(
    results: Results, step: int, place: Path, model: IncrementalRetinaNet, most: float | None
) -> None:
    """Keeps ``model`` beside the step it was to become, where it forgot too much; else does nothing.

    Args:
        results: Of the method, ``step`` included, not saved yet.
        step: 1-based.
        place: Checkpoint folder of the step.
        model: The detector after it.
        most: The bound on the fall of AP50 of the old classes, in [0, 1]; None for none.

    Raises:
        Regression: The fall is greater. Results, checkpoints and memory of the steps before are as they were.
    """
    if most is None or step - 1 not in results.steps:
        return
    before, after = results.groups(step - 1)["all"], results.groups(step)["old"]
    if before is None or after is None or before - after <= most:
        return
    aside = checkpoint.save(place.with_name(place.name + CANDIDATE), model, metrics=dict(results.groups(step)))
    raise Regression(
        f"{place}: step {step} of {results.method}: AP50 of the old classes falls from {100 * before:.1f} to "
        f"{100 * after:.1f}, by more than evaluation.max_old_drop={most:g} allows; no step of the run was replaced, "
        f"the new detector lies in {aside} -> take it by the same command with a larger bound, or give the old classes "
        "more weight or more exemplars in a run of its own"
    )
