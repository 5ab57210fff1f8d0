from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import answer, batch_targets, descend, draw, grid, losses_of, network, operations, responses, slope, target
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets
from incdet.distillation.term import StepData
from incdet.distillation.terms import KdQuality
from incdet.distillation.terms.kd_quality import quality_focal
from incdet.ops.assign import IGNORED

SEEDS = st.integers(0, 2**31 - 1)
OLD, NEW = [True, True, False, False], [False, False, True, True]


def quality(term: KdQuality, student: Tensor, teachers: tuple[Tensor, Tensor | None], batch: BatchTargets) -> Tensor:
    return losses_of(term, responses(student, anchors=batch.anchors), answers(*teachers), batch)["kd_quality"]


def answers(old: Tensor, interim: Tensor | None) -> dict[str, Any]:
    found = {"old": answer(old)}
    return found if interim is None else {**found, "interim": answer(interim, first=old.shape[-1])}


def mixed(anchors: int = 6, *, wide: bool = False) -> BatchTargets:
    """A new image with an object on anchor 1 and an ignored one on anchor 3, and an exemplar with one on anchor 2."""
    boxes = grid(anchors).tolist()
    around = [boxes[0][0] - 10, boxes[0][1] - 10, boxes[0][2] + 4, boxes[0][3] + 10]  # no match, but all of anchor 0
    targets = [
        target([boxes[1], boxes[3]], [2, 3], NEW, ignore=[False, True]),
        target([boxes[2], around] if wide else [boxes[2]], [0, 1] if wide else [0], OLD),
    ]
    return batch_targets(targets, (2, 2), count=anchors)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def slow_quality(student: Tensor, old: Tensor, interim: Tensor | None, batch: BatchTargets, term: KdQuality) -> float:
    total, weight = 0.0, float(batch.assignment.positives.sum())
    for b in range(student.shape[0]):
        for a in range(student.shape[1]):
            matched = int(batch.assignment.matched[b, a])
            if matched == IGNORED:
                continue
            known = [sigmoid(float(x)) for x in old[b, a]]
            best = 0.0
            for k in range(student.shape[2]):
                if batch.trained[b, k] or (b == 1 and k >= len(known) and not term.exemplars):
                    continue
                wanted = 0.0
                if k < len(known):
                    wanted = known[k]
                elif interim is not None:
                    wanted = sigmoid(float(interim[b, a, k - len(known)]) + term.prior) * (
                        1 - term.discount * max(known)
                    )
                    if term.inside < 1 and a == 0 and b == 1:  # the anchor that lies inside the exemplar's object
                        wanted = 0.0
                if matched >= 0:
                    wanted *= term.objects if k < len(known) else 0.0
                wanted = wanted if wanted >= term.floor else 0.0
                best = max(best, wanted)
                got = sigmoid(float(student[b, a, k]))
                cross = -(wanted * math.log(got) + (1 - wanted) * math.log(1 - got))
                least = -sum(p * math.log(p) for p in (wanted, 1 - wanted) if p) if term.exponent == 0 else 0.0
                total += abs(got - wanted) ** term.exponent * cross - least
            weight += best if best > 0.05 else 0.0
    return term.weight * total / max(1.0, weight)


