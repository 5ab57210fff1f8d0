from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from incdet.ops import postprocess
from incdet.ops.postprocess import Limits, select_detections

LEVELS = [8 * 8 * 2, 4 * 4 * 2]
SIZES = [(60, 64), (64, 50), (64, 64)]


def outputs(classes: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Random logits, deltas and the anchors of a 64 px image."""
    torch.manual_seed(classes)
    generator = AnchorGenerator(((12, 20), (28, 40)), ((1.0,),) * 2)
    strides = [[torch.tensor(stride)] * 2 for stride in (8, 16)]
    anchors = torch.cat(generator.grid_anchors([[8, 8], [4, 4]], strides))
    logits = torch.randn(3, sum(LEVELS), classes) * spread - 2
    logits[1] = -20  # an image without a detection
    return logits, torch.randn(3, sum(LEVELS), 4) * 0.5, anchors


def theirs(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    level_sizes: list[int] = LEVELS,
    image_sizes: list[tuple[int, int]] = SIZES,
    **settings: float,
) -> list[dict[str, Tensor]]:
    backbone = torch.nn.Identity()
    backbone.out_channels = 4  # type: ignore[assignment]
    model = RetinaNet(
        backbone, logits.shape[-1], anchor_generator=AnchorGenerator(), head=RetinaNetHead(4, 1, 1), **settings
    )
    split = {
        "cls_logits": list(torch.split(logits, level_sizes, 1)),
        "bbox_regression": list(torch.split(deltas, level_sizes, 1)),
    }
    found: list[dict[str, Tensor]] = model.postprocess_detections(
        split, [list(torch.split(anchors, level_sizes))] * len(logits), image_sizes
    )
    return found


@pytest.mark.parametrize("classes", [1, 20, 80])
@pytest.mark.parametrize(
    ("score_thresh", "topk", "limit", "spread"),
    [(0.05, 1000, 300, 2.0), (0.3, 10, 300, 3.0), (0.0, 1000, 5, 2.0), (0.999, 1000, 300, 1.0), (0.05, 300, 40, 4.0)],
)
def test_detections_equal_torchvisions(classes: int, score_thresh: float, topk: int, limit: int, spread: float) -> None:
    logits, deltas, anchors = outputs(classes, spread)
    ours = select_detections(
        logits, deltas, anchors, LEVELS, SIZES, score_thresh=score_thresh, nms_thresh=0.5, topk=topk, limit=limit
    )
    expected = theirs(
        logits, deltas, anchors, score_thresh=score_thresh, topk_candidates=topk, detections_per_img=limit
    )
    for mine, other in zip(ours, expected, strict=True):
        assert torch.equal(mine["labels"], other["labels"])
        assert torch.equal(mine["boxes"], other["boxes"])
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=3e-7, atol=0)
    if score_thresh == 0.05:
        assert len(ours[0]["boxes"]) > 0 and len(ours[1]["boxes"]) == 0


def test_no_candidate_in_the_batch_gives_empty_float_boxes() -> None:
    logits, deltas, anchors = outputs(3, 1.0)
    found = select_detections(
        logits - 50, deltas, anchors, LEVELS, SIZES, score_thresh=0.05, nms_thresh=0.5, topk=9, limit=9
    )
    for image in found:
        assert image["boxes"].shape == (0, 4) and image["boxes"].dtype == torch.float32
        assert image["scores"].shape == (0,)
        assert image["labels"].shape == (0,) and image["labels"].dtype == torch.int64


def test_half_precision_outputs_decode_in_float32() -> None:
    logits, deltas, anchors = outputs(3, 2.0)
    settings: Any = {"score_thresh": 0.05, "nms_thresh": 0.5, "topk": 1000, "limit": 300}
    low = logits.bfloat16(), deltas.bfloat16()
    found = select_detections(*low, anchors, LEVELS, SIZES, **settings)
    same = select_detections(low[0].float(), low[1].float(), anchors, LEVELS, SIZES, **settings)
    for mine, other in zip(found, same, strict=True):
        assert torch.equal(mine["boxes"], other["boxes"]) and mine["boxes"].dtype == torch.float32


def crowd(
    seed: int, images: int, classes: int, level_sizes: list[int], mean: float, spread: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs over random anchors, many of which overlap."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(level_sizes)
    corner = torch.rand(total, 2, generator=generator) * 50
    anchors = torch.cat((corner, corner + 8 + 20 * torch.rand(total, 2, generator=generator)), dim=1)
    logits = torch.randn(images, total, classes, generator=generator) * spread + mean
    return logits, torch.randn(images, total, 4, generator=generator) * 0.3, anchors


def assert_same(ours: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> None:
    """Labels and boxes to the last bit; a score in the odd remainder of a level may round otherwise."""
    for mine, other in zip(ours, expected, strict=True):
        assert torch.equal(mine["labels"], other["labels"])
        assert torch.equal(mine["boxes"], other["boxes"])
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=3e-7, atol=0)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    images=st.integers(1, 3),
    classes=st.sampled_from([1, 2, 7, 20, 33]),
    level_sizes=st.lists(st.sampled_from([1, 4, 9, 64, 150, 700]), min_size=1, max_size=3),
    mean=st.sampled_from([-9.0, -4.0, 0.0, 6.0]),
    spread=st.sampled_from([0.3, 2.0]),
    topk=st.sampled_from([1, 5, 60, 1000]),
    limit=st.sampled_from([1, 30, 300]),
    score_thresh=st.sampled_from([0.0, 0.05, 0.5]),
    step=st.sampled_from([None, 0.25]),
)
def test_any_shape_gives_torchvisions_detections(
    seed: int,
    images: int,
    classes: int,
    level_sizes: list[int],
    mean: float,
    spread: float,
    topk: int,
    limit: int,
    score_thresh: float,
    step: float | None,
) -> None:
    logits, deltas, anchors = crowd(seed, images, classes, level_sizes, mean, spread)
    if step:  # equal scores everywhere
        logits = (logits / step).round() * step
    sizes = [(60, 64), (64, 50), (40, 64)][:images]
    # Scores that only round apart are ordered by chance in torchvision too: each score has one value here.
    logits = torch.logit(torch.sigmoid(logits.double()).mul(4096).round().div(4096)).float() if not step else logits
    ours = select_detections(
        logits, deltas, anchors, level_sizes, sizes, score_thresh=score_thresh, nms_thresh=0.5, topk=topk, limit=limit
    )
    expected = theirs(
        logits,
        deltas,
        anchors,
        level_sizes,
        sizes,
        score_thresh=score_thresh,
        topk_candidates=topk,
        detections_per_img=limit,
    )
    assert_same(ours, expected)


@pytest.mark.parametrize("topk", [20, 400])
@pytest.mark.parametrize("step", [0.0, 2**-6, 2**-14])
def test_pruned_levels_keep_the_order_of_equal_scores(topk: int, step: float) -> None:
    level_sizes, sizes = [2048, 512], [(60, 64)] * 3
    logits, deltas, anchors = crowd(1, 3, 32, level_sizes, -2.0, 2.0)
    logits = (logits / step).round() * step if step else logits
    found = postprocess._candidates(logits, level_sizes, Limits(0.05, 0.5, topk, 50))
    assert found.pruned[:, 0].all() and len(found.entry) < 0.5 * int((logits.sigmoid() > 0.05).sum())
    if step in (0.0, 2**-6):
        assert (max(postprocess._strongest(found, topk)[2]) > 0) == (step > 0)
    ours = select_detections(
        logits, deltas, anchors, level_sizes, sizes, score_thresh=0.05, nms_thresh=0.5, topk=topk, limit=50
    )
    assert_same(ours, theirs(logits, deltas, anchors, level_sizes, sizes, topk_candidates=topk, detections_per_img=50))


def test_a_broken_logit_hides_no_neighbour() -> None:
    logits, deltas, anchors = outputs(20, 2.0)
    logits[0, ::5, 3], logits[2, 7, 7], logits[2, 8, 8] = float("nan"), float("inf"), -float("inf")
    for topk in (5, 1000):
        ours = select_detections(
            logits, deltas, anchors, LEVELS, SIZES, score_thresh=0.05, nms_thresh=0.5, topk=topk, limit=300
        )
        assert len(ours[0]["boxes"]) > 0
        assert_same(ours, theirs(logits, deltas, anchors, topk_candidates=topk, detections_per_img=300))


@pytest.mark.parametrize("most", [postprocess.TOGETHER_BOXES, 100])
@pytest.mark.parametrize("topk", [30, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_the_order_of_work_of_a_gpu_gives_the_same(
    seed: int, topk: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postprocess, "TOGETHER_BOXES", most)
    level_sizes, sizes = [300, 60], [(60, 64), (64, 50), (40, 64), (64, 64)]
    # Up to 1000 boxes an image, the number up to which torchvision shifts the classes apart on a CPU as on a GPU.
    logits, deltas, anchors = crowd(seed, 4, 12, level_sizes, 0.0, 1.0)
    # No two scores are equal: torchvision leaves their order to chance on a GPU.
    logits = torch.linspace(-18, 0, logits.numel())[logits.flatten().argsort().argsort()].view_as(logits)
    logits[1] = -20
    assert int((logits.sigmoid() > 0.05).flatten(1).sum(1).max()) <= postprocess.TRICK_BOXES
    together = postprocess._select_together(logits, deltas, anchors, level_sizes, sizes, Limits(0.05, 0.5, topk, 40))
    expected = theirs(logits, deltas, anchors, level_sizes, sizes, topk_candidates=topk, detections_per_img=40)
    assert_same(together, expected)
    empty = postprocess._select_together(logits - 60, deltas, anchors, level_sizes, sizes, Limits(0.05, 0.5, topk, 40))
    assert [len(image["boxes"]) for image in empty] == [0] * 4


class Count(TorchDispatchMode):  # type: ignore[misc, unused-ignore]
    """Counts operations, and those among them whose result has a size or value that a host must wait for on a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.calls = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        masks = func is torch.ops.aten.index.Tensor and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        self.waits += masks or any(word in str(func) for word in ("nonzero", "nms", "_local_scalar_dense"))
        return func(*args, **(kwargs or {}))


def test_the_work_on_a_gpu_does_not_grow_with_the_batch() -> None:
    level_sizes, counts = [300, 60], []
    for images in (2, 8):
        logits, deltas, anchors = crowd(0, images, 12, level_sizes, -5.0, 2.0)
        work = logits, deltas, anchors, level_sizes, [(64, 64)] * images, Limits(0.05, 0.5, 90, 40)
        postprocess._select_together(*work)
        with Count() as count:
            postprocess._select_together(*work)
        counts.append((count.waits, count.calls))
    assert counts[0][0] == counts[1][0] <= 5
    # Each further image costs slices of the result alone, which are no work on the device.
    assert counts[1][1] - counts[0][1] <= 6 * 6


def test_an_apple_gpu_leaves_the_selection_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def select(logits: Tensor, deltas: Tensor, anchors: Tensor, *args: Any) -> list[dict[str, Tensor]]:
        asked.extend([logits.device.type, deltas.device.type, anchors.device.type])
        return [{"boxes": torch.zeros(2, 4)}]

    monkeypatch.setattr(postprocess, "_select_by_image", select)
    with FakeTensorMode():
        given = [torch.zeros(shape, device="mps") for shape in ((1, 10, 5), (1, 10, 4), (10, 4))]
        logits, deltas, anchors = given
        found = select_detections(
            logits, deltas, anchors, [10], [(64, 64)], score_thresh=0.05, nms_thresh=0.5, topk=100, limit=10
        )
        assert found[0]["boxes"].device.type == "mps"
    assert asked == ["cpu"] * 3
