from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from finished_run import Finished

from incdet.app.history import shortened
from incdet.app.origin import run_of


def test_only_the_last_step_keeps_its_classes() -> None:
    steps = [{"step": 1, "AP": 0.5, "per_class": {"a": 0.5}}, {"step": 2, "AP": 0.4, "per_class": {"a": 0.3, "b": 0.5}}]
    assert shortened(steps) == [{"step": 1, "AP": 0.5}, steps[1]]
    assert shortened(shortened(steps)) == shortened(steps) and "per_class" in steps[0]


@pytest.mark.parametrize("value", [None, 3, "steps", {"step": 1}, [1], [{"step": 1}, None], []])
def test_what_is_no_history_stays_what_it_is(value: object) -> None:
    assert shortened(value) == value


def test_a_checkpoint_of_before_with_a_longer_history_belongs_to_its_run(finished: Finished, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    (root / "run.json").unlink()
    results = json.loads((root / "incdet" / "results.json").read_text(encoding="utf-8"))
    file = root / "incdet" / "step_3" / "checkpoint.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "history": results["steps"]}), encoding="utf-8")
    assert run_of(file.parent) == root
