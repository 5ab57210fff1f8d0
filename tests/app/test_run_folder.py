from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers import tiny_settings

from incdet.app.run_folder import RunFolder, claim, difference, drop_states, frozen_config, refuse_other_run
from incdet.config import Config, load_config
from incdet.errors import Finding, InputError
from incdet.methods.registry import frozen_settings


def begin(config: Config) -> RunFolder:
    with claim(config) as folder:
        return folder


def test_a_claimed_folder_holds_the_frozen_configuration(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "deep" / "run")
    refuse_other_run(config, resume=False)
    assert not config.output.exists()  # a refusal later on leaves no trace
    folder = begin(config)
    assert folder.root == config.output and folder.single
    assert load_config(folder.root / "config.yaml") == config
    assert [path.name for path in folder.root.iterdir()] == ["config.yaml"]


def test_where_things_lie(tmp_path: Path) -> None:
    one, many = RunFolder(tmp_path, True), RunFolder(tmp_path, False)
    assert one.base == many.base == tmp_path / "base"
    assert one.method("eeil") == tmp_path and many.method("eeil") == tmp_path / "eeil"
    assert RunFolder.step(many.method("eeil"), 3) == tmp_path / "eeil" / "step_3"
    assert RunFolder.memory(one.base, 1) == tmp_path / "base" / "memory" / "step_1.json"
    assert not begin(tiny_settings(tmp_path / "run", methods=["eeil", "incdet"])).single


def test_a_run_is_taken_up_again_only_on_request(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "run")
    begin(config)
    with pytest.raises(InputError, match="already holds a run.*--resume"):
        refuse_other_run(config, resume=False)
    refuse_other_run(config, resume=True)
    before = (tmp_path / "run" / "config.yaml").stat().st_mtime_ns
    with claim(config, resume=True):
        pass
    assert (tmp_path / "run" / "config.yaml").stat().st_mtime_ns == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_at_work_is_left_alone(tmp_path: Path, resume: bool) -> None:
    config = tiny_settings(tmp_path / "run")
    with claim(config) as folder:
        (folder.root / "train.pt").write_bytes(b"state")
        with pytest.raises(InputError, match="in use|already holds a run"), claim(config, resume=resume):
            raise AssertionError("two at a time")
        assert (folder.root / "config.yaml").exists()
    with claim(config, resume=True):
        pass


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 3}, "seed"),
        ({"memory": {"total": 9}}, "memory.total"),
        ({"methods": ["eeil"]}, "methods"),
        ({"train": {"joint": {"iterations": 9}}}, "train.joint.iterations"),
        ({"train": {"base": {"iterations": 4, "batch_size": 4, "lr": 0.5}}}, "train.base"),
        ({"engine": {"precision": "bf16"}}, "engine.precision"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, changes: dict[str, object], key: str) -> None:
    begin(tiny_settings(tmp_path / "run"))
    with pytest.raises(InputError, match=f"key {key}.*differs"):
        refuse_other_run(tiny_settings(tmp_path / "run", **changes), resume=True)


def test_the_machine_may_change_between_the_parts_of_a_run(tmp_path: Path) -> None:
    begin(tiny_settings(tmp_path / "run"))
    refuse_other_run(tiny_settings(tmp_path / "run", engine={"log_every": 7, "workers": 1}), resume=True)


def test_after_a_loss_that_was_not_finite_the_advised_changes_are_accepted_and_frozen(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "run")
    begin(config)
    calmer = config.train.increment.model_copy(update={"lr": 1e-4, "warmup": 9, "clip": 1.0})
    engine = config.engine.model_copy(update={"precision": "off"})
    changed = config.model_copy(
        update={"train": config.train.model_copy(update={"increment": calmer}), "engine": engine}
    )
    with pytest.raises(InputError, match="differs"):
        refuse_other_run(changed, resume=True)
    (tmp_path / "run" / "states").mkdir()
    (tmp_path / "run" / "states" / "nonfinite.pt").write_bytes(b"")
    with claim(changed, resume=True):
        pass
    assert load_config(tmp_path / "run" / "config.yaml") == changed
    with pytest.raises(InputError, match="key seed"):
        refuse_other_run(changed.model_copy(update={"seed": 9}), resume=True)


