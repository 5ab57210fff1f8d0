from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from helpers import assert_equal_states, descend, network, operations, record, waits
from torch import Tensor

from incdet.data.dataset import DetectionDataset, collate
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.distillation.cache import CachedProvider, fill
from incdet.distillation.cache_file import CachedTargets
from incdet.distillation.part import Selection
from incdet.distillation.provider import OnlineProvider, PartlyCached, Provider, Teaching
from incdet.distillation.teacher import Teacher
from incdet.distillation.teacher_targets import BatchTargets, Entries, TermTargets
from incdet.distillation.terms import KdBox, KdQuality, KdResponse, KdSoftmax, PseudoLabels
from incdet.distillation.thresholds import Thresholds
from incdet.methods.method import Interim, Method
from incdet.methods.registry import get_method
from incdet.network.retinanet import ImageBatch
from incdet.training.criterion import MethodCriterion

NAMES = ("a", "b")
FITTED = PseudoLabels(fitted=Thresholds((0.6, 0.5), (0.3, 0.25)))
EVERYTHING = Method(
    "everything",
    "here",
    terms=(
        FITTED,
        KdResponse(selection=Selection(kind="score", value=0.6)),
        KdSoftmax(selection=Selection(kind="topk", value=9), images="new"),
        KdBox(score=0.4),
        KdQuality(floor=0.3),
    ),
    interim=Interim(),
)
LOUD = replace(EVERYTHING, terms=(FITTED, KdResponse(selection=Selection(kind="all"))))
BOTH = (False, True)
Kept = Mapping[str, TermTargets]


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
    """Teachers of two classes and of a third, their student of three, and pictures."""

    def __init__(self, folder: Path, sizes: Sequence[tuple[int, int]] = ((48, 48),) * 6, **changes: Any) -> None:
        before, interim = network(NAMES, **changes), network(NAMES, seed=2, **changes)
        interim.grow(("c",))
        with torch.no_grad():  # they find something, as trained ones do
            before.class_head.predictors[0].get_parameter("weight").mul_(60)
            interim.class_head.predictors[1].get_parameter("weight").normal_(std=10)
        self.teachers = {"old": Teacher(before), "interim": Teacher(interim, first=2)}
        self.student = network(NAMES, seed=1, **changes)
        self.student.freeze_norm()
        self.student.grow(("c",))
        self.student.train()
        recipe = before.recipe
        geometry = Geometry(recipe.min_size[0], recipe.max_size, recipe.fixed_size)
        self.dataset = DetectionDataset(photographs(folder, sizes), self.student.vocab, geometry=geometry)

    def teaching(self, method: Method) -> Teaching:
        return Teaching({name: self.teachers[name] for name in method.teachers}, method.terms)

    def fill(self, method: Method = EVERYTHING, flips: Sequence[bool] = BOTH, **more: Any) -> CachedTargets:
        cached = self.try_to_fill(method, flips, **{"budget": 1 << 30, "batch_size": 4, **more})
        assert cached is not None
        return cached

    def try_to_fill(self, method: Method, flips: Sequence[bool], **more: Any) -> CachedTargets | None:
        return fill(self.teaching(method), self.student, self.dataset, flips, masked=method.masked, **more)

    def cached(self, method: Method = EVERYTHING, **more: Any) -> CachedProvider:
        return CachedProvider(self.fill(method, **more), self.student)

    def online(self, method: Method = EVERYTHING) -> OnlineProvider:
        return OnlineProvider(self.teaching(method), self.student)

    def kept(self, provider: Provider, batch: ImageBatch, method: Method = EVERYTHING) -> Kept:
        return provider(batch, BatchTargets.read(self.student, batch, masked=method.masked))

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


def entries_of(kept: Kept) -> dict[str, Entries]:
    """By ``term/list``."""
    found = {}
    for term, lists in kept.items():
        for name, entries in lists.items():
            assert isinstance(entries, Entries)
            found[f"{term}/{name}"] = entries
    return found


