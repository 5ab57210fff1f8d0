from __future__ import annotations

import json
from pathlib import Path

import pytest

from incdet.errors import InputError
from incdet.seal import sealed, sealed_line, unsealed, unsealed_lines, write_sealed

CONTENT = {"schema": 1, "steps": {"b": [0.1, None, "\u96fb"], "a": 1e-30}, "empty": {}}


def test_what_was_sealed_comes_back_and_stays_sealed_when_it_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, CONTENT)
    read = json.loads(path.read_text("utf-8"))
    assert list(read) == [*CONTENT, "seal"] and len(read["seal"]) == 64
    assert unsealed(path, read, "file", "restore it") == CONTENT
    assert sealed(read) == read


def test_no_flipped_bit_of_a_value_goes_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, CONTENT, indent=None)
    whole = path.read_bytes()
    noticed = 0
    for place in range(len(whole)):
        for bit in range(8):
            spoilt = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
            try:
                value = json.loads(spoilt)
                same = unsealed(path, value, "file", "restore it") == CONTENT
            except (ValueError, InputError):
                noticed += 1
                continue
            # White space carries nothing, and a key that is no seal any more is told by what reads the other keys.
            assert same or "seal" not in value
    assert noticed > 7 * len(whole)


def test_an_edit_is_named_with_the_way_out(tmp_path: Path) -> None:
    value = {**sealed(CONTENT), "schema": 2}
    with pytest.raises(InputError, match="a.json: results: was damaged .* -> restore it.*delete the key 'seal'"):
        unsealed(tmp_path / "a.json", value, "results", "restore it")
    value.pop("seal")
    assert unsealed(tmp_path / "a.json", value, "results", "restore it")["schema"] == 2


def test_every_line_knows_whether_it_is_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines: list[dict[str, object]] = [
        {"event": "start", "rate": 0.1, "loss": float("inf")},
        {"7": [None, "\u96fb"]},
        {},
    ]
    text = "".join(sealed_line(line) for line in lines)
    path.write_text(text + '{"event": "of before"}\n', "utf-8")
    assert list(unsealed_lines(path)) == [*lines, {"event": "of before"}]
    path.write_text(text.replace("0.1", "0.3") + '[1]\n{"cut": \n7\n', "utf-8")
    assert list(unsealed_lines(path)) == [None, *lines[1:], None, None, None]
    assert list(unsealed_lines(tmp_path / "none.jsonl")) == []