def test_a_copied_run_folder_is_the_same_run_at_its_new_place(tmp_path: Path) -> None:
    """With the data that were drawn into it, whose place follows the run's."""
    text = "data: {format: shapes, train_images: 9}"
    (tmp_path / "my.yaml").write_text(text)
    config = load_config(tmp_path / "my.yaml", [f"output={tmp_path}/run"])
    begin(config)
    moved = shutil.copytree(tmp_path / "run", tmp_path / "moved")
    here = frozen_config(moved / "config.yaml")
    assert here.output == moved and here.data.root == moved / config.data.root.relative_to(config.output)
    assert difference(moved / "config.yaml", here) == []
    refuse_other_run(load_config(tmp_path / "my.yaml", [f"output={moved}"]), resume=True)


@pytest.mark.parametrize("name", ["results.json", "comparison.json", "checkpoint.json"])
def test_results_without_a_configuration_are_another_runs(tmp_path: Path, name: str) -> None:
    config = tiny_settings(tmp_path / "run")
    config.output.mkdir()
    (config.output / name).write_text("{}")
    for resume in (False, True):
        with pytest.raises(InputError, match="results of another run"):
            refuse_other_run(config, resume=resume)


def test_an_output_at_or_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match="output"):
            refuse_other_run(tiny_settings(tmp_path / "run").model_copy(update={"output": place}), resume=False)


def test_a_folder_with_other_things_is_free(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "run")
    config.output.mkdir()
    (config.output / "notes.txt").write_text("mine")
    refuse_other_run(config, resume=False)
    assert begin(config).root == config.output and (config.output / "notes.txt").read_text() == "mine"


def refuse() -> None:
    raise InputError(Finding("data", "image", "is missing", "restore it"))


@pytest.mark.parametrize("existed", [False, True])
def test_a_refused_start_leaves_the_folder_as_it_was(tmp_path: Path, existed: bool) -> None:
    config = tiny_settings(tmp_path / "run")
    if existed:
        config.output.mkdir()
        (config.output / "notes.txt").write_text("mine")
    with pytest.raises(InputError), claim(config) as folder:
        (folder.root / "log.jsonl").write_text("{}")
        refuse()
    left = sorted(path.name for path in config.output.iterdir()) if config.output.exists() else None
    assert left == (["notes.txt"] if existed else None)


def test_what_was_learned_before_a_refusal_stays(tmp_path: Path) -> None:
    config = tiny_settings(tmp_path / "run")
    with pytest.raises(InputError), claim(config) as folder:
        (folder.root / "states").mkdir()
        (folder.root / "states" / "train.pt").write_bytes(b"x")
        refuse()
    refuse_other_run(config, resume=True)
    with pytest.raises(InputError), claim(config, resume=True):
        refuse()
    assert (config.output / "config.yaml").exists()


def test_states_are_dropped_with_their_folder(tmp_path: Path) -> None:
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "train.pt").write_bytes(b"x")
    drop_states(tmp_path / "states")
    drop_states(tmp_path / "states")  # nothing to drop is no fault
    assert not (tmp_path / "states").exists()


def test_what_a_later_version_lets_be_set_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    tree = frozen_settings(["incdet"], {})
    older = {part: values for part, values in tree["incdet"].items() if part != "old_claims"}
    frozen = begin(tiny_settings(tmp_path / "run", method={"incdet": older})).root / "config.yaml"
    assert difference(frozen, tiny_settings(tmp_path / "run", method=tree)) == []
    other = {"incdet": {**tree["incdet"], "old_claims": {**tree["incdet"]["old_claims"], "weight": 1.0}}}
    assert difference(frozen, tiny_settings(tmp_path / "run", method=other)) == ["method.incdet.old_claims.weight"]
