"""Data sets and loaders: the same seed gives the same batches for 1 or N workers, and after a resume.

Shape letters: H, W image size, M boxes, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from incdet.data.augment import BoxPipeline, Changes, apply_changes, changed_boxes
from incdet.data.buffers import BufferPool
from incdet.data.cache import ImageCache, Place
from incdet.data.inspection import inspect_picture, quiet
from incdet.data.outlive import outlive_signals
from incdet.data.packing import Batch, PackedLoader, Target, pack
from incdet.data.records import Boxes, Record
from incdet.data.resize import Geometry, Image, Planes, resize, resize_boxes, to_planes
from incdet.errors import Finding, InputError, shown
from incdet.vocab import Vocabulary

Key = tuple[int, int]


def read_image(record: Record) -> Image:
    """The decoded picture, (H, W, 3) uint8 RGB, turned the way round that the record's size states.

    Raises:
        InputError: The file is missing, is no picture, or has another size than the record.
    """
    stored, shape = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, (record.height, record.width)
    # cv2 follows the camera's turn (EXIF) unless told; annotations made without it state the stored size.
    decoded = cv2.imread(str(record.image), stored if record.exif == "ignore" else cv2.IMREAD_COLOR)
    if record.exif == "auto" and decoded is not None and decoded.shape[:2] != shape:
        decoded = cv2.imread(str(record.image), stored)
    if decoded is None:
        problem = "cannot be decoded" if Path(record.image).is_file() else "does not exist"
        raise InputError(Finding(str(record.image), f"image {shown(record.source_id)}", problem, "restore the picture"))
    height, width = decoded.shape[:2]
    if (height, width) != (record.height, record.width):
        raise InputError(
            Finding(
                str(record.image),
                f"image {shown(record.source_id)}",
                f"is {width} x {height}, its annotation says {record.width} x {record.height}",
                "correct the annotation or restore the picture",
            )
        )
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def image_size(file: Path) -> tuple[int, int]:
    """(width, height) of a picture as ``read_image`` would turn it, without annotations.

    Raises:
        InputError: The file is missing, is no picture, is cut off, or is too large to decode.
    """
    with quiet():
        picture = inspect_picture(file)
    if picture.problem:
        raise InputError(Finding(str(file), "picture", picture.problem, "name a picture file"))
    return picture.turned


class DetectionDataset(Dataset[tuple[Tensor, Target]]):
    """Images and targets for the model; a value of ``(draw, index)`` and the seed alone.

    Args:
        records: Their box names must be in ``vocab``.
        vocab: Gives the label columns.
        pipeline: ``(planes, boxes, seed) -> Augmented``, see ``augment.build_pipeline``.
        seed: With draw and index it fixes the augmentation.
        geometry: What pictures are resized to before they are augmented; None leaves that to the model.
        cache: Keeps resized pictures; None reads them anew each time.

    Raises:
        InputError: A record holds a name that the vocabulary lacks, or is too thin to be resized.
    """

    def __init__(
        self,
        records: Sequence[Record],
        vocab: Vocabulary,
        pipeline: BoxPipeline | None = None,
        seed: int = 0,
        *,
        geometry: Geometry | None = None,
        cache: ImageCache | None = None,
    ) -> None:
        self.records = list(records)
        self.vocab = vocab
        self.pipeline = pipeline
        self.seed = seed
        self.places = _places(self.records, geometry)
        self.cache = cache
        self.cached = cache.reserve(self.places) if cache is not None else 0
        self._buffers = BufferPool()
        self._boxes = [
            resize_boxes(record.boxes, (record.height, record.width), (place.height, place.width))
            for record, place in zip(self.records, self.places, strict=True)
        ]
        self._labels = [np.array(vocab.columns(record.names), dtype=np.int64) for record in self.records]
        self._coverage = [np.array([name in record.coverage for name in vocab.names]) for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key | int) -> tuple[Tensor, Target]:
        """Image ``index`` as augmented at ``draw`` (a plain number means draw 0).

        Returns:
            image: (3, H, W) uint8.
            target: boxes (M, 4) float32 xyxy pixels of the image, labels (M,) int64 columns, ignore (M,) bool,
                coverage (K,) bool, image_id int, index int (row of the data set), flipped bool.
        """
        return self._load(key if isinstance(key, tuple) else (0, key))

    def __getitems__(self, keys: Sequence[Key | int]) -> list[tuple[Tensor, Target]]:
        """The same for a batch, with the images behind one another in memory where their sizes are known before."""
        pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
        if self.pipeline is not None and self.pipeline.moves_frame:
            return [self._load(key) for key in pairs]
        places = [self.places[index] for _, index in pairs]
        sizes = [place.nbytes for place in places]
        parts = torch.split(torch.from_numpy(self._buffers.take(sum(sizes))), sizes)
        return [
            self._load(key, part.view(3, place.height, place.width))
            for key, place, part in zip(pairs, places, parts, strict=True)
        ]

    def _load(self, key: Key, out: Tensor | None = None) -> tuple[Tensor, Target]:
        """The sample of ``key``, its image in ``out`` where that is given."""
        draw, index = key
        planes, boxes, memory = self.planes(index), self._boxes[index], None if out is None else out.numpy()
        if self.pipeline is None:
            image, rows, flipped = apply_changes(planes, Changes(), memory), np.arange(len(boxes)), False
        else:
            image, boxes, rows, flipped = self.pipeline(planes, boxes, draw_seed(self.seed, draw, index), memory)
        target = self.target(index, boxes, rows, flipped)
        return (torch.from_numpy(image) if out is None else out), target

    def draw(self, key: Key) -> tuple[Changes, Target]:
        """What ``self[key]`` does to the pixels, and its target, without the pixels.

        Raises:
            ValueError: The pipeline moves the frame; then only the pixels tell.
        """
        draw, index = key
        changes = Changes()
        if self.pipeline is None:
            boxes = self._boxes[index]
            return changes, self.target(index, boxes, np.arange(len(boxes)), False)
        if self.pipeline.moves_frame:
            raise ValueError("a crop or zoom cannot be drawn without the pixels")
        changes = self.pipeline.changes(draw_seed(self.seed, draw, index))
        boxes, rows = changed_boxes(self._boxes[index], self.places[index].width, changes)
        return changes, self.target(index, boxes, rows, changes.flipped)

    def planes(self, index: int) -> Planes:
        """The resized picture, (3, H, W) uint8; read-only where it comes from the cache."""
        record, place = self.records[index], self.places[index]
        if self.cache is None:
            return read_planes(record, place)
        return self.cache.get(place, lambda: read_planes(record, place))

    def target(self, index: int, boxes: Boxes, rows: NDArray[np.int64], flipped: bool) -> Target:
        """What ``__getitem__`` says beside the pixels, with the (M', 4) ``boxes`` that ``rows`` of the record became.

        Every tensor is the caller's own.
        """
        return {
            "boxes": torch.from_numpy(boxes.copy()),
            "labels": torch.from_numpy(self._labels[index][rows]),
            "ignore": torch.from_numpy(self.records[index].ignore[rows]),
            "coverage": torch.from_numpy(self._coverage[index].copy()),
            "image_id": self.records[index].image_id,
            "index": index,
            "flipped": flipped,
        }


def read_planes(record: Record, place: Place) -> Planes:
    """The picture of ``record`` at the size of ``place``, (3, H, W) uint8.

    Raises:
        InputError: See ``read_image``.
    """
    return to_planes(resize(read_image(record), (place.height, place.width)))


def _places(records: Sequence[Record], geometry: Geometry | None) -> list[Place]:
    """The picture of every record and the size it travels at."""
    places, findings = [], []
    for record in records:
        try:
            shape = geometry.shape(record) if geometry is not None else (record.height, record.width)
            places.append(Place(record.image, *shape))
        except InputError as error:
            findings += error.findings
    if findings:
        raise InputError(findings)
    return places


def draw_seed(seed: int, draw: int, index: int) -> int:
    """A 32-bit seed that differs for every seed, draw and index and is the same on every machine."""
    return int(np.random.SeedSequence([seed, draw, index]).generate_state(1)[0])


class DrawSampler:
    """An infinite batch sampler: batch s is a pure function of (seed, s), so a resumed run continues exactly.

    Every group of indices is walked in epochs, each a permutation without replacement. With several groups a batch
    mixes them at fixed shares (for example new images and exemplars): over s batches a group has given
    floor(s * batch * share) draws, so fractions even out over time. ``batch_size`` is per process.

    Args:
        length: Size of the data set.
        batch_size: Images a batch and process.
        seed: Of the permutations.
        start: First batch to yield.
        shares: (indices, share) groups; shares sum to 1. Default: everything in one group.
        rank: This process.
        world: Number of processes; together they draw what one process with ``world * batch_size`` would.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        shares: Sequence[tuple[Sequence[int], float]] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        groups = [(range(length), 1.0)] if shares is None else [(indices, share) for indices, share in shares]
        if any(not len(indices) for indices, _ in groups) or length < 1:
            raise InputError(Finding("data set", "sampler", "a group of images is empty", "give every group an image"))
        if abs(sum(share for _, share in groups) - 1) > 1e-6 or any(share < 0 for _, share in groups):
            raise InputError(
                Finding(
                    "data set",
                    "sampler",
                    f"shares are {[share for _, share in groups]}",
                    "choose shares >= 0 that sum to 1",
                )
            )
        self.batch_size, self.seed, self.start, self.rank, self.world = batch_size, seed, start, rank, world
        self._groups = [np.asarray(indices, dtype=np.int64) for indices, _ in groups]
        self._ends = np.cumsum([share for _, share in groups])
        self._permutations: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def batch(self, number: int) -> list[Key]:
        """The (draw, index) keys of batch ``number`` of this process."""
        total = self.batch_size * self.world
        before, after = self._drawn(number * total), self._drawn((number + 1) * total)
        indices = [
            self._at(group, position)
            for group in range(len(self._groups))
            for position in range(before[group], after[group])
        ]
        keys = [(number * total + offset, index) for offset, index in enumerate(indices)]
        return keys[self.rank :: self.world]

    def __iter__(self) -> Iterator[list[Key]]:
        number = self.start
        while True:
            yield self.batch(number)
            number += 1

    def _drawn(self, draws: int) -> list[int]:
        """How many of the first ``draws`` draws each group has given; they sum to ``draws``."""
        # The small number keeps 0.1 + 0.2 from losing a draw; the last end is exactly all draws.
        ends = [int(draws * end + 1e-6) for end in self._ends[:-1].tolist()] + [draws]
        return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]

    def _at(self, group: int, position: int) -> int:
        indices = self._groups[group]
        epoch, offset = divmod(position, len(indices))
        cached = self._permutations.get(group)
        if cached is None or cached[0] != epoch:
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, group, epoch]))
            cached = self._permutations[group] = (epoch, rng.permutation(len(indices)))
        return int(indices[cached[1][offset]])


