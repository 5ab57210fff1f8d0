"""A detector as a person holds it: loaded from wherever there is one, ready to predict and to be extended."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from incdet.app.hub import fetched, is_place
from incdet.app.look import Look
from incdet.app.photograph import photograph
from incdet.app.prediction import Prediction
from incdet.app.run_folder import CONFIG
from incdet.errors import Finding, InputError
from incdet.evaluation.shown import Threshold
from incdet.evaluation.thresholds import FALLBACK
from incdet.network import checkpoint, importing
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary

if TYPE_CHECKING:
    from incdet.app.extend_outcome import Outcome


@dataclass(frozen=True, eq=False)
class Detector:
    """A detector and where it comes from.

    Attributes:
        model: The network, in evaluation mode: what torchvision calls a detection model.
        source: Where it was loaded from, as ``load`` takes it: a checkpoint folder, torchvision's weights, a file.
        arch: Network of a state dict.
        known_classes: Names of its columns.
        run: The folder of the run that made it just now; None where it was loaded.
        outcome: What that run gained and lost.
    """

    model: IncrementalRetinaNet
    source: str
    arch: str | None = None
    known_classes: tuple[str | None, ...] | None = None
    run: Path | None = None
    outcome: Outcome | None = None

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

    @overload
    def predict(
        self,
        pictures: list[Any] | tuple[Any, ...],
        *,
        threshold: Threshold | Literal["auto"] = ...,
        across: bool = ...,
        batch_size: int = ...,
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, pictures: Any, *, threshold: Threshold | Literal["auto"] = ..., across: bool = ..., batch_size: int = ...
    ) -> Prediction: ...

    def predict(
        self,
        pictures: Any,
        *,
        threshold: Threshold | Literal["auto"] = FALLBACK,
        across: bool = False,
        batch_size: int = 8,
    ) -> Prediction | list[Prediction]:
        """What is in a picture, as a ``Prediction``; of a list of pictures a list of them.

        Args:
            pictures: A path, an RGB array (H, W, 3), an RGB tensor (3, H, W), an image of Pillow (see
                ``incdet.app.photograph.photograph``), or a list of those.
            threshold: Least score that is shown, in [0, 1]; or one for each class by its name; or ``auto`` for those
                that the detector was calibrated to, with scores that are shares of right ones.
            across: Of detections of different classes in one place, keep the best alone.
            batch_size: Pictures in a forward pass.

        Raises:
            InputError: A picture cannot be read or has another form, a threshold is out of its range, or ``auto`` is
                asked of a detector that was never calibrated.
        """
        look = self.looking(threshold, across=across)
        if not isinstance(pictures, list | tuple):
            return look([photograph(pictures)])[0]
        found: list[Prediction] = []
        for start in range(0, len(pictures), batch_size):
            found += look([photograph(one) for one in pictures[start : start + batch_size]])
        return found

    def looking(self, threshold: Threshold | Literal["auto"] = FALLBACK, *, across: bool = False) -> Look:
        """What ``predict`` does with a batch, with the settings checked once; see there."""
        return Look(self.model, threshold, across=across)

    def to(self, device: str | torch.device) -> Detector:
        """The same detector, whose network is on ``device`` now."""
        self.model.to(device)
        return self

    def save(self, folder: str | Path) -> Path:
        """Writes a checkpoint into ``folder`` and returns it."""
        return checkpoint.save(folder, self.model)

    def __repr__(self) -> str:
        return f"Detector({len(self.names)} classes, from {self.source})"


def load(source: str | Path, arch: str | None = None, known_classes: Sequence[str | None] | None = None) -> Detector:
    """A detector from a checkpoint, a run folder, torchvision's weights or a state dict; in evaluation mode.

    Args:
        source: A checkpoint folder of incdet; a run folder, whose last step is meant; ``hub:OWNER/NAME``, see
            ``incdet.app.hub``; torchvision's weights by name
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
    """The checkpoint that is meant: the last step of a run folder, what is fetched from a hub, or ``source`` itself.

    Raises:
        InputError: The run has several methods or has finished no step, or the hub has no such detector.
    """
    if is_place(source):
        return str(fetched(str(source)))
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
    if not isinstance(given, str | Path):
        fix = "save it first, incdet.save(folder, model), and give the folder"
        problem = f"is a {type(given).__name__}, no file and no folder that a stopped run could go on from"
        raise InputError(Finding("extend", "detector", problem, fix))
    return locate(given), arch, known_classes
