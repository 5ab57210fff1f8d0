"""Other people's RetinaNets: a checkpoint folder, a torchvision name or a state dict in, a detector out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision
from torch import nn

from incdet.config.architecture import BACKBONES, DETECTORS, RETINANET_SIZES, Architecture
from incdet.errors import Finding, InputError, shown, suggest
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import select_columns, to_torchvision
from incdet.network.weights import State, read_weights
from incdet.vocab import Vocabulary

ARCHS = (*DETECTORS, *BACKBONES)
NO_CLASS = (None, "N/A", "__background__", "-")
"""Names of a column that is no class."""

_CLASSES = "head.classification_head.cls_logits"
_BOXES = "head.regression_head.bbox_reg"
_TOWER = "head.classification_head.conv."
_IN_CODE = "load it into the torchvision model it came from, and use incdet.from_torchvision"


def load_detector(
    spec: str | Path, arch: str | None = None, classes: Sequence[str | None] | None = None
) -> IncrementalRetinaNet:
    """A detector from wherever there is one; in evaluation mode unless a checkpoint says otherwise.

    Args:
        spec: A checkpoint folder of incdet; torchvision's weights as ``retinanet_resnet50_fpn_v2:COCO_V1``, which are
            downloaded unless torch's hub folder has them; or the file of a state dict.
        arch: What a state dict belongs to, see ``import_state``.
        classes: The name of each column of a state dict. Torchvision's weights bring their own.

    Raises:
        InputError: There is no such thing, it cannot be read or downloaded, or it does not fit ``arch`` or ``classes``.
    """
    path, (builder, _, name) = Path(spec), str(spec).partition(":")
    if path.is_file() and not (path.parent / checkpoint.DESCRIPTION).is_file():
        return import_state(path, arch, classes)
    named = bool(name) and not path.exists() and re.fullmatch(r"\w{2,}", builder)
    for word, given in (("arch", arch), ("classes", None if named else classes)):
        if given is not None:
            raise _error(spec, word, "is given, but only a state dict needs it", "leave it out")
    return _from_torchvision_name(builder, name, classes) if named else checkpoint.load(path).model


def import_state(path: str | Path, arch: str | None, classes: Sequence[str | None] | None) -> IncrementalRetinaNet:
    """A detector with the weights of a torchvision RetinaNet that somebody saved as a state dict.

    BatchNorm is frozen where the file counts no batches, as torchvision's pretrained builders freeze it; the first
    stages of the body do not learn, as with any pretrained weights.

    Args:
        path: ``.pth`` (tensors only: no code in it is run) or ``.safetensors``; its names may have the prefixes of
            ``incdet.network.weights.read_state``.
        arch: ``retinanet_resnet50_fpn``, ``retinanet_resnet50_fpn_v2``, or a backbone of incdet under torchvision's
            heads, with RetinaNet's anchors.
        classes: The name of each column; None, ``N/A``, ``__background__`` or ``-`` drop it.

    Raises:
        InputError: The file cannot be read or is of another network; the message names what differs and what fits.
    """
    state, eps = read_weights(path, Architecture())
    if f"{_CLASSES}.weight" not in state:
        problem = f"holds no torchvision RetinaNet: no {_CLASSES}.weight among {shown(', '.join(state), 300)}"
        own = "class_head.predictors.0.weight" in state
        raise _error(path, "state dict", problem, "give the folder of an incdet checkpoint" if own else _IN_CODE)
    if arch is not None and arch not in ARCHS:
        raise _error(path, f"arch {shown(arch)}", "is unknown", suggest(arch, ARCHS))
    faults = ["a state dict does not tell it"] if arch is None else _differences(state, arch)
    if arch is None or faults:
        fitting = next((name for name in ARCHS if name != arch and not _differences(state, name)), None)
        shortened = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
        problem = f"is not given: {shortened}" if arch is None else f"does not fit: {shortened}"
        raise _error(path, f"arch {arch or ''}".strip(), problem, f"give --arch {fitting}" if fitting else _IN_CODE)
    return _built(path, state, _architecture(state, arch, eps), classes)


def _from_torchvision_name(builder: str, name: str, classes: Sequence[str | None] | None) -> IncrementalRetinaNet:
    spec = f"{builder}:{name}"
    if builder not in DETECTORS:
        raise _error(spec, f"builder {shown(builder)}", "is unknown", suggest(builder, DETECTORS))
    state, eps = read_weights(name, Architecture(detector=builder))
    if classes is None:
        entry = torchvision.models.get_model_weights(builder)[name.rpartition(".")[2]]
        classes = entry.meta["categories"]
    return _built(spec, state, _architecture(state, builder, eps), classes)


def _built(
    source: str | Path, state: State, architecture: Architecture, classes: Sequence[str | None] | None
) -> IncrementalRetinaNet:
    anchors = architecture.anchors_per_cell
    columns = len(state[f"{_CLASSES}.bias"]) // anchors
    if classes is None or isinstance(classes, str) or len(classes) != columns:
        given = "none" if classes is None else repr(classes) if isinstance(classes, str) else len(classes)
        fix = f"give {columns} (--classes-known), with - for a column without a class, such as a background in front"
        raise _error(source, "classes", f"has {columns} columns, the names are {given}", fix)
    kept = [column for column, name in enumerate(classes) if name not in NO_CLASS]
    vocab = Vocabulary((tuple(str(classes[column]) for column in kept),))
    model = IncrementalRetinaNet(architecture, vocab, state)
    predictor = model.class_head.predictors[0]
    assert isinstance(predictor, nn.Conv2d) and predictor.bias is not None
    with torch.no_grad():
        predictor.weight.copy_(select_columns(state[f"{_CLASSES}.weight"], anchors, kept))
        predictor.bias.copy_(select_columns(state[f"{_CLASSES}.bias"], anchors, kept))
    return model.eval()


def _architecture(state: State, arch: str, eps: float | None = None) -> Architecture:
    """The network of that name whose other numbers are those of ``state``.

    Raises:
        InputError: There is none.
    """
    frozen = not any(key.endswith("num_batches_tracked") for key in state)
    if arch in DETECTORS:
        return Architecture(detector=arch, frozen_norm=frozen, norm_eps=eps)
    pyramid = any(key.startswith("backbone.fpn.") for key in state)
    channels = int(state[f"{_CLASSES}.weight"].shape[1])
    above = state.get("backbone.fpn.extra_blocks.p6.weight")
    norm = "group" if f"{_TOWER}0.1.weight" in state else None
    return Architecture(
        backbone=arch,
        pyramid=pyramid,
        channels=channels,
        tower_depth=sum(key.startswith(_TOWER) and value.dim() == 4 for key, value in state.items()),
        norm="batch" if f"{_TOWER}0.1.running_mean" in state else norm,
        p6_from="p5" if above is None or above.shape[1] == channels else "c5",
        frozen_norm=frozen,
        anchor_sizes=RETINANET_SIZES if pyramid else ((32, 64, 128, 256, 512),),
    )


def _differences(state: State, arch: str) -> list[str]:
    """What keeps ``state`` from being that of ``arch``; empty where it fits."""
    try:
        architecture = _architecture(state, arch)
    except InputError as fault:
        return [f"{finding.item} {finding.problem}" for finding in fault.findings]
    boxes, scores = (len(state.get(f"{name}.bias", ())) for name in (_BOXES, _CLASSES))
    anchors = architecture.anchors_per_cell
    if boxes != 4 * anchors or not scores or scores % anchors:
        return [
            f"{_BOXES}.bias has {boxes} values and {_CLASSES}.bias {scores}, expected 4 and K for {anchors} anchors"
        ]
    with torch.device("meta"):
        vocab = Vocabulary((tuple(str(column) for column in range(scores // anchors)),))
        plain = to_torchvision(IncrementalRetinaNet(architecture, vocab))
    try:
        # torchvision's own modules rename the keys of their older versions while they load.
        shapes = {key: value.to("meta") for key, value in state.items()}
        found = plain.load_state_dict(shapes, strict=False, assign=True)
    except RuntimeError as fault:
        said = r"size mismatch for (\S+): .*?\[(.*?)\].*?\[(.*?)\].*"
        return [re.sub(said, r"\1 is (\2), expected (\3)", line.strip()) for line in str(fault).splitlines()[1:]]
    missing = [f"{key} is missing" for key in found.missing_keys if not key.endswith("num_batches_tracked")]
    return [*missing, *(f"{key} is unknown" for key in found.unexpected_keys)]


def _error(file: str | Path, item: str, problem: str, fix: str) -> InputError:
    return InputError(Finding(str(file), item, problem, fix))
