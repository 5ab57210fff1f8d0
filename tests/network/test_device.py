from __future__ import annotations

import os

import pytest
import torch

from incdet.errors import InputError
from incdet.network.device import deterministic, device_named


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with two CUDA GPUs and nothing of Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return monkeypatch


@pytest.fixture
def no_gpu(gpus: pytest.MonkeyPatch) -> None:
    gpus.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("gpus")
def test_a_name_means_its_device() -> None:
    assert device_named("auto") == torch.device("cuda")
    for name in ("cpu", "cuda", "cuda:0", "cuda:1"):
        assert device_named(name) == torch.device(name)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert device_named("auto") == torch.device("cpu")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("built", [None, "12.8"])
def test_a_gpu_that_is_not_there_is_refused(built: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", built)
    for name in ("cuda", "cuda:0"):
        with pytest.raises(InputError, match="key engine.device: device 'cuda.* -> .*use cpu or auto"):
            device_named(name, "key engine.device")


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda:2", "cuda:0 to cuda:1"),
        ("mps", "use cpu or auto"),
        ("cdua", "did you mean 'cuda'"),
        ("gpu", "did you mean 'cuda'"),
        ("GPU:0", "known: auto"),
        ("cpu:1", "did you mean 'cpu'"),
        ("cuda:", "did you mean 'cuda'"),
        ("cuda:x", "did you mean 'cuda'"),
        ("cuda:99999999999999999999", "did you mean 'cuda'"),
        ("", "known: auto"),
        ("meta", "known: auto"),
    ],
)
def test_other_names_are_refused_with_the_near_ones(name: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        device_named(name)
    assert said in str(caught.value)


def test_deterministic_kernels_are_taken_for_a_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(KeyError), deterministic(True):
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
