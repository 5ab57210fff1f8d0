"""The stream of training batches of a phase: data set, sampler and loader, built from the configuration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from incdet.config import Config, Schedule
from incdet.data.augment import build_pipeline
from incdet.data.dataset import DetectionDataset, DrawSampler, make_loader
from incdet.data.records import Record
from incdet.engine import Batch, Batches, Engine
from incdet.model import IncrementalRetinaNet


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
        engine: Says which of how many processes this is.
        model: Gives the label columns.
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
    dataset = DetectionDataset(records, model.vocab, pipeline, seed=seed)
    rank, world = engine.accelerator.process_index, engine.accelerator.num_processes
    batch_size = max(1, schedule.batch_size // (settings.accumulation * world))

    def batches(drawn: int) -> Iterable[Batch]:
        sampler = DrawSampler(len(dataset), batch_size, seed, start=drawn, shares=shares, rank=rank, world=world)
        # A file written for a large machine runs on a small one too; the batches are the same for any number.
        return make_loader(dataset, sampler, min(settings.workers, os.cpu_count() or 1))

    return batches
