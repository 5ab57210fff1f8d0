"""JSON files that carry the digest of their own content, so that a flipped bit or an edit is noticed and not believed.

The digest goes over the content in the order it is written in, so that reading and writing keep it. Files without one
(of earlier versions, or made by hand) are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from incdet.errors import Finding, InputError
from incdet.files import write_json

KEY = "seal"


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


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
