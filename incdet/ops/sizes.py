"""The sizes of resized images, to the pixel those of torchvision's ``GeneralizedRCNNTransform``."""

from __future__ import annotations

from incdet.errors import Finding, InputError


def resized_shape(
    height: int, width: int, min_size: int, max_size: int, fixed_size: tuple[int, int] | None = None
) -> tuple[int, int]:
    """(height, width) in pixels after resizing: the shorter side ``min_size``, unless the longer exceeds ``max_size``.

    The arithmetic is torchvision's in its order, so that both round to the same pixel, which may be one short of the
    bound: ``int(47 * (48 / 47))`` is 47.

    Args:
        height: At least 1.
        width: At least 1.
        min_size: Wanted shorter side.
        max_size: Largest longer side.
        fixed_size: (width, height) of every image instead, torchvision's order.

    Raises:
        InputError: The image is so thin that a side would vanish.
    """
    if fixed_size is not None:
        return fixed_size[1], fixed_size[0]
    scale = min(min_size / min(height, width), max_size / max(height, width))
    resized = int(height * scale), int(width * scale)
    if min(resized) < 1:
        raise InputError(
            Finding(
                "image",
                f"{height} x {width}",
                f"is {resized[0]} x {resized[1]} pixels after resizing",
                f"crop it, or raise max_size from {max_size}",
            )
        )
    return resized


def is_resized(
    height: int, width: int, min_size: int, max_size: int, fixed_size: tuple[int, int] | None = None
) -> bool:
    """Whether ``resized_shape`` with these arguments can have given (height, width): nothing is left to resize.

    ``resized_shape(*resized_shape(...))`` is not always the same again: a side that rounding left a pixel short of its
    bound would be stretched by that pixel, and the image interpolated twice.
    """
    if fixed_size is not None:
        return (height, width) == (fixed_size[1], fixed_size[0])
    short, long = sorted((height, width))
    return short <= min_size and long <= max_size and (short >= min_size - 1 or long >= max_size - 1)
