from __future__ import annotations

import pytest
import torch
from helpers import batch_targets, draw, network, operations, pictures, slope, target

from incdet.distillation.teacher_targets import BatchTargets, Entries

BOX = [4.0, 4.0, 26.0, 26.0]


def test_annotations_are_read_as_the_student_takes_them() -> None:
    model = network(("a", "b"), ("c",), fg_iou=0.6, bg_iou=0.3, box_loss="giou")
    truth = [target([BOX], [2], [False, False, True]), target([BOX], [0], [True, True, False])]
    batch = model.prepare(pictures(), truth)
    read = BatchTargets.read(model, batch)
    assert torch.equal(read.anchors, model.dense(batch).anchors)
    assert torch.equal(read.assignment.matched, model.match(read.anchors, batch.targets or []).matched)
    assert read.coverage.tolist() == [[False, False, True], [True, True, False]]
    assert read.trained is read.coverage
    assert read.heads == (2, 1) and read.box_kind == "giou"


def test_a_target_without_coverage_covers_everything() -> None:
    model = network(("a", "b"))
    batch = model.prepare(pictures(), [target([BOX], [1]), target(coverage=[True, False])])
    assert BatchTargets.read(model, batch).coverage.tolist() == [[True, True], [True, False]]


def test_unmasked_every_channel_is_trained_but_coverage_stays_what_it_is() -> None:
    model = network(("a", "b"))
    batch = model.prepare(pictures(), [target([BOX], [1], [False, True]), target(coverage=[False, True])])
    read = BatchTargets.read(model, batch, masked=False)
    assert read.trained.all() and read.coverage.tolist() == [[False, True]] * 2


@pytest.mark.parametrize("static", [False, True])
def test_places_that_an_annotated_object_took_are_told_from_free_ones(static: bool) -> None:
    model = network(("a", "b"))
    batch = model.prepare(pictures(), [target([BOX], [1]), target()], canvas=(64, 64) if static else None)
    read = BatchTargets.read(model, batch)
    image, anchor = torch.ones_like(read.assignment.matched, dtype=torch.bool).nonzero(as_tuple=True)
    assert torch.equal(read.untaken(image, anchor), read.assignment.matched.flatten() < 0)
    assert not read.untaken(image, anchor).all()


def test_new_images_annotate_the_last_head_and_exemplars_do_not() -> None:
    masks = [[False, False, True], [True, False, False], [False, False, False], [True, True, True]]
    batch = batch_targets([target(coverage=mask) for mask in masks], (2, 1))
    shown = {images: batch.selected_images(images) for images in ("new", "exemplars", "both")}
    assert shown["both"] is None and shown["new"] is not None and shown["exemplars"] is not None
    assert shown["new"].tolist() == [True, False, False, True]
    assert torch.equal(shown["exemplars"], ~shown["new"])


def test_entries_hold_the_values_at_the_wanted_places_image_by_image() -> None:
    wanted = torch.tensor([[False, True, True], [True, False, False]])
    values = draw(0, 2, 3, 5)
    found = Entries.of(wanted, values=values, score=values[..., 0])
    assert found.image.tolist() == [0, 0, 1] and found.anchor.tolist() == [1, 2, 0]
    assert torch.equal(found["values"], values[wanted]) and torch.equal(found["score"], values[..., 0][wanted])
    assert found.flat(3).tolist() == [1, 2, 3]
    some = found.only(torch.tensor([True, False, True]))
    assert some.image.tolist() == [0, 1] and torch.equal(some["values"], found["values"][[0, 2]])
    other = some.holding(more=torch.zeros(2))
    assert other.anchor.tolist() == [1, 0] and list(other.values) == ["more"]


def test_looking_up_is_float32_and_keeps_the_path_of_the_gradient() -> None:
    student = draw(1, 2, 3, 4).requires_grad_()
    found = Entries.of(torch.tensor([[False, True, False], [True, False, True]]), none=student.detach())
    looked = found.look_up(student.bfloat16())
    assert looked.dtype == torch.float32 and looked.shape == (3, 4)
    pulled = slope(looked.sum(), student)
    assert pulled[0, 1].all() and pulled[1, [0, 2]].all() and float(pulled.sum()) == 12
    nowhere = Entries.of(torch.zeros(2, 3, dtype=torch.bool), none=student.detach())
    assert not slope(nowhere.look_up(student).sum(), student).any()


def test_more_images_take_no_more_operations_to_look_up() -> None:
    def work(images: int) -> int:
        student = draw(1, images, 3, 4)
        wanted = torch.ones(images, 3, dtype=torch.bool)
        return operations(lambda: Entries.of(wanted, values=student).look_up(student))

    assert work(1) == work(8)
