"""What SECURITY.md promises of strangers' files and of the network; single readers are tested where they lie."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_run import Finished, quiet

from incdet.app.train import train
from incdet.config import Config
from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.evaluation.match_file import load_matches
from incdet.network.importing import load_detector
from incdet.training.failure import replay
from incdet.training.phase_state import read_state

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
_seen: list[str] | None = None


def _hook(event: str, words: tuple[Any, ...]) -> None:
    if _seen is not None and event in NETWORK:
        _seen.append(f"{event} {words!r:.200}")


@pytest.fixture(scope="module", autouse=True)
def _hooked() -> None:
    sys.addaudithook(_hook)  # stays for the life of the process, and does nothing while nobody listens


@contextmanager
def listening() -> Iterator[list[str]]:
    global _seen
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


class Payload:
    """Unpickled, it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: load_detector(str(path), "retinanet_resnet50_fpn", ["cat"]),
        lambda path: read_state(path, torch.device("cpu")),
        lambda path: replay(path, None),
        lambda path: load_matches(path.parent),
    ],
    ids=["weights", "state", "failed step", "matches"],
)
def test_no_reader_runs_what_a_file_brings_along(tmp_path: Path, read: Callable[[Path], object]) -> None:
    path = tmp_path / "matches.npz"  # the name that one of them looks for
    torch.save({"model": Payload(tmp_path / "ran")}, path)
    with pytest.raises(Exception, match=r"matches\.npz|Weights only|weights") as caught:
        read(path)
    assert isinstance(caught.value, InputError) or "Weights only" in str(caught.value)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # so that the test can fail


@pytest.mark.usefixtures("without_report")
def test_a_run_and_what_looks_at_it_ask_no_network(
    finished: Finished, settings: Callable[..., Config], incdet_command: Any
) -> None:
    with listening() as seen:
        train(settings(methods=["finetune"], protocol={"steps": "4+2"}), display=quiet()[0])
        for words in (("verify", finished.root), ("check", "--data", finished.data / "test.json")):
            assert incdet_command(*words).code == 0
        assert seen == []
        with pytest.raises(OSError, match=".*"):
            __import__("urllib.request").request.urlopen("http://127.0.0.1:9/", timeout=1)
        assert seen  # the hook does hear


@pytest.mark.parametrize("size", [{"tower_depth": 2**63}, {"channels": 2**40}, {"detections_per_img": 2**40}])
def test_a_network_that_no_machine_holds_is_refused_before_it_is_built(size: dict[str, int]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(size))}: is {next(iter(size.values()))}"):
        Architecture.from_json({**Architecture().to_json(), **size})
