"""The example of a verb's help page is a command that works."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_run import Finished

from incdet.app.cli import VERBS

RUN = ("predict", "calibrate", "export", "doctor", "completion")


@pytest.fixture
def scene(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the names of the examples mean something."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/demo").symlink_to(finished.root)
    photos = tmp_path / "photos"
    photos.mkdir()
    for picture in sorted((finished.data / "images").rglob("*.*"))[:3]:
        shutil.copy(picture, photos)
    for name in ("images", "test.json"):
        (tmp_path / name).symlink_to(finished.data / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", RUN)
def test_the_example_of_a_verb_works(scene: Path, incdet_command: Callable[..., Any], verb: str) -> None:
    program, *words = shlex.split(VERBS[verb].example)
    assert program == "incdet" and words[0] == verb
    done = incdet_command(*words)
    assert done.code == 0, done.out + done.err
    assert done.out