def assert_equal_targets(one: Kept, other: Kept, tolerance: float) -> None:
    mine, theirs = entries_of(one), entries_of(other)
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert torch.equal(mine[name].image, theirs[name].image), name
        assert torch.equal(mine[name].anchor, theirs[name].anchor), name
        for key, value in mine[name].values.items():
            slack = 100 * tolerance if key == "box" else tolerance  # in pixels
            torch.testing.assert_close(value, theirs[name][key], rtol=tolerance, atol=slack)


# --- what is found in the cache is what the teachers would say


@pytest.mark.parametrize(
    "draws", [[(0, False)], [(1, True), (1, False)], [(5, True), (0, False), (3, True), (2, True)]]
)
def test_on_its_own_canvas_an_image_gets_the_teachers_answer(world: World, draws: list[tuple[int, bool]]) -> None:
    batch = world.batch(*draws)
    kept = world.kept(world.cached(), batch)
    assert all(len(entries.image) for entries in entries_of(kept).values())
    assert_equal_targets(kept, world.kept(world.online(), batch), 1e-5)


def test_pictures_made_for_a_batch_get_the_teachers_own_answer_beside_the_cached_ones(world: World) -> None:
    asked: list[int] = []

    def online(batch: ImageBatch, targets: BatchTargets) -> Kept:
        asked.append(len(batch.images))
        return world.online()(batch, targets)

    provider = PartlyCached(world.cached(), online, world.student, masked=True)
    batch = world.batch((5, True), (0, False), (3, True))
    assert batch.targets is not None
    assert_equal_targets(world.kept(provider, batch), world.kept(world.online(), batch), 1e-5)
    assert not asked
    for made in (1, 3):
        last = [{**target, "index": -1, "made": True} for target in batch.targets[3 - made :]]
        marked = batch._replace(targets=[*batch.targets[: 3 - made], *last])
        kept = world.kept(provider, marked)
        assert {2} <= set(entries_of(kept)["kd_quality/rows"].image.tolist())
        assert_equal_targets(kept, world.kept(world.online(), batch), 1e-5)
    assert asked == [1, 3]


def test_filled_one_by_one_it_equals_the_teachers_answer_to_a_single_image_bit_for_bit(world: World) -> None:
    cached = world.cached(batch_size=1, flips=(False,))
    for one in ((0, False), (4, False)):
        batch = world.batch(one)
        assert_equal_targets(world.kept(cached, batch), world.kept(world.online(), batch), 0.0)


def fitted(method: Method) -> Method:
    return replace(method, terms=tuple(FITTED if isinstance(term, PseudoLabels) else term for term in method.terms))


LISTENERS = {
    "everything": EVERYTHING,
    "incdet": fitted(get_method("incdet").speaking()),
    "eeil": get_method("eeil"),
    "pseudo": fitted(get_method("pseudo")),
    "topk": Method("topk", "here", terms=(KdResponse(selection=Selection(kind="topk", value=9)), KdBox(score=0.3))),
    "statistical": Method(
        "statistical", "here", terms=(KdResponse(selection=Selection(kind="statistical", value=1.0)),)
    ),
}


