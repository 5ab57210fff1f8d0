"""The stream of training batches of a phase: data set, sampler, loader and caches, built from the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import torch

from incdet.config import Augment, Config, Schedule
from incdet.config.architecture import Architecture
from incdet.data.augment import build_pipeline
from incdet.data.cache import MIB
from incdet.data.dataset import DetectionDataset, DrawSampler, make_loader
from incdet.data.gpu_images import GpuImages, GpuLoader, needed_bytes
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.transform import padded_shape
from incdet.training.batches import Batch, Batches
from incdet.training.engine import Engine


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
    rank, world = engine.processes.rank, engine.processes.world
    dataset = DetectionDataset(
        records, model.vocab, pipeline, seed, geometry=geometry_of(model.architecture, augment), cache=engine.images
    )
    # A file written for a large machine runs on a small one too; the batches are the same for any number.
    workers = min(settings.workers, os.cpu_count() or 1)
    images = _resident(engine, dataset, workers)
    if images is None:
        _tell_of_cache(engine, dataset)
    batch_size = share_of_batch(schedule.batch_size, world)

    def batches(drawn: int) -> Iterable[Batch]:
        sampler = DrawSampler(len(dataset), batch_size, seed, start=drawn, shares=shares, rank=rank, world=world)
        if images is not None:
            return GpuLoader(dataset, sampler, images)
        return make_loader(dataset, sampler, workers)

    return batches


def plain_images(
    engine: Engine, model: IncrementalRetinaNet, records: Sequence[Record], config: Config
) -> DetectionDataset:
    """The images of a phase as its batches show them, from the same cache, but neither flipped nor changed."""
    return DetectionDataset(
        records, model.vocab, geometry=geometry_of(model.architecture, config.augment), cache=engine.images
    )


def share_of_batch(batch_size: int, world: int) -> int:
    """Images of a batch on each of ``world`` processes.

    Raises:
        InputError: The processes cannot have the same number of images.
    """
    if batch_size % world:
        near = batch_size - batch_size % world
        raise InputError(
            Finding(
                "config",
                "key train.*.batch_size",
                f"{batch_size} images cannot be shared by {world} processes",
                f"use {near + world}" + (f" or {near}" if near else ""),
            )
        )
    return batch_size // world


def _tell_of_cache(engine: Engine, dataset: DetectionDataset) -> None:
    """Says so if the images do not all fit in the memory they may take."""
    budget, pictures = engine.settings.image_cache, len(set(dataset.places))
    if budget and dataset.cached < pictures:
        engine.say(
            f"image cache: {dataset.cached:,} of {pictures:,} images fit in {budget} MiB; "
            "the rest is decoded again each time"
        )


def _resident(engine: Engine, dataset: DetectionDataset, workers: int) -> GpuImages | None:
    """The images on the GPU, where there is one, they fit and nothing moves their frame; None otherwise."""
    budget = engine.settings.device_cache
    if engine.device.type != "cuda" or not budget:
        return None
    # What torch's allocator keeps for later is free too.
    kept = torch.cuda.memory_reserved(engine.device) - torch.cuda.memory_allocated(engine.device)
    refusal = gpu_refusal(dataset, budget, (torch.cuda.mem_get_info(engine.device)[0] + kept) // MIB)
    if refusal:
        engine.say(f"device cache: not used, {refusal}; images come from the loader")
        return None
    images = GpuImages(
        dataset, engine.device, workers=workers, progress=lambda done, all_: engine.advance("device cache", done, all_)
    )
    engine.say(f"device cache: {len(set(dataset.places)):,} images, {needed_bytes(dataset) // MIB:,} MiB")
    return images


def gpu_refusal(dataset: DetectionDataset, budget: int, free: int) -> str:
    """Why the images cannot live on the device, given ``budget`` and ``free`` MiB there; empty if they can."""
    if dataset.pipeline is not None and dataset.pipeline.moves_frame:
        return "augment.crop and augment.scale need the loader"
    # The other half is the network's.
    limit, needed = min(budget, free // 2), -(-needed_bytes(dataset) // MIB)
    if needed > limit:
        shown = f"engine.device_cache={budget}" if limit == budget else f"half of the {free:,} MiB that are free"
        return f"{len(set(dataset.places)):,} images take {needed:,} MiB, more than {shown}"
    return ""


def canvas_of(records: Sequence[Record], architecture: Architecture, augment: Augment) -> tuple[int, int] | None:
    """(H, W) that every batch of ``records`` fits into; None where an image's size is not known before its draw."""
    geometry = geometry_of(architecture, augment)
    if geometry is None:
        return None
    return padded_shape([geometry.shape(record) for record in records], architecture.size_divisible)


def geometry_of(architecture: Architecture, augment: Augment) -> Geometry | None:
    """The size that images are resized to before they are augmented; None where it is not known so early.

    That is with several ``min_size`` values, of which the model draws one, and with a crop, whose window the model
    enlarges: resizing before it would interpolate twice.
    """
    if len(architecture.min_size) > 1 and architecture.fixed_size is None or augment.crop or architecture.skip_resize:
        return None
    return Geometry(architecture.min_size[0], architecture.max_size, architecture.fixed_size)
