"""Batches are a pure function of the seed, whatever loads and keeps the images."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import network
from rich.console import Console

from incdet.app.progress import Display
from incdet.app.train import prepare_data
from incdet.config import Augment, Config, Schedule
from incdet.config.architecture import Architecture
from incdet.data.augment import build_pipeline
from incdet.data.dataset import DetectionDataset
from incdet.data.gpu_images import GpuImages, GpuLoader
from incdet.data.records import Record
from incdet.data.resize import Geometry
from incdet.data.shapes import CLASSES
from incdet.training import loaders as module
from incdet.training.engine import Engine
from incdet.training.loaders import geometry_of, gpu_refusal, training_batches
from incdet.training.log import RunLog

SCHEDULE = Schedule(iterations=4, batch_size=4)


@pytest.fixture
def records(settings: Callable[..., Config]) -> list[Record]:
    return prepare_data(settings())[0].train[:10]


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[[Config], Engine]]:
    journals = []

    def make(config: Config) -> Engine:
        journals.append(RunLog(tmp_path / "log"))
        display = Display(Console(file=io.StringIO(), width=200))
        return Engine(config.engine, journals[-1], display)

    yield make
    for log in journals:
        log.close()


@pytest.fixture
def draw(
    records: list[Record], settings: Callable[..., Config], make_engine: Callable[[Config], Engine]
) -> Callable[..., list[Any]]:
    model = network(tuple(CLASSES))

    def batches(count: int = 6, start: int = 0, engine: Engine | None = None, **values: Any) -> list[Any]:
        augment = Augment(**values.pop("augment", {"photometric": True}))
        config = settings(engine=values).model_copy(update={"augment": augment})
        made = training_batches(engine or make_engine(config), model, records, None, config, SCHEDULE, 7)
        return list(itertools.islice(made(start), count))

    return batches


def assert_same(left: list[Any], right: list[Any], level: int = 0) -> None:
    assert len(left) == len(right) > 0
    for (images, targets), (others, labels) in zip(left, right, strict=True):
        for one, two in zip(images, others, strict=True):
            assert one.shape == two.shape and one.dtype == two.dtype
            assert (one.float() - two.float()).abs().max() <= level
        for target, label in zip(targets, labels, strict=True):
            assert target.keys() == label.keys()
            assert all(np.array_equal(target[key], label[key]) for key in target)


@pytest.mark.parametrize("augment", [{"photometric": True}, {"crop": True}, {"scale": (0.7, 1.4)}])
def test_neither_workers_nor_caches_change_a_batch(
    draw: Callable[..., list[Any]], augment: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    expected = draw(augment=augment, image_cache=0)
    for workers in (0, 1, 2):
        assert_same(expected, draw(augment=augment, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_phase_goes_on_with_a_warm_cache_or_a_cold_one(
    draw: Callable[..., list[Any]],
    settings: Callable[..., Config],
    make_engine: Callable[[Config], Engine],
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    engine = make_engine(settings())
    whole = draw(9, engine=engine, workers=workers)
    assert_same(whole[5:], draw(4, start=5, engine=engine, workers=workers))
    assert_same(whole[5:], draw(4, start=5, workers=workers))


def test_the_next_phase_finds_the_images_that_this_one_read(
    draw: Callable[..., list[Any]],
    settings: Callable[..., Config],
    make_engine: Callable[[Config], Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(settings())
    first = draw(engine=engine, workers=2)
    monkeypatch.setattr("incdet.data.dataset.read_image", lambda record: pytest.fail(f"{record.image} is read again"))
    assert_same(first, draw(engine=engine))


def test_images_on_the_device_make_the_same_batches(
    draw: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incdet.data.dataset.collate", lambda batch: tuple(zip(*batch, strict=True)))
    plain, jittered = draw(augment={"flip": 0.5}), draw()
    monkeypatch.setattr(module, "_resident", lambda engine, data, workers: GpuImages(data, engine.device))
    assert_same(plain, draw(augment={"flip": 0.5}))
    assert_same(jittered, draw(), level=1)
    assert_same(jittered[3:], draw(3, start=3), level=1)


def test_without_a_gpu_the_loader_is_used(draw: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GpuLoader, "__iter__", lambda self: pytest.fail("the device's cache is used"))
    assert draw()


def test_a_cache_that_is_too_small_is_told_once_and_harmless(
    draw: Callable[..., list[Any]], records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = draw()
    monkeypatch.setattr("incdet.training.engine.MIB", 7 * 1024)  # one image of 48 x 48
    assert_same(expected, draw(image_cache=3))
    lines = [json.loads(line) for line in (tmp_path / "log" / "log.jsonl").read_text().splitlines()]
    told = [line["text"] for line in lines if line["event"] == "message" and "image cache" in line["text"]]
    assert told == ["image cache: 3 of 10 images fit in 3 MiB; the rest is decoded again each time"]


@pytest.mark.parametrize(
    ("changes", "augment", "geometry"),
    [
        ({}, {}, Geometry(48, 64)),
        ({"fixed_size": (40, 56)}, {}, Geometry(48, 64, (40, 56))),
        ({"min_size": (40, 48), "fixed_size": (40, 56)}, {}, Geometry(40, 64, (40, 56))),
        ({}, {"scale": (0.5, 2.0)}, Geometry(48, 64)),
        ({"min_size": (40, 48)}, {}, None),
        ({"skip_resize": True}, {}, None),
        ({}, {"crop": True}, None),
    ],
)
def test_images_are_resized_early_where_their_size_is_known(
    changes: dict[str, Any], augment: dict[str, Any], geometry: Geometry | None
) -> None:
    recipe = Architecture(**{"backbone": "tiny", "min_size": (48,), "max_size": 64, **changes})
    assert geometry_of(recipe, Augment(**augment)) == geometry


def test_why_images_do_not_live_on_the_device(records: list[Record]) -> None:
    model = network(tuple(CLASSES))
    picture = replace(records[0], width=1024, height=1024)
    other = replace(picture, image=Path("b.png"))
    data = DetectionDataset([picture, other, picture], model.vocab, build_pipeline())  # 2 x 3 MiB
    assert gpu_refusal(data, 6, 12) == ""
    assert gpu_refusal(data, 5, 12) == "2 images take 6 MiB, more than engine.device_cache=5"
    assert gpu_refusal(data, 8192, 11) == "2 images take 6 MiB, more than half of the 11 MiB that are free"
    for pipeline in (build_pipeline(crop=True), build_pipeline(scale=(0.5, 2.0))):
        assert "crop" in gpu_refusal(DetectionDataset([picture], model.vocab, pipeline), 8192, 8192)


def test_a_gpu_is_asked_for_room_and_told_of(
    records: list[Record],
    settings: Callable[..., Config],
    make_engine: Callable[[Config], Engine],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # The GPU's branch with a GPU that is none: everything but the numbers it answers runs as it would there.
    class Pretending(Engine):
        device = torch.device("cuda")

    free = 100 * 2**20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    monkeypatch.setattr(module, "GpuImages", lambda data, device, **_: GpuImages(data, torch.device("cpu")))
    config, model = settings(), network(tuple(CLASSES))
    engine = make_engine(config)
    engine.__class__ = Pretending
    assert isinstance(training_batches(engine, model, records, None, config, SCHEDULE, 7)(0), GpuLoader)
    free = 0
    assert not isinstance(training_batches(engine, model, records, None, config, SCHEDULE, 7)(0), GpuLoader)
    told = (tmp_path / "log" / "log.jsonl").read_text()
    assert "device cache: 10 images, 0 MiB" in told
    assert "device cache: not used, 10 images take 1 MiB, more than half of the 0 MiB that are free" in told
