"""Whether this machine is ready: versions, device, OpenCV, disk, and how fast a training step is."""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torchvision.ops import nms

import incdet
from incdet.config.architecture import Architecture
from incdet.data.picture_book import cache_folder
from incdet.errors import Finding, InputError
from incdet.files import require_output
from incdet.network.device import device_named, free_memory
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary

NEEDED = ("torch", "torchvision", "accelerate", "safetensors", "numpy", "pillow", "pycocotools", "albumentations")
OPTIONAL = ("hotcoco", "onnx", "onnxruntime", "supervision", "huggingface_hub", "tensorboard")
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
GIB = 2**30
LITTLE_DISK, LITTLE_MEMORY = 2 * GIB, 2 * GIB
"""A run of several steps of a ResNet-50 detector leaves about that much; to train one takes as much."""
SIDE, BATCH, STEPS = 128, 8, 5


class Check(NamedTuple):
    """What was looked at.

    Attributes:
        item: In a word or two.
        words: What was found.
        problem: What is wrong with it, and what to do; None if nothing is.
    """

    item: str
    words: str
    problem: Finding | None = None

    def line(self) -> str:
        """For people."""
        if self.problem is None:
            return f"ok       {self.item}: {self.words}"
        return f"{self.problem.severity:<8} {self.item}: {self.problem.problem} -> {self.problem.fix}"


def examine(folder: Path, device: str = "auto", *, speed: bool = True) -> Iterator[Check]:
    """Everything that can be looked at without data, one after another; the slowest last.

    Args:
        folder: Where runs are to be written.
        device: What to train on; see ``device_named``.
        speed: Measure a training step too, which takes seconds.

    Raises:
        InputError: There is no such device.
    """
    place = device_named(device)
    yield Check("incdet", f"{incdet.__version__}, Python {platform.python_version()} on {platform.platform()}")
    yield packages()
    yield partners()
    yield opencv(installed(OPENCVS))
    yield compute(place)
    yield operators(place)
    yield disk(folder)
    yield cache()
    if speed:
        yield step_speed(place)


def installed(names: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are there."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def packages() -> Check:
    """What incdet needs and what it can use."""
    found = installed((*NEEDED, *OPTIONAL))
    words = ", ".join(f"{name} {version}" for name, version in found.items())
    if missing := [name for name in NEEDED if name not in found]:
        return _wrong("packages", words, f"{', '.join(missing)} missing", "pip install -U incdet")
    absent = [name for name in OPTIONAL if name not in found]
    return Check("packages", words + (f" (not installed: {', '.join(absent)})" if absent else ""))


def partners() -> Check:
    """Whether torchvision was built for this torch."""
    wanted = next((word for word in metadata.requires("torchvision") or () if re.match(r"torch\s*==", word)), "")
    version, asked = metadata.version("torch"), re.sub(r"^torch\s*==\s*|;.*$", "", wanted).strip()
    words = f"torch {version} and torchvision {metadata.version('torchvision')} are partners"
    if asked and asked.split("+")[0] != version.split("+")[0]:
        return _wrong(
            "torch", words, f"torchvision wants torch {asked}, {version} is installed", "install both together"
        )
    return Check("torch", words)


def opencv(found: dict[str, str]) -> Check:
    """Whether there is one OpenCV: two write into the same folder, and the second breaks the first."""
    words = ", ".join(f"{name} {version}" for name, version in found.items()) or "none"
    if len(found) > 1:
        fix = f"pip uninstall -y {' '.join(found)} && pip install opencv-python-headless"
        return _wrong("opencv", words, f"{len(found)} are installed over each other: {words}", fix)
    if not found:
        return _wrong("opencv", words, "none is installed by pip", "pip install opencv-python-headless", "warning")
    return Check("opencv", words)


def compute(place: torch.device) -> Check:
    """The device and its memory."""
    free = free_memory(place)
    if place.type == "cuda":
        words = f"{torch.cuda.get_device_name(place)}, CUDA {torch.version.cuda}"
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        built = "" if torch.cuda.is_available() or torch.version.cuda is None else " (a CUDA build that sees no GPU)"
        words = f"{place.type}, {cores} cores, {torch.get_num_threads()} threads{built}"
    words += f", {free / GIB:.1f} GiB free of {_all_memory(place) / GIB:.1f}"
    if free < LITTLE_MEMORY:
        return _wrong("device", words, f"{words}: little", "end other programs, or train small batches", "warning")
    return Check("device", words)


def operators(place: torch.device) -> Check:
    """Whether torchvision's compiled operators run where training will."""
    try:
        kept = nms(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]], device=place), torch.tensor([0.5, 0.9]).to(place), 0.5)
    except RuntimeError as error:  # an operator that is not there raises a kind of it
        fix = "install torch and torchvision of one build together"
        return _wrong("operators", "", f"torchvision's nms does not run on {place.type} ({str(error)[:120]})", fix)
    return Check("operators", f"torchvision's nms runs on {place.type}, {len(kept)} of 2 boxes kept")


def disk(folder: Path) -> Check:
    """Whether runs can be written and have room."""
    try:
        require_output(folder, folder=True)
    except InputError as error:
        return Check("disk", str(folder), error.findings[0])
    home = folder.resolve()
    while not home.exists():
        home = home.parent
    free = shutil.disk_usage(home).free
    words = f"{free / GIB:.1f} GiB free in {home}"
    if free < LITTLE_DISK:
        return _wrong("disk", words, f"{words}: little for a run of several steps", "free some space", "warning")
    return Check("disk", words)


def cache() -> Check:
    """Where it is remembered what pictures are like."""
    try:
        require_output(cache_folder(), folder=True)
    except InputError as error:
        fix = "set INCDET_CACHE to a folder that can be written, or every start decodes all pictures anew"
        return _wrong("cache", str(cache_folder()), error.findings[0].problem, fix, "warning")
    return Check("cache", f"{cache_folder()} can be written")


def step_speed(place: torch.device) -> Check:
    """The time of an optimiser step of a small detector, the one of the shapes demo's size."""
    torch.manual_seed(0)
    sizes = ((16, 20, 25), (32, 40, 50), (64, 80, 101))
    architecture = Architecture(
        backbone="tiny", channels=64, tower_depth=2, anchor_sizes=sizes, min_size=(SIDE,), max_size=SIDE
    )
    model = IncrementalRetinaNet(architecture, Vocabulary((("a", "b", "c"),))).to(place).train()
    optimiser = torch.optim.SGD(model.parameters(), 1e-4)
    images = [torch.rand(3, SIDE, SIDE, device=place) for _ in range(BATCH)]
    box = {"boxes": torch.tensor([[20.0, 20.0, 70.0, 80.0]], device=place), "labels": torch.tensor([1], device=place)}
    seconds = []
    for _ in range(STEPS + 2):
        start = time.perf_counter()
        losses = model(images, [box] * BATCH)
        optimiser.zero_grad()
        torch.stack([*losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds[2:])
    words = (
        f"{1000 * middle:.0f} ms for {BATCH} pictures of {SIDE} px, a small network: {BATCH / middle:.0f} pictures/s"
    )
    return Check("training step", words)


def _all_memory(place: torch.device) -> int:
    if place.type == "cuda":
        return int(torch.cuda.mem_get_info(place)[1])
    return int(psutil.virtual_memory().total)


def _wrong(item: str, words: str, problem: str, fix: str, severity: str = "error") -> Check:
    return Check(item, words, Finding("this machine", item, problem, fix, severity))
