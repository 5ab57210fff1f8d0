"""What a phase of training resumes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from incdet.errors import Finding, InputError
from incdet.files import replacing


class PhaseState:
    """Weights, optimiser, loss scale, random state and the number of steps done, in one file.

    Args:
        model: The student.
        optimizer: Its optimiser.
        scaler: The loss scaler, where there is one.
        path: The file; None keeps nothing.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any | None, path: Path | None
    ) -> None:
        self._parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
        if scaler is not None:
            self._parts["scaler"] = scaler
        self._path = path

    def store(self, done: int, random: Tensor) -> None:
        """Writes the file whole or not at all."""
        if self._path is None:
            return
        values = {name: part.state_dict() for name, part in self._parts.items()}
        with replacing(self._path) as draft, draft.open("wb") as handle:
            torch.save({**values, "done": done, "rng": random}, handle)

    def restore(self, device: torch.device) -> int:
        """Loads the file, if there is one; returns the optimiser steps it had done.

        Raises:
            InputError: The file is damaged or of another training.
        """
        if self._path is None or not self._path.is_file():
            return 0
        try:
            values = torch.load(self._path, map_location=device, weights_only=True)
            for name, part in self._parts.items():
                part.load_state_dict(values[name])
            torch.set_rng_state(values["rng"].cpu())
            return int(values["done"])
        except Exception as fault:  # torch raises whatever its parts do
            raise InputError(
                Finding(
                    str(self._path),
                    "state of a phase",
                    f"cannot be taken up ({str(fault).splitlines()[0] if str(fault) else fault!r})",
                    "remove the file: the phase then starts again from the finished step before it",
                )
            ) from fault
