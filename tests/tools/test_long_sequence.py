from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def test_a_short_sequence_is_measured_and_drawn(repository: Path, tmp_path: Path) -> None:
    tool = [sys.executable, str(repository / "tools/long_sequence.py")]
    size = ["--base", "2", "--steps", "2", "--images", "12", "--output", str(tmp_path / "run")]
    length = ["train.base.iterations=2", "train.increment.iterations=1", "train.finetune.iterations=1"]
    found = tmp_path / "found.json"
    subprocess.run([*tool, "measure", *size, "--json", str(found), *length], check=True, cwd=repository)
    value = json.loads(found.read_text())
    steps = value["figures"]
    assert (value["base"], value["steps"], [one["step"] for one in steps]) == (2, 2, [1, 2, 3])
    for one in steps:
        assert min(one[key] for key in ("train", "evaluate", "checkpoint", "left", "load", "memory")) > 0
        assert one["exemplars"] <= 8 and 0 <= one["first_AP50"] <= 1
    assert steps[0]["checkpoint"] < steps[1]["checkpoint"] < steps[2]["checkpoint"]  # a predictor an increment
    subprocess.run([*tool, "draw", str(found), "--output", str(tmp_path / "a.svg")], check=True, cwd=repository)
    said = list(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
    assert sum("(2 + 2 classes)" in words for words in said) == 8
