"""JSON files that carry the digest of their own content, so that a flipped bit or an edit is noticed and not believed.

The digest goes over the content in the order it is written in, so that reading and writing keep it. Files without one
(of earlier versions, or made by hand) are taken as they are. A file of lines
has one on every line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.files import write_json

KEY = "seal"
SHORT = 8


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content``, JSON values only, with its digest (64 hex digits) under ``seal`` at its end."""
    plain = {key: value for key, value in content.items() if key != KEY}
    return {**plain, KEY: _digest(plain)}


def write_sealed(path: Path, content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Writes ``content`` with its digest; raises as ``files.write_json`` does."""
    write_json(path, sealed(content), indent=indent)


def unsealed(path: Path, content: Mapping[str, Any], item: str, fix: str) -> dict[str, Any]:
    """``content`` as it was given to ``sealed``.

    Args:
        path: Where it was read.
        content: What was read there.
        item: What the file is.
        fix: The way out.

    Raises:
        InputError: It carries a digest that is not its own.
    """
    plain = dict(content)
    if plain.pop(KEY, None) not in (None, _digest(plain)):
        problem = "was damaged or edited after incdet wrote it (its content does not have the digest it states)"
        if_meant = f"; if the edit is meant, delete the key {KEY!r}"
        raise InputError(Finding(str(path), item, problem, fix + if_meant))
    return plain


def sealed_line(content: Mapping[str, Any]) -> str:
    """``content``, JSON values only, on a line, with 8 hex digits of its digest at its end."""
    return json.dumps({**content, KEY: _digest(content)[:SHORT]}) + "\n"


def unsealed_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """The objects of a file of sealed lines, None for one that is not as it was written; none of a missing file."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                value = json.loads(line)
                seal = value.pop(KEY, None)
                yield value if seal in (None, _digest(value)[:SHORT]) else None
            except (ValueError, TypeError, AttributeError, RecursionError):
                yield None


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
