"""What a phase of training resumes from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from incdet.errors import Finding, InputError
from incdet.files import replacing


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
        with replacing(self.path) as draft, draft.open("wb") as handle:
            torch.save({**values, "digest": _digest(values)}, handle)

    def restore(self, device: torch.device) -> int:
        """Loads the file, if there is one; returns the optimiser steps it had done.

        Raises:
            InputError: The file is damaged or of another training.
        """
        if self.path is None or not self.path.is_file():
            return 0
        try:
            values = _read(self.path, device)
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
        return _read(path, device)
    except Exception as fault:
        raise _refusal(path, fault) from fault


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    values: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if values.pop("digest", None) not in (None, _digest(values)):
        raise ValueError("its content was changed or damaged")
    return values


def _refusal(path: Path, fault: Exception) -> InputError:
    problem = f"cannot be taken up ({_first_sentence(fault)})"
    fix = "remove the file: the phase then starts again from the finished step before it"
    return InputError(Finding(str(path), "state of a phase", problem, fix))


def _digest(value: Any) -> str:
    """Over nested dicts and lists of tensors and plain values, wherever the tensors lie."""
    digest = hashlib.sha256()
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{plain.dtype} {tuple(plain.shape)} ".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, dict):
        digest.update(repr([(key, _digest(value[key])) for key in sorted(value, key=repr)]).encode())
    elif isinstance(value, list | tuple):
        digest.update(repr([_digest(one) for one in value]).encode())
    else:
        digest.update(repr(value).encode())
    return digest.hexdigest()


def _first_sentence(fault: Exception) -> str:
    """What a library says first; torch goes on to advise unsafe loading."""
    return (str(fault).splitlines() or [repr(fault)])[0].partition(". ")[0]
