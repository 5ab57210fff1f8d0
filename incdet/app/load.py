"""A detector as a person holds it: loaded from wherever there is one, ready to predict and to be extended."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from incdet.app.run_folder import CONFIG
from incdet.errors import Finding, InputError
from incdet.network import checkpoint, importing
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary


@dataclass(frozen=True, eq=False)
class Detector:
    """A detector and where it comes from.

    Attributes:
        model: The network, in evaluation mode: what torchvision calls a detection model.
        source: Where it was loaded from, as ``load`` takes it: a checkpoint folder, torchvision's weights, a file.
        arch: Network of a state dict.
        known_classes: Names of its columns.
        run: The folder of the run that made it just now; None where it was loaded.
    """

    model: IncrementalRetinaNet
    source: str
    arch: str | None = None
    known_classes: tuple[str | None, ...] | None = None
    run: Path | None = None

    @property
    def vocab(self) -> Vocabulary:
        """Its classes, step by step."""
        return self.model.vocab

    @property
    def names(self) -> tuple[str, ...]:
        """Its classes; the labels of detections are positions in them."""
        return self.model.vocab.names

    def __call__(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Torchvision's call: RGB pictures (3, H, W) in [0, 1] to dicts of boxes, labels and scores."""
        found: list[dict[str, Tensor]] = self.model(images)
        return found

    def save(self, folder: str | Path) -> Path:
        """Writes a checkpoint into ``folder`` and returns it."""
        return checkpoint.save(folder, self.model)

    def __repr__(self) -> str:
        return f"Detector({len(self.names)} classes, from {self.source})"


def load(source: str | Path, arch: str | None = None, known_classes: Sequence[str | None] | None = None) -> Detector:
    """A detector from a checkpoint, a run folder, torchvision's weights or a state dict; in evaluation mode.

    Args:
        source: A checkpoint folder of incdet; a run folder, whose last step is meant; torchvision's weights by name
            (``retinanet_resnet50_fpn_v2:COCO_V1``), downloaded where torch does not have them; or a state dict's file.
        arch: Network of a state dict, see ``incdet.load_detector``.
        known_classes: The name of each column of a state dict.

    Raises:
        InputError: There is no such thing, it cannot be read or downloaded, or is not what it is said to be.
    """
    place = locate(source)
    model = importing.load_detector(place, arch, known_classes)
    return Detector(model.eval(), place, arch, None if known_classes is None else tuple(known_classes))


def locate(source: str | Path) -> str:
    """The checkpoint that is meant: that of the last step where ``source`` is a run folder, else ``source`` itself.

    Raises:
        InputError: The run has several methods, or has finished no step.
    """
    place = Path(source)
    has = {name: os.path.isfile(place / name) for name in (CONFIG, "results.json", checkpoint.DESCRIPTION)}
    if has[checkpoint.DESCRIPTION] or not any(has.values()):
        return str(source)
    steps = _steps(place)
    if steps:
        return str(steps[max(steps)])
    methods = sorted(path.parent for path in place.glob("*/results.json") if _steps(path.parent))
    named = [path for path in methods if path.name != "base"] or methods
    if len(named) == 1:
        return str(_steps(named[0])[max(_steps(named[0]))])
    problem = f"is of {len(named)} methods: {', '.join(path.name for path in named)}" if named else "has no step yet"
    fix = f"name one, such as {named[0]}" if named else "let it finish a step first"
    raise InputError(Finding(str(place), "run folder", problem, fix))


def _steps(folder: Path) -> dict[int, Path]:
    """The checkpoints of a method's folder by their steps."""
    found = {path: re.fullmatch(r"step_(\d+)", path.name) for path in folder.glob("step_*")}
    return {int(match[1]): path for path, match in found.items() if match and (path / checkpoint.DESCRIPTION).is_file()}


def detector_of(given: Detector | str | Path, arch: Any = None, known_classes: Any = None) -> tuple[str, Any, Any]:
    """Source, network and column names of a detector, loaded or only named."""
    if isinstance(given, Detector):
        return given.source, given.arch, given.known_classes
    return locate(given), arch, known_classes
