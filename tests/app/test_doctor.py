from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from incdet.app import doctor


def test_a_sound_machine_is_told_item_by_item(tmp_path: Path, incdet_command: Callable[..., Any]) -> None:
    done = incdet_command("doctor", "--output", tmp_path / "runs", "--device", "cpu")
    assert done.code == 0, done.out
    items = [line.split(maxsplit=1)[1].partition(":")[0] for line in done.out.splitlines()[:-1]]
    assert items == [
        "incdet",
        "packages",
        "torch",
        "opencv",
        "device",
        "operators",
        "disk",
        "cache",
        "training step",
    ]
    assert "pictures/s" in done.out and "0 error(s)" in done.out and not (tmp_path / "runs").exists()


def test_two_opencvs_at_once_are_an_error(
    tmp_path: Path, incdet_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = {"opencv-python": "4.11", "opencv-python-headless": "5.0"}
    known = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: both.get(name) or known(name))
    done = incdet_command("doctor", "--output", tmp_path, "--quick", "--device", "cpu")
    assert done.code == 2 and "2 are installed over each other" in done.out
    assert "pip uninstall -y opencv-python opencv-python-headless" in done.out and "1 error(s)" in done.out
    assert doctor.opencv({}).problem is not None and doctor.opencv({"opencv-python": "4"}).problem is None


def test_torch_and_torchvision_of_two_builds_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.partners().problem is None
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch==1.0.0"])
    problem = doctor.partners().problem
    assert problem is not None and "wants torch 1.0.0" in problem.problem


def test_missing_packages_little_memory_and_a_full_disk_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "a-package-that-is-not-there"))
    assert "a-package-that-is-not-there missing" in doctor.packages().line()
    monkeypatch.setattr(doctor, "free_memory", lambda place: 1000)
    assert doctor.compute(torch.device("cpu")).line().startswith("warning")
    usage = shutil.disk_usage("/")._replace(free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    assert "little for a run" in doctor.disk(Path(".")).line()


@pytest.mark.parametrize(("words", "said"), [(["--device", "gpu"], "gpu"), (["--output", "file"], "is no folder")])
def test_bad_input(
    tmp_path: Path,
    incdet_command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    done = incdet_command("doctor", "--quick", *words)
    assert done.code == 2 and said in done.out + done.err and "Traceback" not in done.err
