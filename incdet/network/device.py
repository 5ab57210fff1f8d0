"""Which device a name means; one rule for every verb, and a refusal where the machine has no such device."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from incdet.errors import Finding, InputError, suggest

NAMES = ("auto", "cpu", "cuda", "mps")


def device_named(name: str, source: str = "command line") -> torch.device:
    """``cpu``, ``cuda``, ``cuda:1`` or ``mps`` as they say; ``auto`` is the CUDA GPU where there is one, else the CPU.

    Args:
        name: As written on the command line or in the configuration.
        source: Where it was written; for the error.

    Raises:
        InputError: No device has that name, or this machine (or this PyTorch) has none of the kind.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in NAMES[1:] or (kind != "cuda" and number) or not re.fullmatch(r"\w+(:\d{1,3})?", name):
        near = "did you mean 'cuda'?" if kind in ("gpu", "nvidia") else suggest(kind, NAMES)
        raise _refusal(source, name, "is no device", near)
    if kind == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        problem = "torch sees no CUDA GPU here" if built else "this PyTorch is a build for the CPU"
        fix = "look at `nvidia-smi`" if built else "install a CUDA build (https://pytorch.org/get-started)"
        raise _refusal(source, name, problem, f"{fix}, or use cpu or auto")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise _refusal(source, name, f"this machine has {count} CUDA GPU(s)", f"use cuda:0 to cuda:{count - 1}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise _refusal(source, name, "this machine has no Apple GPU that torch can use", "use cpu or auto")
    return torch.device(name)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """In the block a GPU takes kernels that give the same bits each time, and torch warns of what has none.

    The process is left as it was.
    """
    if not wanted:
        yield
        return
    word, cudnn = "CUBLAS_WORKSPACE_CONFIG", torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    benchmark, space = cudnn.benchmark, os.environ.get(word)
    os.environ.setdefault(word, ":4096:8")  # cuBLAS reads it at its first product
    torch.use_deterministic_algorithms(True, warn_only=True)
    cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark = benchmark
        if space is None:
            os.environ.pop(word, None)


def free_memory(device: torch.device) -> int:
    """Bytes that may be taken on ``device``; of several GPUs that work together their whole, which is alike on all."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return int(total if int(os.environ.get("WORLD_SIZE", "1")) > 1 else free)
    return int(psutil.virtual_memory().available)


def _refusal(source: str, name: str, problem: str, fix: str) -> InputError:
    return InputError(Finding(source, f"device {name!r}", problem, fix))
