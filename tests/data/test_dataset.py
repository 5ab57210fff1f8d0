"""The same seed gives the same batches for 1 or N workers, and after a resume."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from incdet.data.augment import build_pipeline
from incdet.data.cache import ImageCache
from incdet.data.dataset import DetectionDataset, DrawSampler, collate, eval_loader, make_loader, read_image
from incdet.data.formats.coco import read_coco
from incdet.data.packing import pack
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.data.shapes import CLASSES, write_shapes
from incdet.errors import InputError
from incdet.vocab import Vocabulary


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    root = write_shapes(tmp_path_factory.mktemp("shapes"), train=10, test=1, size=48)
    return list(read_coco(root / "train.json", root / "images").records)


def dataset(records: list[Record], **changes: Any) -> DetectionDataset:
    pipeline = build_pipeline(crop=True, photometric=True)
    return DetectionDataset(records, Vocabulary((CLASSES[:4], CLASSES[4:])), pipeline, **{"seed": 5, **changes})


def batches(data: DetectionDataset, workers: int, count: int, start: int = 0) -> list[Any]:
    sampler = DrawSampler(len(data), 4, seed=3, start=start)
    return list(itertools.islice(make_loader(data, sampler, workers), count))


def same(left: list[Any], right: list[Any]) -> bool:
    for (images, targets), (others, labels) in zip(left, right, strict=True):
        if not all(torch.equal(a, b) for a, b in zip(images, others, strict=True)):
            return False
        for one, two in zip(targets, labels, strict=True):
            if one.keys() != two.keys() or any(not np.array_equal(one[key], two[key]) for key in one):
                return False
    return True


def test_any_number_of_workers_gives_the_same_batches(records: list[Record]) -> None:
    alone = batches(dataset(records), 0, 5)
    assert same(alone, batches(dataset(records), 1, 5))
    assert same(alone, batches(dataset(records), 2, 5))
    assert not same(alone, batches(dataset(records, seed=6), 0, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_the_random_numbers_of_the_training_alone(records: list[Record], workers: int) -> None:
    before = torch.get_rng_state()
    batches(dataset(records), workers, 2)
    list(eval_loader(records, 4, workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_process_that_was_not_forked_makes_the_same_images(records: list[Record]) -> None:
    data = dataset(records, cache=ImageCache(2**20), geometry=Geometry(40, 60))
    expected = collate([data[3, 1], data[4, 2]])
    sent: DetectionDataset = pickle.loads(pickle.dumps(data))
    assert sent.cache is not None and sent.cache.used == 0
    sent.cache.share(2, sent.places)
    for _ in range(2):
        assert same([expected], [collate([sent[3, 1], sent[4, 2]])])


def test_a_resumed_loader_continues_exactly(records: list[Record]) -> None:
    assert same(batches(dataset(records), 0, 6)[4:], batches(dataset(records), 0, 2, start=4))


def test_a_target_is_what_the_detector_takes(records: list[Record]) -> None:
    vocab = Vocabulary((CLASSES[::-1],))
    image, target = DetectionDataset(records, vocab)[2]
    assert image.shape == (3, 48, 48) and image.dtype == torch.uint8
    assert np.array_equal(image.numpy().transpose(1, 2, 0), read_image(records[2]))
    assert torch.equal(target["boxes"], torch.from_numpy(records[2].boxes.copy()))
    assert target["labels"].dtype == torch.int64 and target["ignore"].dtype == torch.bool
    assert [vocab.names[label] for label in target["labels"]] == list(records[2].names)
    assert target["coverage"].tolist() == [True] * 6 and target["image_id"] == records[2].image_id
    assert target["index"] == 2 and target["flipped"] is False


def test_pixels_are_rgb(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 0] = 200
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    assert np.array_equal(read_image(one_record(tmp_path / "a.png", 6, 4)), picture)


def one_record(path: Path, width: int, height: int) -> Record:
    return Record(path, 1, width, height, np.zeros((0, 4), np.float32), (), np.zeros(0, np.bool_), frozenset({"cat"}))


def test_coverage_and_ignore_reach_the_target(records: list[Record]) -> None:
    few = records[0].restrict(CLASSES[:4], coverage=CLASSES[:3])
    flagged = Record(
        few.image, 1, few.width, few.height, few.boxes, few.names, np.ones(len(few.names), np.bool_), few.coverage
    )
    _, target = dataset([flagged])[0]
    assert target["coverage"].tolist() == [True] * 3 + [False] * 3
    assert target["ignore"].tolist() == [True] * len(few.names)


def test_an_image_without_objects_keeps_every_dtype(records: list[Record]) -> None:
    empty = [records[0].restrict([])]
    for data in (dataset(empty), DetectionDataset(empty, Vocabulary((("a",),)))):
        for draw in range(8):
            _, target = data[draw, 0]
            assert target["boxes"].shape == (0, 4) and target["boxes"].dtype == torch.float32
            assert target["labels"].shape == (0,) and target["labels"].dtype == torch.int64
            assert target["ignore"].shape == (0,) and target["ignore"].dtype == torch.bool


def test_a_class_that_the_model_lacks_is_an_error_not_a_lost_label(records: list[Record]) -> None:
    with pytest.raises(InputError, match="not in the vocabulary"):
        DetectionDataset(records, Vocabulary((CLASSES[:2],)))


def test_labels_and_flags_follow_the_boxes_that_a_pipeline_keeps(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    boxes = np.array([[0, 0, 4, 4], [15, 15, 25, 25], [36, 36, 40, 40], [16, 16, 20, 20]], np.float32)
    record = Record(
        tmp_path / "a.png",
        1,
        40,
        40,
        boxes,
        ("a", "b", "a", "c"),
        np.array([False, True, False, False]),
        frozenset("abc"),
    )
    _, target = DetectionDataset([record], Vocabulary((("a", "b", "c"),)), build_pipeline(flip=0, scale=(2.0, 2.0)))[0]
    assert target["labels"].tolist() == [1, 2] and target["ignore"].tolist() == [True, False]
    assert target["boxes"].shape == (2, 4)


def test_every_draw_is_augmented_anew(records: list[Record]) -> None:
    data = dataset(records)
    assert len({data[draw, 0][0].numpy().tobytes() for draw in range(8)}) > 4
    assert torch.equal(data[3, 0][0], data[3, 0][0])


@pytest.mark.parametrize("crop", [False, True])
def test_a_batch_at_once_is_its_images_one_by_one(records: list[Record], crop: bool) -> None:
    data = dataset(records)
    data.pipeline = build_pipeline(crop=crop, photometric=True)
    keys = [(7, 3), (8, 3), (9, 0)]
    alone, together = [data[key] for key in keys], data.__getitems__(keys)
    assert same([collate(alone)], [collate(together)])
    steps = {int(two.data_ptr() - one.data_ptr()) for (one, _), (two, _) in itertools.pairwise(together)}
    assert crop or steps == {3 * 48 * 48}
    if not crop:
        assert pack(together).pixels.data_ptr() == together[0][0].data_ptr(), "a parcel is made without a copy"


def test_a_target_may_be_written_to_without_touching_the_record(records: list[Record]) -> None:
    data = DetectionDataset(records, Vocabulary((CLASSES,)))
    image, target = data[0]
    before = image.clone()
    image.zero_()
    target["boxes"].zero_()
    assert records[0].boxes.max() > 0 and torch.equal(data[0][0], before)


def test_evaluation_sees_every_image_once_in_order(records: list[Record]) -> None:
    for workers in (0, 2):
        found = list(eval_loader(records, 4, workers))
        assert [len(images) for images, _ in found] == [4, 4, 2]
        assert [t["image_id"] for _, targets in found for t in targets] == [r.image_id for r in records]
        assert found[0][0][1].dtype == torch.uint8
        assert np.array_equal(found[0][0][1].numpy().transpose(1, 2, 0), read_image(records[1]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_bytes(b"no picture"), "cannot be decoded"),
        (lambda path: cv2.imwrite(str(path), np.zeros((5, 5, 3), np.uint8)), "is 5 x 5, its annotation says 6 x 4"),
    ],
)
def test_pictures_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "a.png")
    with pytest.raises(InputError, match=words):
        read_image(one_record(tmp_path / "a.png", 6, 4))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_formats_of_pictures(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"a{suffix}"), np.full((4, 6, 3), 90, np.uint8))
    assert np.abs(read_image(one_record(tmp_path / f"a{suffix}", 6, 4)).astype(int) - 90).max() < 4


def test_a_turned_photograph_follows_the_size_that_its_annotation_states(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    _, data = cv2.imencode(".jpg", picture)
    # The EXIF block says "turn by 90 degrees" (orientation 6).
    exif = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00" + b"\x00" * 4
    raw = data.tobytes()
    (tmp_path / "a.jpg").write_bytes(raw[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + raw[2:])
    assert read_image(one_record(tmp_path / "a.jpg", 6, 4)).shape == (4, 6, 3)
    assert read_image(one_record(tmp_path / "a.jpg", 4, 6)).shape == (6, 4, 3)


# --- the sampler ------------------------------------------------------------------------------------------------------


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_every_epoch_is_a_permutation(length: int, batch_size: int, seed: int) -> None:
    sampler = DrawSampler(length, batch_size, seed)
    keys = [key for number in range(3 * length) for key in sampler.batch(number)]
    assert [draw for draw, _ in keys] == list(range(3 * length * batch_size))
    indices = [index for _, index in keys]
    for epoch in range(3 * batch_size):
        assert sorted(indices[epoch * length : (epoch + 1) * length]) == list(range(length))


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 3), st.integers(0, 20))
def test_processes_share_the_draws_of_one_big_batch(length: int, batch_size: int, world: int, number: int) -> None:
    whole = DrawSampler(length, batch_size * world, 7).batch(number)
    parts = [DrawSampler(length, batch_size, 7, rank=rank, world=world).batch(number) for rank in range(world)]
    assert all(len(part) == batch_size for part in parts)
    assert sorted(key for part in parts for key in part) == sorted(whole)


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0, 1), st.integers(1, 9), st.integers(1, 30))
def test_shares_are_kept_exactly_over_time(new: int, old: int, share: float, batch_size: int, count: int) -> None:
    groups = [(list(range(new)), 1 - share), (list(range(new, new + old)), share)]
    sampler = DrawSampler(new + old, batch_size, 1, shares=groups)
    drawn = 0
    for number in range(count):
        keys = sampler.batch(number)
        assert len(keys) == batch_size
        drawn += sum(index >= new for _, index in keys)
        assert abs(drawn - (number + 1) * batch_size * share) <= 1


def test_each_group_walks_its_own_epochs() -> None:
    sampler = DrawSampler(12, 4, 1, shares=[(range(8), 0.5), (range(8, 12), 0.5)])
    indices = [index for number in range(8) for _, index in sampler.batch(number)]
    assert Counter(indices) == {**dict.fromkeys(range(8), 2), **dict.fromkeys(range(8, 12), 4)}


def test_a_sampler_starts_where_it_is_told_and_never_ends() -> None:
    sampler = DrawSampler(5, 2, 1, start=3)
    assert list(itertools.islice(sampler, 4)) == [DrawSampler(5, 2, 1).batch(number) for number in range(3, 7)]
    assert DrawSampler(50, 8, 1).batch(0) != DrawSampler(50, 8, 2).batch(0)


@pytest.mark.parametrize(
    ("length", "shares", "words"),
    [
        (0, None, "empty"),
        (3, [(range(3), 0.5), ((), 0.5)], "empty"),
        (3, [(range(2), 0.5), ((2,), 0.6)], "shares"),
        (3, [(range(2), 1.5), ((2,), -0.5)], "shares"),
    ],
)
def test_samplers_that_cannot_be(length: int, shares: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        DrawSampler(length, 2, 0, shares=shares)
