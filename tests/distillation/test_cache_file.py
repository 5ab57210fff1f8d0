from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_equal_states, draw, record
from safetensors import safe_open
from safetensors.torch import save_file

from incdet.distillation.cache_file import CachedTargets, Key, Ragged, load, save
from incdet.distillation.teacher_targets import Entries

KEY = Key("t", "d", "g")


def ragged(seed: int, **shapes: tuple[int, ...]) -> Ragged:
    """Three entries with two, none and five places."""
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(7, *shape, generator=generator) for name, shape in shapes.items()}
    return Ragged(torch.tensor([0, 2, 2, 7]), torch.randint(0, 99, (7,), generator=generator), values)


def cached() -> CachedTargets:
    lists = {
        "kd_response/rows": ragged(0, logits=(2,)),
        "pseudo_labels/positive": ragged(1, box=(4,), column=()),
        "pseudo_labels/between": ragged(2),
    }
    positive = lists["pseudo_labels/positive"]
    flags = {**positive.values, "free": torch.arange(7) % 2 == 0}
    lists["pseudo_labels/positive"] = positive._replace(values=flags)
    return CachedTargets(torch.tensor([[0, -1], [1, 2]]), torch.arange(12).reshape(3, 2, 2), lists)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "states" / "train.responses.safetensors"
    save(path, cached(), KEY)
    return path


def test_what_is_read_is_what_was_written(file: Path) -> None:
    found, fault = load(file, KEY)
    assert found is not None and fault == ""
    mine, theirs = found.tensors(), cached().tensors()
    assert found.lists.keys() == cached().lists.keys()
    assert_equal_states(mine, theirs)
    assert all(mine[name].dtype == theirs[name].dtype for name in mine)
    assert found.nbytes == sum(part.nbytes for part in theirs.values())
    assert [one.name for one in file.parent.iterdir()] == [file.name]  # nothing temporary is left


def test_where_there_is_no_file_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert load(tmp_path / "none.safetensors", KEY) == (None, "")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (Key("x", "d", "g"), "another teacher"),
        (Key("t", "x", "g"), "another data"),
        (Key("t", "d", "x"), "another rule"),
        (Key("x", "d", "x"), "another teacher and another rule"),
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
    tensors = cached().tensors()
    del tensors["kd_response/rows/value/logits"]
    save_file(tensors, file, known)
    assert load(file, KEY) == (None, "its content was changed")
    save_file(tensors, file, {**known, "format": "incdet responses 1"})
    assert load(file, KEY) == (None, "it is no file of this version")


def test_places_of_several_batches_are_found_again_by_their_entry() -> None:
    wanted = draw(0, 5, 6) > 1
    values = draw(1, 5, 6, 3)
    first, second = Entries.of(wanted[:2], v=values[:2]), Entries.of(wanted[2:], v=values[2:])
    found = Ragged.joined([(first, 2), (second, 3)])
    assert found.ends[-1] == wanted.sum() and len(found.ends) == 6
    asked = torch.tensor([4, 1, 1, 3])
    stretches, expected = found.stretches(asked), Entries.of(wanted[asked], v=values[asked])
    assert torch.equal(stretches.image, expected.image) and torch.equal(stretches.anchor, expected.anchor)
    assert torch.equal(stretches["v"], expected["v"])


def test_entries_without_any_place_are_kept_too() -> None:
    nothing = Entries.of(torch.zeros(2, 6, dtype=torch.bool), v=draw(1, 2, 6, 3))
    found = Ragged.joined([(nothing, 2)])
    assert found.ends.tolist() == [0, 0, 0]
    assert found.stretches(torch.tensor([1, 0]))["v"].shape == (0, 3)


def test_the_key_follows_weights_pictures_and_settings(tmp_path: Path) -> None:
    records = []
    for number in range(2):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"x" * (10 + number))
        records.append(record(path, ["a"], number=number))
    state = {"w": torch.arange(4.0), "n": torch.tensor(3)}

    def key(state: Any = state, records: Any = records, rule: Any = {"lowest": 0.1}) -> Key:  # noqa: B006
        return Key.of([state], records, rule)

    assert key() == key({name: value.clone() for name, value in reversed(state.items())})
    moved = {**state, "w": torch.tensor([0.0, 1.0, 2.0, 3.0000002])}
    assert differing(key(), key(moved)) == ["teacher"]
    assert differing(key(), Key.of([state, state], records, {"lowest": 0.1})) == ["teacher"]
    assert differing(key(), key(records=records[::-1])) == ["data"]
    assert differing(key(), key(records=[replace(records[0], width=50), records[1]])) == ["data"]
    assert differing(key(), key(records=[replace(records[0], coverage=frozenset("ab")), records[1]])) == ["data"]
    assert differing(key(), key(rule={"lowest": 0.2})) == ["rule"]
    before = key()
    (tmp_path / "1.png").write_bytes(b"x" * 30)
    assert differing(before, key()) == ["data"]
    (tmp_path / "1.png").unlink()  # in the image cache, perhaps
    assert differing(before, key()) == ["data"]


def differing(one: Key, other: Key) -> list[str]:
    return [name for name in Key._fields if getattr(one, name) != getattr(other, name)]
