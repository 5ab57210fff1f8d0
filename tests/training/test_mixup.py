from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from scenery import Scenery, learn
from torch import Tensor

from incdet.distillation.provider import OnlineProvider
from incdet.distillation.teacher_targets import Entries
from incdet.methods.registry import get_method
from incdet.training import increment, provider
from incdet.training.mixup import Mixup, enlarged_crop, unlabelled

RAMP = torch.arange(0, 240, 4, dtype=torch.uint8).expand(3, 40, 60)
"""Brighter from left to right."""


def target(coverage: tuple[bool, ...] = (False, True)) -> dict[str, Any]:
    return {
        "boxes": torch.tensor([[0.0, 0, 30, 40]]),
        "labels": torch.tensor([1]),
        "ignore": torch.tensor([False]),
        "coverage": torch.tensor(coverage),
        "image_id": 7,
    }


def stream(drawn: int) -> Iterable[tuple[list[Tensor], list[dict[str, Any]]]]:
    while True:
        yield [RAMP, RAMP[:, :30]] * 2, [target()] * 4


def test_what_is_added_has_no_box_and_covers_no_class() -> None:
    whole = iter(Mixup(0.5, 3).over(stream)(0))
    next(whole)
    images, targets = next(whole)
    assert len(images) == len(targets) == 6
    assert all(torch.equal(one, other) for one, other in zip(images[:4], next(iter(stream(1)))[0], strict=True))
    for image, own in zip(images[4:], targets[4:], strict=True):
        assert image.dtype == torch.uint8 and image.shape in (RAMP.shape, RAMP[:, :30].shape)
        assert own["boxes"].shape == (0, 4) and len(own["labels"]) == len(own["ignore"]) == 0
        assert not own["coverage"].any() and own["image_id"] == 7
    assert all(own["coverage"].any() and len(own["boxes"]) == 1 for own in targets[:4])
    again, _ = next(iter(Mixup(0.5, 3).over(stream)(1)))
    assert all(torch.equal(one, other) for one, other in zip(images, again, strict=True))
    others = [next(iter(Mixup(0.5, *given).over(stream)(1)))[0] for given in ((4,), (3, 1, 2))]
    assert not any(torch.equal(images[4], other[4]) for other in others)


def test_a_remainder_goes_to_one_of_several_batches_or_processes() -> None:
    one = [Mixup(0.1, 0).count(number, 8) for number in range(10)]
    assert sum(one) == 8 and set(one) == {0, 1}
    many = [Mixup(0.1, 0, rank, 4).count(number, 2) for number in range(10) for rank in range(4)]
    assert sum(many) == 8
    assert [Mixup(0.3, 0).count(number, 10) for number in range(20)] == [3] * 20
    assert [Mixup(0.25, 0).count(number, 8) for number in range(20)] == [2] * 20


def test_a_crop_is_a_part_of_the_picture_enlarged_to_its_size() -> None:
    for seed in range(20):
        part = enlarged_crop(RAMP, (40, 60), np.random.default_rng(seed))
        assert part.shape == RAMP.shape
        row = part[0, 0]
        assert bool((row.diff() >= 0).all())
        torch.testing.assert_close(part, row.expand(3, 40, 60))
        # At least half of the width is seen: 30 of 60 columns, each 4 grey levels brighter than the last.
        assert 4 * 29 <= float(row[-1] - row[0]) <= 4 * 59


def test_half_of_them_are_blended_and_the_picture_itself_outweighs_the_other() -> None:
    dark, bright = torch.zeros(3, 20, 20, dtype=torch.uint8), torch.full((3, 20, 20), 200, dtype=torch.uint8)
    found = [unlabelled([dark, bright], [target(), target()], np.random.default_rng(seed))[0] for seed in range(200)]
    levels = np.array([int(image[0, 0, 0]) for image in found])
    assert all(int(image.min()) == int(image.max()) for image in found)
    blended = (levels > 0) & (levels < 200)
    # Where both are of one picture nothing shows: half of all are blended, half of these with the other picture.
    assert 0.15 < blended.mean() < 0.35
    assert levels[blended].min() < 100 < levels[blended].max()


def test_the_teachers_alone_speak_of_what_is_added(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []

    class Noted(OnlineProvider):
        def __call__(self, batch: Any, targets: Any) -> Any:
            terms = super().__call__(batch, targets)
            free = ~targets.trained.any(dim=1)
            rows = terms["kd_quality"]["rows"]
            assert isinstance(rows, Entries)
            said = set(rows.image.tolist())
            asked.append((len(batch.images), int(free.sum()), len(said & set(free.nonzero().flatten().tolist()))))
            return terms

    monkeypatch.setattr(provider, "OnlineProvider", Noted)
    method = get_method("incdet").configured({"mixup": {"share": 0.5}})
    learn(scenery, method)
    assert asked and all(free == images // 3 for images, free, _ in asked)
    assert all(said == free for _, free, said in asked)  # the old network knows something everywhere


def test_without_a_teacher_nothing_is_added(scenery: Scenery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(increment, "Mixup", None)
    method = get_method("incdet").without("kd_quality", "kd_box", "old_claims", "kd_crosshead")
    assert method.mixup is not None
    assert learn(scenery, method).iterations["train"] == 4
    learn(scenery, get_method("incdet").configured({"mixup": {"share": 0}}))
    with pytest.raises(TypeError):
        learn(scenery, get_method("incdet"))
