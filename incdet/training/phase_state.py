"""What a phase of training resumes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from incdet.errors import Finding, InputError
from incdet.training.digested import first_sentence, load_digested, save_digested


class PhaseState:
    """Weights, optimiser, loss scale, random state and the number of steps done, in one file with its digest.

    Args:
        model: The student.
        optimizer: Its optimiser.
        scaler: The loss scaler, where there is one.
        path: The file; None keeps nothing.
        owner: Whose training it is; a file of another owner is refused. Empty for nobody's in particular.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any | None, path: Path | None, owner: str = ""
    ) -> None:
        self._parts: dict[str, Any] = {"model": model, "optimizer": optimizer}
        if scaler is not None:
            self._parts["scaler"] = scaler
        self.path, self._owner = path, owner

    def store(self, done: int, random: Tensor) -> None:
        """Writes the file whole or not at all."""
        if self.path is None:
            return
        parts = {name: part.state_dict() for name, part in self._parts.items()}
        values = {**parts, "done": done, "rng": random, "owner": self._owner}
        save_digested(self.path, values)

    def restore(self, device: torch.device) -> int:
        """Loads the file, if there is one; returns the optimiser steps it had done.

        Raises:
            InputError: The file is damaged or of another training.
        """
        if self.path is None or not self.path.is_file():
            return 0
        try:
            values = load_digested(self.path, device)
            if "" not in (self._owner, owner := values.get("owner", "")) and owner != self._owner:
                raise ValueError("it is of another training")
            for name, part in self._parts.items():
                if name != "scaler" or name in values:  # precision may have been changed since
                    part.load_state_dict(values[name])
            torch.set_rng_state(values["rng"].cpu())
            return int(values["done"])
        except Exception as fault:  # torch raises whatever its parts do
            raise _refusal(self.path, fault) from fault


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """What ``PhaseState.store`` wrote into ``path``, with tensors on ``device``; no code in it is run.

    Raises:
        InputError: The file is damaged.
    """
    try:
        values: dict[str, Any] = load_digested(path, device)
        return values
    except Exception as fault:
        raise _refusal(path, fault) from fault


def _refusal(path: Path, fault: Exception) -> InputError:
    problem = f"cannot be taken up ({first_sentence(fault)})"
    fix = "remove the file: the phase then starts again from the finished step before it"
    return InputError(Finding(str(path), "state of a phase", problem, fix))
