"""The images of a phase in the memory of the device that trains: a batch is gathered, flipped and jittered there.

Nothing of a batch makes the host wait for the device, and the number of operations does not grow with its size.

Shape letters: B images of a batch, H x W the smallest canvas that holds them, N distinct pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from incdet.data.augment import Changes
from incdet.data.cache import Place
from incdet.data.dataset import DetectionDataset, DrawSampler, Key, start_worker
from incdet.data.packing import Batch
from incdet.data.photometric import GREY

_LEVELS = np.arange(256, dtype=np.uint8)


class GpuImages:
    """The resized uint8 pictures of a data set, each once, behind one another in one tensor of ``device``.

    Args:
        dataset: Gives the pictures.
        device: Where they go; ``needed_bytes`` of them.
        workers: Processes that read them.
        progress: Called with (pictures done, pictures in all).

    Raises:
        InputError: A picture cannot be read.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        device: torch.device,
        *,
        workers: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.device = device
        first: dict[Place, int] = {}
        for index, place in enumerate(dataset.places):
            first.setdefault(place, index)
        sizes = [place.nbytes for place in first]
        starts = dict(zip(first, np.cumsum([0, *sizes]).tolist(), strict=False))
        self._pixels = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
        # By row of the data set: where its picture starts, its height and its width.
        self._layout = [(starts[place], place.height, place.width) for place in dataset.places]
        # A generator of its own: the training's random numbers are not the loader's.
        reader = DataLoader(
            _Pictures(dataset, list(first.values())),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=start_worker,
            generator=torch.Generator(),
        )
        for done, (place, planes) in enumerate(zip(first, reader, strict=True), start=1):
            self._pixels[starts[place] : starts[place] + place.nbytes] = planes.reshape(-1)
            if progress is not None:
                progress(done, len(first))

    def gather(self, indices: Sequence[int], changes: Sequence[Changes]) -> list[Tensor]:
        """The pictures of ``indices``, each after its ``changes``: (3, h, w) uint8 views of one tensor.

        A flip and a table give the loader's pixels exactly, a saturation within one grey level.
        """
        layout = [self._layout[index] for index in indices]
        batch = self._canvas(layout, [change.flipped for change in changes])
        jitters = [change.jitter for change in changes]
        if any(jitter.table is not None for jitter in jitters):
            tables = np.stack([_LEVELS if jitter.table is None else jitter.table for jitter in jitters])
            batch = _look_up(batch, self._sent(torch.from_numpy(tables)))
        if any(jitter.saturation != 1 for jitter in jitters):
            batch = _saturate(batch, self._sent(torch.tensor([jitter.saturation for jitter in jitters])))
        return [image[:, :height, :width] for image, (_, height, width) in zip(batch.unbind(), layout, strict=True)]

    def _canvas(self, layout: Sequence[tuple[int, int, int]], flips: Sequence[bool]) -> Tensor:
        """(B, 3, H, W) uint8; right of and below a picture its last column and row go on."""
        height, width = (max(picture[axis] for picture in layout) for axis in (1, 2))
        plan = torch.tensor([(*picture, flip) for picture, flip in zip(layout, flips, strict=True)])
        start, heights, widths, flipped = self._sent(plan)[:, :, None, None].unbind(1)
        row = torch.minimum(torch.arange(height, device=self.device)[:, None], heights - 1)
        column = torch.minimum(torch.arange(width, device=self.device), widths - 1)
        column = torch.where(flipped.bool(), widths - 1 - column, column)
        channel = torch.arange(3, device=self.device)[:, None, None]
        rows = start[:, None] + (channel * heights[:, None] + row[:, None]) * widths[:, None]
        places = rows + column[:, None]
        return self._pixels.index_select(0, places.view(-1)).view(places.shape)

    def _sent(self, values: Tensor) -> Tensor:
        """A small tensor on the device; from pinned memory the host need not wait for its copy."""
        if self.device.type == "cuda":
            values = values.pin_memory()
        return values.to(self.device, non_blocking=True)


class GpuLoader:
    """Endless training batches with images on the device; the same as ``make_loader``'s for data set and sampler.

    Flipped pixels, boxes and labels are equal, jittered pixels within one grey level. Targets stay on the host.
    """

    def __init__(self, dataset: DetectionDataset, sampler: DrawSampler, images: GpuImages) -> None:
        self.dataset = dataset
        self.sampler = sampler
        self.images = images

    def __iter__(self) -> Iterator[Batch]:
        for keys in self.sampler:
            yield gpu_batch(self.dataset, self.images, keys)


def gpu_batch(dataset: DetectionDataset, images: GpuImages, keys: Sequence[Key]) -> Batch:
    """The images and targets of the (draw, index) ``keys``."""
    changes, targets = zip(*(dataset.draw(key) for key in keys), strict=True)
    return images.gather([index for _, index in keys], changes), list(targets)


def needed_bytes(dataset: DetectionDataset) -> int:
    """Device memory that ``GpuImages`` of ``dataset`` takes."""
    return sum(place.nbytes for place in set(dataset.places))


def _look_up(batch: Tensor, tables: Tensor) -> Tensor:
    """``tables[b, batch[b]]``; (B, 3, H, W) and (B, 256) uint8."""
    offsets = torch.arange(0, 256 * len(batch), 256, dtype=torch.int32, device=batch.device)[:, None, None, None]
    return tables.view(-1).index_select(0, (batch + offsets).view(-1)).view(batch.shape)


def _saturate(batch: Tensor, weights: Tensor) -> Tensor:
    """Each (3, H, W) uint8 image of the batch against its grey version, ``weights`` (B,) of it."""
    colours = batch.float()
    grey = sum(weight * colours[:, channel] for channel, weight in enumerate(GREY))
    assert isinstance(grey, Tensor)
    return torch.lerp(grey[:, None], colours, weights[:, None, None, None]).round_().clamp_(0, 255).byte()


class _Pictures(Dataset[Tensor]):
    """The planes of some rows of a data set."""

    def __init__(self, dataset: DetectionDataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Tensor:
        planes = self.dataset.planes(self.indices[number])
        return torch.from_numpy(planes if planes.flags.writeable else planes.copy())
