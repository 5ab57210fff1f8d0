from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from scenery import Scenery, learn
from torch import Tensor

from incdet.data.dataset import DetectionDataset
from incdet.distillation.provider import OnlineProvider
from incdet.methods.method import Method, Replay
from incdet.methods.registry import get_method
from incdet.training import increment
from incdet.training.box_replay import BoxReplay, Crop, crops_of, fitted, mixed, mosaic
from incdet.training.increment import build_training_set

WHITE = Crop(torch.full((3, 10, 20), 255, dtype=torch.uint8), 1)
TALL = Crop(torch.full((3, 90, 30), 200, dtype=torch.uint8), 0)


def picture() -> tuple[Tensor, dict[str, Any]]:
    target = {
        "boxes": torch.tensor([[0.0, 0, 30, 40]]),
        "labels": torch.tensor([2]),
        "ignore": torch.tensor([False]),
        "coverage": torch.tensor([False, False, True]),
        "image_id": 7,
    }
    return torch.zeros(3, 40, 60, dtype=torch.uint8), target


def test_a_crop_is_mixed_in_off_the_annotated_objects_and_the_coverage_stays() -> None:
    image, target = picture()
    for seed in range(20):
        found, changed = mixed(image, target, WHITE, np.random.default_rng(seed))
        assert not image.any() and len(target["boxes"]) == 1  # what came in is as it was
        left, top, right, bottom = (int(edge) for edge in changed["boxes"][1])
        assert (right - left, bottom - top) == (20, 10)
        inside = found[:, top:bottom, left:right]
        assert int(inside.min()) == int(inside.max()) >= 127 and int(found.count_nonzero()) == inside.numel()
        assert changed["labels"].tolist() == [2, 1] and changed["ignore"].tolist() == [False, False]
        assert changed["coverage"].tolist() == [False, False, True] and changed["image_id"] == 7
        assert left >= 20  # of ten places one covers a third of the object at most


def test_a_mosaic_shows_four_crops_and_covers_everything() -> None:
    image, target = picture()
    found, changed = mosaic(image, target, [WHITE, TALL, WHITE, TALL])
    assert found.shape == image.shape and found.dtype == torch.uint8
    assert changed["labels"].tolist() == [1, 0, 1, 0] and changed["coverage"].all()
    assert changed["boxes"].tolist() == [[0, 0, 20, 10], [30, 0, 36, 20], [0, 20, 20, 30], [30, 20, 36, 40]]
    assert int(found[0, 5, 5]) == 255 and int(found[0, 10, 33]) == 200 and int(found[0, 39, 59]) == 114
    assert fitted(WHITE.pixels, 50, 50) is WHITE.pixels


def test_a_batch_is_a_function_of_its_number_and_the_share_holds() -> None:
    def stream(drawn: int) -> Iterable[Any]:
        while True:
            image, target = picture()
            yield [image] * 50, [target] * 50

    replay = BoxReplay([WHITE, TALL], 0.5, 3)
    whole = iter(replay.over(stream)(0))
    next(whole)
    images, targets = next(whole)
    again, _ = next(iter(replay.over(stream)(1)))
    assert all(torch.equal(one, other) for one, other in zip(images, again, strict=True))
    kinds = [len(target["boxes"]) for target in targets]
    assert kinds.count(2) > 3 and kinds.count(4) > 3 and kinds.count(1) > 10


def test_crops_are_the_annotated_objects_as_training_shows_them(scenery: Scenery) -> None:
    records = tuple(scenery.memory)
    crops = crops_of(DetectionDataset(records, scenery.before.vocab))
    assert len(crops) == sum(len(one.boxes) for one in records)
    pixels, target = DetectionDataset(records, scenery.before.vocab)[(0, 0)]
    left, top, right, bottom = (round(float(edge)) for edge in target["boxes"][0])
    assert torch.equal(crops[0].pixels, pixels[:, top:bottom, left:right])
    assert crops[0].column == int(target["labels"][0])


def test_objects_take_the_place_of_exemplars_and_nothing_is_cached(
    scenery: Scenery, monkeypatch: pytest.MonkeyPatch
) -> None:
    abr = get_method("abr")
    training_set = build_training_set(scenery.view, scenery.memory, abr)
    assert training_set.records == tuple(scenery.view.records) and training_set.cut == tuple(scenery.memory)
    both = build_training_set(scenery.view, scenery.memory, Method("both", "here", replay=Replay(boxes=0.3)))
    assert len(both.records) == len(scenery.view.records) + len(scenery.memory) and both.boxes == 0.3

    def refuse(*_: Any) -> None:
        raise AssertionError("cached")

    monkeypatch.setattr(increment, "choose_provider", refuse)
    made: list[Any] = []

    def note(*given: Any) -> OnlineProvider:
        made.append(given)
        return OnlineProvider(*given)

    monkeypatch.setattr(increment, "OnlineProvider", note)
    outcome = learn(scenery, abr)
    assert made and outcome.iterations == {"train": 4} and len(outcome.memory) == 6
