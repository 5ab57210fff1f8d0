"""A detector of somebody else, written down as a checkpoint that every verb takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from incdet.app.new_checkpoint import require_no_checkpoint
from incdet.network import checkpoint
from incdet.network.importing import load_detector
from incdet.network.retinanet import IncrementalRetinaNet


def import_detector(
    spec: str | Path, output: Path, *, arch: str | None = None, classes: Sequence[str] | None = None
) -> IncrementalRetinaNet:
    """Reads a detector as ``load_detector`` does and writes its checkpoint folder.

    Args:
        spec: State dict, torchvision's ``BUILDER:WEIGHTS``, or a checkpoint folder.
        output: Folder of the checkpoint; must not hold one.
        arch: What a state dict belongs to.
        classes: The name of each column of a state dict.

    Returns:
        The detector.

    Raises:
        InputError: The detector cannot be read, or ``output`` cannot be written or holds a checkpoint.
    """
    require_no_checkpoint(output)
    model = load_detector(spec, arch, classes)
    checkpoint.save(output, model)
    return model
