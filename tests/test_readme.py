from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks import suite_names
from documents import ROOT, as_incdet, blocks, commands, our_commands
from PIL import Image

from incdet.app.cli import build_parser
from incdet.config import load_config
from incdet.data.formats import read_coco, read_voc
from incdet.evaluation.metrics import ClassScore, summary

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# Everything as in the demo, only smaller.
TINY = [
    "data.train_images=24",
    "data.test_images=8",
    "train.base.iterations=2",
    "train.increment.iterations=2",
    "train.finetune.iterations=1",
    "train.joint.iterations=2",
    "memory.total=12",
    "evaluation.samples=2",
    "engine.device=cpu",
    "train.base.warmup=1",
    "train.increment.warmup=1",
    "train.joint.warmup=1",
]


OURS = our_commands(TEXT)
COVERAGE, PROTOCOLS = ((ROOT / "docs" / name).read_text("utf-8") for name in ("coverage.md", "protocols.md"))


def test_the_readme_shows_every_command() -> None:
    assert {words[0] for words in OURS} >= {"train", "evaluate", "extend", "check", "report", "methods"}
    assert {words[0] for words in commands(TEXT)} <= {"python", "pip", "pytest", "incdet", "."}


def test_the_benchmarks_of_the_readme_are_there() -> None:
    shown = [words[2:] for words in commands(TEXT) if words[:2] == ["python", "tools/benchmark.py"]]
    assert [words for words in shown if "--quick" in words] and [words for words in shown if "--json" in words]
    for words in shown:
        named = [word for number, word in enumerate(words) if word[0] != "-" and words[number - 1] != "--json"]
        assert set(named) <= set(suite_names())


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_of_the_readme_is_understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    arguments, rest = build_parser().parse_known_args(words)
    assert all("=" in word for word in rest)
    if arguments.verb == "train":
        load_config(arguments.config, [*arguments.overrides, *rest])


def test_what_an_answer_adds_to_the_command_is_understood() -> None:
    table = TEXT.split("## What people ask", 1)[1].split("\n## ", 1)[0]
    added = [shlex.split(code) for code in re.findall(r"`(--[^`]+)`", table)]
    assert ["--resume"] in added
    for words in added:
        verb = {"--resume": ["train", "--config", "x"]}.get(words[0], ["extend", "--data", "x", "--output", "y"])
        given = [*verb, "--checkpoint", "z"] if verb[0] == "extend" else verb
        assert build_parser().parse_known_args([*given, *words])[1] == []


def test_partly_annotated_data_is_read_as_the_documentation_says(tmp_path: Path) -> None:
    (part,) = blocks(COVERAGE, "json")
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (64, 48)).save(tmp_path / "images" / f"{name}.png")
    (tmp_path / "partly.json").write_text(part, encoding="utf-8")
    first, second = read_coco(tmp_path / "partly.json", tmp_path / "images").records
    assert first.coverage == {"cat"} and second.coverage == {"cat", "dog"}
    (tree,) = blocks(COVERAGE, "xml")
    (tmp_path / "images" / "a.xml").write_text(tree, encoding="utf-8")
    other = tree.replace("<covered><name>cat</name></covered>", "").replace("<name>cat</name>", "<name>dog</name>")
    (tmp_path / "images" / "b.xml").write_text(other, encoding="utf-8")
    partly, whole = read_voc(tmp_path / "images").records
    assert partly.coverage == {"cat"} and whole.coverage == {"cat", "dog"}


def test_the_relative_gap_is_that_of_the_documentation() -> None:
    assert "RelGap is the part of joint training's AP50 that is missing" in " ".join(PROTOCOLS.split())
    steps, joint = [["cat"]], {"cat": ClassScore(0.2, 0.8)}
    assert summary({1: {"cat": ClassScore(0.1, 0.6)}}, steps, joint)["RelGap"] == pytest.approx(0.25)


def test_a_machine_without_a_gpu_is_told_of_its_own_build() -> None:
    said = " ".join(blocks(TEXT, "text"))
    assert "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu" in said


