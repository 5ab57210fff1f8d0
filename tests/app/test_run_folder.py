from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_settings

from incdet.app.run_folder import RunFolder, claim, drop_states, refuse_other_run
from incdet.config import load_config
from incdet.errors import InputError


def test_a_claimed_folder_holds_the_frozen_configuration(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "deep" / "run")
    refuse_other_run(config, resume=False)
    assert not config.output.exists()  # a refusal later on leaves no trace
    folder = claim(config)
    assert folder.root == config.output and folder.single
    assert load_config(folder.root / "config.yaml") == config


def test_where_things_lie(tmp_path: Path) -> None:
    one, many = RunFolder(tmp_path, True), RunFolder(tmp_path, False)
    assert one.base == many.base == tmp_path / "base"
    assert one.method("eeil") == tmp_path and many.method("eeil") == tmp_path / "eeil"
    assert RunFolder.step(many.method("eeil"), 3) == tmp_path / "eeil" / "step_3"
    assert not claim(tiny_settings(tmp_path / "run", methods=["eeil", "incdet"])).single


def test_a_run_is_taken_up_again_only_on_request(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "run")
    claim(config)
    with pytest.raises(InputError, match="already holds a run.*--resume"):
        refuse_other_run(config, resume=False)
    refuse_other_run(config, resume=True)
    before = (tmp_path / "run" / "config.yaml").stat().st_mtime_ns
    claim(config)
    assert (tmp_path / "run" / "config.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 3}, "seed"),
        ({"memory": {"total": 9}}, "memory"),
        ({"methods": ["eeil"]}, "methods"),
        ({"train": {"joint": {"iterations": 9}}}, "train"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    claim(tiny_settings(tmp_path / "run"))
    with pytest.raises(InputError, match=f"key {key}.*differs"):
        refuse_other_run(tiny_settings(tmp_path / "run", **changes), resume=True)


def test_the_machine_may_change_between_the_parts_of_a_run(tmp_path: Path) -> None:
    claim(tiny_settings(tmp_path / "run"))
    refuse_other_run(tiny_settings(tmp_path / "run", engine={"log_every": 7, "workers": 1}), resume=True)


@pytest.mark.parametrize("name", ["results.json", "comparison.json", "checkpoint.json"])
def test_results_without_a_configuration_are_another_runs(tmp_path: Path, name: str) -> None:
    config = tiny_settings(tmp_path / "run")
    config.output.mkdir()
    (config.output / name).write_text("{}")
    for resume in (False, True):
        with pytest.raises(InputError, match="results of another run"):
            refuse_other_run(config, resume=resume)


def test_a_folder_with_other_things_is_free(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "run")
    config.output.mkdir()
    (config.output / "notes.txt").write_text("mine")
    refuse_other_run(config, resume=False)
    assert claim(config).root == config.output and (config.output / "notes.txt").read_text() == "mine"


def test_states_are_dropped_with_their_folder(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "train.pt").write_bytes(b"x")
    drop_states(tmp_path / "states")
    drop_states(tmp_path / "states")  # nothing to drop is no fault
    assert not (tmp_path / "states").exists()
