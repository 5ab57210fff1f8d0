"""What a detector finds in the images of a data set.

Shapes: N detections of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from incdet.data.records import Record


class Detections(NamedTuple):
    """What a detector found in one image, in the pixels of the image file.

    Attributes:
        boxes: (N, 4) float32 xyxy.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, index into the class names the scores are asked for.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Detections:
        """No detection."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def detect(
    model: torch.nn.Module,
    records: Sequence[Record],
    *,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    workers: int = 0,
    precision: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Detections]:
    """Runs ``model`` in eval mode over ``records`` and returns its detections by image id.

    The model keeps the training mode it came with. On a GPU its weights are laid out channels last (the numbers stay),
    and the detections of a batch travel back while the next one is computed.

    Args:
        model: Called as ``model(images)`` with (3, H, W) float32 images in 0..1; returns a dict of ``boxes``,
            ``scores`` and ``labels`` (logit columns, 0-based) for every image.
        records: The test set; image ids are unique.
        batch_size: Images per forward.
        device: Where the images go; the model's own device if None.
        workers: Loader processes.
        precision: What a GPU computes in: ``off`` is float32, ``bf16`` and ``fp16`` are autocast, ``auto`` is bf16 for
            a detector of incdet, whose anchors and boxes stay float32, and float32 for any other model. A CPU always
            computes in float32.
        progress: Called with (images done, images in all) after every batch.

    Raises:
        ValueError: ``precision`` is none of the four.
    """
    from incdet.data.dataset import eval_loader

    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    device = torch.device(device)
    dtype = autocast_dtype(model, device, precision)
    on_gpu = device.type == "cuda"
    found: dict[int, Detections] = {}
    done, underway = 0, None
    with _evaluating(model, dtype, device):
        for images, targets in eval_loader(records, batch_size, workers, pin_memory=on_gpu) if records else ():
            outputs = model([_as_floats(image.to(device, non_blocking=True)) for image in images])
            # The batch before lands only now: its copy had the time of this forward.
            if underway is not None:
                found.update(underway.land())
            underway = _Flight.start([int(target["image_id"]) for target in targets], outputs)
            done += len(targets)
            if progress is not None:
                progress(done, len(records))
        if underway is not None:
            found.update(underway.land())
    return found


def detect_planes(
    model: torch.nn.Module,
    pictures: Sequence[torch.Tensor],
    *,
    device: torch.device | str | None = None,
    precision: str = "auto",
) -> list[Detections]:
    """``detect`` for pictures in memory, one batch of them.

    Args:
        model: As for ``detect``.
        pictures: (3, H, W) RGB, float32 in 0..1 or uint8; any sizes.
        device: As for ``detect``.
        precision: As for ``detect``.
    """
    if device is None:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    device = torch.device(device)
    if not pictures:
        return []
    with _evaluating(model, autocast_dtype(model, device, precision), device):
        outputs = model([_as_floats(picture.to(device)) for picture in pictures])
        return [one for _, one in _Flight.start([*range(len(pictures))], outputs).land()]


@contextmanager
def _evaluating(model: torch.nn.Module, dtype: torch.dtype | None, device: torch.device) -> Iterator[None]:
    """The model in eval mode, folded, without a graph and under autocast; afterwards in the mode it came with."""
    from incdet.network.bn_folding import folded_once

    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        autocast = torch.autocast(device.type, dtype, enabled=dtype is not None)
        with folded_once(model), torch.inference_mode(), autocast:
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def autocast_dtype(model: torch.nn.Module, device: torch.device, precision: str) -> torch.dtype | None:
    """What autocast computes in; None without autocast."""
    from incdet.network.retinanet import IncrementalRetinaNet

    dtypes = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision == "auto":
        # torchvision computes anchors in the features' dtype: in bfloat16 two in five are off by up to 2 px.
        own = isinstance(model, IncrementalRetinaNet) and device.type == "cuda"
        precision = "bf16" if own and torch.cuda.is_bf16_supported(including_emulation=False) else "off"
    if precision not in dtypes:
        raise ValueError(f"precision must be auto, off, bf16 or fp16, not {precision!r}")
    return dtypes[precision] if device.type == "cuda" else None


def _as_floats(image: torch.Tensor) -> torch.Tensor:
    """An image as float32 in 0..1; uint8 is in 0..255."""
    return image if image.is_floating_point() else image.float().div_(255)


class _Flight(NamedTuple):
    """The detections of a batch on their way to the host, one copy for each kind."""

    image_ids: list[int]
    numbers: list[int]
    boxes: torch.Tensor
    scores: torch.Tensor
    labels: torch.Tensor
    landed: torch.cuda.Event | None

    @classmethod
    def start(cls, image_ids: list[int], outputs: Sequence[Mapping[str, torch.Tensor]]) -> _Flight:
        """Queues the copies and does not wait for them; ``outputs`` are those of the model, image by image."""
        if len(image_ids) != len(outputs):
            raise ValueError(f"the model returned {len(outputs)} results for {len(image_ids)} images")
        kinds = (("boxes", torch.float32), ("scores", torch.float32), ("labels", torch.int64))
        whole = [torch.cat([output[kind].detach().to(dtype) for output in outputs]) for kind, dtype in kinds]
        boxes, scores, labels = (values.to("cpu", non_blocking=True) for values in whole)
        landed = None
        if whole[0].is_cuda:
            landed = torch.cuda.current_stream(whole[0].device).record_event()
        return cls(
            image_ids, [len(output["scores"]) for output in outputs], boxes.reshape(-1, 4), scores, labels, landed
        )

    def land(self) -> Iterator[tuple[int, Detections]]:
        """Waits for the copies; image ids with their detections."""
        if self.landed is not None:
            self.landed.synchronize()
        parts = (torch.split(values, self.numbers) for values in (self.boxes, self.scores, self.labels))
        for image_id, boxes, scores, labels in zip(self.image_ids, *parts, strict=True):
            yield image_id, Detections(boxes.numpy(), scores.numpy(), labels.numpy())