def collate(batch: Sequence[tuple[Tensor, Target]]) -> Batch:
    """Images of different sizes stay a list, as torchvision's detectors take them."""
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)


def make_loader(dataset: DetectionDataset, batches: Iterable[list[Key]], workers: int = 0) -> Iterable[Batch]:
    """The batches ``(images, targets)`` of the keys that ``batches`` gives, a ``DrawSampler`` for example."""
    return _loader(dataset, workers, batch_sampler=batches)


def eval_loader(
    records: Sequence[Record], batch_size: int, workers: int = 0, *, pin_memory: bool = False
) -> Iterable[Batch]:
    """Every image once, in order, as ``(images, targets)`` where a target holds the ``image_id`` alone."""
    return _loader(EvaluationImages(records), workers, batch_size=batch_size, pin_memory=pin_memory)


def _loader(dataset: Dataset[Any], workers: int, **more: Any) -> Iterable[Batch]:
    # With a generator of its own the loader leaves the training's random numbers alone: by default it draws one of
    # them when it starts, and a resumed phase starts once more than an uninterrupted one.
    loader: DataLoader[Any] = DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=pack if workers else collate,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
        **more,
    )
    return PackedLoader(loader) if workers else loader


class EvaluationImages(Dataset[tuple[Tensor, Target]]):
    """The pictures as stored; the ground truth stays in the records, where the scorer reads it."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        record = self.records[index]
        return torch.from_numpy(to_planes(read_image(record))), {"image_id": record.image_id}


def start_worker(_: int) -> None:
    """What a loader process does first."""
    # One thread a worker: OpenCV's own pool would fight with the other workers for the cores.
    cv2.setNumThreads(0)
    outlive_signals()
    info = get_worker_info()
    data = getattr(info.dataset, "dataset", info.dataset) if info is not None else None
    if info is not None and isinstance(data, DetectionDataset) and data.cache is not None:
        data.cache.share(info.num_workers, data.places)