@settings(max_examples=60)
@given(
    seed=SEEDS,
    floor=st.sampled_from([0.0, 0.01, 0.3]),
    discount=st.sampled_from([0.0, 0.5, 1.0]),
    two=st.booleans(),
    prior=st.sampled_from([0.0, -2.0]),
    inside=st.sampled_from([1.0, 0.5]),
    exponent=st.sampled_from([0.0, 1.0, 1.5, 2.0]),
    exemplars=st.booleans(),
    objects=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_it_equals_the_written_out_sum(
    seed: int,
    floor: float,
    discount: float,
    two: bool,
    prior: float,
    inside: float,
    exponent: float,
    exemplars: bool,
    objects: float,
) -> None:
    student, old = draw(seed, 2, 6, 4), draw(seed + 1, 2, 6, 2)
    interim = draw(seed + 2, 2, 6, 2) if two else None
    numbers: dict[str, Any] = {
        "floor": floor,
        "discount": discount,
        "prior": prior,
        "inside": inside,
        "exponent": exponent,
        "objects": objects,
    }
    term = KdQuality(weight=1.5, exemplars=exemplars, **numbers)
    batch = mixed(wide=True)
    expected = slow_quality(student, old, interim, batch, term)
    assert float(quality(term, student, (old, interim), batch)) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("known", [2, 4])
def test_where_nothing_is_new_the_old_network_speaks_everywhere(known: int) -> None:
    """After a step that refreshes classes, the columns that were learned last are no new ones."""
    names = ("a", "b", "c", "d")[:known]
    term = KdQuality(floor=0.0, exemplars=False).fit(StepData({"old": Teacher(network(names))}, (), (), 1, print))
    old, batch = draw(1, 2, 6, known), mixed()
    student = draw(2, 2, 6, 4).requires_grad_()
    found = slope(quality(term, student, (old, None), batch), student)
    exemplar = found[1, batch.assignment.matched[1] == -1]
    assert bool(exemplar[:, 2:].any()) == (known == 4) and bool(found[0, 0, :2].all())


@pytest.mark.parametrize(
    ("growth", "known", "new", "factor"),
    [
        (0.5, 4, 1, 2.0),
        (1.0, 4, 1, 4.0),
        (0.0, 4, 1, 1.0),
        (0.5, 4, 2, 2**0.5),
        (0.5, 4, 8, 1.0),
        (0.5, 4, 0, 1.0),
        (0.5, 40, 1, 3.0),
    ],
)
def test_its_weight_grows_with_the_old_classes_for_each_new_one(
    growth: float, known: int, new: int, factor: float
) -> None:
    teachers = {"old": Teacher(network(tuple(f"o{number}" for number in range(known))))}
    step = StepData(teachers, (), (), 1, print, [f"n{number}" for number in range(new)])
    student, said, batch = draw(1, 2, 6, 4), (draw(2, 2, 6, 2), draw(3, 2, 6, 2)), mixed()
    plain = quality(KdQuality(growth=growth), student, said, batch)
    torch.testing.assert_close(quality(KdQuality(growth=growth).fit(step), student, said, batch), plain * factor)


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("two", [False, True])
def test_nobody_calls_a_new_object_background_in_a_picture_made_for_the_batch(made: bool, two: bool) -> None:
    old, batch = draw(1, 2, 6, 2), mixed()
    if made:
        batch = batch._replace(targets=[batch.targets[0], {**batch.targets[1], "made": True}])
    teachers = {"old": Teacher(network(("a", "b"))), **({"interim": Teacher(network(("a", "b")))} if two else {})}
    term = KdQuality(floor=0.0).fit(StepData(teachers, (), (), 1, print))
    student = draw(2, 2, 6, 4).requires_grad_()
    found = slope(quality(term, student, (old, draw(3, 2, 6, 2) if two else None), batch), student)
    exemplar = found[1, batch.assignment.matched[1] == -1]
    assert bool(exemplar[:, 2:].any()) == (two or not made)


@settings(max_examples=20)
@given(seed=SEEDS, floor=st.sampled_from([0.0, 0.3]))
def test_its_gradient_is_that_of_the_sum_over_all_entries(seed: int, floor: float) -> None:
    student, old, interim = (draw(seed + n, 2, 6, k) for n, k in enumerate((4, 2, 2)))
    student.requires_grad_()
    batch, term = mixed(), KdQuality(floor=floor)
    rest = 1 - old.sigmoid().amax(dim=-1, keepdim=True)
    wanted = torch.cat([old.sigmoid(), interim.sigmoid() * rest], dim=-1)
    heard = (~batch.trained)[:, None] & (batch.assignment.matched != IGNORED)[..., None]
    wanted = wanted * heard * (batch.assignment.matched < 0)[..., None] * (wanted >= floor)
    best = wanted.amax(dim=-1)
    total = (best * (best > 0.05)).sum() + batch.assignment.positives.sum()
    dense = (quality_focal(student, wanted) * heard).sum() / total.clamp(min=1)
    found = slope(quality(term, student, (old, interim), batch), student)
    torch.testing.assert_close(found, slope(dense, student), rtol=1e-4, atol=1e-6)


def agreeing(old: Tensor, interim: Tensor, taken: Tensor) -> Tensor:
    """The logits of a student that gives every target."""
    rest = 1 - old.sigmoid().amax(dim=-1, keepdim=True)
    wanted = torch.cat([old.sigmoid(), interim.sigmoid() * rest], dim=-1)
    return torch.where(taken[..., None], -40.0, wanted.logit())


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_a_student_that_agrees_has_no_loss_and_nothing_to_learn(exponent: float) -> None:
    old, interim, batch = draw(3, 2, 6, 2), draw(4, 2, 6, 2), mixed()
    term = KdQuality(floor=0.0, exponent=exponent)
    student = agreeing(old, interim, batch.assignment.matched >= 0).requires_grad_()
    loss = quality(term, student, (old, interim), batch)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and slope(loss, student).abs().max() < 1e-6
    for seed in range(5):
        assert quality(term, student.detach() + draw(seed, 2, 6, 4, spread=0.5), (old, interim), batch) > 1e-4


def test_without_an_exponent_the_slope_is_the_distance_to_the_target() -> None:
    student, old, batch = draw(1, 2, 6, 4).requires_grad_(), draw(2, 2, 6, 2), mixed()
    found = slope(quality(KdQuality(floor=0.0, exponent=0.0), student, (old, None), batch), student)
    background = batch.assignment.matched[0] == -1
    ratio = found[0, background, :2] / (student.detach()[..., :2].sigmoid() - old.sigmoid())[0, background]
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio.mean())), rtol=1e-4, atol=1e-6)
    assert ratio.mean() > 0


def test_exponents_whose_slope_has_no_bound_are_refused() -> None:
    with pytest.raises(ValidationError, match="between them the slope has no bound"):
        KdQuality(exponent=0.5)


