from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
from helpers import record

from incdet.data.leaks import find_leaks, leak_warnings


def photograph(path: Path, seed: int, **more: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (10, 12, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (more.get("width", 240), more.get("height", 200)), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, more.get("quality", 95)])
    return path


def test_files_copies_and_pictures_saved_anew_are_found(tmp_path: Path) -> None:
    train = [photograph(tmp_path / "train" / f"{seed}.jpg", seed) for seed in range(6)]
    test = [
        photograph(tmp_path / "test" / "other.jpg", 50),
        train[1],
        Path(shutil.copy(train[2], tmp_path / "test" / "copy.jpg")),
        photograph(tmp_path / "test" / "small.png", 3, width=120, height=100),
        photograph(tmp_path / "test" / "worse.jpg", 4, quality=25),
    ]
    leaks = find_leaks([record(path) for path in train], [record(path) for path in [*test, *test]])
    assert [(leak.first.name, leak.second.name, leak.kind) for leak in leaks] == [
        ("1.jpg", "1.jpg", "file"),
        ("2.jpg", "copy.jpg", "copy"),
        ("3.jpg", "small.png", "look"),
        ("4.jpg", "worse.jpg", "look"),
    ]
    warnings = leak_warnings(leaks, "a", "b")
    assert [warning.severity for warning in warnings] == ["warning"] * 3
    assert "2 picture(s) of a and of b look alike: 3.jpg = " in warnings[2].problem


def test_a_link_is_the_file_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to(photograph(tmp_path / "a.jpg", 1))
    (leak,) = find_leaks([record(tmp_path / "link.jpg")], [record(tmp_path / "a.jpg")])
    assert leak.kind == "file"


def test_sets_that_share_nothing_have_no_leaks(tmp_path: Path) -> None:
    first, second = ([record(photograph(tmp_path / f"{s}.jpg", s)) for s in p] for p in (range(8), range(8, 16)))
    assert find_leaks(first, second) == [] and leak_warnings([], "a", "b") == []


def test_pictures_without_detail_are_not_taken_for_one_another(tmp_path: Path) -> None:
    for name, grey in (("a", 80), ("b", 90)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((40, 60, 3), grey, np.uint8))
    assert find_leaks([record(tmp_path / "a.png")], [record(tmp_path / "b.png"), record(tmp_path / "none.png")]) == []
