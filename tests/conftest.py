"""Shared by all tests: tiny data sets on disk, and an environment without surprises."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings

# Equal examples on every run, and no stop watch: the machines that run this are shared.
settings.register_profile(
    "incdet", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("incdet")
# Networks this small gain nothing from a second thread, and two threads on a busy core wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before anything imports albumentations; it would ask the network

pytest_plugins = ["finished_run"]


class CocoFolder(NamedTuple):
    """A COCO data set on disk."""

    annotations: Path
    images: Path


class Command(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _no_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("INCDET_DATA", raising=False)
    monkeypatch.setenv("INCDET_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def make_coco(tmp_path: Path) -> Callable[..., CocoFolder]:
    """A maker of grey photographs with one box each, ``names[i % len(names)]`` in image i; ``edit`` spoils the JSON."""

    def make(
        names: tuple[str, ...] = ("cat", "dog"),
        images: int = 4,
        folder: str = "coco",
        edit: Callable[[dict[str, Any]], object] | None = None,
    ) -> CocoFolder:
        import cv2
        import numpy as np

        root = tmp_path / folder
        (root / "images").mkdir(parents=True)
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        }
        for number in range(1, images + 1):
            name = f"{number:03}.png"
            picture = np.full((48, 64, 3), 120, np.uint8)
            picture[10:34, 8:40] = 40 * (number % len(names)) + 20
            cv2.imwrite(str(root / "images" / name), picture)
            content["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
            box = {"bbox": [8.0, 10.0, 32.0, 24.0], "area": 768.0, "iscrowd": 0}
            content["annotations"].append(
                {"id": number, "image_id": number, "category_id": 1 + number % len(names), **box}
            )
        if edit is not None:
            edit(content)
        path = root / "annotations.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        return CocoFolder(path, root / "images")

    return make


@pytest.fixture
def voc_folder(make_coco: Callable[..., Any], tmp_path: Path) -> Path:
    """The photographs of ``make_coco`` with an XML file beside each."""
    folder = tmp_path / "voc"
    folder.mkdir()
    for number, picture in enumerate(sorted(make_coco().images.iterdir()), start=1):
        shutil.copy(picture, folder)
        name = ("cat", "dog")[number % 2]
        (folder / f"{picture.stem}.xml").write_text(
            f"<annotation><filename>{picture.name}</filename>"
            "<size><width>64</width><height>48</height><depth>3</depth></size>"
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>9</xmin><ymin>11</ymin>"
            "<xmax>40</xmax><ymax>34</ymax></bndbox></object></annotation>"
        )
    return folder


@pytest.fixture
def incdet_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Command]:
    """Run ``incdet`` in this process and catch what it prints."""

    def call(*words: object) -> Command:
        from incdet.app.cli import main

        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # argparse
            code = stop.code if isinstance(stop.code, int) else 1
        printed = capsys.readouterr()
        return Command(code, printed.out, printed.err)

    return call
