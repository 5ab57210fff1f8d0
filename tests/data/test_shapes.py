"""The shapes data set is drawn from its seed alone, valid, varied, and only once."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from incdet.data.dataset import read_image
from incdet.data.formats.coco import read_coco
from incdet.data.shapes import CLASSES, draw_image, write_shapes
from incdet.errors import InputError, OutputError


def digest(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_draws_the_same_files(tmp_path: Path) -> None:
    first = digest(write_shapes(tmp_path / "a", train=4, test=2, size=48, seed=1))
    assert first == digest(write_shapes(tmp_path / "b", train=4, test=2, size=48, seed=1))
    other = digest(write_shapes(tmp_path / "c", train=4, test=2, size=48, seed=2))
    assert len(first) == 8 and not set(first.values()) & set(other.values())
    assert len(set(first.values())) == 8, "training and test images differ too"


def test_more_images_keep_the_first_ones(tmp_path: Path) -> None:
    few = digest(write_shapes(tmp_path / "a", train=3, test=1, size=48) / "images")
    assert few.items() <= digest(write_shapes(tmp_path / "b", train=6, test=2, size=48) / "images").items()


def test_what_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}

    write_shapes(tmp_path, train=3, test=2, size=48)
    before = times()
    write_shapes(tmp_path, train=3, test=2, size=48)
    assert times() == before
    write_shapes(tmp_path, train=2, test=2, size=64)
    assert len(list((tmp_path / "images" / "train").glob("*.png"))) == 2
    assert read_coco(tmp_path / "train.json", tmp_path / "images").records[0].width == 64


def test_drawing_tells_how_far_it_is_and_is_quiet_where_nothing_is_drawn(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_shapes(tmp_path, train=18, test=3, size=48, progress=lambda done, total: told.append((done, total)))
    assert told == [(16, 21), (21, 21)]
    write_shapes(tmp_path, train=18, test=5, size=48, progress=lambda done, total: told.append((done, total)))
    assert told[2:] == [(5, 5)]
    write_shapes(tmp_path, train=18, test=5, size=48, progress=lambda done, total: told.append((done, total)))
    assert len(told) == 3


def test_a_lost_picture_is_drawn_again(tmp_path: Path) -> None:
    write_shapes(tmp_path, train=3, test=2, size=48)
    before = digest(tmp_path)
    next((tmp_path / "images" / "test").glob("*.png")).unlink()
    assert digest(write_shapes(tmp_path, train=3, test=2, size=48)) == before


def test_somebody_elses_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{"images": []}')
    with pytest.raises(InputError, match="not a shapes data set"):
        write_shapes(tmp_path, train=1, test=1)
    assert (tmp_path / "train.json").read_text() == '{"images": []}'


@pytest.mark.parametrize(("train", "test", "size"), [(0, 1, 96), (1, 0, 96), (1, 1, 40)])
def test_numbers_that_are_too_small(tmp_path: Path, train: int, test: int, size: int) -> None:
    with pytest.raises(InputError, match="use at least"):
        write_shapes(tmp_path, train=train, test=test, size=size)


def test_the_reader_finds_records_that_match_the_pictures(tmp_path: Path) -> None:
    root = write_shapes(tmp_path, train=5, test=3, size=48)
    for split, count in (("train", 5), ("test", 3)):
        found = read_coco(root / f"{split}.json", root / "images")
        assert len(found) == count and found.names == CLASSES and found.warnings == ()
        assert all(read_image(record).shape == (48, 48, 3) for record in found.records)
        assert all(record.coverage == set(CLASSES) for record in found.records)


def test_images_are_varied_and_boxes_valid() -> None:
    classes: Counter[str] = Counter()
    counts: Counter[int] = Counter()
    sides = []
    for seed in range(150):
        canvas, boxes, names = draw_image(np.random.default_rng(seed), 96)
        assert canvas.shape == (96, 96, 3) and canvas.dtype == np.uint8
        assert bool((boxes >= 0).all()) and bool((boxes <= 96).all()) and bool((boxes[:, 2:] > boxes[:, :2]).all())
        classes.update(names)
        counts[len(names)] += 1
        sides += (boxes[:, 2:] - boxes[:, :2]).max(axis=1).tolist()
    assert set(classes) == set(CLASSES) and min(classes.values()) > 40
    assert set(counts) == {2, 3, 4, 5} and min(counts.values()) > 15
    assert 10 < min(sides) < 22 and 40 < max(sides) < 60


def test_the_box_frames_the_silhouette() -> None:
    """A drawing without and with its object differs inside the box and reaches its four sides."""
    inside = outside = 0.0
    for seed in range(40):
        canvas, boxes, _ = draw_image(np.random.default_rng(seed), 96)
        x1, y1, x2, y2 = boxes[-1].round().astype(int)
        picture = canvas.astype(float)
        centre = picture[(y1 + y2) // 2 - 2 : (y1 + y2) // 2 + 3, (x1 + x2) // 2 - 2 : (x1 + x2) // 2 + 3].mean(
            axis=(0, 1)
        )
        inside += np.abs(picture[y1:y2, x1:x2] - centre).sum(axis=2).mean()
        ring = picture[max(0, y1 - 3) : y2 + 3, max(0, x1 - 3) : x2 + 3]
        outside += np.abs(ring[[0, -1]] - centre).sum(axis=2).mean()
    assert inside < 0.75 * outside


def test_drawing_needs_no_torch() -> None:
    names = ("formats.coco_checks", "formats", "protocols", "records", "shapes")
    modules = ", ".join(f"incdet.data.{name}" for name in names)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_picture_that_cannot_be_written_is_told_and_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: bytes) -> int:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(path))

    with monkeypatch.context() as patch, pytest.raises(OutputError, match="000001.png.*your quota is used up"):
        patch.setattr(Path, "write_bytes", refuse)
        write_shapes(tmp_path / "data", train=3, test=2, size=48)
    write_shapes(tmp_path / "data", train=3, test=2, size=48)
    assert len(list((tmp_path / "data").rglob("*.png"))) == 5
