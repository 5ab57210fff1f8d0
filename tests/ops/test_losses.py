from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import box_iou

from incdet.ops import losses as module
from incdet.ops.assign import IGNORED, Assignment, assign
from incdet.ops.boxes import encode_boxes
from incdet.ops.losses import ClassTargets, box_loss, focal_loss, focal_losses

COLUMNS = 6


class Batch:
    """Three images (the second one empty) before 300 random anchors, with outputs that want gradients."""

    def __init__(self, seed: int = 0, counts: tuple[int, ...] = (4, 0, 7), columns: int = COLUMNS) -> None:
        generator = torch.Generator().manual_seed(seed)

        def boxes(count: int) -> Tensor:
            corner = torch.rand(count, 2, generator=generator) * 80
            return torch.cat((corner, corner + 4 + torch.rand(count, 2, generator=generator) * 40), dim=1)

        self.anchors = boxes(300)
        self.targets: list[dict[str, Any]] = [
            {"boxes": boxes(count), "labels": torch.randint(0, columns, (count,), generator=generator)}
            for count in counts
        ]
        self.assignment = assign(self.targets, self.anchors)
        size = (len(counts), 300)
        self.logits = (torch.randn(*size, columns, generator=generator) * 3).requires_grad_()
        self.deltas = (torch.randn(*size, 4, generator=generator) * 0.5).requires_grad_()


def torchvision_losses(batch: Batch, kind: str) -> tuple[Tensor, Tensor]:
    head = RetinaNetHead(8, 9, batch.logits.shape[-1])
    head.regression_head._loss_type = kind
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    matches = [
        matcher(box_iou(target["boxes"], batch.anchors))
        if len(target["boxes"])
        else torch.full((len(batch.anchors),), -1)
        for target in batch.targets
    ]
    outputs = {"cls_logits": batch.logits, "bbox_regression": batch.deltas}
    losses = head.compute_loss(batch.targets, outputs, [batch.anchors] * len(batch.targets), matches)
    return losses["classification"], losses["bbox_regression"]


