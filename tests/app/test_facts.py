from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from finished_run import Finished
from helpers import record

import incdet
from incdet.app.facts import command, commit, digest

ROOT = Path(incdet.__file__).resolve().parents[1]


def test_the_log_says_what_was_run_on_which_data(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.root / "log.jsonl").read_text("utf-8").splitlines()]
    (start,) = (line for line in lines if line["event"] == "start")
    assert start["incdet"] == incdet.__version__ and start["python"] and start["torch"] and start["torchvision"]
    assert "cpu" in start["device"] and start["command"] is None  # the tests are no command of ours
    data = start["data"]
    assert data["format"] == "shapes" and data["root"] == str(finished.data)
    assert (data["train"]["images"], data["test"]["images"]) == (14, 5)
    assert data["train"]["objects"] == sum(data["train"]["per_class"].values()) > 14
    assert data["train"]["hash"] != data["test"]["hash"]


def test_the_log_says_whose_training_every_line_belongs_to(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.root / "log.jsonl").read_text("utf-8").splitlines()]
    named = [line["method"] for line in lines if line["event"] == "method"]
    assert named == ["base", *finished.config.methods]
    first = next(place for place, line in enumerate(lines) if line["event"] == "train")
    assert any(line["event"] == "method" for line in lines[:first])


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["/usr/bin/incdet", "train", "--config", "my file.yaml"], "incdet train --config 'my file.yaml'"),
        (["C:/x/incdet/__main__.py", "report", "runs/a"], "python -m incdet report runs/a"),
        ([str(ROOT / "tools" / "evaluate.py"), "--help"], "python tools/evaluate.py --help"),
        (["/usr/bin/pytest", "-q"], None),
        (["/home/me/evaluate.py"], None),
        ([""], None),
        ([], None),
    ],
)
def test_a_command_is_given_as_it_can_be_typed_again(words: list[str], typed: str | None) -> None:
    assert command(words) == typed


def test_the_commit_is_that_of_the_checkout_and_says_when_files_differ(tmp_path: Path) -> None:
    assert commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    whole = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert commit(tmp_path) == whole[:12]
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{whole[:12]}-dirty"
    (tmp_path / "other").mkdir()
    assert commit(tmp_path / "other") is None  # an installed copy inside somebody else's checkout


def test_the_digest_follows_the_annotations_and_not_the_folder() -> None:
    one = record("a/x.png", ["cat", "dog"])
    assert digest([one]) == digest([record("b/x.png", ["cat", "dog"])])
    others = [
        record("a/y.png", ["cat", "dog"]),
        record("a/x.png", ["dog", "cat"]),
        record("a/x.png", ["cat", "dog"], coverage=["cat", "dog", "bird"]),
        record("a/x.png", ["cat", "dog"], ignore=[True, False]),
        record("a/x.png", ["cat", "dog"], boxes=[[4, 5, 24, 25], [6, 5, 26, 26]]),
        replace(one, width=50),
    ]
    assert len({digest([other]) for other in [one, *others]}) == 7
