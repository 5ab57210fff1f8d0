"""A few kills of real processes; docs/reliability.md has the long form and its counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trust.scene import deviations, outcome, timeless

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forks")


def test_killed_runs_resume_as_if_nothing_had_been(repository: Path, tmp_path: Path) -> None:
    words = ["both", "--count=2", "--seed=5", "--stride=180", "--root", str(tmp_path)]
    command = [sys.executable, str(repository / "tools" / "chaos.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["kills"] >= 4 and counts["deviating"] == 0
    assert not list(tmp_path.glob("killed*"))


def test_what_is_missing_left_over_or_different_is_told(tmp_path: Path) -> None:
    (tmp_path / "step_1").mkdir()
    (tmp_path / "step_1" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "results.json").write_text('{"seconds": 1.5, "ap": 0.5}')
    wanted = outcome(tmp_path)

    (tmp_path / "results.json").write_text('{"seconds": 2.5, "ap": 0.5}')
    assert deviations(outcome(tmp_path), wanted) == []  # times differ always
    (tmp_path / "results.json").write_text('{"seconds": 2.5, "ap": 0.25}')
    (tmp_path / "step_1" / "model.safetensors").rename(tmp_path / ".model.12-0.tmp.safetensors")
    assert deviations(outcome(tmp_path), wanted) == [
        "step_1/model.safetensors is missing",
        ".model.12-0.tmp.safetensors is left over",
        "results.json differs",
    ]


def test_times_are_left_out_at_every_depth() -> None:
    assert timeless({"steps": [{"seconds": {"train": 3}, "ap": 1}], "minutes": 2}) == {"steps": [{"ap": 1}]}
