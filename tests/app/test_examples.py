"""The example of a verb's help page is a command that works."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_run import Finished

from incdet.app.cli import VERBS
from incdet.data.formats.convert import convert

RUN = (
    "predict",
    "calibrate",
    "evaluate",
    "export",
    "check",
    "classes",
    "convert",
    "report",
    "compare",
    "verify",
    "methods",
    "keys",
    "merge",
    "push",
    "pull",
    "doctor",
    "completion",
    "rollback",
)
"""In this order: pull fetches what push put there, rollback takes steps away."""
ELSEWHERE = {
    "train": "test_readme.py runs the demo, made tiny",
    "extend": "test_readme.py adds classes to it",
    "import": "test_import_detector.py, with a smaller network",
    "replay": "test_failure.py has the batch that it wants",
}


@pytest.fixture(scope="module")
def scene(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the names of the examples mean something."""
    home = tmp_path_factory.mktemp("scene")
    for name in ("demo", "other"):
        shutil.copytree(finished.root, home / "runs" / name)
    for name in ("images", "test.json"):
        (home / name).symlink_to(finished.data / name)
    content = json.loads((finished.data / "test.json").read_text("utf-8"))
    for folder in ("photos", "my"):
        (home / folder).mkdir()
    for picture in content["images"]:
        source = finished.data / "images" / picture["file_name"]
        picture["file_name"] = source.name
        for folder in ("photos", "my"):
            shutil.copy(source, home / folder)
    (home / "my.json").write_text(json.dumps(content), encoding="utf-8")
    convert(home / "my.json", "voc", home / "my" / "voc", images=home / "my")
    return home


@pytest.mark.parametrize("verb", RUN)
def test_the_example_of_a_verb_works(
    scene: Path, incdet_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(scene)
    program, *words = shlex.split(VERBS[verb].example.partition(" | ")[0])
    assert program == "incdet" and words[0] == verb
    done = incdet_command(*words)
    assert done.code == 0, done.out + done.err
    assert done.out


def test_no_verb_is_forgotten() -> None:
    assert {*RUN} | {*ELSEWHERE} == {*VERBS} and not {*RUN} & {*ELSEWHERE}
