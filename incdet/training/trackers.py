"""Experiment trackers beside the log: TensorBoard, W&B and MLflow, through accelerate's classes for them.

``log.jsonl`` holds the same numbers and more; a tracker that fails (a server that is gone, say) is given up with a
warning, and training goes on.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError

PROJECT = "incdet"


def require_trackers(names: Sequence[str]) -> None:
    """Checks that every tracker can be imported.

    Raises:
        InputError: A package is not installed; names each.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            [
                Finding(
                    "config",
                    "key engine.trackers",
                    f"names {name}, but the package {name} is not installed",
                    f"pip install {name}, or take it out",
                )
                for name in missing
            ]
        )


class Trackers:
    """Trackers that were started for a run.

    Args:
        names: Of ``tensorboard``, ``wandb`` and ``mlflow``.
        folder: The run folder. TensorBoard writes into ``tensorboard`` below it, MLflow into ``mlflow`` unless
            ``MLFLOW_TRACKING_URI`` names a place, and W&B as its own variables say (``WANDB_MODE``, ...).
        settings: Dotted keys and values, stored once with the run.
    """

    def __init__(self, names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        self._started = [_started(name, folder) for name in names]
        plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in settings.items()}
        for tracker in [*self._started] if plain else ():
            self._call(tracker, lambda tracker=tracker: tracker.store_init_configuration(plain))

    def scalars(self, tag: str, values: Mapping[str, float], iteration: int) -> None:
        """``values`` under ``tag/NAME`` at ``iteration`` of ``tag``."""
        named = {f"{tag}/{name}": value for name, value in values.items()}
        for tracker in [*self._started]:
            # W&B drops what comes at a step below the last one, and every phase counts anew.
            if tracker.name == "wandb":
                self._call(tracker, lambda one=tracker: one.log({**named, f"{tag}/iteration": iteration}))
            else:
                self._call(tracker, lambda one=tracker: one.log(named, step=iteration))

    def close(self) -> None:
        """Ends the runs of all trackers."""
        for tracker in [*self._started]:
            self._call(tracker, tracker.finish)

    def _call(self, tracker: Any, act: Any) -> None:
        try:
            act()
        except Exception as error:  # of whatever kind the package raises; a night of training is worth more
            self._started.remove(tracker)
            warnings.warn(f"the tracker {tracker.name} is given up: {error!r:.200}", stacklevel=3)


def _started(name: str, folder: Path) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import MLflowTracker, TensorBoardTracker, WandBTracker

    PartialState()  # accelerate's trackers ask it whether they are on the main process
    if name == "tensorboard":
        tracker = TensorBoardTracker(name, logging_dir=folder)
    elif name == "wandb":
        tracker = WandBTracker(PROJECT, name=folder.name, dir=str(folder))
    else:
        local = None if "MLFLOW_TRACKING_URI" in os.environ else str(folder / "mlflow")
        tracker = MLflowTracker(PROJECT, logging_dir=local, run_name=folder.name)
    if hasattr(tracker, "start"):  # earlier versions of accelerate start them when they are made
        tracker.start()
    return tracker
