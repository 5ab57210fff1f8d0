"""What an earlier incdet wrote is read for ever, or refused with the way out. Never write these files anew.

``goldens/run`` is a run of two steps without its weights, its drawn data and its page (they are large);
``goldens/checkpoint`` (tests/network/test_checkpoint.py) has weights, ``goldens/states`` a state and cached answers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from incdet.app.run_folder import difference, frozen_config
from incdet.app.run_manifest import RunManifest
from incdet.app.suite_runs import deciding, same
from incdet.app.verify import verify
from incdet.config import Config
from incdet.distillation import cache_file
from incdet.distillation.cache_file import Key
from incdet.errors import InputError
from incdet.evaluation.match_file import load_matches
from incdet.memory.manifest import load_memory
from incdet.methods.registry import get_method
from incdet.report.html import write_report
from incdet.report.saved import SavedRun
from incdet.training.phase_state import read_state

GOLDENS = Path(__file__).parents[1] / "goldens"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDENS / "run", tmp_path / "run"))


def test_they_stay_small() -> None:
    assert sum(path.stat().st_size for path in GOLDENS.rglob("*") if path.is_file()) < 300_000


def test_results_memory_judgements_and_settings_of_a_run_are_read(run: Path) -> None:
    saved = SavedRun.load(run)
    assert [method.name for method in saved.methods] == ["incdet"] and list(saved.results[0].steps) == [1, 2]
    assert saved.results[0].classes == [["circle", "cross"], ["star"]]
    assert len(load_memory(run / "memory" / "step_2.json")) == 3
    assert list(load_matches(run / "step_2") or ()) == ["circle", "cross", "star"]
    frozen = frozen_config(run / "config.yaml")
    assert frozen.memory.total == 3
    # What came later does nothing in a run of before, whatever its default is now.
    parts = get_method("incdet", settings=frozen.method).parts
    assert parts["precedence"].power == 0.0 and parts["mixup"].share == 0.0
    assert parts["kd_quality"].growth == 0.0 and parts["interim"].exemplars == 0.0
    then, now = (deciding(frozen, get_method("incdet", settings=given)) for given in (frozen.method, {}))
    known = {key: value for key, value in then.items() if not key.endswith((".growth", ".share", ".power"))}
    assert same(known, then) and not same(then, now)
    assert not same(known, {**then, "method.incdet.kd_quality.growth": 0.5})
    manifest = RunManifest.load(run)
    manifest.verify_config(run / "config.yaml")
    assert manifest.makers[-1]["incdet"] == "0.1.0"
    assert "star" in write_report(run).read_text("utf-8")


def test_a_run_goes_on_by_its_own_file_as_it_was_begun(
    run: Path, monkeypatch: pytest.MonkeyPatch, incdet_command: Callable[..., Any]
) -> None:
    """Its file lacks what came later; today's value of that would make it another run, which it refuses to be."""
    begun: list[Config] = []

    def train(config: Config, *, resume: bool) -> Path:
        begun.append(config)
        return run

    monkeypatch.setattr("incdet.app.train.train", train)
    assert incdet_command("train", "--config", run / "config.yaml", "--resume").code == 0
    assert begun[0].output == run and difference(run / "config.yaml", begun[0]) == []
    assert incdet_command("train", "--config", run / "config.yaml", "method.incdet.kd_quality.growth=0.5").code == 0
    assert difference(run / "config.yaml", begun[1]) == ["method.incdet.kd_quality.growth"]


def test_nothing_is_wrong_with_a_run_but_that_its_weights_are_not_there(run: Path) -> None:
    with pytest.raises(InputError) as caught:
        verify(run, data=False)
    assert {Path(one.file).name for one in caught.value.findings} == {"model.safetensors"}
    assert all("is missing" in one.problem and one.fix for one in caught.value.findings)


def test_states_and_cached_answers_are_read() -> None:
    state = read_state(GOLDENS / "states" / "train.pt", torch.device("cpu"))
    assert state["done"] == 3 and state["owner"] == "owner" and state["model"]["weight"].shape == (2, 3)
    cached, reason = cache_file.load(GOLDENS / "states" / "cache.safetensors", Key("teacher", "data", "rule"))
    assert reason == "" and cached is not None
    assert cached.lists["kd_response/entries"].anchor.tolist() == [5, 7, 1]