@pytest.mark.parametrize("name", LISTENERS)
@pytest.mark.parametrize("kind", ["l1", "giou"])
def test_losses_and_gradients_are_those_of_the_online_teachers(tmp_path: Path, name: str, kind: str) -> None:
    world, method = World(tmp_path, box_loss=kind), LISTENERS[name]
    batch = world.batch((2, True), (0, False), (4, True))
    found = []
    for provider in (world.cached(method), world.online(method)):
        criterion = MethodCriterion(method, world.student, provider)
        targets = criterion.targets(batch)
        losses = criterion(world.student.dense(batch), targets, targets.counts)
        world.student.zero_grad()
        descend(losses)
        found.append({**losses, **{k: p.grad for k, p in world.student.named_parameters() if p.requires_grad}})
    assert len(found[0]) > 10
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_places_move_along_when_the_batch_is_padded_further(tmp_path: Path) -> None:
    # Canvases of 64 x 64, 64 x 96 and 96 x 64: no two are alike, and the batch's is larger than each.
    world = World(tmp_path, [(48, 64), (48, 90), (90, 48)], max_size=96, size_divisible=32)
    draws = ((0, True), (1, False), (2, True))
    batch = world.batch(*draws)
    assert batch.padded == (96, 96)
    anchors, cells = world.student.batch_anchors(batch), world.student.grids(batch)
    kept = entries_of(world.kept(world.cached(LOUD), batch))
    for row, one in enumerate(draws):
        alone = world.batch(one)
        place = places_within(world.student.grids(alone), cells, world.student.recipe.anchors_per_cell)
        # These canvases are multiples of every stride, so that equal places are equal boxes.
        assert torch.equal(anchors[place], world.student.batch_anchors(alone))
        assert len(place) < len(anchors)
        for name, own in entries_of(world.kept(world.online(LOUD), alone)).items():
            mine = kept[name].only(kept[name].image == row)
            assert len(own.image) and torch.equal(mine.anchor, place[own.anchor]), name
            for key, value in own.values.items():
                torch.testing.assert_close(mine[key], value, rtol=1e-5, atol=1e-3 if key == "box" else 1e-5)


def places_within(own: list[tuple[int, int]], whole: list[tuple[int, int]], per_cell: int) -> Tensor:
    """A canvas's grid cut out of a larger one's, level by level: where each of its anchors lies there."""
    parts, start = [], 0
    for (rows, columns), (height, width) in zip(own, whole, strict=True):
        count = height * width * per_cell
        parts.append(torch.arange(start, start + count).reshape(height, width, per_cell)[:rows, :columns].flatten())
        start += count
    return torch.cat(parts)


def test_what_padding_changes_stays_small_away_from_it(tmp_path: Path) -> None:
    # The one difference between cached and online: what the network sees beyond the border of the own canvas.
    world = World(tmp_path, [(96, 96), (96, 160)], min_size=(96,), max_size=160, anchor_sizes=((12, 16),))
    batch = world.batch((0, False), (1, False))
    rows = entries_of(world.kept(world.cached(LOUD), batch))["kd_response/rows"]
    rows = rows.only(rows.image == 0)
    gap = (rows["logits"] - world.teachers["old"](batch).logits[0, rows.anchor]).abs().amax(dim=1)
    right = world.student.batch_anchors(batch)[rows.anchor, 2]
    assert gap[right > 80].max() > 10 * gap[right < 20].max()


def test_on_one_canvas_pictures_of_all_shapes_are_exact(tmp_path: Path) -> None:
    world, canvas = World(tmp_path, [(48, 64), (64, 48), (48, 48), (40, 60)]), (64, 64)
    batch = world.batch((0, False), (1, True), (2, False), (3, True), canvas=canvas)
    # Not to the last bit: the blocking of convolutions goes by the size of the batch.
    cached = world.cached(canvas=canvas, batch_size=8)
    assert_equal_targets(world.kept(cached, batch), world.kept(world.online(), batch), 1e-5)


def test_a_batch_takes_as_many_operations_as_an_image(world: World) -> None:
    cached = world.cached()

    def work(draws: list[tuple[int, bool]]) -> int:
        batch = world.batch(*draws)
        own = BatchTargets.read(world.student, batch)
        return operations(lambda: cached(batch, own))

    assert work([(0, False)]) == work([(number, bool(number % 2)) for number in range(6)])


