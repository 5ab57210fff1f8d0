"""The command line under ``torchrun`` or ``accelerate launch``: who speaks, and how a process ends."""

from __future__ import annotations

import os
import sys

from incdet.errors import is_relayed
from incdet.files import is_writer


def say(text: str) -> None:
    """A line on stdout, from rank 0 alone."""
    if is_writer():
        print(text)


def tell_end(code: int, text: str, error: BaseException) -> int:
    """Says on stderr why this process ends, unless another one says it; returns the exit code.

    What stopped a process before it met the others stopped rank 0 by the same words.
    """
    if is_writer():
        print(text, file=sys.stderr)
    elif _group_is_open() and not is_relayed(error):
        who = f"process {os.environ.get('RANK', '?')} of {os.environ.get('WORLD_SIZE', '?')}"
        print(f"{who}: {text}", file=sys.stderr)
    return code


def leave_group() -> None:
    """Closes the group of processes, if there is one, after work that went well."""
    if _group_is_open():
        from incdet.training.processes import leave

        leave()


def _group_is_open() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
