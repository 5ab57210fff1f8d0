from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from incdet.config import parse_config
from incdet.errors import InputError
from incdet.training.log import RunLog
from incdet.training.trackers import Trackers, require_trackers

WANDB = """
import json, os
from pathlib import Path

class Config:
    def update(self, values, **_):
        write("config", values)

class Run:
    config = Config()
    def log(self, values, step=None, **_):
        if values.get("x/loss") == 99:
            raise ConnectionError("the server is gone")
        write("log", [values, step])
    def finish(self):
        write("finish", None)

def write(kind, value):
    with Path(os.environ["STUB"]).open("a") as file:
        file.write(json.dumps([kind, value]) + "\\n")

def init(**words):
    global config, run
    write("init", {name: str(value) for name, value in words.items()})
    config, run = Config(), Run()
    return run
"""
"""The part of W&B that accelerate calls."""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("STUB", str(tmp_path / "calls.jsonl"))
    return tmp_path / "calls.jsonl"


def calls(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_tracker_gets_settings_and_numbers_and_is_ended(stub: Path, tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", trackers=("wandb",), settings={"seed": 1, "methods": ["lwf"]}) as log:
        log.prefix = "lwf"
        log.scalars("step 2 train", {"loss": 1.5}, 20)
        log.scalars("step 2 finetune", {"loss": 1.0}, 5)  # a smaller number than before, which W&B would drop
    first, settings, one, two, end = calls(stub)
    assert first[0] == "init" and first[1]["project"] == "incdet" and first[1]["name"] == "run"
    assert settings == ["config", {"seed": 1, "methods": "['lwf']"}]
    assert one == ["log", [{"lwf step 2 train/loss": 1.5, "lwf step 2 train/iteration": 20}, None]]
    assert two[1][0]["lwf step 2 finetune/iteration"] == 5 and end[0] == "finish"


def test_a_tracker_that_fails_is_given_up_and_nothing_else(stub: Path, tmp_path: Path) -> None:
    trackers = Trackers(["wandb"], tmp_path, {})
    with pytest.warns(UserWarning, match="wandb is given up: ConnectionError.*the server is gone"):
        trackers.scalars("x", {"loss": 99}, 1)
    trackers.scalars("x", {"loss": 1}, 2)
    trackers.close()
    assert [kind for kind, _ in calls(stub)] == ["init"]


def test_another_process_than_the_first_tracks_nothing(
    stub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with RunLog(tmp_path / "run", trackers=("wandb",)) as log:
        log.scalars("x", {"loss": 1.0}, 1)
        log.write("message", text="x")
    assert not stub.exists() and not (tmp_path / "run").exists()


def test_a_package_that_is_missing_is_named_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "mlflow" else object())
    require_trackers(("tensorboard",))
    with pytest.raises(InputError, match="engine.trackers.*mlflow is not installed -> pip install mlflow"):
        require_trackers(("tensorboard", "mlflow"))


def test_the_key_of_earlier_versions_goes_on_working() -> None:
    assert parse_config({"engine": {"tensorboard": True}}).engine.trackers == ("tensorboard",)
    assert parse_config({"engine": {"tensorboard": False}}).engine.trackers == ()


def test_no_tracker_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from incdet.training.log import RunLog; "
        f"RunLog(Path({str(tmp_path)!r})).close(); "
        "sys.exit(bool({'tensorboard', 'accelerate', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


if find_spec("tensorboard") is not None:

    def test_tensorboard_can_read_the_scalars(tmp_path: Path) -> None:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        with RunLog(tmp_path, trackers=("tensorboard",)) as log:
            log.scalars("train", {"loss": 1.0}, 1)
            log.scalars("train", {"loss": 0.5}, 2)
        found = EventAccumulator(str(tmp_path / "tensorboard"))
        found.Reload()
        assert [(one.step, one.value) for one in found.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
