from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision.models.detection.transform import _resize_image_and_masks

from incdet.errors import InputError
from incdet.ops.sizes import is_resized, resized_shape

SIDE = st.integers(1, 3000)


def torchvisions(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """The shape torchvision's own function gives; a stride of 0 makes an image of any size one number."""
    image = torch.zeros(1, device="meta").expand(1, height, width)
    resized, _ = _resize_image_and_masks(image, min_size, max_size)
    return int(resized.shape[-2]), int(resized.shape[-1])


@settings(max_examples=1000)
@given(SIDE, SIDE, st.sampled_from([64, 512, 640, 800]) | st.integers(1, 1200), st.integers(1, 2000))
@example(2516, 2320, 744, 1240)
@example(480, 640, 800, 1333)
def test_sizes_are_torchvisions_to_the_pixel(height: int, width: int, min_size: int, max_size: int) -> None:
    try:
        found = resized_shape(height, width, min_size, max_size)
    except InputError:
        with pytest.raises((RuntimeError, ZeroDivisionError)):
            torchvisions(height, width, min_size, max_size)
        return
    assert found == torchvisions(height, width, min_size, max_size)
    assert is_resized(*found, min_size, max_size)


def test_a_fixed_size_is_given_as_width_and_height() -> None:
    assert resized_shape(50, 60, 800, 1333, (64, 32)) == (32, 64)
    assert is_resized(32, 64, 800, 1333, (64, 32)) and not is_resized(64, 32, 800, 1333, (64, 32))


@pytest.mark.parametrize(
    ("shape", "holds"),
    [
        ((64, 90), True),
        ((90, 63), True),
        ((40, 100), True),
        ((99, 40), True),
        ((62, 90), False),
        ((64, 101), False),
        ((66, 90), False),
        ((30, 30), False),
    ],
)
def test_an_image_is_resized_when_a_side_lies_on_its_bound(shape: tuple[int, int], holds: bool) -> None:
    assert is_resized(*shape, 64, 100) is holds


def test_resizing_twice_may_stretch_a_pixel_that_rounding_took() -> None:
    once = resized_shape(2516, 2320, 744, 1240)
    assert resized_shape(*once, 744, 1240) != once
    assert is_resized(*once, 744, 1240)


def test_an_image_too_thin_to_be_resized_is_refused() -> None:
    with pytest.raises(InputError, match="1 x 5000.*0 x 1333.*crop it"):
        resized_shape(1, 5000, 800, 1333)
