"""A detector as a file for other programs, which is kept only if it finds what the detector finds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_iou

import incdet
from incdet.app.load import Detector
from incdet.app.photograph import Photograph
from incdet.app.proof_pictures import ProofPictures
from incdet.errors import Finding, InputError, suggest
from incdet.files import replacing, require_output, write_json
from incdet.network.columns import select
from incdet.network.exporting import (
    EXPORTERS,
    RAW,
    loading_lines,
    plain_network,
    run_onnx,
    run_torchscript,
    write_onnx,
    write_raw_onnx,
    write_torchscript,
)
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision

Format = Literal["state", "onnx", "onnx-raw", "torchscript"]
NEAR = 1e-3
"""Scores, logits and offsets may differ by this (offsets and logits also relative to their size)."""
SHARE = 0.01
"""Of the detections, how many may miss a partner: at a threshold rounding decides."""


UNORDERED = (
    "; a state dict cannot hold that earlier classes go first (model.precedence): its new classes' scores are those "
    "before the old ones' are taken off"
)


class Exported(NamedTuple):
    """What was written.

    Attributes:
        file: The network.
        description: JSON beside it: classes, inputs, outputs, thresholds.
        exporter: Which of PyTorch's exporters made an ONNX file; None for other formats.
        proof: How it was verified, in words.
    """

    file: Path
    description: Path
    exporter: str | None
    proof: str


def export(
    detector: Detector,
    output: Path,
    kind: Format,
    pictures: ProofPictures,
    *,
    classes: Sequence[str] | None = None,
) -> Exported:
    """Writes the detector, runs what was written on ``pictures``, and deletes it again if it disagrees.

    Args:
        detector: Of one network.
        output: The file; a description is written beside it, ``<output>.json``.
        kind: ``state``: torchvision's state dict. ``onnx``: from picture to detections. ``onnx-raw``: the network
            alone. ``torchscript``: torchvision's module.
        pictures: To verify on.
        classes: Those to keep; all if None.

    Raises:
        InputError: A package is missing, a class is unknown, PyTorch cannot export this network, or the file disagrees
            with the detector; there is no new file then.
        OutputError: The disk refuses.
    """
    if kind not in _WAYS:
        raise InputError(Finding("export", f"format {kind!r}", "is unknown", suggest(kind, _WAYS)))
    require_output(output)
    if kind.startswith("onnx"):
        _require("onnx", "onnxruntime")
    model = detector.model if classes is None else select(detector.model, classes)
    lost = kind == "state" and model.architecture.precedence > 0 and len(model.vocab.steps) > 1
    if lost:  # tensors alone cannot say how they are to be read
        model = _without_precedence(model)
    plain = plain_network(model)
    model = _on_cpu(model)
    description = output.with_name(f"{output.name}.json")
    about = _about(model, output, kind)
    with replacing(output) as draft:
        exporter, proof = _WAYS[kind](model, plain, draft, pictures)
        proof += UNORDERED if lost else ""
        with replacing(description) as told:
            write_json(told, {**about, "exporter": exporter, "verified": proof})
    return Exported(output, description, exporter, proof)


def _without_precedence(model: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """A copy whose detections are made of the network's own scores."""
    plain = copy.deepcopy(model)
    plain.architecture = model.architecture.changed(precedence=0.0)
    return plain


def _on_cpu(model: IncrementalRetinaNet) -> IncrementalRetinaNet:
    if model.device.type == "cpu":
        return model.eval()
    return copy.deepcopy(model).cpu().eval()


def _about(model: IncrementalRetinaNet, output: Path, kind: Format) -> dict[str, Any]:
    inputs = {
        "state": "as torchvision's detectors",
        "torchscript": "a list of RGB pictures (3, H, W), float in 0..1; the result is (losses, detections)",
        "onnx": "image: RGB (3, H, W), float in 0..1, any size",
        "onnx-raw": "images: (B, 3, H, W), resized to the shorter side, normalised, padded with zeros",
    }
    lines = loading_lines(model.architecture, str(output), len(model.vocab)) if kind == "state" else None
    return {
        "incdet": incdet.__version__,
        "format": kind,
        "classes": list(model.vocab.names),
        "labels": "positions in classes, from 0",
        "input": inputs[kind],
        "outputs": list(RAW) if kind == "onnx-raw" else ["boxes (xyxy pixels)", "scores", "labels"],
        "calibration": None if model.calibration is None else model.calibration.to_json(),
        "architecture": model.architecture.to_json(),
        **({} if lines is None else {"load": "\n".join(lines)}),
    }


Way = Callable[[IncrementalRetinaNet, nn.Module, Path, ProofPictures], tuple[str | None, str]]


def _state(model: IncrementalRetinaNet, plain: nn.Module, file: Path, proof: ProofPictures) -> tuple[None, str]:
    with file.open("wb") as handle:
        torch.save(plain.state_dict(), handle)
    fresh = to_torchvision(IncrementalRetinaNet(model.architecture, model.vocab, backbone=_backbone(model))).eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return None, _detections_agree(model, lambda picture: fresh([picture])[0], proof, str(file))


