"""Reading the configuration: YAML file, ``a.b=value`` overrides and environment in, one checked ``Config`` out.

Reading refuses an unknown key (with the near ones) and a wrong type, and names the file, the key, the value and
the fix. ``Config.dump`` writes the file that reproduces the run; ``incdet keys`` prints every key.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from incdet.config import faults
from incdet.config.schema import Config, Data, Extension, Schedule
from incdet.config.yamlfile import expand, parse_override, read_yaml, set_key
from incdet.errors import Finding, InputError

_RENAMED = {"model.detections": "model.detections_per_img"}
_RIVALS = {"iterations": "epochs", "epochs": "iterations", "total": "per_class", "per_class": "total"}


def load_config(path: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file (or the defaults), apply ``a.b=value`` overrides, and check everything.

    Relative paths count from the current directory; ``${NAME}`` is taken from the environment, ``${data.root}`` and
    ``${output}`` from the file itself. An override of one of two exclusive keys (``iterations``, ``epochs``) drops the
    other.

    Raises:
        InputError: The file is missing or cut off, a key is unknown, or a value is of the wrong type or range;
            all faults at once.
    """
    source = str(path) if path is not None else "defaults"
    tree = read_yaml(Path(path)) if path is not None else {}
    _rename(tree, source)
    given = []
    for text in overrides:
        key, value = parse_override(text)
        key = _RENAMED.get(key, key)
        set_key(tree, key, value)
        given.append(key)
        section, _, name = key.rpartition(".")
        if name in _RIVALS and value is not None:
            set_key(tree, f"{section}.{_RIVALS[name]}", None)
    return parse_config(tree, source, overridden=given)


def parse_config(tree: Mapping[str, Any], source: str = "configuration", *, overridden: Iterable[str] = ()) -> Config:
    """The checked configuration of a mapping; keys in ``overridden`` are blamed on the command line.

    Raises:
        InputError: See ``load_config``.
    """
    whole = _complete(tree, source)
    try:
        config = Config.model_validate_json(json.dumps(whole))
    except ValidationError as error:
        given = tuple(overridden)

        def file_of(key: str) -> str:
            blamed = any(key == name or name.startswith(f"{key}.") for name in given)
            return "command line" if blamed else source

        findings = faults.findings_of(error, Config, file_of)
        raise InputError([finding for finding in findings if not _is_inherited(finding.item, tree)]) from None
    return _absolute(config)


def _absolute(config: Config) -> Config:
    """``config`` with its paths absolute, so that its file means the same from every directory."""
    model, weights = config.model, config.model.weights
    if weights and ("/" in weights or os.sep in weights or weights.endswith((".safetensors", ".pth", ".pt"))):
        model = model.model_copy(update={"weights": str(Path(weights).resolve())})
    own, extension = Extension.model_fields, config.extend
    if extension is not None:
        paths = {name: getattr(extension, name) for name in own if name == "checkpoint" or "Path" in str(own[name])}
        changed = {name: _whole(value) for name, value in paths.items() if value is not None}
        extension = extension.model_copy(update=changed)
    return config.model_copy(
        update={
            "extend": extension,
            "output": config.output.resolve(),
            "base": config.base.resolve() if config.base is not None else None,
            "data": config.data.model_copy(update={"root": config.data.root.resolve()}),
            "model": model,
        }
    )


def _whole(path: Path | str) -> Path | str:
    """``path`` from the root; a word that names no file, such as weights of torchvision, stays."""
    if isinstance(path, str):
        return str(Path(path).resolve()) if Path(path).exists() else path
    return path.resolve()


def describe_keys() -> Iterator[tuple[str, str, str]]:
    """``(dotted key, default as JSON, description)`` of every setting."""
    return faults.describe_keys(Config)


def _complete(tree: Mapping[str, Any], source: str) -> dict[str, Any]:
    """``tree`` with what it leaves open: the data root, the schedules, references, lists written as one word."""
    whole: dict[str, Any] = json.loads(json.dumps(tree))
    for name in ("methods", "without"):
        if isinstance(whole.get(name), str):
            whole[name] = [word.strip() for word in whole[name].split(",") if word.strip()]
    _rename(whole, source)
    _complete_root(whole, source)
    _complete_schedules(whole)

    def lookup(key: str) -> Any:
        value: Any = whole
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return expand(value, source, lambda _: None, (key,))

    expanded: dict[str, Any] = expand(whole, source, lookup)
    return expanded


def _rename(tree: Mapping[str, Any], source: str) -> None:
    """Gives the keys of older files their names of today."""
    for old, new in _RENAMED.items():
        section, _, name = old.partition(".")
        below, modern = tree.get(section), new.rpartition(".")[2]
        if isinstance(below, dict) and name in below:
            if modern in below:
                raise InputError(Finding(source, f"key {old}", f"is the older name of {new}", "keep one of the two"))
            below[modern] = below.pop(name)


def _complete_root(whole: dict[str, Any], source: str) -> None:
    data = whole.setdefault("data", {})
    if not isinstance(data, dict) or data.get("root") is not None:
        return
    if data.get("format", "shapes") == "shapes":
        output = whole.get("output") or Config.model_fields["output"].default
        train, test, size, seed = (
            data.get(key, Data.model_fields[key].default)
            for key in ("train_images", "test_images", "image_size", "draw_seed")
        )
        # Named by what is drawn: a run that is refused later must not have drawn over the images of another.
        data["root"] = f"{output}/data/{size}px_{train}+{test}_seed{seed}"
    elif os.environ.get("INCDET_DATA"):
        data["root"] = os.environ["INCDET_DATA"]
    else:
        raise InputError(
            Finding(
                source,
                "key data.root",
                "is not given and INCDET_DATA is not set",
                "add data.root=FOLDER to the command, or export INCDET_DATA=FOLDER",
            )
        )


def _complete_schedules(whole: dict[str, Any]) -> None:
    """Takes what a later schedule leaves open from ``base``; lengths are derived when the images are known."""
    train = whole.setdefault("train", {})
    base = train.setdefault("base", {}) if isinstance(train, dict) else None
    if not isinstance(base, dict):
        return
    if base.get("iterations") is None and base.get("epochs") is None:
        base["epochs"] = Config.model_fields["train"].default.base.epochs
    for name in ("increment", "finetune", "joint"):
        own = train.setdefault(name, {})
        if isinstance(own, dict):
            taken = _tenth(base) if name == "finetune" else dict(base)
            train[name] = {**{key: value for key, value in taken.items() if key not in _RIVALS}, **own}


def _tenth(base: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` at a tenth of its rate; values of a wrong type stay as they are, for the check."""
    changed: dict[str, Any] = dict(base)
    for key in ("lr", "warmup"):
        value = base.get(key, Schedule.model_fields[key].default)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            changed[key] = round(value / 10) if key == "warmup" and math.isfinite(value) else value / 10
    return changed


def _is_inherited(item: str, tree: Mapping[str, Any]) -> bool:
    """Whether ``item`` is a schedule key (or its length) copied from ``train.base``, which is blamed already."""
    words = item.removeprefix("key ").split(".")
    if words[0] != "train" or len(words) < 2 or words[1] not in ("increment", "finetune", "joint"):
        return False
    own = tree["train"].get(words[1]) or {}
    return isinstance(own, dict) and not set(words[2:] or ("iterations", "epochs")) & own.keys()
