from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from incdet.data import picture_book
from incdet.data.inspection import Picture, inspect_picture
from incdet.data.picture_book import cache_folder, inspect_pictures


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.setenv("INCDET_CACHE", str(tmp_path / "cache"))
    paths = [tmp_path / folder / f"{number}.png" for folder in ("a", "b") for number in range(3)]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 30 + number, 3), number, np.uint8))
    return paths


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is decoded, in order."""
    seen: list[Path] = []

    def watched(path: Path) -> Picture:
        seen.append(path)
        return inspect_picture(path)

    monkeypatch.setattr(picture_book, "inspect_picture", watched)
    return seen


def test_pictures_are_decoded_once_and_remembered(pictures: list[Path], decoded: list[Path]) -> None:
    done: list[tuple[int, int]] = []
    first = inspect_pictures([*pictures, *pictures], lambda *counts: done.append(counts))
    assert sorted(decoded) == sorted(pictures) and done == [(6, 6)]
    assert [first[path].width for path in pictures] == [30, 31, 32, 33, 34, 35]
    assert inspect_pictures(pictures, lambda *counts: done.append(counts)) == first
    assert len(decoded) == 6 and len(done) == 1


def test_a_file_that_changed_is_looked_at_again(pictures: list[Path], decoded: list[Path]) -> None:
    inspect_pictures(pictures)
    cv2.imwrite(str(pictures[0]), np.zeros((20, 99, 3), np.uint8))
    os.utime(pictures[1], ns=(1, 1))
    pictures[2].unlink()
    found = inspect_pictures(pictures)
    assert sorted(decoded[6:]) == sorted(pictures[:3])
    assert found[pictures[0]].width == 99 and found[pictures[2]].problem == "does not exist"


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": "0", "pictures": {}}', "\0" * 100])
def test_a_damaged_cache_is_made_anew(pictures: list[Path], decoded: list[Path], content: str) -> None:
    first = inspect_pictures(pictures)
    for page in (cache_folder() / "pictures").iterdir():
        page.write_text(content)
    assert inspect_pictures(pictures) == first and len(decoded) == 12


def test_without_a_place_for_the_cache_nothing_is_remembered(
    pictures: list[Path], decoded: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("INCDET_CACHE", str(tmp_path / "file"))
    assert len(inspect_pictures(pictures)) == len(inspect_pictures(pictures)) == 6
    assert len(decoded) == 12


def test_the_cache_lies_where_the_system_wants_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("INCDET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "incdet"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "incdet"
