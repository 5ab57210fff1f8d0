"""A checkpoint folder that a verb makes: it must not hold one already."""

from __future__ import annotations

from pathlib import Path

from incdet.errors import Finding, InputError
from incdet.files import require_output
from incdet.network import checkpoint


def require_no_checkpoint(output: Path) -> None:
    """Checks before any work that a checkpoint can be written into ``output`` and replaces none.

    Raises:
        InputError: It holds one, or cannot be written.
    """
    require_output(output, folder=True)
    if (output / checkpoint.DESCRIPTION).exists():
        raise InputError(Finding(str(output), "output", "already holds a checkpoint", "name another folder"))