def _backbone(model: IncrementalRetinaNet) -> nn.Module | None:
    return copy.deepcopy(model.backbone) if model.architecture.backbone == "external" else None


def _script(model: IncrementalRetinaNet, plain: nn.Module, file: Path, proof: ProofPictures) -> tuple[None, str]:
    try:
        write_torchscript(plain, file)
    except Exception as error:  # the compiler of TorchScript raises what it likes
        raise _impossible("torchscript", {"torch.jit.script": error}) from error
    return None, _detections_agree(model, run_torchscript(file), proof, "the TorchScript file")


def _whole(model: IncrementalRetinaNet, plain: nn.Module, file: Path, proof: ProofPictures) -> tuple[str, str]:
    sample = _floats(proof.pictures[0])
    return _first_that_works(
        lambda exporter: write_onnx(plain, file, sample, exporter),
        lambda: _detections_agree(model, run_onnx(file), proof, "the ONNX file"),
    )


def _raw(model: IncrementalRetinaNet, plain: nn.Module, file: Path, proof: ProofPictures) -> tuple[str, str]:
    sample = model.prepare([_floats(proof.pictures[0])]).images
    return _first_that_works(
        lambda exporter: write_raw_onnx(plain, file, sample, exporter),
        lambda: _heads_agree(model, run_onnx(file), proof),
    )


_WAYS: Mapping[str, Way] = {"state": _state, "onnx": _whole, "onnx-raw": _raw, "torchscript": _script}


def _first_that_works(write: Callable[[str], None], verify: Callable[[], str]) -> tuple[str, str]:
    """The first exporter whose file agrees, and the proof."""
    faults: dict[str, Exception] = {}
    for exporter in EXPORTERS:
        try:
            write(exporter)
            return exporter, verify()
        except Exception as error:  # PyTorch's exporters raise dozens of kinds
            faults[exporter] = error
    raise _impossible("onnx", faults) from None


@torch.no_grad()
def _detections_agree(
    model: IncrementalRetinaNet,
    run: Callable[[Tensor], Mapping[str, Any]],
    proof: ProofPictures,
    what: str,
) -> str:
    """Says on what the file finds what the detector finds; raises if it does not."""
    total = missing = 0
    for picture in proof.pictures:
        mine: Any = model([_floats(picture)])
        other = {name: torch.as_tensor(np.asarray(value)) for name, value in run(_floats(picture)).items()}
        total += max(len(mine[0]["scores"]), len(other["scores"]))
        missing += _without_partner(mine[0], other) + _without_partner(other, mine[0])
    if missing > SHARE * total:
        problem = f"disagrees with the detector: {missing} of {total} detections in {proof.words} have no partner"
        raise InputError(Finding(what, "proof", problem, "report it, and use another format; nothing was written"))
    return f"{total} detections in {proof.words} are those of the detector"


def _without_partner(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> int:
    """How many detections of ``first`` have none of the same class, place and score in ``second``."""
    if not len(first["scores"]) or not len(second["scores"]):
        return len(first["scores"])
    same = box_iou(first["boxes"].float(), second["boxes"].float()) > 0.99
    same |= (first["boxes"][:, None] - second["boxes"][None]).abs().amax(-1) < 0.1  # lines have no IoU
    same &= first["labels"][:, None] == second["labels"][None]
    same &= (first["scores"][:, None] - second["scores"][None]).abs() < NEAR
    return int((~same.any(dim=1)).sum())


@torch.no_grad()
def _heads_agree(
    model: IncrementalRetinaNet, run: Callable[[Tensor], Mapping[str, NDArray[Any]]], proof: ProofPictures
) -> str:
    worst = 0.0
    for picture in proof.pictures:
        batch = model.prepare([_floats(picture)])
        mine, other = model.dense(batch), run(batch.images)
        for name, value in zip(RAW, (model.believed(mine.logits), mine.deltas, mine.anchors), strict=True):
            expected = value.numpy()
            if expected.shape != other[name].shape:
                problem = f"{name} has the shape {other[name].shape}, the detector's {expected.shape}"
                raise InputError(Finding("the ONNX file", "proof", problem, "report it"))
            worst = max(worst, float((np.abs(expected - other[name]) / (1 + np.abs(expected))).max()))
    if not worst < NEAR:
        problem = f"disagrees with the detector by {worst:.2g} in {proof.words}"
        raise InputError(Finding("the ONNX file", "proof", problem, "report it; nothing was written"))
    return f"logits, deltas and anchors in {proof.words} differ from the detector's by {worst:.1g} at most"


def _floats(picture: Photograph) -> Tensor:
    planes = picture.planes
    return planes if planes.is_floating_point() else planes.float() / 255


def _require(*packages: str) -> None:
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        problem, fix = f"needs {' and '.join(missing)}", "pip install 'incdet[onnx]'"
        raise InputError(Finding("export", "onnx", problem, fix))


def _impossible(kind: str, faults: Mapping[str, Exception]) -> InputError:
    said = "; ".join(f"{name}: {type(error).__name__}: {str(error)[:200]}" for name, error in faults.items())
    problem = f"cannot be made of this network by PyTorch {torch.__version__} ({said})"
    return InputError(Finding("export", kind, problem, "use another format, or another version of PyTorch"))
