"""A run is compared with what it wrote; an earlier step can be gone back to; a step that forgets is stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_run import Finished, quiet

from incdet.app.rollback import roll_back
from incdet.app.train import train
from incdet.app.verify import verify
from incdet.config import Config
from incdet.errors import InputError, Regression
from incdet.evaluation.results import Results
from incdet.network import checkpoint

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture
def root(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.root, tmp_path / "run"))


def flip(path: Path, share: float = 0.6) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 4
    path.write_bytes(content)


def test_a_run_is_what_it_was(finished: Finished, incdet_command: Any) -> None:
    done = incdet_command("verify", finished.root)
    assert done.code == 0 and "made in 1 part(s), last with incdet" in done.out
    assert "as the run wrote them\ndata: annotations and pictures are those" in done.out
    maker = json.loads((finished.root / "run.json").read_text())["makers"][-1]
    assert {"incdet", "python", "torch", "torchvision", "code", "train data", "test data"} <= set(maker)


@pytest.mark.parametrize(
    "name",
    [
        *("config.yaml", "data.json", "run.json", "protocol.json", "comparison.json", "eeil/results.json"),
        *("incdet/scores.json", "base/step_1/model.safetensors", "lwf/step_3/checkpoint.json"),
        *("incdet/step_3/matches.npz", "incdet/memory/step_2.json", "eeil/step_2/samples.json"),
    ],
)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damage_is_named(root: Path, name: str, damage: str) -> None:
    path = root / name
    if damage == "flip":
        flip(path)
    else:
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2] if damage == "cut" else b"")
    with pytest.raises(InputError) as caught:
        verify(root, data=name == "data.json")
    named = [finding for finding in caught.value.findings if Path(finding.file) == path]
    assert named and all(finding.problem and finding.fix for finding in named)


def test_a_damaged_line_of_the_log_is_named(root: Path) -> None:
    log = root / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    place = next(place for place, line in enumerate(lines) if '"loss": ' in line)
    lines[place] = lines[place].replace('"loss": ', '"loss": 1')
    log.write_text("".join(lines))
    with pytest.raises(InputError, match=rf"1 of its lines .*line {place + 1}\).*delete them"):
        verify(root, data=False)
    log.write_text("".join(lines[:place] + lines[place + 1 :]))
    verify(root, data=False)


def test_swapped_files_and_those_of_another_run_are_named(root: Path) -> None:
    pairs = [("eeil/step_3", "incdet/step_3"), ("eeil/memory/step_2.json", "eeil/memory/step_3.json")]
    for one, two in pairs:
        (root / one).rename(root / "aside")
        (root / two).rename(root / one)
        (root / "aside").rename(root / two)
    frozen = root / "config.yaml"
    frozen.write_text(frozen.read_text().replace("seed: 0", "seed: 1", 1))
    with pytest.raises(InputError) as caught:
        verify(root, data=False)
    told = {Path(finding.file).relative_to(root).as_posix() for finding in caught.value.findings}
    assert {"config.yaml", "eeil/memory/step_2.json", "eeil/memory/step_3.json"} <= told
    assert {f"{method}/step_3/model.safetensors" for method in ("eeil", "incdet")} <= told


def test_an_edited_configuration_is_not_resumed(root: Path, finished: Finished, incdet_command: Any) -> None:
    frozen = root / "config.yaml"
    frozen.write_text(frozen.read_text().replace("seed: 0", "seed: 1", 1))
    done = incdet_command("train", "--config", frozen, "--resume")
    assert done.code == 2 and "is not the one that the run froze" in done.err


def test_other_means_are_told_when_a_run_goes_on(root: Path, finished: Finished) -> None:
    value = json.loads((root / "run.json").read_text())
    value.pop("seal")
    value["makers"][-1].update(torch="1.13", code="feed")
    (root / "run.json").write_text(json.dumps(value))
    display, text = quiet()
    train(finished.config.model_copy(update={"output": root}), resume=True, display=display)
    assert "made so far with other means" in text.getvalue() and "torch 1.13 -> " in text.getvalue()
    assert len(json.loads((root / "run.json").read_text())["makers"]) == 2


@pytest.fixture
def short(settings: Callable[..., Config]) -> Config:
    return settings(methods=["finetune"], evaluation={"max_old_drop": 1.0})


def test_a_run_that_was_rolled_back_learns_the_same_again(short: Config, incdet_command: Any) -> None:
    root = train(short, display=quiet()[0])
    weights = {step: (root / f"step_{step}" / checkpoint.TENSORS).read_bytes() for step in (2, 3)}
    done = incdet_command("rollback", root, "--to-step", "2")
    assert done.code == 0 and "--resume" in done.out
    assert list(Results.load(root / "results.json").steps) == [1, 2]
    assert not (root / "step_3").exists() and not (root / "comparison.json").exists()
    assert (root / "rolled_back" / "1" / "step_3" / checkpoint.TENSORS).read_bytes() == weights[3]
    verify(root)
    assert roll_back(root, 2) is None  # there is nothing left to set aside
    train(short, resume=True, display=quiet()[0])
    assert {step: (root / f"step_{step}" / checkpoint.TENSORS).read_bytes() for step in (2, 3)} == weights
    with pytest.raises(InputError, match="has not finished step 4, only 1, 2, 3"):
        roll_back(root, 4)
    with pytest.raises(InputError, match="holds no run"):
        roll_back(root / "step_2", 1)


def test_a_step_that_forgets_too_much_is_kept_beside(
    short: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = Results.groups

    def fallen(self: Results, step: int, metric: str = "AP50") -> dict[str, Any]:
        return {**groups(self, step, metric), "all": 0.8, "old": 0.8 - 0.1 * (step - 1)}

    monkeypatch.setattr(Results, "groups", fallen)
    bound = short.model_copy(update={"evaluation": short.evaluation.model_copy(update={"max_old_drop": 0.15})})
    with pytest.raises(Regression, match=r"step 3 .* falls from 80.0 to 60.0, by more than .*=0.15.*larger bound"):
        train(bound, display=quiet()[0])
    root = bound.output
    assert list(Results.load(root / "results.json").steps) == [1, 2] and not (root / "step_3").exists()
    assert len(checkpoint.load(root / "step_3_refused").vocab.names) == 6
    verify(root)
    train(short, resume=True, display=quiet()[0])  # with another bound it is taken
    taken = (root / "step_3" / checkpoint.TENSORS).read_bytes()
    assert taken == (root / "step_3_refused" / checkpoint.TENSORS).read_bytes()


def test_what_cannot_be_measured_cannot_be_watched(short: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    from incdet.app import train as module

    prepare = module.prepare_data
    monkeypatch.setattr(
        module, "prepare_data", lambda config: (prepare(config)[0]._replace(test=[]), prepare(config)[1])
    )
    with pytest.raises(InputError, match="max_old_drop.*no test images"):
        train(short, display=quiet()[0])
    assert not short.output.exists()
