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

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from incdet.config.schema import Config, Data, Schedule
from incdet.config.yamlfile import expand, parse_override, read_yaml, set_key
from incdet.errors import Finding, InputError, suggest

_RIVALS = {"iterations": "epochs", "epochs": "iterations", "total": "per_class", "per_class": "total"}


def load_config(path: Path | str | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file (or the defaults), apply ``a.b=value`` overrides, and check everything.

    Relative paths count from the current directory; ``${NAME}`` is taken from the environment and ``${data.root}``
    from the file itself. An override of one of two exclusive keys (``iterations``, ``epochs``) drops the other.

    Raises:
        InputError: The file is missing or cut off, a key is unknown, or a value is of the wrong type or range;
            all faults at once.
    """
    source = str(path) if path is not None else "defaults"
    tree = read_yaml(Path(path)) if path is not None else {}
    given = []
    for text in overrides:
        key, value = parse_override(text)
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
        findings: dict[str, Finding] = {}
        for fault in error.errors():
            finding = _finding(fault, source, given)
            if not _is_inherited(finding.item, tree):
                findings.setdefault(finding.item, finding)
        raise InputError(findings.values()) from None
    return _absolute(config)


def _absolute(config: Config) -> Config:
    """``config`` with its paths absolute, so that its file means the same from every directory."""
    model, weights = config.model, config.model.weights
    if weights and ("/" in weights or os.sep in weights or weights.endswith((".safetensors", ".pth", ".pt"))):
        model = model.model_copy(update={"weights": str(Path(weights).resolve())})
    return config.model_copy(
        update={
            "output": config.output.resolve(),
            "base": config.base.resolve() if config.base is not None else None,
            "data": config.data.model_copy(update={"root": config.data.root.resolve()}),
            "model": model,
        }
    )


def describe_keys() -> Iterator[tuple[str, str, str]]:
    """``(dotted key, default as JSON, description)`` of every setting."""
    yield from _describe(Config, to_jsonable_python(Config()), "")


def _describe(section: type[BaseModel], defaults: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if below is not None:
            yield from _describe(below, defaults.get(name) or {}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(defaults.get(name)), field.description or ""


def _complete(tree: Mapping[str, Any], source: str) -> dict[str, Any]:
    """``tree`` with what it leaves open: the data root, the schedules, references, lists written as one word."""
    whole: dict[str, Any] = json.loads(json.dumps(tree))
    for name in ("methods", "without"):
        if isinstance(whole.get(name), str):
            whole[name] = [word.strip() for word in whole[name].split(",") if word.strip()]
    model = whole.get("model")
    if isinstance(model, dict) and isinstance(model.get("min_size"), int):
        model["min_size"] = [model["min_size"]]
    _complete_root(whole, source)
    _complete_schedules(whole)

    def lookup(key: str) -> Any:
        value: Any = whole
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return expand(value, source, lambda _: None, (key,))

    expanded: dict[str, Any] = expand(whole, source, lookup)
    return expanded


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


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class in an annotation such as ``Split | None``, if there is one."""
    for choice in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None


def _finding(fault: ErrorDetails, source: str, overridden: tuple[str, ...]) -> Finding:
    """One pydantic fault in our words: file, key, value and fix."""
    section: type[BaseModel] = Config
    words: list[str] = []
    field = None
    for part in fault["loc"]:
        field = section.model_fields.get(str(part))
        words.append(str(part))
        below = _section_of(field.annotation) if field is not None else None
        if below is None:
            break
        section = below
    key = ".".join(words)
    blamed = any(key == given or given.startswith(f"{key}.") for given in overridden)
    file = "command line" if blamed else source
    item = f"key {key}" if key else "file"
    if fault["type"] == "extra_forbidden":
        return Finding(file, item, "is unknown", _near(words[-1], section))
    problem = fault["msg"].removeprefix("Value error, ")
    value = fault["input"]
    if fault["type"] == "missing":
        return Finding(file, item, "is missing", f"add it: {field.description if field else ''}")
    if isinstance(value, dict) and fault["type"] == "value_error":
        return Finding(file, item, problem, "correct the section")
    hint = f"{field.description}" if field is not None and field.description else "correct the value"
    plain = field is not None and not field.is_required() and field.default_factory is None
    if field is not None and plain and _section_of(field.annotation) is None:
        hint += f" For example {json.dumps(to_jsonable_python(field.default))}."
    return Finding(file, item, f"is {value!r}: {problem[0].lower()}{problem[1:]}", hint)


def _near(word: str, section: type[BaseModel]) -> str:
    """Where an unknown key may belong: a near name in its section, or the same name in another."""
    near = suggest(word, section.model_fields)
    if near.startswith("known"):
        elsewhere = [key for key, _, _ in describe_keys() if key.split(".")[-1] == word]
        if elsewhere:
            return f"{word!r} belongs to {', '.join(elsewhere)}"
    return near
