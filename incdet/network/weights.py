"""Pretrained weights for a new network: by torchvision name, or from a local file; predictors are never taken over."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from incdet.config.architecture import Architecture
from incdet.errors import Finding, InputError, suggest

State = Mapping[str, Tensor]
# torchvision's COCO weights of the first builder were trained with this epsilon (pytorch/vision#2933).
_COCO_V1_FILE = "retinanet_resnet50_fpn_coco"
WRAPPERS = ("model", "state_dict", "model_state_dict")
PREFIXES = ("module", "model", "_orig_mod")


def read_weights(source: str | Path | State, architecture: Architecture) -> tuple[dict[str, Tensor], float | None]:
    """The tensors of ``source`` and the BatchNorm epsilon they were trained with, where that is known.

    Args:
        source: A local ``.pth`` / ``.pt`` / ``.safetensors`` file, a checkpoint folder, or a torchvision name such as
            ``IMAGENET1K_V1``, ``ResNet50_Weights.IMAGENET1K_V1`` or, with a builder, ``COCO_V1``; a name may download.
            Tensors that were read already are taken as they are.
        architecture: Says which names are known.

    Raises:
        InputError: No such file or name, or the file cannot be read.
    """
    if isinstance(source, Mapping):
        return dict(source), None
    path = Path(source)
    if (path / "model.safetensors").is_file():
        path = path / "model.safetensors"
    if path.is_file():
        return read_state(path), 0.0 if path.name.startswith(_COCO_V1_FILE) else None
    if path.suffix in (".pth", ".pt", ".safetensors") or len(path.parts) > 1:
        raise _error(str(source), "does not exist", "give an existing .pth or .safetensors file, or a torchvision name")
    known = _named_weights(architecture)
    if str(source) not in known:
        raise _error(
            str(source),
            f"is no file and no torchvision weights of {architecture.detector or architecture.backbone}",
            suggest(str(source), known),
        )
    entry = known[str(source)]
    try:
        state = dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, HTTPException, RuntimeError, UnpicklingError) as fault:
        raise _error(str(source), f"cannot be downloaded ({fault})", f"fetch {entry.url} and give the file") from fault
    coco_v1 = str(entry) == "RetinaNet_ResNet50_FPN_Weights.COCO_V1"
    return state, 0.0 if coco_v1 else None


def _named_weights(architecture: Architecture) -> dict[str, Any]:
    """Every name under which torchvision has weights for this architecture; the detector's own win over the body's."""
    known: dict[str, Any] = {}
    for model in (architecture.backbone, architecture.detector):
        if model is None or model not in torchvision.models.list_models():
            continue
        enum = torchvision.models.get_model_weights(model)
        for name, entry in enum.__members__.items():
            known[name] = known[f"{enum.__name__}.{name}"] = entry
    return known


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file under the names that the network itself gives them.

    A state dict may lie under ``model``, ``state_dict`` or ``model_state_dict``, and its names may begin with
    ``module.`` or ``model.``, as wrappers write them; what else such a file holds is left out.

    Raises:
        InputError: The file cannot be read, or holds anything but tensors: no code of a file is ever run.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = dict(load_file(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, UnpicklingError) as fault:
        raise _unreadable(path, fault) from fault
    while isinstance(state, dict) and (key := next((k for k in WRAPPERS if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise _error(str(path), "holds no state dict", "save model.state_dict() and give that file")
    return _bare({str(key): value for key, value in state.items()})


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without what wrappers put before the names of a network."""
    for key in state:
        prefix, found, _ = key.partition("backbone.")
        if found and prefix and all(part in PREFIXES for part in prefix[:-1].split(".")):
            return _below(state, prefix)
    while all(key.split(".")[0] in PREFIXES for key in state):
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def load_weights(source: str, state: State, backbone: nn.Module, class_tower: nn.Module, box_head: nn.Module) -> None:
    """Copies ``state`` into the parts it holds: a whole detector (without its predictors), or the body alone.

    Args:
        source: What the tensors came from, for messages.
        state: A torchvision detector (``backbone.*``, ``head.*``), an incdet detector (``backbone.*``,
            ``class_head.*``, ``box_head.*``), or a classifier's body (``conv1.*``, ``layer1.*``; ``features.*``).
        backbone: Receives ``backbone.*``; its ``body`` receives a classifier's.
        class_tower: Receives the class tower.
        box_head: Receives the box branch.

    Raises:
        InputError: Nothing matches, something is missing, or a shape differs; the message says what was expected.
    """
    if any(key.startswith("backbone.") for key in state):
        own = any(key.startswith("class_head.") for key in state)
        tower = "class_head.tower." if own else "head.classification_head.conv."
        box = "box_head." if own else "head.regression_head."
        _copy(source, _renamed_tower(_below(state, tower)), class_tower, tower)
        _copy(source, _below(state, box), box_head, box)
        _copy(source, _below(state, "backbone."), backbone, "backbone.")
        return
    body: nn.Module = getattr(backbone, "body", backbone)
    features = _below(state, "features.")
    _copy(source, features or _below(state, "body.") or state, body, "features." if features else "")


def _below(state: State, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _renamed_tower(state: State) -> dict[str, Tensor]:
    """Towers saved before torchvision 0.13 count their ReLUs: ``2.weight`` is ``1.0.weight`` today."""
    renamed = {}
    for key, value in state.items():
        match = re.fullmatch(r"(\d+)\.(weight|bias)", key)
        renamed[f"{int(match[1]) // 2}.0.{match[2]}" if match else key] = value
    return renamed


def _copy(source: str, state: State, module: nn.Module, prefix: str) -> None:
    wanted = module.state_dict()
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    with torch.no_grad():
        try:
            # torchvision's own modules rename the keys of their older versions while they load.
            missing = set(module.load_state_dict(dict(state), strict=False).missing_keys)
        except RuntimeError as fault:
            detail = " ".join(str(fault).split("\n")[1:2]).strip()
            raise _error(
                source, f"has tensors of another shape: {detail}", f"expected {_some(wanted, prefix, needed)}"
            ) from fault
    absent = [key for key in needed if key in missing]
    expected = f"expected {_some(wanted, prefix, absent)}"
    if absent and len(absent) == len(needed):
        found = ", ".join(list(state)[:3]) or "nothing like it"
        raise _error(source, "matches no parameter of the network", f"{expected}; the file has {found}")
    if absent:
        raise _error(source, f"lacks {len(absent)} of {len(needed)} tensors", expected)


def _some(wanted: State, prefix: str, keys: Iterable[str]) -> str:
    keys = list(keys)
    shown = ", ".join(f"{prefix}{key} {tuple(wanted[key].shape)}" for key in keys[:3])
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _unreadable(path: Path, fault: Exception) -> InputError:
    return _error(
        str(path),
        f"cannot be read ({str(fault).splitlines()[0]})",
        "is it cut off? give a .safetensors file or a .pth file that holds tensors only",
    )


def _error(source: str, problem: str, fix: str) -> InputError:
    return InputError(Finding(source, "weights", problem, fix))