def test_only_channels_that_nobody_annotated_learn() -> None:
    student, batch = draw(1, 2, 6, 4).requires_grad_(), mixed()
    found = slope(quality(KdQuality(), student, (draw(2, 2, 6, 2), draw(3, 2, 6, 2)), batch), student)
    heard = batch.assignment.matched != IGNORED
    assert not found[0, :, 2:].any() and not found[1, :, :2].any()
    assert found[0, :, :2][heard[0]].all() and found[1, :, 2:][heard[1]].all()


def test_anchors_between_object_and_background_are_left_out() -> None:
    student, batch = draw(1, 2, 6, 4).requires_grad_(), mixed()
    teachers = (draw(2, 2, 6, 2), draw(3, 2, 6, 2))
    assert batch.assignment.matched[0, 3] == IGNORED
    assert not slope(quality(KdQuality(), student, teachers, batch), student)[0, 3].any()


def test_on_an_annotated_object_every_unannotated_channel_is_nought() -> None:
    student, batch = torch.zeros(2, 6, 4, requires_grad=True), mixed()
    sure = (torch.full((2, 6, 2), 5.0), torch.full((2, 6, 2), -5.0))
    found = slope(quality(KdQuality(), student, sure, batch), student)
    assert (found[0, 1, :2] > 0).all() and (found[0, [0, 2, 4, 5], :2] < 0).all()


def targets_of(term: KdQuality, teachers: Mapping[str, Any], batch: BatchTargets) -> Tensor:
    """(B, A, K)."""
    rows: Any = term.targets(teachers, batch)["rows"]
    whole = torch.zeros(len(batch.targets), len(batch.anchors), batch.trained.shape[1])
    whole[rows.image, rows.anchor] = rows["target"]
    return whole


@pytest.mark.parametrize(("discount", "expected"), [(0.0, 0.8), (0.5, 0.6), (1.0, 0.4)])
def test_what_the_old_network_knows_is_taken_off_the_interim_ones_scores(discount: float, expected: float) -> None:
    old = torch.tensor([0.5, 0.1]).logit().expand(1, 4, 2)
    interim = torch.tensor([0.8, 0.2]).logit().expand(1, 4, 2)
    batch = batch_targets([target(coverage=[False] * 4)], (2, 2))
    found = targets_of(KdQuality(discount=discount), answers(old, interim), batch)
    assert found[0, 0].tolist() == pytest.approx([0.5, 0.1, expected, expected / 4])


def test_targets_below_the_floor_are_nought_and_their_places_are_not_kept() -> None:
    old = torch.tensor([[0.5, 0.09], [0.09, 0.05], [0.11, 0.2], [0.01, 0.02]]).logit()[None]
    batch, term = batch_targets([target(coverage=NEW)], (2, 2)), KdQuality(floor=0.1)
    rows: Any = term.targets(answers(old, None), batch)["rows"]
    assert rows.anchor.tolist() == [0, 2]
    assert rows["target"].flatten().tolist() == pytest.approx([0.5, 0, 0, 0, 0.11, 0.2, 0, 0])
    assert float(term.count({"rows": rows}, batch)) == pytest.approx(0.7)


def test_weak_targets_do_not_count_and_annotated_positives_do() -> None:
    old = torch.full((2, 6, 2), 0.04).logit()
    old[0, 0, 0] = torch.tensor(0.6).logit()
    batch, term = mixed(), KdQuality()
    assert float(term.count(term.targets(answers(old, None), batch), batch)) == pytest.approx(0.6 + 2)


def test_a_new_head_of_the_old_teacher_leaves_the_interim_one_nothing_to_say() -> None:
    # In balanced fine-tuning the old teacher answers for every column.
    old, batch = draw(1, 1, 4, 4), batch_targets([target(coverage=[False] * 4)], (2, 2))
    both = {"old": answer(old), "interim": answer(draw(2, 1, 4, 2), first=2)}
    term = KdQuality(floor=0.0)
    assert torch.equal(targets_of(term, both, batch), targets_of(term, {"old": answer(old)}, batch))


def test_where_everything_is_annotated_it_is_zero_and_keeps_its_gradient_path() -> None:
    student, batch = draw(1, 1, 4, 4).requires_grad_(), batch_targets([target()], (2, 2))
    loss = quality(KdQuality(), student, (draw(2, 1, 4, 2), None), batch)
    assert float(loss.detach()) == 0 and not slope(loss, student).any()


def test_it_is_float32_for_a_student_of_half_precision() -> None:
    student, batch = draw(1, 2, 6, 4).bfloat16(), mixed()
    assert quality(KdQuality(), student, (draw(2, 2, 6, 2), None), batch).dtype == torch.float32


def test_more_images_take_no_more_operations() -> None:
    def work(images: int) -> int:
        student, teachers = draw(1, images, 50, 4).requires_grad_(), answers(draw(2, images, 50, 2), None)
        batch = batch_targets([target(coverage=NEW)] * images, (2, 2), count=50)
        own = responses(student)
        return operations(lambda: descend(losses_of(KdQuality(), own, teachers, batch)))

    assert work(2) == work(9)
