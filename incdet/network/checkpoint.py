"""A checkpoint is a folder that rebuilds the detector alone and offline: ``model.safetensors`` + ``checkpoint.json``.

The JSON holds the architecture (under ``recipe``), the vocabulary, the branches of a detector of several networks,
which parameters learn, the history of steps and their metrics, what the scores are worth (``calibration``), the hash of
the tensors, so that two files that do not belong together are refused, and its own digest.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from incdet.config.architecture import EXTERNAL, Architecture
from incdet.errors import Finding, InputError
from incdet.files import is_writer, reading, replacing, sha256
from incdet.network.calibration import Calibration
from incdet.network.paired import PairedRetinaNet, Trunk
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.seal import sealed, unsealed
from incdet.vocab import Vocabulary

TENSORS = "model.safetensors"
DESCRIPTION = "checkpoint.json"
FORMAT = "incdet checkpoint"
VERSION = 1


class Checkpoint(NamedTuple):
    """A detector and what is known about how it came to be.

    Attributes:
        model: In the mode, with the frozen layers and with the trainable parameters it was saved with.
        vocab: Its classes.
        history: One entry per step, as given to ``save``.
        metrics: As given to ``save``.
    """

    model: IncrementalRetinaNet
    vocab: Vocabulary
    history: list[dict[str, Any]]
    metrics: dict[str, Any]


def save(
    folder: str | Path,
    model: IncrementalRetinaNet,
    *,
    history: Sequence[Mapping[str, Any]] = (),
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Writes both files into ``folder``, which may exist and hold other files; returns the folder.

    Each file appears whole or not at all, and an interruption between the two is noticed by ``load``. Under
    ``accelerate launch`` only rank 0 writes.

    Args:
        folder: Created with its parents.
        model: The detector, on any device.
        history: JSON-able entries, one per step.
        metrics: JSON-able.

    Raises:
        OutputError: The disk refuses; a checkpoint of before stands as it was.
    """
    folder = Path(folder)
    if not is_writer():
        return folder
    with replacing(folder / TENSORS) as tensors, replacing(folder / DESCRIPTION) as description:
        save_file({name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}, tensors)
        content = {
            "format": FORMAT,
            "version": VERSION,
            "recipe": model.architecture.to_json(),
            "vocabulary": model.vocab.to_json(),
            "training": model.training,
            "trainable": model.trainable_names(),
            "history": [dict(entry) for entry in history],
            "metrics": dict(metrics or {}),
            **({"branches": list(model.trunks)} if isinstance(model, PairedRetinaNet) else {}),
            "sha256": sha256(tensors),
        }
        if model.calibration is not None:
            content["calibration"] = model.calibration.to_json()
        text = json.dumps(sealed(content), indent=1, ensure_ascii=False)
        description.write_text(f"{text}\n", encoding="utf-8")
    return folder


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    *,
    architecture: Architecture | None = None,
    vocab: Vocabulary | None = None,
    backbone: nn.Module | None = None,
) -> Checkpoint:
    """Rebuilds what ``save`` wrote: same logits, same mode, same trainable set; nothing is downloaded or drawn.

    Args:
        path: The folder or either of its files.
        device: Where the detector goes.
        architecture: If given, the checkpoint must have this architecture.
        vocab: If given, the checkpoint must have exactly these classes in these steps.
        backbone: The module of a detector with an external backbone; it is copied.

    Raises:
        InputError: A file is missing, cut off, changed or from something else, or it does not fit ``architecture`` or
            ``vocab``.
    """
    folder = Path(path)
    if folder.name in (TENSORS, DESCRIPTION):
        folder = folder.parent
    description = _read_description(folder, Path(path))
    stored, stored_vocab = _read_words(folder, description)
    if architecture is not None:
        _same_architecture(folder, stored, architecture)
    if vocab is not None and vocab.steps != stored_vocab.steps:
        raise _error(
            folder / DESCRIPTION,
            "vocabulary",
            f"is {_steps(stored_vocab)}, expected {_steps(vocab)}",
            "use the protocol that the checkpoint was trained with, or another checkpoint",
        )
    if stored.backbone == EXTERNAL and backbone is None:
        raise _error(
            folder / DESCRIPTION, "recipe", "has an external backbone", "pass the module: load(path, backbone=module)"
        )
    tensors = _read_tensors(folder, str(description["sha256"]))
    backbone = copy.deepcopy(backbone)
    # Nothing is initialised on the meta device: loading is fast and leaves the random state alone.
    with torch.device("meta"):
        model = _empty(folder, description, stored, stored_vocab, backbone)
    _check_tensors(folder, model, tensors)
    model.load_state_dict(tensors, assign=True)
    trainable = set(description["trainable"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    model.architecture = stored
    model.calibration = _read_calibration(folder, description)
    model.to(device).train(bool(description["training"]))
    return Checkpoint(model, stored_vocab, list(description["history"]), dict(description["metrics"]))


def _read_description(folder: Path, given: Path) -> dict[str, Any]:
    file = folder / DESCRIPTION
    if not folder.is_dir():
        problem = "is no incdet checkpoint" if given.exists() else "does not exist"
        raise _error(given, "checkpoint", problem, f"give a folder that holds {TENSORS} and {DESCRIPTION}")
    missing = [name for name in (TENSORS, DESCRIPTION) if not (folder / name).is_file()]
    if missing:
        raise _error(folder, "checkpoint", f"lacks {' and '.join(missing)}", "give a folder that incdet wrote")
    with reading(file, "checkpoint", "copy or train it again"):
        description = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise _error(file, "format", "is not that of an incdet checkpoint", "give a folder that incdet wrote")
    if description.get("version") != VERSION:
        raise _error(
            file,
            "version",
            f"is {description.get('version')!r}, this incdet reads {VERSION}",
            "install the incdet that wrote it",
        )
    needed = ("recipe", "vocabulary", "training", "trainable", "history", "metrics", "sha256")
    absent = [key for key in needed if key not in description]
    if absent:
        raise _error(file, "checkpoint", f"lacks {', '.join(absent)}", "it was edited: copy or train it again")
    trainable, history = description["trainable"], description["history"]
    plain = isinstance(trainable, list) and all(isinstance(name, str) for name in trainable)
    if not (plain and isinstance(history, list) and isinstance(description["metrics"], dict)):
        problem = "holds no list of names under trainable, no list under history, or no numbers by name under metrics"
        raise _error(file, "checkpoint", problem, "it was edited: copy or train it again")
    return unsealed(file, description, "checkpoint", "copy or train it again")


def _read_words(folder: Path, description: Mapping[str, Any]) -> tuple[Architecture, Vocabulary]:
    file = folder / DESCRIPTION
    item = "recipe"
    try:
        architecture = Architecture.from_json(description["recipe"])
        item = "vocabulary"
        return architecture, Vocabulary.from_json(description["vocabulary"])
    except InputError as fault:
        raise InputError(
            [
                Finding(str(file), item, str(finding), "it was edited: copy or train it again")
                for finding in fault.findings
            ]
        ) from fault
    except (KeyError, TypeError, AttributeError) as fault:
        raise _error(file, item, f"cannot be read ({fault!r})", "it was edited: copy or train it again") from fault


def _empty(
    folder: Path,
    description: Mapping[str, Any],
    architecture: Architecture,
    vocab: Vocabulary,
    backbone: nn.Module | None,
) -> IncrementalRetinaNet:
    """The detector without its tensors: one network, or one for each of its last steps."""
    trunks = description.get("branches", [])
    if not trunks:
        return IncrementalRetinaNet(architecture, vocab, backbone=backbone)
    known = isinstance(trunks, list) and all(trunk in get_args(Trunk) for trunk in trunks)
    if not known or len(trunks) >= len(vocab.steps):
        problem = f"are {trunks!r}, of a detector of {len(vocab.steps)} steps"
        raise _error(folder / DESCRIPTION, "branches", problem, "it was edited: copy or train it again")
    return PairedRetinaNet(architecture, vocab, trunks, backbone=backbone)


def _read_calibration(folder: Path, description: Mapping[str, Any]) -> Calibration | None:
    value = description.get("calibration")
    if value is None:
        return None
    with reading(folder / DESCRIPTION, "calibration", "it was edited: copy it again, or remove the entry"):
        return Calibration.from_json(value)


def _read_tensors(folder: Path, digest: str) -> dict[str, Tensor]:
    file = folder / TENSORS
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError, ValueError) as fault:
        raise _error(file, "tensors", f"cannot be read ({fault})", "it is cut off: copy or train it again") from fault
    if sha256(file) != digest:
        raise _error(
            file,
            "tensors",
            f"are not those that {DESCRIPTION} describes",
            "keep the two files of one checkpoint together",
        )
    return dict(tensors)


def _same_architecture(folder: Path, stored: Architecture, expected: Architecture) -> None:
    ours, theirs = expected.decisive(), stored.decisive()
    # A loaded architecture states an epsilon that a fresh one may leave to its weights.
    differ = [key for key in ours if ours[key] != theirs[key] and not (key == "norm_eps" and ours[key] is None)]
    if differ:
        raise InputError(
            [
                Finding(
                    str(folder / DESCRIPTION),
                    f"recipe {key}",
                    f"is {theirs[key]!r}, expected {ours[key]!r}",
                    "the checkpoint is of another architecture: change the model section or the checkpoint",
                )
                for key in differ
            ]
        )


def _check_tensors(folder: Path, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The tensors fit the rebuilt network one to one."""
    wanted = model.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} is unknown" for name in tensors if name not in wanted]
    faults += [
        f"{name} is {tuple(tensors[name].shape)}, expected {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    if not faults:
        return
    shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
    if all(fault.startswith("class_head.predictors.") for fault in faults):
        raise _error(
            folder / DESCRIPTION,
            "vocabulary",
            f"does not fit the tensors ({shown})",
            "the vocabulary was edited: restore it",
        )
    raise _error(
        folder / TENSORS,
        "tensors",
        f"are of another architecture ({shown})",
        "keep the two files of one checkpoint together",
    )


def _steps(vocab: Vocabulary) -> str:
    return " + ".join(", ".join(step) for step in vocab.steps)


def _error(file: Path, item: str, problem: str, fix: str) -> InputError:
    return InputError(Finding(str(file), item, problem, fix))
