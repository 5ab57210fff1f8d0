from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from incdet.config.architecture import Architecture
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.vocab import Vocabulary

COLUMNS = ["-", "ant", "bee, small"]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state dict of somebody's RetinaNet with a tiny body and a column for the background."""
    torch.manual_seed(0)
    architecture = Architecture(backbone="tiny", channels=8, tower_depth=1)
    plain = to_torchvision(IncrementalRetinaNet(architecture, Vocabulary((("a", "b", "c"),))))
    torch.save({"model": plain.state_dict()}, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_a_state_dict_becomes_a_checkpoint_that_every_verb_takes(
    state: Path, make_coco: Callable[..., Any], incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    done = incdet_command("import", state, "--arch", "tiny", "--output", tmp_path / "mine", "--classes", *COLUMNS)
    assert done.code == 0 and "2 classes: ant, bee, small" in done.out
    assert checkpoint.load(tmp_path / "mine").vocab.steps == (("ant", "bee, small"),)
    own, known = make_coco(images=2), make_coco(names=("ant", "cow"), images=2, folder="known")
    detector = ["--checkpoint", tmp_path / "mine"]
    words = ["--data", known.annotations, "--images", known.images, "--device", "cpu"]
    assert incdet_command("evaluate", *detector, *words).code == 0
    assert incdet_command("predict", *detector, "--images", known.images, "--output", tmp_path / "found").code == 0
    short = ["train.increment.iterations=1", "train.finetune.iterations=1", "train.increment.batch_size=2"]
    words = ["--data", own.annotations, "--images", own.images, "--output", tmp_path / "more", "--method", "masked"]
    assert incdet_command("extend", *detector, *words, *short, "engine.device=cpu", "engine.workers=0").code == 0
    assert checkpoint.load(tmp_path / "more" / "step_2").vocab.names == ("ant", "bee, small", "cat", "dog")


def test_a_state_dict_can_be_used_as_it_is(
    state: Path, make_coco: Callable[..., Any], incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("-\nant\ncow\n")
    known = make_coco(names=("ant", "cow"), images=2)
    words = ["evaluate", "--checkpoint", state, "--data", known.annotations, "--images", known.images]
    output = tmp_path / "scores.json"
    for names in (["-", "ant", "cow"], ["N/A,ant,cow"], [tmp_path / "names.txt"]):
        assert incdet_command(*words, "--arch", "tiny", "--known-classes", *names, "--output", output).code == 0
        assert list(json.loads(output.read_text())["per_class"]) == ["ant", "cow"]
    refused = incdet_command(*words)
    assert refused.code == 2 and "arch" in refused.err and "give --arch tiny" in refused.err
    refused = incdet_command(*words, "--arch", "tiny")
    assert refused.code == 2 and "3 columns" in refused.err


def test_an_import_writes_over_nothing(state: Path, incdet_command: Callable[..., Any], tmp_path: Path) -> None:
    words = ["import", state, "--arch", "tiny", "--classes", "a,b,c", "--output"]
    assert incdet_command(*words, tmp_path / "mine").code == 0
    before = (tmp_path / "mine" / "checkpoint.json").read_bytes()
    refused = incdet_command(*words, tmp_path / "mine")
    assert refused.code == 2 and "already holds a checkpoint" in refused.err
    assert (tmp_path / "mine" / "checkpoint.json").read_bytes() == before
    refused = incdet_command(*words, state / "below")
    assert refused.code == 2 and "a folder of that path is a file" in refused.err
