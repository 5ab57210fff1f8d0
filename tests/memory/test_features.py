from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import network, record
from torchvision.ops import roi_align

from incdet.data.dataset import read_image
from incdet.data.records import Record
from incdet.memory.features import object_features


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    random = np.random.default_rng(0)
    held = [["a"], ["b", "a"], [], ["b"], ["a", "a"]]
    boxes = [
        [[2, 2, 14, 14]],
        [[2, 2, 14, 14], [10, 10, 44, 44]],
        [],
        [[20, 4, 40, 30]],
        [[0, 0, 12, 12], [8, 8, 40, 40]],
    ]
    made = []
    for number, (names, own) in enumerate(zip(held, boxes, strict=True)):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), random.integers(0, 255, (48, 48, 3), np.uint8))
        made.append(record(path, names, number=number, coverage=["a", "b"], boxes=own))
    return made


def test_every_image_has_a_unit_feature_for_each_of_its_classes(records: list[Record]) -> None:
    found = object_features(network(), records, ["a", "b"])
    assert {name: sorted(values) for name, values in found.items()} == {"a": [0, 1, 4], "b": [1, 3]}
    for values in found.values():
        for feature in values.values():
            assert feature.shape == (8,) and feature.dtype == np.float32
            assert np.linalg.norm(feature) == pytest.approx(1, abs=1e-5)


def test_a_feature_is_the_level_of_the_objects_size_averaged_over_its_box(records: list[Record]) -> None:
    model = network().eval()
    with torch.no_grad():
        prepared = model.prepare([torch.from_numpy(read_image(records[4]).transpose(2, 0, 1) / 255.0).float()])
        small, large = model.dense(prepared).features
    parts = []
    for box, level in zip(records[4].boxes, (small, large), strict=True):  # sides 12 and 32: first and second level
        place = torch.from_numpy(box.copy())[None]
        scale = level.shape[-1] / prepared.images.shape[-1]  # 48 pixels are padded to 64
        pooled = roi_align(level, [place], 3, scale, aligned=True).mean(dim=(2, 3))[0].numpy()
        parts.append(pooled / np.linalg.norm(pooled))
    mean = np.mean(parts, axis=0)
    found = object_features(model, records, ["a"])["a"][4]
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean), atol=1e-5)


def test_the_batch_does_not_matter(records: list[Record]) -> None:
    one, five = (object_features(network(), records, ["a", "b"], batch_size=size) for size in (1, 5))
    for name, values in one.items():
        for place, feature in values.items():
            np.testing.assert_allclose(feature, five[name][place], atol=1e-5)


def test_ignored_objects_and_other_classes_are_left_out(records: list[Record]) -> None:
    model = network(("a",))
    extra = record(records[0].image, ["zebra", "a"], boxes=[[1, 1, 40, 40], [2, 2, 14, 14]])
    crowd = record(records[0].image, ["a", "a"], boxes=[[1, 1, 40, 40], [2, 2, 14, 14]], ignore=[True, False])
    alone, mixed, with_crowd = (object_features(model, [one], ["a"])["a"][0] for one in (records[0], extra, crowd))
    np.testing.assert_array_equal(alone, mixed)
    np.testing.assert_array_equal(alone, with_crowd)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_keeps_mode_and_statistics(records: list[Record], training: bool) -> None:
    model = network().train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    object_features(model, records, ["a"])
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_no_records_give_no_features() -> None:
    assert object_features(network(), [], ["a"]) == {"a": {}}
