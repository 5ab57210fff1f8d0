"""Files that no program wrote: every reader answers with records or with the one documented error."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trust.spoil import spoilt, spoilt_json

from incdet.data.formats.convert import FORMATS, Format, convert
from incdet.data.formats.reader import recognise
from incdet.data.records import FaultyData
from incdet.errors import InputError

SUFFIXES = (".json", ".xml", ".txt", ".yaml", ".csv")


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
        structured = path.suffix == ".json" and chance.random() < 0.5
        path.write_bytes((spoilt_json if structured else spoilt)(before, chance))
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
