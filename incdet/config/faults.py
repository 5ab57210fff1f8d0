"""Pydantic's faults in our words: file, key, value and fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from incdet.errors import Finding, shown, suggest


def findings_of(
    error: ValidationError, root: type[BaseModel], file_of: Callable[[str], str], word: str = "key "
) -> list[Finding]:
    """The faults of ``error``, one a key.

    Args:
        error: Raised while a ``root`` was made.
        root: The outermost section.
        file_of: What to blame for a dotted key.
        word: Stands before a key.
    """
    found: dict[str, Finding] = {}
    for fault in error.errors():
        finding = _finding(fault, root, file_of, word)
        found.setdefault(finding.item, finding)
    return list(found.values())


def describe_keys(root: type[BaseModel]) -> Iterator[tuple[str, str, str]]:
    """``(dotted key, default as JSON, description)`` of every setting of a section whose fields all have defaults."""
    yield from _describe(root, to_jsonable_python(root()), "")


def _describe(section: type[BaseModel], defaults: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in section.model_fields.items():
        below = _section_of(field.annotation)
        if below is not None:
            yield from _describe(below, defaults.get(name) or {}, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(defaults.get(name)), field.description or ""


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class in an annotation such as ``Split | None``, if there is one."""
    for choice in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return choice
    return None


def _finding(fault: ErrorDetails, root: type[BaseModel], file_of: Callable[[str], str], word: str) -> Finding:
    section: type[BaseModel] = root
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
    file, item = file_of(key), f"{word}{key}" if key else "file"
    if fault["type"] == "extra_forbidden":
        return Finding(file, item, "is unknown", _near(words[-1], section, root))
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
    near = suggest(str(value), _choices(field.annotation)) if fault["type"] == "literal_error" and field else ""
    hint = f"{near} {hint}" if near.startswith("did you mean") else hint
    return Finding(file, item, f"is {shown(repr(value))}: {problem[0].lower()}{problem[1:]}", hint)


def _choices(annotation: Any) -> Iterable[str]:
    """The words that the ``Literal`` in an annotation allows."""
    for choice in (annotation, *get_args(annotation)):
        if get_origin(choice) is Literal:
            yield from get_args(choice)


def _near(word: str, section: type[BaseModel], root: type[BaseModel]) -> str:
    """Where an unknown key may belong: a near name in its section, or the same name in another."""
    near = suggest(word, section.model_fields)
    if near.startswith("known"):
        elsewhere = [key for key, _, _ in describe_keys(root) if key.split(".")[-1] == word]
        if elsewhere:
            return f"{word!r} belongs to {', '.join(elsewhere)}"
    return near
