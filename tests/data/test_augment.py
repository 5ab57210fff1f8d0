"""No pipeline emits a degenerate box, loses a label, or changes a dtype on an empty image."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from incdet.data.augment import SMALLEST_SIDE, BoxPipeline, apply_changes, build_pipeline, changed_boxes
from incdet.data.resize import to_image, to_planes


def run(
    name: str, image: NDArray[np.uint8], boxes: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.int64]]:
    """A pipeline on interleaved pixels, which are easier to write down than planes."""
    done = PIPELINES[name](to_planes(image), boxes, seed)
    return to_image(done.planes), done.boxes, done.rows


def must(pipeline: BoxPipeline | None) -> BoxPipeline:
    assert pipeline is not None
    return pipeline


PIPELINES = {
    "flip": must(build_pipeline(flip=1.0)),
    "half": must(build_pipeline()),
    "crop": must(build_pipeline(flip=0, crop=True)),
    "photometric": must(build_pipeline(flip=0, photometric=True)),
    "zoom": must(build_pipeline(flip=0, scale=(0.5, 2.0))),
    "photometric and flip": must(build_pipeline(photometric=True)),
    "all": must(build_pipeline(crop=True, photometric=True, scale=(0.7, 1.4))),
}


@st.composite
def pictures(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    height, width = draw(st.integers(8, 60)), draw(st.integers(8, 60))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        x1, y1 = draw(st.floats(0, width - 1)), draw(st.floats(0, height - 1))
        boxes.append([x1, y1, draw(st.floats(x1 + 0.5, width)), draw(st.floats(y1 + 0.5, height))])
    noise = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return noise, np.array(boxes, dtype=np.float32).reshape(-1, 4)


@pytest.mark.parametrize("name", PIPELINES)
@given(pictures(), st.integers(0, 2**32 - 1))
def test_boxes_stay_valid_and_rows_true(
    name: str, picture: tuple[NDArray[np.uint8], NDArray[np.float32]], seed: int
) -> None:
    planes, boxes = to_planes(picture[0]), picture[1]
    before = planes.copy(), boxes.copy()
    planes.flags.writeable = False
    done, moved, rows, flipped = PIPELINES[name](planes, boxes, seed)
    assert np.array_equal(planes, before[0]) and np.array_equal(boxes, before[1])
    assert done.dtype == np.uint8 and moved.dtype == np.float32 and rows.dtype == np.int64
    assert done.ndim == 3 and len(done) == 3 and moved.shape == (len(rows), 4) and done.flags.c_contiguous
    height, width = done.shape[1:]
    assert bool((moved >= 0).all()) and bool((moved <= [width, height, width, height]).all())
    assert bool((moved[:, 2:] - moved[:, :2] >= SMALLEST_SIDE).all())
    assert rows.tolist() == sorted(set(rows.tolist())) and set(rows.tolist()) <= set(range(len(boxes)))
    assert not flipped or PIPELINES[name].flip > 0
    if name in ("flip", "half", "crop", "photometric"):
        assert rows.tolist() == list(range(len(boxes))), "a pipeline that only turns or cuts around boxes lost one"
        assert np.allclose(moved[:, 2:] - moved[:, :2], boxes[:, 2:] - boxes[:, :2], atol=1e-3)
    again = PIPELINES[name](planes, boxes, seed)
    assert np.array_equal(done, again[0]) and np.array_equal(moved, again[1]) and np.array_equal(rows, again[2])


def test_a_flip_mirrors_pixels_and_boxes() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[2:5, 3:9] = 255
    done, moved, rows = run("flip", image, np.array([[3, 2, 9, 5]], np.float32), 0)
    assert np.array_equal(done, image[:, ::-1]) and rows.tolist() == [0]
    assert np.allclose(moved, [[11, 2, 17, 5]], atol=1e-4)


@pytest.mark.parametrize("name", ["crop", "zoom", "all"])
def test_the_box_still_frames_its_object(name: str) -> None:
    image = np.zeros((40, 50, 3), np.uint8)
    image[12:28, 14:34] = 255
    for seed in range(20):
        done, moved, _ = run(name, image, np.array([[14, 12, 34, 28]], np.float32), seed)
        bright = done.min(axis=2) > 160
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert np.abs(moved[0] - found).max() < 2


def test_rows_name_the_boxes_that_stayed() -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    corner_and_centre = np.array([[0, 0, 4, 4], [15, 15, 25, 25]], np.float32)
    zoom = must(build_pipeline(flip=0, scale=(2.0, 2.0)))
    _, moved, rows, _ = zoom(to_planes(image), corner_and_centre, 0)
    assert rows.tolist() == [1] and np.allclose(moved, [[10, 10, 30, 30]], atol=1)


def test_seeds_differ() -> None:
    image = np.arange(30 * 30 * 3, dtype=np.uint8).reshape(30, 30, 3)
    boxes = np.array([[5, 5, 15, 15]], np.float32)
    assert len({run("all", image, boxes, seed)[0].tobytes() for seed in range(20)}) > 15


def test_a_crop_is_whole_pixels_of_the_picture_and_bounded() -> None:
    image = np.arange(40 * 50 * 3, dtype=np.int64).reshape(40, 50, 3).astype(np.uint8)
    shapes = set()
    for seed in range(60):
        done, moved, _ = run("crop", image, np.array([[20, 15, 30, 25]], np.float32), seed)
        x, y = (np.array([20, 15]) - moved[0, :2].round()).astype(int)
        assert np.array_equal(done, image[y : y + done.shape[0], x : x + done.shape[1]])
        shapes.add(done.shape)
    assert len(shapes) > 20 and min(shapes)[0] >= 16 and (40, 50, 3) in shapes


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_can_be_sent_to_another_process(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    boxes = np.array([[5, 5, 15, 15]], np.float32)
    sent = pickle.loads(pickle.dumps(PIPELINES[name]))
    for seed in range(5):
        assert np.array_equal(sent(to_planes(image), boxes, seed)[0], PIPELINES[name](to_planes(image), boxes, seed)[0])


def test_nothing_asked_is_no_pipeline() -> None:
    assert build_pipeline(flip=0) is None


def test_what_a_seed_decides_is_what_the_pipeline_does() -> None:
    planes = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    boxes = np.array([[5, 5, 15, 15]], np.float32)
    flips = []
    for seed in range(40):
        pipeline = PIPELINES["photometric and flip"]
        changes, done = pipeline.changes(seed), pipeline(planes, boxes, seed)
        assert np.array_equal(done.planes, apply_changes(planes, changes)) and done.flipped is changes.flipped
        assert np.array_equal(done.boxes, changed_boxes(boxes, 30, changes)[0])
        flips.append(changes.flipped)
    assert 10 < sum(flips) < 30


def test_crop_and_zoom_do_not_decide_over_the_flip() -> None:
    # Otherwise the mirror would always come with the same cut.
    assert [PIPELINES["all"].changes(seed).flipped for seed in range(30)] == [
        PIPELINES["half"].changes(seed).flipped for seed in range(30)
    ]
