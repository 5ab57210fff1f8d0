from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.network.targets import move_together, resized_targets, scale_boxes
from incdet.network.transform import batch_images, padded_shape, shapes_after_resizing

CPU = torch.device("cpu")
Shapes = list[tuple[int, int]]
SIDES = st.integers(20, 90)
RECIPES: dict[str, dict[str, Any]] = {
    "one size": {"min_size": (40,), "max_size": 70},
    "drawn sizes": {"min_size": (32, 40, 48), "max_size": 64},
    "fixed size": {"min_size": (40,), "max_size": 70, "fixed_size": (56, 40)},
    "left alone": {"min_size": (40,), "max_size": 70, "skip_resize": True},
}


def pictures(shapes: Shapes, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *shape, generator=generator) for shape in shapes]


def truth(shapes: Shapes) -> list[dict[str, Tensor]]:
    """One more box for every image, none in the first."""
    rows = [
        torch.tensor([[1.5, 2.5, width / 2, height - 1.0]]).repeat(count, 1)
        for count, (height, width) in enumerate(shapes)
    ]
    return [{"boxes": boxes, "labels": torch.arange(len(boxes))} for boxes in rows]


def theirs(recipe: Architecture, training: bool) -> GeneralizedRCNNTransform:
    return GeneralizedRCNNTransform(
        recipe.min_size,
        recipe.max_size,
        list(recipe.image_mean),
        list(recipe.image_std),
        size_divisible=recipe.size_divisible,
        fixed_size=recipe.fixed_size,
        _skip_resize=recipe.skip_resize,
    ).train(training)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=15, deadline=None)
@given(shapes=st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=4), twice=st.booleans())
def test_images_boxes_and_random_draws_are_those_of_torchvision(
    name: str, training: bool, shapes: Shapes, twice: bool
) -> None:
    recipe = Architecture(backbone="tiny", **RECIPES[name])
    shapes = shapes * 2 if twice else shapes
    images = pictures(shapes)
    torch.manual_seed(3)
    wanted, resized = theirs(recipe, training)(images, truth(shapes))
    state = torch.get_rng_state()
    torch.manual_seed(3)
    after = shapes_after_resizing(images, recipe, training=training)
    assert torch.equal(torch.get_rng_state(), state)
    assert after == wanted.image_sizes
    assert torch.equal(batch_images(images, after, recipe, CPU), wanted.tensors)
    for mine, other in zip(resized_targets(truth(shapes), shapes, after, CPU), resized, strict=True):
        assert torch.equal(mine["boxes"], other["boxes"]) and torch.equal(mine["labels"], other["labels"])


def test_one_tensor_of_images_is_a_list_of_them() -> None:
    recipe, images = Architecture(backbone="tiny", **RECIPES["one size"]), pictures([(50, 60)] * 3)
    after = shapes_after_resizing(images, recipe, training=False)
    together = torch.stack(images)
    assert shapes_after_resizing(together, recipe, training=False) == after
    assert torch.equal(batch_images(together, after, recipe, CPU), batch_images(images, after, recipe, CPU))


def test_an_integer_image_of_its_final_size_is_not_interpolated_again() -> None:
    recipe = Architecture(backbone="tiny", **RECIPES["one size"])
    # 39 is what rounding can leave of 40: a float image would be stretched by the pixel.
    image = torch.randint(0, 256, (3, 39, 60), dtype=torch.uint8)
    assert shapes_after_resizing([image], recipe, training=False) == [(39, 60)]
    assert shapes_after_resizing([image / 255], recipe, training=False) != [(39, 60)]
    batch = batch_images([image], [(39, 60)], recipe, CPU)
    mean, std = (torch.tensor(values)[:, None, None] for values in (recipe.image_mean, recipe.image_std))
    assert torch.equal(batch[0, :, :39, :60], (image / 255 - mean) / std)
    assert not batch[0, :, 39:].any() and not batch[..., 60:].any()


def test_a_canvas_pads_every_batch_to_one_shape() -> None:
    recipe = Architecture(backbone="tiny", **RECIPES["one size"])
    images = pictures([(40, 60), (40, 50)])
    plain = batch_images(images, [(40, 60), (40, 50)], recipe, CPU)
    wide = batch_images(images, [(40, 60), (40, 50)], recipe, CPU, (96, 128))
    assert wide.shape == (2, 3, 96, 128)
    assert torch.equal(wide[..., : plain.shape[-2], : plain.shape[-1]], plain)
    assert not wide[:, :, plain.shape[-2] :].any() and not wide[..., plain.shape[-1] :].any()
    with pytest.raises(InputError, match="image 1: is 100 x 50 pixels, the canvas 96 x 128"):
        padded_shape([(40, 60), (100, 50)], 32, (96, 128))


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (torch.zeros(3, 8, 8, dtype=torch.int64), "int64"),
        (torch.zeros(1, 8, 8), r"\(1, 8, 8\)"),
        (torch.zeros(8, 8), r"\(8, 8\)"),
    ],
)
def test_a_thing_that_is_no_image_is_refused(image: Tensor, problem: str) -> None:
    recipe = Architecture(backbone="tiny", **RECIPES["one size"])
    with pytest.raises(InputError, match=f"image 1: is .*{problem}"):
        shapes_after_resizing([torch.zeros(3, 8, 8), image], recipe, training=False)
    with pytest.raises(InputError, match="is empty"):
        shapes_after_resizing([], recipe, training=False)


def test_tensors_travel_in_one_copy_a_kind() -> None:
    tensors = [torch.ones(2, 4), torch.arange(3), torch.zeros(0, 4), torch.tensor([True, False]), torch.tensor(7)]
    meta = torch.device("meta")
    moved = move_together(tensors, meta)
    assert [(value.shape, value.dtype) for value in moved] == [(value.shape, value.dtype) for value in tensors]
    assert all(value.device == meta for value in moved)
    assert moved[0].untyped_storage()._cdata == moved[2].untyped_storage()._cdata
    assert all(mine is other for mine, other in zip(move_together(tensors, CPU), tensors, strict=True))


def test_boxes_of_equal_sizes_stay_as_they_are() -> None:
    boxes = [torch.tensor([[1, 2, 3, 4]]).double(), torch.zeros(0, 4)]
    scaled = scale_boxes(boxes, [(10, 20), (5, 5)], [(10, 20), (5, 5)])
    assert [value.dtype for value in scaled] == [torch.float32] * 2
    assert scale_boxes([], [], []) == []
