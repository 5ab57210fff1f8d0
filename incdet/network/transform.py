"""A batch of images resized, normalised and padded together; torchvision does the same one image at a time.

Equal to ``GeneralizedRCNNTransform`` to the last bit on a CPU, with the same random draws. Images of one shape share
every operation, and everything that the host has to know (sizes, ratios, draws) it works out itself: nothing waits
for the device.

Shape letters: B images, H x W of the padded batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from incdet.config.architecture import Architecture
from incdet.errors import Finding, InputError
from incdet.ops.sizes import is_resized, resized_shape

Shape = tuple[int, int]


def shapes_after_resizing(
    images: Sequence[Tensor] | Tensor, architecture: Architecture, *, training: bool
) -> list[Shape]:
    """(height, width) of each image after resizing.

    While training, every image draws one of ``min_size`` from torch's random state, as in torchvision, or is left alone
    with ``skip_resize``. An integer image that a loader has resized already is left alone too.

    Raises:
        InputError: An image is not (3, H, W) of uint8 or a floating type, or too thin to be resized.
    """
    _check_images(images)
    given = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    if training and architecture.skip_resize:
        return given
    wanted = [architecture.min_size[-1]] * len(given)
    if training:
        # One call for the batch moves the random state as torchvision's draw per image does.
        draws = torch.empty(len(given)).uniform_(0.0, float(len(architecture.min_size))).tolist()
        wanted = [architecture.min_size[int(draw)] for draw in draws]
    shapes = []
    limits = architecture.max_size, architecture.fixed_size
    for image, shape, size in zip(images, given, wanted, strict=True):
        settled = not image.is_floating_point() and is_resized(*shape, size, *limits)
        shapes.append(shape if settled else resized_shape(*shape, size, *limits))
    return shapes


def padded_shape(shapes: Sequence[Shape], divisible: int, canvas: Shape | None = None) -> Shape:
    """(H, W) that holds all ``shapes``: the next multiples of ``divisible``, or ``canvas`` where one is given.

    Raises:
        InputError: An image is larger than the canvas.
    """
    if canvas is None:
        height, width = (-(-max(sides) // divisible) * divisible for sides in zip(*shapes, strict=True))
        return height, width
    findings = [
        Finding(
            "images",
            f"image {index}",
            f"is {height} x {width} pixels, the canvas {canvas[0]} x {canvas[1]}",
            "use a larger canvas, or resize to less",
        )
        for index, (height, width) in enumerate(shapes)
        if height > canvas[0] or width > canvas[1]
    ]
    if findings:
        raise InputError(findings)
    return canvas


def batch_images(
    images: Sequence[Tensor] | Tensor,
    shapes: Sequence[Shape],
    architecture: Architecture,
    device: torch.device,
    canvas: Shape | None = None,
) -> Tensor:
    """Moves, scales to [0, 1], normalises, resizes to ``shapes`` and pads with zeros to the right and below.

    Args:
        images: (3, H, W) uint8 in 0..255 or floating in [0, 1], any sizes; or one (B, 3, H, W) tensor of them.
        shapes: (height, width) of each image in the result.
        architecture: Mean, standard deviation, and what the sides are multiples of.
        device: Where the batch goes; memory of the host is copied there once per group of images of one shape.
        canvas: (H, W) of the batch instead of the smallest that holds the images.

    Returns:
        (B, 3, H, W) float32.
    """
    height, width = padded_shape(shapes, architecture.size_divisible, canvas)
    mean, std = _constants(architecture.image_mean, architecture.image_std, device)
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, (image, shape) in enumerate(zip(images, shapes, strict=True)):
        groups.setdefault((image.shape, shape, image.dtype, image.device), []).append(index)
    batch: Tensor | None = None
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for members in groups.values():
            shape = shapes[members[0]]
            part = _finished(_gathered(images, members, device), mean, std, shape)
            if len(groups) == 1 and shape == (height, width):
                return part
            if batch is None:
                batch = part.new_zeros((len(shapes), 3, height, width))
            _paste(batch, part, members)
    assert batch is not None
    return batch


def _check_images(images: Sequence[Tensor] | Tensor) -> None:
    if not len(images):
        raise InputError(Finding("images", "batch", "is empty", "pass at least one image"))
    findings = [
        Finding(
            "images",
            f"image {index}",
            f"is {str(image.dtype).removeprefix('torch.')} {tuple(image.shape)}",
            "pass (3, H, W), floating in [0, 1] or uint8 in 0..255",
        )
        for index, image in enumerate(images)
        if image.dim() != 3 or image.shape[0] != 3 or not (image.is_floating_point() or image.dtype == torch.uint8)
    ]
    if findings:
        raise InputError(findings)


@lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Both as (3, 1, 1) float32, copied to the device once: such a copy makes the host wait."""
    # A tensor made in inference mode could never meet one that trains.
    with torch.inference_mode(False):
        values = torch.tensor([mean, std], dtype=torch.float32).to(device)
    return values[0][:, None, None], values[1][:, None, None]


def _gathered(images: Sequence[Tensor] | Tensor, members: Sequence[int], device: torch.device) -> Tensor:
    """The members as one tensor on ``device``."""
    if isinstance(images, Tensor) and len(members) == len(images):
        return images.to(device, non_blocking=True)
    chosen = [images[index] for index in members]
    if chosen[0].device == device or chosen[0].device.type != "cpu":
        return torch.stack(chosen).to(device)
    # The copy runs beside the host's work only from pinned memory.
    shape = (len(chosen), *chosen[0].shape)
    together = torch.empty(shape, dtype=chosen[0].dtype, pin_memory=device.type == "cuda")
    return torch.stack(chosen, out=together).to(device, non_blocking=True)


def _finished(images: Tensor, mean: Tensor, std: Tensor, shape: Shape) -> Tensor:
    """(N, 3, h, w) of any dtype -> float32 (N, 3, *shape), normalised first, as in torchvision."""
    scaled = images.float() if images.is_floating_point() else torch.div(images, 255)
    normalised = (scaled - mean).div_(std)
    if tuple(normalised.shape[-2:]) == shape:
        return normalised
    return F.interpolate(normalised, size=shape, mode="bilinear", align_corners=False)


def _paste(batch: Tensor, part: Tensor, members: Sequence[int]) -> None:
    """Writes the members into their rows; an index list would be copied to the device, and the host would wait."""
    height, width = part.shape[-2:]
    if len(members) == len(batch):
        batch[..., :height, :width] = part
        return
    for index, image in zip(members, part.unbind(), strict=True):
        batch[index, :, :height, :width] = image