def close(mine: Tensor, other: Tensor, tolerance: float = 1e-6) -> bool:
    return torch.allclose(mine.double(), other.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("counts", [(4, 0, 7), (1,), (0, 0)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("with_ignored", [False, True])
def test_the_static_form_has_the_same_losses_and_gradients(
    kind: str, counts: tuple[int, ...], masked: bool, with_ignored: bool
) -> None:
    batch = Batch(seed=5, counts=counts)
    static = assign(batch.targets, batch.anchors, static=True)
    generator = torch.Generator().manual_seed(1)
    coverage = torch.rand(len(counts), COLUMNS, generator=generator) > 0.4 if masked else None
    ignored = None
    if with_ignored:
        ignored = tuple(torch.randint(0, size, (50,), generator=generator) for size in (len(counts), 300, COLUMNS))
    results = []
    for assignment in (batch.assignment, static):
        total = focal_loss(batch.logits, assignment, coverage=coverage, ignored=ignored)  # type: ignore[arg-type]
        total = total + 3 * box_loss(batch.deltas, batch.anchors, assignment, kind=kind)
        results.append((total, *torch.autograd.grad(total, (batch.logits, batch.deltas))))
    for mine, other in zip(*results, strict=True):
        assert close(mine, other)


@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("counts", [(4, 0, 7), (1,), (0, 0), (3, 3, 3, 9)])
@pytest.mark.parametrize("block", [64, 1 << 17])
def test_losses_and_gradients_are_those_of_torchvision(
    kind: str, counts: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CPU_BLOCK", block)
    batch = Batch(seed=len(counts), counts=counts)
    wanted = torchvision_losses(batch, kind)
    wanted_gradients = torch.autograd.grad(2 * wanted[0] + 3 * wanted[1], (batch.logits, batch.deltas))
    found = (
        focal_loss(batch.logits, batch.assignment),
        box_loss(batch.deltas, batch.anchors, batch.assignment, kind=kind),
    )
    gradients = torch.autograd.grad(2 * found[0] + 3 * found[1], (batch.logits, batch.deltas))
    for mine, other in zip((*found, *gradients), (*wanted, *wanted_gradients), strict=True):
        assert mine.dtype == torch.float32
        assert close(mine, other)
    assert sum(counts) == 0 or float(found[1].detach()) > 0.1


def written_out(
    logits: Tensor,
    assignment: Assignment,
    coverage: Tensor | None = None,
    ignored: tuple[Tensor, Tensor, Tensor] | None = None,
    normaliser: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """The focal loss as the contract says it, entry by entry, in float64."""
    images, anchors, columns = logits.shape
    wanted = torch.zeros(logits.shape, dtype=torch.bool)
    wanted[assignment.image, assignment.anchor, assignment.column] = True
    counted = (assignment.matched != IGNORED)[..., None].expand(images, anchors, columns).clone()
    if coverage is not None:
        counted &= coverage[:, None, :]
    if ignored is not None:
        counted[ignored] = False
    if normaliser is None:
        normaliser = torch.tensor([max(1, int(count)) * images for count in assignment.positives])
    p = torch.sigmoid(logits.double())
    right = torch.where(wanted, p, 1 - p)
    weight = torch.where(wanted, alpha, 1 - alpha)
    signed = torch.where(wanted, logits.double(), -logits.double())
    cost = -torch.nn.functional.logsigmoid(signed)
    entries = torch.where(counted, weight * (1 - right) ** gamma * cost, 0.0)
    return (entries.sum(dim=(1, 2)) / normaliser.double()).sum()


def random_parts(batch: Batch, seed: int, ignored_entries: int) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor], Tensor]:
    """Random coverage, ignored entries (some repeated, positive or of ignored anchors) and normaliser."""
    generator = torch.Generator().manual_seed(seed)
    images, anchors, columns = batch.logits.shape
    coverage = torch.rand(images, columns, generator=generator) < 0.6
    found = batch.assignment
    some = torch.randperm(len(found.image), generator=generator)[: ignored_entries // 2]
    chosen = [torch.randint(0, size, (ignored_entries,), generator=generator) for size in (images, anchors, columns)]
    positive = (found.image[some], found.anchor[some], found.column[some])
    ignored = tuple(torch.cat((mine, other, mine[:3])) for mine, other in zip(chosen, positive, strict=True))
    return coverage, (ignored[0], ignored[1], ignored[2]), torch.rand(images, generator=generator) * 9 + 0.5


@given(
    seed=st.integers(0, 1000),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
    ignored_entries=st.integers(0, 200),
    parts=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    alpha=st.sampled_from([0.25, 0.0, 1.0, 0.6]),
    gamma=st.sampled_from([2.0, 0.0, 1.0, 1.5]),
)
def test_focal_loss_is_the_written_out_sum(
    seed: int, counts: list[int], ignored_entries: int, parts: tuple[bool, bool, bool], alpha: float, gamma: float
) -> None:
    batch = Batch(seed, tuple(counts))
    given_parts = random_parts(batch, seed, ignored_entries)
    coverage, ignored, normaliser = (part if use else None for part, use in zip(given_parts, parts, strict=True))
    keys: dict[str, Any] = {"coverage": coverage, "ignored": ignored, "normaliser": normaliser}
    wanted = written_out(batch.logits, batch.assignment, **keys, alpha=alpha, gamma=gamma)
    found = focal_loss(batch.logits, batch.assignment, **keys, alpha=alpha, gamma=gamma)
    assert close(found, wanted)
    (gradient,) = torch.autograd.grad(found, batch.logits)
    (wanted_gradient,) = torch.autograd.grad(wanted, batch.logits)
    assert close(gradient, wanted_gradient)


def test_uncovered_channels_and_void_entries_get_no_gradient_at_all() -> None:
    batch = Batch()
    coverage, ignored, _ = random_parts(batch, 5, 50)
    torch.autograd.backward(focal_loss(batch.logits, batch.assignment, coverage=coverage, ignored=ignored))
    gradient = batch.logits.grad
    assert gradient is not None
    assert (gradient[~coverage[:, None, :].expand_as(gradient)] == 0).all()
    assert (gradient[ignored] == 0).all()
    assert (gradient[batch.assignment.matched == IGNORED] == 0).all()
    assert (gradient != 0).sum() > 1000


def test_full_coverage_is_no_coverage_to_the_last_bit() -> None:
    batch = Batch()
    everything = torch.ones(len(batch.targets), COLUMNS, dtype=torch.bool)
    plain = focal_loss(batch.logits, batch.assignment)
    assert torch.equal(focal_loss(batch.logits, batch.assignment, coverage=everything), plain)
    nothing = focal_loss(batch.logits, batch.assignment, coverage=~everything)
    assert nothing == 0
    (gradient,) = torch.autograd.grad(nothing, batch.logits)
    assert (gradient == 0).all()


def test_gradient_is_that_of_finite_differences() -> None:
    batch = Batch(counts=(2,))
    logits = batch.logits.detach()[:, :40].double().requires_grad_()
    found = assign(batch.targets, batch.anchors[:40])
    ignored = (torch.zeros(3, dtype=torch.int64), torch.tensor([1, 5, 9]), torch.tensor([0, 1, 2]))

    def loss(x: Tensor) -> Tensor:
        return focal_loss(x, found, ignored=ignored)

    assert loss(logits).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, (logits,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    batch = Batch()
    narrow = batch.logits.detach().to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    found, wanted = (focal_loss(logits, batch.assignment) for logits in (narrow, wide))
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    # The factor of a loss scaler: in float16 most gradients are lost if they are rounded before it is applied.
    (gradient,) = torch.autograd.grad(found * 65536, narrow)
    (wanted_gradient,) = torch.autograd.grad(wanted * 65536, wide)
    assert gradient.dtype == dtype
    assert torch.allclose(gradient.float(), wanted_gradient, rtol=1e-2, atol=1e-6)
    half = box_loss(batch.deltas.to(dtype), batch.anchors, batch.assignment)
    assert half.dtype == torch.float32
    assert torch.equal(half, box_loss(batch.deltas.to(dtype).float(), batch.anchors, batch.assignment))


def test_backward_may_run_twice_with_other_factors() -> None:
    batch = Batch()
    coverage, ignored, normaliser = random_parts(batch, 3, 40)
    loss = focal_loss(batch.logits, batch.assignment, coverage=coverage, ignored=ignored, normaliser=normaliser)
    (zero,) = torch.autograd.grad(loss, batch.logits, torch.tensor(0.0), retain_graph=True)
    (first,) = torch.autograd.grad(loss, batch.logits, torch.tensor(-2.0), retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, batch.logits, torch.tensor(1.0), retain_graph=True)
    fresh = focal_loss(batch.logits, batch.assignment, coverage=coverage, ignored=ignored, normaliser=normaliser)
    assert torch.equal(second, torch.autograd.grad(fresh, batch.logits)[0])
    assert (zero == 0).all()
    assert torch.equal(kept, first), "a later backward must not write into a gradient handed out before"
    assert torch.equal(first, -2 * second)
    torch.autograd.backward(loss)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.backward(loss)


def test_two_losses_of_one_input_add_their_gradients() -> None:
    batch = Batch()
    (once,) = torch.autograd.grad(focal_loss(batch.logits, batch.assignment), batch.logits)
    twice = focal_loss(batch.logits, batch.assignment) + 3 * focal_loss(batch.logits, batch.assignment)
    (four,) = torch.autograd.grad(twice + batch.logits.sum() * 0, batch.logits)
    assert close(four, 4 * once)


def test_logits_need_not_be_contiguous_nor_leaves() -> None:
    batch = Batch()
    turned = batch.logits.detach().transpose(1, 2).contiguous().requires_grad_()
    (wanted,) = torch.autograd.grad(focal_loss(batch.logits, batch.assignment), batch.logits)
    (gradient,) = torch.autograd.grad(focal_loss((turned * 1.0).transpose(1, 2), batch.assignment), turned)
    assert close(gradient.transpose(1, 2), wanted)


def test_without_gradient_nothing_of_the_size_of_the_logits_is_kept() -> None:
    batch = Batch()
    with torch.no_grad():
        loss = focal_loss(batch.logits, batch.assignment)
    assert not loss.requires_grad
    assert torch.equal(loss, focal_loss(batch.logits, batch.assignment).detach())


@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("counts", [(0,), (0, 0, 0)])
def test_images_without_boxes_keep_the_gradient_path(kind: str, counts: tuple[int, ...]) -> None:
    batch = Batch(counts=counts)
    loss = box_loss(batch.deltas, batch.anchors, batch.assignment, kind=kind)
    torch.autograd.backward(loss)
    assert loss == 0
    assert batch.deltas.grad is not None
    assert (batch.deltas.grad == 0).all()
    torch.autograd.backward(focal_loss(batch.logits, batch.assignment))
    assert batch.logits.grad is not None
    assert batch.logits.grad.isfinite().all()
    assert (batch.logits.grad > 0).all()


def test_no_class_at_all_is_a_loss_of_zero() -> None:
    batch = Batch(counts=(0, 0))
    logits = batch.logits.detach()[..., :0].requires_grad_()
    loss = focal_loss(logits, batch.assignment)
    torch.autograd.backward(loss)
    assert loss == 0
    assert logits.grad is not None and logits.grad.shape == logits.shape


@pytest.mark.parametrize("size", [50.0, 1e4])
def test_huge_logits_stay_finite(size: float) -> None:
    batch = Batch()
    logits = (batch.logits.detach().sign() * size).requires_grad_()
    loss = focal_loss(logits, batch.assignment)
    torch.autograd.backward(loss)
    assert math.isfinite(float(loss.detach()))
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_box_loss_uses_the_normaliser_of_each_image(kind: str) -> None:
    batch = Batch()
    parts = []
    for index, target in enumerate(batch.targets):
        alone = assign([target], batch.anchors)
        one = torch.ones(1)
        deltas = batch.deltas[index : index + 1]
        parts.append(box_loss(deltas, batch.anchors, alone, kind=kind, normaliser=one))
    normaliser = torch.tensor([2.0, 5.0, 0.5])
    found = box_loss(batch.deltas, batch.anchors, batch.assignment, kind=kind, normaliser=normaliser)
    assert close(found, (torch.stack(parts) / normaliser).sum())


def test_perfect_boxes_cost_nothing() -> None:
    batch = Batch()
    found = batch.assignment
    deltas = torch.zeros_like(batch.deltas)
    deltas[found.image, found.anchor] = encode_boxes(found.boxes, batch.anchors[found.anchor])
    assert box_loss(deltas, batch.anchors, found) == 0
    assert abs(float(box_loss(deltas, batch.anchors, found, kind="giou"))) < 1e-5


def test_giou_of_touching_and_exploding_boxes_has_the_gradient_of_torchvision() -> None:
    batch = Batch(counts=(1,))
    batch.anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [20, 20, 28, 28]])
    # The box moves onto its neighbours' edges: IoU 0 everywhere, so that every anchor answers for it.
    batch.targets = [{"boxes": torch.tensor([[100.0, 0, 108, 8]]), "labels": torch.tensor([0])}]
    batch.assignment = assign(batch.targets, batch.anchors)
    assert batch.assignment.positives.tolist() == [4]
    shifts = [[11.5, 0.0, 0.0, 0.0], [12.5, 0.0, 0.0, 0.0], [0.0, 0.0, 9.0, 0.0], [0.0, 0.0, 0.0, 7.5]]
    batch.deltas = torch.tensor([shifts]).requires_grad_()
    batch.logits = torch.zeros(1, 4, COLUMNS, requires_grad=True)
    wanted = torchvision_losses(batch, "giou")[1]
    found = box_loss(batch.deltas, batch.anchors, batch.assignment, kind="giou")
    assert close(found, wanted)
    mine, other = (torch.autograd.grad(loss, batch.deltas)[0] for loss in (found, wanted))
    assert close(mine, other)
    assert (mine[0, 2:, 2:].diagonal() == 0).all(), "growth beyond the limit has no gradient"


def test_an_unknown_kind_is_refused() -> None:
    batch = Batch()
    with pytest.raises(ValueError, match="smooth"):
        box_loss(batch.deltas, batch.anchors, batch.assignment, kind="smooth")


# --- several charges in one pass


def two_charges(seed: int) -> tuple[Batch, list[ClassTargets]]:
    """Two assignments that share anchors and even entries, with coverages that share no channel."""
    batch, other = Batch(seed), Batch(seed + 1, (5, 3, 0))
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(3, COLUMNS, generator=generator) < 0.4
    second = ~first & (torch.rand(3, COLUMNS, generator=generator) < 0.7)  # some channels are nobody's
    matched = other.assignment.matched.clone()
    matched[torch.rand(matched.shape, generator=generator) < 0.1] = IGNORED
    ignored = tuple(torch.randint(0, size, (200,), generator=generator) for size in (3, 300, COLUMNS))
    second_assignment = other.assignment._replace(matched=torch.where(other.assignment.matched >= 0, 0, matched))
    return batch, [
        ClassTargets(batch.assignment, first),
        ClassTargets(second_assignment, second, ignored, torch.tensor([3.0, 3.0, 3.0])),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [1 << 17, 700])
def test_one_pass_for_two_charges_equals_two_passes(seed: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CPU_BLOCK", block)
    batch, charges = two_charges(seed)
    apart = [
        focal_loss(batch.logits, one.assignment, coverage=one.coverage, ignored=one.ignored, normaliser=one.normaliser)
        for one in charges
    ]
    together = focal_losses(batch.logits, charges)
    for mine, other in zip(together, apart, strict=True):
        assert close(mine, other) and float(mine.detach()) > 0
    for factors in ((1.0, 1.0), (0.5, 3.0), (0.0, 2.0)):  # the second and third run through a retained graph
        sums = [sum(f * loss for f, loss in zip(factors, losses, strict=True)) for losses in (together, apart)]
        slopes = [torch.autograd.grad(total, batch.logits, retain_graph=True)[0] for total in sums]  # type: ignore[arg-type]
        assert close(slopes[0], slopes[1])


def test_a_charge_leaves_the_channels_of_another_alone() -> None:
    batch, (first, second) = two_charges(0)
    assert first.coverage is not None and second.coverage is not None
    lonely = focal_losses(batch.logits, [first, second._replace(coverage=torch.zeros_like(second.coverage))])
    expected = focal_loss(batch.logits, first.assignment, coverage=first.coverage)
    assert close(lonely[0], expected) and float(lonely[1].detach()) == 0
    slopes = [torch.autograd.grad(loss, batch.logits)[0] for loss in (lonely[0] + lonely[1], expected)]
    assert close(slopes[0], slopes[1])


def test_charges_without_a_coverage_are_refused() -> None:
    batch, (first, second) = two_charges(0)
    with pytest.raises(ValueError, match="coverage each"):
        focal_losses(batch.logits, [first._replace(coverage=None), second])


class NoFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails where an operation makes a float64 tensor."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        assert not (isinstance(result, Tensor) and result.dtype == torch.float64), f"{func} makes float64"
        return result


def test_a_device_without_float64_is_asked_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, charges = two_charges(0)

    def loss() -> Tensor:
        several = focal_losses(batch.logits, charges)
        alone = focal_loss(batch.logits, batch.assignment, ignored=charges[1].ignored)
        return torch.stack([*several, alone, box_loss(batch.deltas, batch.anchors, batch.assignment)])

    wanted = loss()
    monkeypatch.setattr(module, "WITHOUT_FLOAT64", ("cpu",))
    with NoFloat64():  # type: ignore[no-untyped-call]
        found = loss()
        torch.autograd.backward(found.sum())
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
