from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import record
from safetensors import safe_open
from safetensors.torch import save_file

from incdet.distillation.cache_file import Archive, Key, load, save

KEY = Key("t", "d", "g")


def archive(seed: int = 0) -> Archive:
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Any:
        return torch.randint(0, 9, shape, generator=generator)

    floats = {"logits": (7, 2), "deltas": (7, 4), "positive_box": (3, 4)}
    flags = {"rows": (7, 1), "positive_free": (3,), "channels": (4, 0)}
    return Archive(
        **{
            name: torch.randn(floats[name], generator=generator)
            if name in floats
            else numbers(*flags[name]) > 4
            if name in flags
            else numbers(5)
            for name in Archive._fields
        }
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "states" / "train.responses.safetensors"
    save(path, archive(), KEY)
    return path


def test_what_is_read_is_what_was_written(file: Path) -> None:
    found, fault = load(file, KEY)
    assert found is not None and fault == ""
    assert all(
        torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(found, archive(), strict=True)
    )
    assert [one.name for one in file.parent.iterdir()] == [file.name]  # nothing temporary is left


def test_where_there_is_no_file_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert load(tmp_path / "none.safetensors", KEY) == (None, "")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (Key("x", "d", "g"), "another teacher"),
        (Key("t", "x", "g"), "another data"),
        (Key("t", "d", "x"), "another geometry"),
        (Key("x", "d", "x"), "another teacher and another geometry"),
    ],
)
def test_a_file_of_another_key_is_refused_and_the_part_named(file: Path, key: Key, words: str) -> None:
    assert load(file, key) == (None, f"it was made with {words}")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 40)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def cut_in_the_header(path: Path) -> None:
    os.truncate(path, 100)


def scribble(path: Path) -> None:
    path.write_bytes(b"\x00" * 200)


@pytest.mark.parametrize("spoil", [cut, cut_to_nothing, cut_in_the_header, scribble])
def test_a_truncated_or_foreign_file_is_noticed(file: Path, spoil: Callable[[Path], None]) -> None:
    spoil(file)
    found, fault = load(file, KEY)
    assert found is None and "cannot be read" in fault


def test_a_changed_byte_is_noticed(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)
    assert load(file, KEY) == (None, "its content was changed")


def test_a_file_without_a_part_or_of_another_version_is_refused(file: Path) -> None:
    with safe_open(file, "pt") as one:
        known = dict(one.metadata())
    tensors = {name: value for name, value in archive()._asdict().items() if name != "rows"}
    save_file(tensors, file, known)
    assert "cannot be read" in load(file, KEY)[1]
    save_file(tensors, file, {**known, "format": "incdet responses 0"})
    assert load(file, KEY) == (None, "it is no file of this version")


def test_the_key_follows_weights_pictures_and_settings(tmp_path: Path) -> None:
    records = []
    for number in range(2):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"x" * (10 + number))
        records.append(record(path, ["a"], number=number))
    state = {"w": torch.arange(4.0), "n": torch.tensor(3)}

    def key(state: Any = state, records: Any = records, geometry: Any = {"lowest": 0.1}) -> Key:  # noqa: B006
        return Key.of([state], records, geometry)

    assert key() == key({name: value.clone() for name, value in reversed(state.items())})
    moved = {**state, "w": torch.tensor([0.0, 1.0, 2.0, 3.0000002])}
    assert differing(key(), key(moved)) == ["teacher"]
    assert differing(key(), Key.of([state, state], records, {"lowest": 0.1})) == ["teacher"]
    assert differing(key(), key(records=records[::-1])) == ["data"]
    assert differing(key(), key(records=[replace(records[0], width=50), records[1]])) == ["data"]
    assert differing(key(), key(records=[replace(records[0], coverage=frozenset("ab")), records[1]])) == ["data"]
    assert differing(key(), key(geometry={"lowest": 0.2})) == ["geometry"]
    before = key()
    (tmp_path / "1.png").write_bytes(b"x" * 30)
    assert differing(before, key()) == ["data"]
    (tmp_path / "1.png").unlink()  # in the image cache, perhaps
    assert differing(before, key()) == ["data"]


def differing(one: Key, other: Key) -> list[str]:
    return [name for name in Key._fields if getattr(one, name) != getattr(other, name)]