def test_the_marked_block_is_the_test_command_and_ci_runs_it(repository: Path) -> None:
    marked = re.findall(r"^<!-- test command -->\n```bash\n(.*?)\n```", TEXT, re.MULTILINE | re.DOTALL)
    assert marked == ["pip install -e '.[test]' && pytest"]
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    extraction = script.read_text("utf-8").split("command=$(", 1)[1].split("README.md)", 1)[0]
    found = subprocess.run(["bash", "-c", f"{extraction} README.md"], cwd=repository, capture_output=True, text=True)
    assert found.stdout.strip() == marked[0]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the README's demo command, made tiny, has run."""
    repository = Path(__file__).parents[1]
    (words,) = [
        words
        for words in commands(TEXT)
        if words[:2] == ["python", "tools/train_incremental.py"] and words[3] == "configs/shapes/demo.yaml"
    ][:1]
    folder = tmp_path_factory.mktemp("demo")
    (folder / "tools").symlink_to(repository / "tools")
    (folder / "configs").symlink_to(repository / "configs")
    run(folder, [sys.executable, *words[1:], *TINY])
    return folder


def run(folder: Path, command: list[str]) -> str:
    """What ``command`` prints; the test fails with all of it if the command does."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_demo_writes_what_the_readme_says(demo: Path) -> None:
    output = demo / "runs/demo"
    config = load_config(output / "config.yaml")
    assert config.data.train_images == 24
    assert {"finetune", "eeil", "incdet", "joint"} <= set(config.methods)
    for method in config.methods:
        result = json.loads((output / method / "results.json").read_text("utf-8"))
        assert result["schema"] == 1
        assert result["method"] == method
        assert all(f"`{key}`" in PROTOCOLS for key in result if key != "schema")
        steps = [1, 2, 3] if method != "joint" else [3]
        assert [entry["step"] for entry in result["steps"]] == steps
    assert (output / "base/step_1/model.safetensors").is_file()
    assert (output / "incdet/step_3/checkpoint.json").is_file()
    assert json.loads((output / "comparison.json").read_text("utf-8"))
    assert list((output / "plots").glob("*.svg"))
    page = (output / "report.html").read_text("utf-8")
    assert "data:image/jpeg;base64," in page
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page), "the report needs no other file"


def test_the_python_example_runs_on_the_demo(demo: Path) -> None:
    import cv2
    import numpy as np

    cv2.imwrite(str(demo / "photo.png"), np.full((70, 90, 3), 99, np.uint8))
    example, conversion = blocks(TEXT, "python")
    outdated = "error::DeprecationWarning:torchvision.io.image"
    run(demo, [sys.executable, "-W", outdated, "-c", example + "\nassert len(found) == len(found.scores)"])
    small = conversion.replace("weights=weights", "weights=None, weights_backbone=None, num_classes=91")  # no download
    assert small != conversion
    run(demo, [sys.executable, "-c", small + "\nassert len(detector.vocab) == 82"])


def test_own_classes_are_added_as_the_readme_says(demo: Path, make_coco: Callable[..., Any]) -> None:
    data = make_coco(("tram", "scooter"))
    for split in ("train", "test"):
        (demo / "mine").mkdir(exist_ok=True)
        (demo / f"mine/{split}.json").write_text(data.annotations.read_text("utf-8"), encoding="utf-8")
    (demo / "mine/images").symlink_to(data.images)
    chapter = TEXT.split("### 2. Add your own classes", 1)[1].split("```bash\n", 1)[1].split("```", 1)[0]
    for line in chapter.splitlines():
        words = as_incdet(shlex.split(line))
        assert words is not None
        tiny = ["train.increment.iterations=2", "train.finetune.iterations=1", "engine.device=cpu"]
        out = run(demo, [sys.executable, "-m", "incdet", *words, *(tiny if words[0] == "extend" else [])])
    assert {"tram", "scooter", "all"} <= {line.split()[0] for line in out.splitlines() if line.strip()}
    entry = json.loads((demo / "runs/mine/step_4/checkpoint.json").read_text("utf-8"))
    assert entry["vocabulary"]["steps"][3] == ["tram", "scooter"]
    assert len(entry["vocabulary"]["steps"]) == 4
