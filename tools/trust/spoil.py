"""Files that no program wrote: bytes changed, lost, repeated; and JSON whose values are not what anybody expects."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from incdet.seal import KEY, sealed

PIECES = (
    *(b"null", b"-1", b"1e999", b"NaN", b'""', b"[]", b"{}", b"true", b"9" * 30, b"9" * 5000, b"\xff\xfe", b"\x00"),
    *(b"<", b"&amp;", b"<!DOCTYPE a>", b"'", b'"', b",", b"\n", b"..", b"/", b"\\", b"[[", b"]]", b"{", b"}", b"&a"),
    *(b"*a", b": ", b"\xed\xa0\x80", b"\\ud800", b"cat", b"<object>", b"</object>", b"encoding=", b"utf-7", b"1_0"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, "", "a", "../../etc/passwd", "\x00", "9" * 300),
    *([], {}, [[]], [None], {"a": 1}, [1, 2, 3], ["a", "a"], [2**63] * 3),
)


def spoilt(content: bytes, chance: random.Random) -> bytes:
    """The content with some bytes changed, lost, repeated or replaced by pieces that mean something."""
    text = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        place = chance.randrange(len(text) + 1)
        end = place + chance.randrange(1, 20)
        kind = chance.random()
        if kind < 0.3:
            text[place : place + 1] = bytes([chance.randrange(256)])
        elif kind < 0.45:
            del text[place:end]
        elif kind < 0.8:
            text[place : end if kind < 0.6 else place] = chance.choice(PIECES)
        elif kind < 0.93:
            start = chance.randrange(len(text) + 1)
            text[place:place] = text[start : start + 40]
        else:
            del text[place:]
    return bytes(text)


def spoilt_json(content: bytes, chance: random.Random) -> bytes:
    """A JSON document with some values replaced, keys dropped or renamed; one that carried a digest carries its own."""
    value = json.loads(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        value = _spoil(value, chance)
    if isinstance(value, dict) and KEY in value:
        value = sealed(value)
    return json.dumps(value).encode()


def _spoil(value: Any, chance: random.Random) -> Any:
    """``value`` with one spoilt place, near the top or deep below."""
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return copy.deepcopy(chance.choice(VALUES))
    places: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    place = chance.choice(places)
    if chance.random() < 0.1:
        del value[place]
    elif isinstance(value, dict) and chance.random() < 0.1:
        value[chance.choice(("a", "", "seal", "\x00"))] = value.pop(place)
    else:
        value[place] = _spoil(value[place], chance)
    return value
