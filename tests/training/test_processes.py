"""Several processes learn what one learns; here two, on the CPU with gloo, started as ``torchrun`` would."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import together
import torch
from helpers import network
from torch import nn

from incdet.app.train import prepare_data
from incdet.training.processes import Processes


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the images, and what the first of two processes wrote."""
    folder = tmp_path_factory.mktemp("several")
    prepare_data(together.settings(folder))  # draws the images, once
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    shared = {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(root / "tests" / "together.py"), str(folder)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [one.communicate(timeout=120)[0] for one in running]
    finally:
        for one in running:
            one.kill()
    assert [one.returncode for one in running] == [0, 0], "\n".join(told)
    return folder, torch.load(folder / "several.pt", weights_only=False)


def test_two_processes_learn_what_one_does_in_two_pieces(several: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, written = several
    alone = together.learn(folder, tmp_path, accumulation=2)
    assert written["found"].keys() == alone.keys() == set(together.METHODS)
    for name, mine in alone.items():
        theirs = written["found"][name]
        assert len(theirs["losses"]) == len(mine["losses"]) == together.STEPS
        for one, other in zip(theirs["losses"], mine["losses"], strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5), name
        for key, value in mine["state"].items():
            torch.testing.assert_close(theirs["state"][key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")
    words = {name: set(one["losses"][0]) - {"loss", "gradient", "iteration", "lr"} for name, one in alone.items()}
    assert words["eeil"] == {"focal", "box", "kd_softmax"} and words["cldetr"] > {"pseudo_focal", "kd_response"}
    assert words["incdet"] == {"focal", "box", "kd_quality", "kd_box"}


def test_what_processes_say_to_each_other(several: tuple[Path, dict[str, Any]]) -> None:
    assert several[1]["facts"] == {
        "world": 2,
        "sum": 3.0,
        "ranks": [0, 1],
        "shared": "from 0",
        "totals": {"a": 4.0, "b": 10.0},
    }


def test_one_process_needs_no_other() -> None:
    alone, model = Processes("cpu"), network()
    assert (alone.rank, alone.world, alone.main, alone.device) == (0, 1, True, torch.device("cpu"))
    assert alone.wrapped(model) is model and alone.gathered(3) == [3] and alone.shared("x") == "x"
    values = torch.ones(2)
    assert alone.summed(values) is values
    totals = alone.totals([{"a": torch.tensor(1), "b": torch.tensor(2.5)}, {"a": torch.tensor(3), "b": values[0]}])
    assert {name: float(value) for name, value in totals.items()} == {"a": 4.0, "b": 3.5}
    assert all(value.dtype == torch.float32 for value in totals.values())
    with alone.unsynchronised(nn.Identity()):
        alone.wait()
    assert not torch.distributed.is_initialized()


def test_importing_and_training_leave_the_state_of_the_process_alone(tmp_path: Path, repository: Path) -> None:
    """Whoever uses accelerate or torch.distributed beside us finds neither begun."""
    code = f"""
import sys, torch
threads, random = torch.get_num_threads(), torch.get_rng_state()
import incdet, incdet.app.run, incdet.training.engine
from pathlib import Path
from incdet.config import Engine as Settings
from incdet.training.engine import Engine
from incdet.training.log import RunLog
Engine(Settings(device="cpu", precision="bf16"), RunLog(Path({str(tmp_path)!r})))
assert "accelerate" not in sys.modules, "accelerate is imported"
assert not torch.distributed.is_initialized()
assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), random)
assert not torch.is_autocast_enabled("cpu") and torch.get_default_dtype() == torch.float32
from accelerate.state import AcceleratorState, PartialState
assert not PartialState._shared_state and not AcceleratorState._shared_state
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository, timeout=120)
