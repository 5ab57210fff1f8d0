from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from finished_run import Finished

from incdet.app.origin import run_of


@pytest.mark.parametrize("name", ["incdet/step_3", "incdet/step_2", "base/step_1", "joint/step_3"])
def test_a_checkpoint_belongs_to_the_run_that_wrote_it(finished: Finished, name: str) -> None:
    assert run_of(finished.root / name) == finished.root


def test_a_run_of_before_its_manifest_is_known_by_its_results(finished: Finished, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    (root / "run.json").unlink()
    assert run_of(root / "incdet" / "step_3") == root and run_of(root / "base" / "step_1") == root
    shutil.copytree(finished.root / "eeil" / "step_3", root / "incdet" / "mine")
    assert run_of(root / "incdet" / "mine") is None


def test_a_checkpoint_that_was_put_there_belongs_to_nobody(finished: Finished, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    shutil.copytree(root / "incdet" / "step_3", root / "incdet" / "mine")
    assert run_of(root / "incdet" / "mine") is None
    shutil.rmtree(root / "incdet" / "step_2")
    shutil.copytree(root / "eeil" / "step_2", root / "incdet" / "step_2")
    assert run_of(root / "incdet" / "step_2") is None
    lone = shutil.copytree(root / "incdet" / "step_3", tmp_path / "lone")
    assert run_of(lone) is None and run_of(tmp_path / "nowhere") is None


def test_a_file_that_is_no_history_makes_no_owner(finished: Finished, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    (root / "run.json").unlink()
    (root / "incdet" / "results.json").write_text(json.dumps({"steps": 3}))
    assert run_of(root / "incdet" / "step_3") is None
