"""A moment of the fuzzing; docs/reliability.md has the long form and its counts."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from trust.spoil import spoilt_json

from incdet.seal import KEY, sealed

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="its run is a fork")


def test_spoilt_files_of_every_reader_are_read_or_refused(repository: Path) -> None:
    command = [sys.executable, str(repository / "tools" / "fuzz.py"), "--inputs", "60", "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(repository)})
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert len(counts["readers"]) == 14 and counts["peak_growth_mib"] < 1024
    for name, one in counts["readers"].items():
        assert one["inputs"] > 10 and one["faults"] == 0 and one["slowest_s"] < 5, name
    assert sum(one["refused"] for one in counts["readers"].values()) > 300


def test_spoilt_values_carry_the_digest_that_fits_them() -> None:
    whole = json.dumps(sealed({"steps": [1, 2, {"a": 3}], "name": "x"})).encode()
    chance, changed = random.Random(1), 0
    for _ in range(50):
        value = json.loads(spoilt_json(whole, chance))
        if isinstance(value, dict) and KEY in value:
            assert sealed(value) == value
            changed += value != json.loads(whole)
    assert changed > 20
