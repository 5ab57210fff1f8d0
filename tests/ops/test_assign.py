from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from incdet.ops import assign as module
from incdet.ops.assign import BACKGROUND, IGNORED, Assignment, assign

Target = dict[str, Any]


def grid(side: int = 12, step: float = 8.0, sizes: tuple[float, ...] = (8.0, 16.0, 40.0)) -> Tensor:
    """Anchors of three sizes about every cell of a square grid: many ties by symmetry."""
    centres = torch.arange(side) * step + step / 2
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    middle = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
    half = torch.tensor(sizes).reshape(1, -1, 1) / 2
    return torch.cat((middle - half, middle + half), dim=-1).reshape(-1, 4)


def target(boxes: Sequence[Sequence[float]] | Tensor, **more: Any) -> Target:
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": corners, "labels": torch.arange(len(corners)) % 5, **more}


def expected(targets: list[Target], anchors: Tensor, high: float = 0.5, low: float = 0.4) -> Tensor:
    """torchvision's own way, with its special case of an image without boxes."""
    matcher = Matcher(high, low, allow_low_quality_matches=True)
    rows = [
        matcher(box_iou(each["boxes"], anchors))
        if each["boxes"].numel()
        else torch.full((len(anchors),), -1, dtype=torch.int64)
        for each in targets
    ]
    return torch.stack(rows)


