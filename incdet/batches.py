"""The stream of training batches of a phase: data set, sampler, loader and caches, built from the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

from incdet.config import Augment, Config, Schedule
from incdet.data.augment import build_pipeline
from incdet.data.cache import MIB, ImageCache
from incdet.data.dataset import DetectionDataset, DrawSampler, make_loader
from incdet.data.geometry import Geometry
from incdet.data.records import Record
from incdet.engine import Batch, Batches, Engine
from incdet.model import IncrementalRetinaNet
from incdet.recipe import Recipe

_CACHES: WeakKeyDictionary[Engine, ImageCache] = WeakKeyDictionary()
"""One for all phases of a run: the methods and steps after the first find most of their images resized."""


def training_batches(
    engine: Engine,
    model: IncrementalRetinaNet,
    records: Sequence[Record],
    shares: Sequence[tuple[Sequence[int], float]] | None,
    config: Config,
    schedule: Schedule,
    seed: int,
) -> Batches:
    """The endless batches of a phase from any batch on, as ``Engine.fit`` takes them.

    Args:
        engine: Says which of how many processes this is, and tells what the caches hold.
        model: Gives the label columns and the size of its images.
        records: What the phase trains on.
        shares: Groups of indices and their shares of a batch; see ``DrawSampler``.
        config: Sections ``augment`` and ``engine``.
        schedule: Gives the batch size over all processes and accumulated batches.
        seed: Of the order and of every augmentation; the batches are a pure function of it.
    """
    augment, settings = config.augment, config.engine
    pipeline = build_pipeline(
        flip=augment.flip, crop=augment.crop, photometric=augment.photometric, scale=augment.scale
    )
    rank, world = engine.accelerator.process_index, engine.accelerator.num_processes
    dataset = DetectionDataset(
        records, model.vocab, pipeline, seed, geometry=geometry_of(model.recipe, augment), cache=_cache(engine)
    )
    pictures = len(set(dataset.places))
    if settings.image_cache and dataset.cached < pictures:
        engine.say(
            f"image cache: {dataset.cached:,} of {pictures:,} images fit in {settings.image_cache} MiB; "
            "the rest is decoded again each time"
        )
    batch_size = max(1, schedule.batch_size // (settings.accumulation * world))

    def batches(drawn: int) -> Iterable[Batch]:
        sampler = DrawSampler(len(dataset), batch_size, seed, start=drawn, shares=shares, rank=rank, world=world)
        # A file written for a large machine runs on a small one too; the batches are the same for any number.
        workers = min(settings.workers, os.cpu_count() or 1)
        return make_loader(dataset, sampler, workers, pin_memory=engine.device.type == "cuda")

    return batches


def plain_images(
    engine: Engine, model: IncrementalRetinaNet, records: Sequence[Record], config: Config
) -> DetectionDataset:
    """The images of a phase as its batches show them, from the same cache, but neither flipped nor changed."""
    return DetectionDataset(
        records, model.vocab, geometry=geometry_of(model.recipe, config.augment), cache=_cache(engine)
    )


def _cache(engine: Engine) -> ImageCache:
    share = engine.settings.image_cache * MIB // engine.accelerator.num_processes
    return _CACHES.setdefault(engine, ImageCache(share))


def geometry_of(recipe: Recipe, augment: Augment) -> Geometry | None:
    """The size that images are resized to before they are augmented; None where it is not known so early.

    That is with several ``min_size`` values, of which the model draws one, and with a crop, whose window the model
    enlarges: resizing before it would interpolate twice.
    """
    if len(recipe.min_size) > 1 and recipe.fixed_size is None or augment.crop or recipe.skip_resize:
        return None
    return Geometry(recipe.min_size[0], recipe.max_size, recipe.fixed_size)
