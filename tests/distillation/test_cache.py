from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import network, operations, record, waits
from incdet.distillation.pseudo_labels import Thresholds
from incdet.methods.base import METHODS, KdBox, KdResponse, KdSoftmax, LossInputs, Method
from torch import Tensor

from incdet.data.dataset import DetectionDataset, collate
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.distillation.cache import CachedProvider, fill
from incdet.distillation.cache_file import Archive
from incdet.distillation.teacher import OnlineProvider, Teacher
from incdet.distillation.teacher_targets import BatchTargets, TeacherTargets
from incdet.distillation.terms import Selection
from incdet.network.retinanet import HeadOutputs, ImageBatch
from incdet.training.increment import MethodCriterion

NAMES = ("a", "b")
EVERYTHING = Method(
    "everything",
    "here",
    pseudo_labels=True,
    terms=(
        KdResponse(selection=Selection("score", 0.6)),
        KdSoftmax(selection=Selection("topk", 9), images="new"),
        KdBox(score=0.4),
    ),
)
THRESHOLDS = Thresholds(torch.tensor([0.6, 0.5]), torch.tensor([0.3, 0.25]))
LOUD = replace(EVERYTHING, terms=(KdResponse(selection=Selection("all")),))
BOTH = (False, True)


def photographs(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Record]:
    """Pictures of noise with the given (height, width), each with one object of class c."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    records = []
    for number, (height, width) in enumerate(sizes):
        file = folder / f"{number}.png"
        noise = cv2.resize(rng.integers(0, 256, (height // 4, width // 4, 3), np.uint8), (width, height))
        cv2.imwrite(str(file), noise)
        one = record(file, ["c"], number=number, boxes=[[4, 5, 28, 30]])
        records.append(replace(one, width=width, height=height))
    return records


class World:
    """A teacher of two classes, its student of three, and pictures."""

    def __init__(self, folder: Path, sizes: Sequence[tuple[int, int]] = ((48, 48),) * 6, **changes: Any) -> None:
        before = network(NAMES, **changes)
        with torch.no_grad():  # it finds something, as a trained one does
            before.class_head.predictors[0].get_parameter("weight").mul_(60)
        self.teacher = Teacher(before)
        self.student = network(NAMES, seed=1, **changes)
        self.student.freeze_norm()
        self.student.grow(("c",))
        self.student.train()
        recipe = before.architecture
        geometry = Geometry(recipe.min_size[0], recipe.max_size, recipe.fixed_size)
        self.dataset = DetectionDataset(photographs(folder, sizes), self.student.vocab, geometry=geometry)

    def criterion(self, method: Method = EVERYTHING, kind: str = "l1") -> MethodCriterion:
        return MethodCriterion(method, kind, self.teacher, THRESHOLDS if method.pseudo_labels else None)

    def fill(self, method: Method = EVERYTHING, flips: Sequence[bool] = BOTH, **more: Any) -> Archive:
        archive = self.try_to_fill(method, flips, **{"budget": 1 << 30, "batch_size": 4, **more})
        assert archive is not None
        return archive

    def try_to_fill(self, method: Method, flips: Sequence[bool], **more: Any) -> Archive | None:
        criterion = self.criterion(method)
        return fill(criterion.asked(self.teacher), self.student, self.dataset, flips, **more)

    def cached(self, method: Method = EVERYTHING, **more: Any) -> Callable[[ImageBatch, HeadOutputs], TeacherTargets]:
        terms = [term.name for term in method.terms]
        provider = CachedProvider(self.fill(method, **more), terms, self.student.architecture.anchors_per_cell)
        return lambda prepared, dense: provider(prepared, dense, self.truth(prepared, dense))

    def online(self, prepared: ImageBatch, dense: HeadOutputs, method: Method = EVERYTHING) -> TeacherTargets:
        criterion = self.criterion(method)
        ask = OnlineProvider(self.teacher, criterion.question, criterion.decide)
        return ask(prepared, dense, self.truth(prepared, dense))

    def truth(self, prepared: ImageBatch, dense: HeadOutputs) -> BatchTargets:
        return BatchTargets.read(prepared.targets or [], dense.anchors, 3)

    def batch(self, *draws: tuple[int, bool], canvas: tuple[int, int] | None = None) -> ImageBatch:
        """The prepared batch of (index, flipped) draws, as the loader would give it."""
        images, targets = [], []
        for index, flipped in draws:
            (image,), (target,) = collate([self.dataset[(0, index)]])
            width = image.shape[-1]
            boxes = target["boxes"]
            if flipped:
                boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=1)
            images.append(image.flip(-1) if flipped else image)
            targets.append({**target, "boxes": boxes, "flipped": flipped})
        return self.student.prepare(images, targets, canvas=canvas)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def assert_equal_guidance(one: TeacherTargets, other: TeacherTargets, tolerance: float) -> None:
    assert torch.equal(one.responses.image, other.responses.image)
    assert torch.equal(one.responses.anchor, other.responses.anchor)
    torch.testing.assert_close(one.responses.logits, other.responses.logits, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one.responses.deltas, other.responses.deltas, rtol=tolerance, atol=tolerance)
    assert one.rows.keys() == other.rows.keys()
    assert all(torch.equal(one.rows[name], other.rows[name]) for name in one.rows)
    assert (one.labels is None) is (other.labels is None)
    if one.labels is None or other.labels is None:
        return
    assert torch.equal(one.labels.free, other.labels.free)
    assert torch.equal(one.labels.channels, other.labels.channels)
    assert sorted(zip(*map(Tensor.tolist, one.labels.void), strict=True)) == sorted(
        zip(*map(Tensor.tolist, other.labels.void), strict=True)
    )
    mine, theirs = one.labels.assignment, other.labels.assignment
    assert torch.equal(mine.matched.clamp(max=0), theirs.matched.clamp(max=0))  # which box it was is not kept
    for name in ("image", "anchor", "column", "positives"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))
    torch.testing.assert_close(mine.boxes, theirs.boxes, rtol=tolerance, atol=100 * tolerance)


# --- what is found in the cache is what the teacher would say


@pytest.mark.parametrize(
    "draws", [[(0, False)], [(1, True), (1, False)], [(5, True), (0, False), (3, True), (2, True)]]
)
def test_on_its_own_canvas_an_image_gets_the_teachers_answer(world: World, draws: list[tuple[int, bool]]) -> None:
    prepared = world.batch(*draws)
    dense = world.student.dense(prepared)
    guidance = world.cached()(prepared, dense)
    assert all(rows.any() for rows in guidance.rows.values()) and guidance.labels is not None
    assert (guidance.labels.assignment.positives > 0).all() and len(guidance.labels.void[0]) > 0
    assert (guidance.labels.assignment.matched == -2).any()
    assert_equal_guidance(guidance, world.online(prepared, dense), 1e-5)


def test_filled_one_by_one_it_equals_the_teachers_answer_to_a_single_image_bit_for_bit(world: World) -> None:
    cached = world.cached(batch_size=1, flips=(False,))
    for draw in ((0, False), (4, False)):
        prepared = world.batch(draw)
        dense = world.student.dense(prepared)
        assert_equal_guidance(cached(prepared, dense), world.online(prepared, dense), 0.0)


LISTENERS = {
    "incdet": METHODS["incdet"],
    "eeil": METHODS["eeil"],
    "pseudo": METHODS["pseudo"],
    "topk": Method("topk", "here", terms=(KdResponse(selection=Selection("topk", 9)), KdBox(score=0.3))),
    "statistical": Method("statistical", "here", terms=(KdResponse(selection=Selection("statistical", 1.0)),)),
}


@pytest.mark.parametrize("name", LISTENERS)
@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_losses_and_gradients_are_those_of_the_online_teacher(world: World, name: str, kind: str) -> None:
    method = LISTENERS[name]
    online, cached = world.criterion(method, kind), world.cached(method)
    criterion = replace(online, provider=lambda prepared, dense, truth: cached(prepared, dense))
    prepared = world.batch((2, True), (0, False), (4, True))
    slopes = []
    for one in (criterion, online):
        world.student.zero_grad()
        losses = one(world.student.dense(prepared), prepared)
        torch.autograd.backward(list(losses.values()))
        slopes.append({**losses, **{k: p.grad for k, p in world.student.named_parameters() if p.requires_grad}})
    assert len(slopes[0]) > 10
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5)


def test_rows_move_with_their_place_when_the_batch_is_padded_further(tmp_path: Path) -> None:
    # Canvases of 64 x 64, 64 x 96 and 96 x 64: no two are alike, and the batch's is larger than each.
    world = World(tmp_path, [(48, 64), (48, 90), (90, 48)], max_size=96, size_divisible=32)
    prepared = world.batch((0, True), (1, False), (2, True))
    dense = world.student.dense(prepared)
    assert prepared.images.shape[-2:] == (96, 96)
    guidance = world.cached(LOUD)(prepared, dense)
    assert guidance.labels is not None
    cells = [feature.shape[-2:] for feature in dense.features]
    per_cell = world.student.architecture.anchors_per_cell
    for row, draw in enumerate(((0, True), (1, False), (2, True))):
        alone = world.batch(draw)
        own = world.teacher(alone)
        mine = guidance.responses.image == row
        assert int(mine.sum()) == own.logits.shape[1] < dense.logits.shape[1]
        # Written out: the own canvas's grid cut out of the batch's, level by level.
        parts, start = [], 0
        for feature, (height, width) in zip(own.features, cells, strict=True):
            count = height * width * per_cell
            places = torch.arange(start, start + count).reshape(height, width, per_cell)
            parts.append(places[: feature.shape[-2], : feature.shape[-1]].flatten())
            start += count
        assert torch.equal(guidance.responses.anchor[mine], torch.cat(parts))
        torch.testing.assert_close(guidance.responses.logits[mine], own.logits[0], rtol=1e-5, atol=1e-5)
        # These canvases are multiples of every stride, so that equal places are equal boxes.
        assert torch.equal(dense.anchors[guidance.responses.anchor[mine]], own.anchors)
        alone_guidance = world.online(alone, own, LOUD)
        assert alone_guidance.labels is not None
        here = guidance.labels.assignment.image == row
        places = torch.cat(parts)[alone_guidance.labels.assignment.anchor]
        assert torch.equal(guidance.labels.assignment.anchor[here], places) and here.any()
        here = guidance.labels.void[0] == row
        assert torch.equal(guidance.labels.void[1][here], torch.cat(parts)[alone_guidance.labels.void[1]])
        between = (alone_guidance.labels.assignment.matched[0] == -2).nonzero()[:, 0]
        ignored = (guidance.labels.assignment.matched[row] == -2).nonzero()[:, 0]
        assert torch.equal(ignored, torch.cat(parts)[between].sort().values)


def test_what_padding_changes_stays_small_away_from_it(tmp_path: Path) -> None:
    # The one difference between cached and online: what the network sees beyond the border of the own canvas.
    world = World(tmp_path, [(96, 96), (96, 160)], min_size=(96,), max_size=160, anchor_sizes=((12, 16),))
    prepared = world.batch((0, False), (1, False))
    dense = world.student.dense(prepared)
    cached = world.cached(LOUD)(prepared, dense).responses
    online = world.teacher(prepared)
    mine = cached.image == 0
    places = cached.anchor[mine]
    gap = (cached.logits[mine] - online.logits[0, places]).abs().amax(dim=1)
    right = dense.anchors[places, 2]
    near, far = gap[right > 80].max(), gap[right < 20].max()
    assert near > 10 * far


def test_on_one_canvas_pictures_of_all_shapes_are_exact(tmp_path: Path) -> None:
    world, canvas = World(tmp_path, [(48, 64), (64, 48), (48, 48), (40, 60)]), (64, 64)
    prepared = world.batch((0, False), (1, True), (2, False), (3, True), canvas=canvas)
    dense = world.student.dense(prepared)
    # Not to the last bit: the blocking of convolutions goes by the size of the batch.
    cached = world.cached(canvas=canvas, batch_size=8)(prepared, dense)
    assert_equal_guidance(cached, world.online(prepared, dense), 1e-5)


def test_a_batch_takes_as_many_operations_as_an_image(world: World) -> None:
    cached = CachedProvider(world.fill(), ("a", "b", "c"), world.student.architecture.anchors_per_cell)

    def work(draws: list[tuple[int, bool]]) -> int:
        prepared = world.batch(*draws)
        with torch.no_grad():
            dense = world.student.dense(prepared)
        truth = world.truth(prepared, dense)
        return operations(lambda: cached(prepared, dense, truth))

    assert work([(0, False)]) == work([(number, bool(number % 2)) for number in range(6)])


def test_nothing_that_the_cache_says_has_to_be_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incdet.ops.losses._all_on_host", lambda _: False)
    prepared = world.batch((0, False), (1, True))
    dense = world.student.dense(prepared)
    truth = world.truth(prepared, dense)
    cached = CachedProvider(world.fill(), [one.name for one in EVERYTHING.terms], 6)
    # The one that is left looks up the archive, which lies on the host.
    assert set(waits(lambda: cached(prepared, dense, truth))) <= {"repeat_interleave"}
    guidance = cached(prepared, dense, truth)

    def step() -> None:
        losses = EVERYTHING.losses(LossInputs(dense, truth, guidance, (2,)))
        torch.autograd.backward(list(losses.values()))

    assert waits(step) == []


def test_a_draw_that_was_not_foreseen_is_no_other_picture(world: World) -> None:
    prepared = world.batch((0, False), (1, True))
    with pytest.raises(KeyError, match="not foreseen"):
        world.cached(flips=(False,))(prepared, world.student.dense(prepared))


# --- filling


@pytest.mark.parametrize("flips", [(False,), (True,), BOTH])
def test_an_entry_for_every_picture_that_can_be_drawn(world: World, flips: tuple[bool, ...]) -> None:
    told: list[tuple[int, int]] = []
    archive = world.fill(flips=flips, progress=lambda done, total: told.append((done, total)))
    entries = 6 * len(flips)
    assert sorted(archive.entry[:, [int(one) for one in flips]].flatten().tolist()) == list(range(entries))
    assert (archive.entry >= 0).sum() == entries == len(archive.grids) == len(archive.row_ends) - 1
    assert told[-1] == (entries, entries) and len(told) > 1
    assert archive.logits.dtype == torch.float32 and archive.nbytes == sum(part.nbytes for part in archive)


def test_filling_leaves_random_numbers_modes_and_weights_alone(world: World) -> None:
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in world.student.state_dict().items()}
    world.fill()
    assert torch.equal(torch.get_rng_state(), before)
    assert world.student.training and not world.teacher.model.training
    assert all(torch.equal(value, state[name]) for name, value in world.student.state_dict().items())


def test_other_processes_may_read_the_pictures(world: World) -> None:
    for one, other in zip(world.fill(), world.fill(workers=1), strict=True):
        assert torch.equal(one, other)


def test_pictures_of_one_canvas_are_asked_about_together(tmp_path: Path) -> None:
    world = World(tmp_path, [(48, 64), (48, 48), (44, 62), (48, 90), (64, 48)], max_size=96)
    shapes: list[tuple[int, ...]] = []
    inner = world.teacher.model.dense

    def dense(prepared: ImageBatch, *rest: Any) -> Any:
        shapes.append(tuple(prepared.images.shape))
        return inner(prepared, *rest)

    world.teacher.model.dense = dense  # type: ignore[method-assign,assignment]
    world.fill(batch_size=16)
    assert sorted(shape[2:] for shape in shapes) == [(64, 64), (64, 96)]
    assert sum(shape[0] for shape in shapes) == 10


def test_filling_stops_as_soon_as_it_is_known_to_exceed_its_budget(world: World) -> None:
    whole = world.fill(batch_size=2)
    told: list[int] = []

    def filled(budget: int) -> Archive | None:
        told.clear()
        return world.try_to_fill(
            EVERYTHING, BOTH, budget=budget, batch_size=2, progress=lambda done, _: told.append(done)
        )

    assert filled(whole.nbytes) is not None
    assert filled(whole.nbytes // 2) is None and told == []  # foreseen after the first picture
    assert filled(int(whole.nbytes / 1.1)) is None
