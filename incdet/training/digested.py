"""Values in a torch file that carries their digest, so that a flipped bit is noticed and not trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from incdet.files import replacing

KEY = "digest"


def save_digested(path: Path, values: Mapping[str, Any]) -> None:
    """Writes nested dicts and lists of tensors and plain values, whole or not at all."""
    with replacing(path) as draft, draft.open("wb") as handle:
        torch.save({**values, KEY: _digest(dict(values))}, handle)


def load_digested(path: Path, device: torch.device | str) -> Any:
    """What ``save_digested`` wrote, with tensors on ``device``; no code in it is run, and no digest is asked of others.

    Raises:
        ValueError: The values are not those that were written.
        Exception: Whatever torch says of a file that it cannot read.
    """
    values = torch.load(path, map_location=device, weights_only=True)
    if isinstance(values, dict) and values.pop(KEY, None) not in (None, _digest(values)):
        raise ValueError("its content was changed or damaged")
    return values


def first_sentence(fault: Exception) -> str:
    """What a library says first; torch goes on to advise unsafe loading."""
    return (str(fault).splitlines() or [repr(fault)])[0].partition(". ")[0]


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