def test_nothing_that_the_cache_says_has_to_be_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("incdet.ops.losses._all_on_host", lambda _: False)
    # It copies a number of the host to the device and waits for that.
    monkeypatch.setattr(torch.Tensor, "new_tensor", lambda *_: pytest.fail("it waits"), raising=False)
    batch = world.batch((0, False), (1, True))
    outputs, own = world.student.dense(batch), BatchTargets.read(world.student, batch)
    cached = world.cached()
    # The ones that are left look up the cache, which lies on the host: one for every list.
    asked = waits(lambda: cached(batch, own))
    assert set(asked) <= {"repeat_interleave"}
    kept = cached(batch, own)

    def step() -> None:
        targets = EVERYTHING.targets(own, kept)
        descend(EVERYTHING.losses(outputs, targets, targets.counts))

    assert waits(step) == []


def test_a_draw_that_was_not_foreseen_is_no_other_picture(world: World) -> None:
    batch = world.batch((0, False), (1, True))
    with pytest.raises(KeyError, match="not foreseen"):
        world.kept(world.cached(flips=(False,)), batch)


# --- filling


@pytest.mark.parametrize("flips", [(False,), (True,), BOTH])
def test_an_entry_for_every_picture_that_can_be_drawn(world: World, flips: tuple[bool, ...]) -> None:
    told: list[tuple[int, int]] = []
    cached = world.fill(flips=flips, progress=lambda done, total: told.append((done, total)))
    entries = 6 * len(flips)
    assert sorted(cached.entry[:, [int(one) for one in flips]].flatten().tolist()) == list(range(entries))
    assert (cached.entry >= 0).sum() == entries == len(cached.grids)
    assert all(len(ragged.ends) == entries + 1 for ragged in cached.lists.values())
    assert told[-1] == (entries, entries) and len(told) > 1
    assert cached.lists["kd_response/rows"].values["logits"].dtype == torch.float32


def test_a_term_that_keeps_whole_maps_is_not_cached(world: World) -> None:
    class Maps(KdResponse):
        def targets(self, answers: Any, batch: BatchTargets) -> TermTargets:
            return {"maps": answers["old"].features}

    with pytest.raises(TypeError, match="whole maps"):
        world.fill(Method("maps", "here", terms=(Maps(),)))


def test_filling_leaves_random_numbers_modes_and_weights_alone(world: World) -> None:
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in world.student.state_dict().items()}
    world.fill()
    assert torch.equal(torch.get_rng_state(), before)
    assert world.student.training and not world.teachers["old"].model.training
    assert all(torch.equal(value, state[name]) for name, value in world.student.state_dict().items())


def test_other_processes_may_read_the_pictures(world: World) -> None:
    assert_equal_states(world.fill().tensors(), world.fill(workers=1).tensors())


def test_pictures_of_one_canvas_are_asked_about_together(tmp_path: Path) -> None:
    world = World(tmp_path, [(48, 64), (48, 48), (44, 62), (48, 90), (64, 48)], max_size=96)
    shapes: list[tuple[int, ...]] = []
    inner = world.teachers["old"].model.dense

    def dense(batch: ImageBatch) -> Any:
        shapes.append(tuple(batch.images.shape))
        return inner(batch)

    world.teachers["old"].model.dense = dense  # type: ignore[method-assign]
    world.fill(batch_size=16)
    assert sorted(shape[2:] for shape in shapes) == [(64, 64), (64, 96)]
    assert sum(shape[0] for shape in shapes) == 10


def test_filling_stops_as_soon_as_it_is_known_to_exceed_its_budget(world: World) -> None:
    whole = world.fill(batch_size=2)
    told: list[int] = []

    def filled(budget: int) -> CachedTargets | None:
        told.clear()
        return world.try_to_fill(
            EVERYTHING, BOTH, budget=budget, batch_size=2, progress=lambda done, _: told.append(done)
        )

    assert filled(whole.nbytes) is not None
    assert filled(whole.nbytes // 2) is None and told == []  # foreseen after the first picture
    assert filled(int(whole.nbytes / 1.1)) is None