def random_boxes(count: int, seed: int, extent: float = 96.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * extent
    return torch.cat((corner, corner + 1 + torch.rand(count, 2, generator=generator) * extent / 2), dim=1)


CASES: dict[str, list[list[float]]] = {
    "none": [],
    "one": [[3, 5, 21, 30]],
    "exact": [[0, 0, 8, 8], [8, 0, 16, 8]],
    "tie between anchors": [[4, 0, 12, 8], [0, 4, 8, 12]],
    "tie between boxes": [[0, 0, 16, 16], [16, 0, 32, 16], [8, 0, 24, 16]],
    "duplicates": [[10.0, 10, 30, 30]] * 3 + [[40.0, 40, 52, 49]] * 2,
    "touches nothing": [[500, 500, 520, 520]],
    "touches nothing, beside one that does": [[500, 500, 520, 520], [10, 10, 30, 30], [600, 0, 610, 10]],
    "edge contact only": [[-20, -20, -16, -16], [96 + 16, 0, 140, 8]],
    "without area": [[20, 20, 20, 40], [10, 10, 30, 30]],
    "tiny": [[20.1, 20.2, 20.3, 20.4], [50, 50, 50.001, 50.001]],
    "everything": [[-100, -100, 300, 300]],
    "nested": [[0, 0, 90, 90], [20, 20, 60, 60], [30, 30, 46, 46], [36, 36, 40, 40]],
}


@pytest.fixture(params=["one by one", "padded"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both orders of work; the one meant for a GPU is device-free code and runs here too."""
    if request.param == "padded":
        monkeypatch.setattr(module, "_match_one_by_one", module._match_padded)
    return str(request.param)


@pytest.mark.parametrize("pairs", [7, 1 << 17])
@pytest.mark.parametrize("kept", [0, 1 << 22])
def test_matches_are_those_of_torchvision(way: str, pairs: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_PAIRS", pairs * 40)
    monkeypatch.setattr(module, "GPU_PAIRS", pairs)
    monkeypatch.setattr(module, "KEPT_PAIRS", kept)
    anchors = grid()
    targets = [target(boxes) for boxes in CASES.values()]
    assert torch.equal(assign(targets, anchors).matched, expected(targets, anchors))
    for each in targets:  # a batch of one must not depend on its neighbours
        assert torch.equal(assign([each], anchors).matched, expected([each], anchors))


def test_an_overlap_equal_to_a_threshold_counts(way: str) -> None:
    each = target([[0, 0, 10, 8]])
    anchors = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 16], [0, 0, 16, 10], [0, 0, 10, 20], [0, 0, 20, 10]])
    found = assign([each], anchors).matched
    assert found.tolist() == [[0, 0, 0, IGNORED, IGNORED]]
    assert torch.equal(found, expected([each], anchors))


def test_many_boxes_match_as_in_torchvision(way: str) -> None:
    anchors = random_boxes(3000, seed=1)
    targets = [target(random_boxes(count, seed=count)) for count in (300, 1, 40)]
    targets.append(target(anchors[::50].clone()))
    assert torch.equal(assign(targets, anchors).matched, expected(targets, anchors))


@given(
    boxes=st.lists(
        st.tuples(st.integers(-4, 24), st.integers(-4, 24), st.integers(1, 12), st.integers(1, 12)), max_size=8
    ),
    thresholds=st.sampled_from([(0.5, 0.4), (0.5, 0.5), (0.7, 0.3), (1.0, 0.1)]),
)
def test_matches_are_those_of_torchvision_on_a_lattice(
    boxes: list[tuple[int, int, int, int]], thresholds: tuple[float, float]
) -> None:
    # Whole multiples of 4 on a lattice of anchors make equal overlaps the rule.
    corners = [[4.0 * x, 4.0 * y, 4.0 * (x + w), 4.0 * (y + h)] for x, y, w, h in boxes]
    targets, anchors = [target(corners)], grid(side=8)
    high, low = thresholds
    assert torch.equal(assign(targets, anchors, high=high, low=low).matched, expected(targets, anchors, high, low))


def test_positive_entries_are_listed_in_row_major_order(way: str) -> None:
    anchors = grid()
    targets = [target(boxes) for boxes in CASES.values()]
    found = assign(targets, anchors)
    image, anchor = (found.matched >= 0).nonzero(as_tuple=True)
    assert torch.equal(found.image, image)
    assert torch.equal(found.anchor, anchor)
    assert torch.equal(found.positives, (found.matched >= 0).sum(dim=1))
    pairs = list(zip(image.tolist(), found.matched[image, anchor].tolist(), strict=True))
    assert found.column.tolist() == [int(targets[i]["labels"][g]) for i, g in pairs]
    assert torch.equal(found.boxes, torch.stack([targets[i]["boxes"][g] for i, g in pairs]))


def check_types(found: Assignment, images: int, anchors: int) -> None:
    assert found.matched.shape == (images, anchors)
    assert found.boxes.shape == (len(found.image), 4)
    assert found.positives.shape == (images,)
    assert found.mask is None
    for name, tensor in found._asdict().items():
        if name == "mask":
            continue
        assert tensor.dtype == (torch.float32 if name == "boxes" else torch.int64), name


def test_a_batch_without_boxes_is_background(way: str) -> None:
    found = assign([target([]), target([])], grid())
    check_types(found, 2, len(grid()))
    assert (found.matched == BACKGROUND).all()
    assert found.positives.tolist() == [0, 0]


def test_types_do_not_depend_on_those_of_the_targets(way: str) -> None:
    narrow = {"boxes": torch.tensor([[10, 10, 30, 30]]).double(), "labels": torch.tensor([3], dtype=torch.int32)}
    check_types(assign([narrow, target([])], grid()), 2, len(grid()))
    check_types(assign([narrow], grid()[:0]), 1, 0)


@pytest.mark.parametrize("names", [list(CASES), ["none", "none"]], ids=["all cases", "no boxes"])
def test_the_static_form_holds_every_anchor_and_says_the_same(names: list[str]) -> None:
    anchors = grid()
    targets = [target(CASES[name]) for name in names]
    if len(names) > 2:
        targets[2]["ignore"] = torch.arange(len(targets[2]["boxes"])) % 2 == 1
    found, wanted = assign(targets, anchors, static=True), assign(targets, anchors)
    assert len(found.image) == len(found.boxes) == len(targets) * len(anchors)
    assert found.mask is not None and torch.equal(found.mask, (wanted.matched >= 0).view(-1))
    for mine, other in zip(found.compact(), wanted, strict=True):
        assert (mine is None) == (other is None)
        assert mine is None or other is None or torch.equal(mine, other)
    # What the others answer for is finite in every loss: their own anchor, in the first column.
    assert torch.equal(found.boxes[~found.mask], anchors.repeat(len(targets), 1)[~found.mask])
    assert not found.column[~found.mask].any()
    assert wanted.compact() is wanted


def ignored_by_hand(each: Target, anchors: Tensor, low: float = 0.4) -> Tensor:
    """The rule of ignored boxes, anchor by anchor."""
    real = (~each["ignore"]).nonzero()[:, 0]
    row = expected([{"boxes": each["boxes"][real]}], anchors)[0]
    row = torch.tensor([int(real[match]) if match >= 0 else match for match in row.tolist()])
    for index, anchor in enumerate(anchors.tolist()):
        area = (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
        for box in each["boxes"][each["ignore"]].tolist():
            width = max(0.0, min(anchor[2], box[2]) - max(anchor[0], box[0]))
            height = max(0.0, min(anchor[3], box[3]) - max(anchor[1], box[1]))
            union = area + (box[2] - box[0]) * (box[3] - box[1]) - width * height
            if row[index] < 0 and (width * height / union >= low or width * height / area >= 0.5):
                row[index] = IGNORED
    return row


@pytest.mark.parametrize(
    "flags", [[False] * 5, [True, False, False, True, False], [True] * 5, [False, False, False, False, True]]
)
def test_ignored_boxes_match_nothing_and_silence_the_anchors_on_them(way: str, flags: list[bool]) -> None:
    boxes = [[0, 0, 60, 60], [10, 10, 30, 30], [50, 50, 66, 70], [70, 8, 96, 30], [33, 62, 47, 75]]
    each = target(boxes, ignore=torch.tensor(flags))
    found = assign([target([]), each, target([[5, 5, 20, 20]])], grid())
    assert torch.equal(found.matched[1], ignored_by_hand(each, grid()))
    assert torch.equal(found.matched[[0, 2]], expected([target([]), target([[5, 5, 20, 20]])], grid()))
    chosen = found.matched[1][found.matched[1] >= 0]
    assert not each["ignore"][chosen].any()


def test_an_ignored_crowd_silences_small_anchors_inside_it() -> None:
    # IoU of an 8 px anchor with the crowd is far below 0.4; its own area lies on it entirely.
    each = target([[0, 0, 96, 96]], ignore=torch.tensor([True]))
    found = assign([each], grid(sizes=(8.0,)))
    assert (found.matched == IGNORED).all()
    assert (assign([target([])], grid(sizes=(8.0,))).matched == BACKGROUND).all()


@pytest.mark.parametrize(("high", "low"), [(0.4, 0.5), (0.5, 0.0), (0.5, -0.1)])
def test_thresholds_out_of_order_are_refused(high: float, low: float) -> None:
    with pytest.raises(ValueError, match="low"):
        assign([target([])], grid(), high=high, low=low)
