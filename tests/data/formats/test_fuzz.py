"""Files that no program wrote: every reader answers with records or with the one documented error."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incdet.data.formats.convert import FORMATS, Format, convert
from incdet.data.formats.reader import recognise
from incdet.data.records import FaultyData
from incdet.errors import InputError

SUFFIXES = (".json", ".xml", ".txt", ".yaml", ".csv")
PIECES = (
    *(b"null", b"-1", b"1e999", b"NaN", b'""', b"[]", b"{}", b"true", b"9" * 30, b"9" * 5000, b"\xff\xfe", b"\x00"),
    *(b"<", b"&amp;", b"<!DOCTYPE a>", b"'", b'"', b",", b"\n", b"..", b"/", b"\\", b"[[", b"]]", b"{", b"}", b"&a"),
    *(b"*a", b": ", b"\xed\xa0\x80", b"\\ud800", b"cat", b"<object>", b"</object>", b"encoding=", b"utf-7", b"1_0"),
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


@pytest.mark.parametrize("target", FORMATS)
def test_a_spoilt_file_is_read_or_refused_but_nothing_else(
    make_coco: Callable[..., Any], tmp_path: Path, target: Format
) -> None:
    own = make_coco(images=2, edit=lambda content: content["images"][0].update(covered_category_ids=[1, 2]))
    convert(own.annotations, target, tmp_path / "out")
    files = [path for path in sorted((tmp_path / "out").rglob("*")) if path.suffix in SUFFIXES]
    chance, refused = random.Random(4), 0
    for _ in range(250):
        path = chance.choice(files)
        before = path.read_bytes()
        path.write_bytes(spoilt(before, chance))
        try:
            found = recognise(tmp_path / "out")
            for split in found.splits:
                found.read(split)
        except FaultyData as faulty:
            refused += 1
            assert all(finding.problem and finding.fix for finding in faulty.findings)
            str(faulty).encode("utf-8")
            faulty.rest()
        except InputError as error:
            refused += 1
            str(error).encode("utf-8")
        path.write_bytes(before)
    assert 100 < refused <= 250
