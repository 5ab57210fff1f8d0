from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from finished_run import quiet
from helpers import loud

from incdet.app.load import load
from incdet.app.merge import merge
from incdet.errors import Finding, OutputError
from incdet.network import checkpoint
from incdet.network.columns import with_columns
from incdet.vocab import Vocabulary

SHORT = ("train.increment.iterations=6", "train.increment.batch_size=2", "engine.workers=0")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), cv2.blur(pixels, (9, 9)))
    return tmp_path / "photos"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "first", loud(("a", "b"), norm_module="batch", frozen_norm=True))


@pytest.fixture
def second(tmp_path: Path) -> Path:
    return checkpoint.save(tmp_path / "second", loud(("b", "c"), ("d",), seed=5, norm_module="batch", frozen_norm=True))


def test_detectors_of_one_network_are_merged_by_name_and_proved(
    first: Path, photos: Path, tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    other = with_columns(load(first).model, Vocabulary((("c", "a"),)), [1, 0])
    checkpoint.save(tmp_path / "other", other)
    done = incdet_command("merge", first, tmp_path / "other", "--images", photos, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    for line in (
        "3 classes: a, b, c",
        "known to both, taken from the first: a",
        "how: one network with the predictors of both: they share everything but these",
        "proof: the 2 classes of the first are identical, bit for bit, on 6 pictures",
        "proof: the 1 classes of the second are identical, bit for bit, on 6 pictures",
        f"written: {tmp_path / 'out'}",
    ):
        assert line in done.out
    assert load(tmp_path / "out").vocab.steps == (("a", "b"), ("c",))
    again = incdet_command("merge", first, tmp_path / "other", "--output", tmp_path / "out")
    assert again.code == 2 and "already holds a checkpoint" in again.err


def test_heads_on_one_trunk_stand_side_by_side(first: Path, tmp_path: Path, incdet_command: Callable[..., Any]) -> None:
    other = with_columns(load(first).model, Vocabulary((("c",),)), [1])
    with torch.no_grad():
        next(other.class_head.tower.parameters()).mul_(1.1)
    checkpoint.save(tmp_path / "other", other)
    done = incdet_command("merge", first, tmp_path / "other", "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "side by side on one trunk" in done.out and "the 2 classes of the first are identical" in done.out
    assert "lowered" in done.out and load(tmp_path / "out").names == ("a", "b", "c")


def test_two_networks_are_distilled_into_one_without_labels(
    first: Path, second: Path, photos: Path, tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    words = ["--images", photos, "--output", tmp_path / "out", *SHORT]
    done = incdet_command("merge", first, second, *words)
    assert done.code == 0, done.err
    assert "4 classes: a, b, c, d" in done.out and "AP50 against what the second detector shows" in done.out
    assert "incdet calibrate" in done.out and "5 pictures without labels" in done.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoint.json", "model.safetensors"]
    assert load(tmp_path / "out").vocab.steps == (("a", "b"), ("c",), ("d",))


def test_the_student_comes_nearer_to_both(first: Path, second: Path, photos: Path, tmp_path: Path) -> None:
    before = merge(
        first,
        second,
        tmp_path / "x",
        images=[photos],
        overrides=[*SHORT[1:], "train.increment.lr=1e-9", "train.increment.iterations=1"],
        device="cpu",
        display=quiet()[0],
    )
    after = merge(
        first,
        second,
        tmp_path / "y",
        images=[photos],
        overrides=[*SHORT[1:], "train.increment.lr=3e-3", "train.increment.iterations=60"],
        device="cpu",
        display=quiet()[0],
    )
    assert before.how == after.how == "distil"
    then, now = (min(one or 0 for one in merged.agreement.values()) for merged in (before, after))
    assert now > then + 0.1


def test_a_stopped_distillation_goes_on_where_it_was(
    first: Path, second: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str) -> Any:
        return merge(first, second, tmp_path / name, images=[photos], overrides=SHORT, device="cpu", display=quiet()[0])

    whole = run("whole")

    def full(*_: Any, **__: Any) -> None:
        raise OutputError(Finding("x", "output", "cannot be written", "free some space"))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", full)
        with pytest.raises(OutputError):
            run("stopped")
    log = tmp_path / "stopped" / "work" / "log.jsonl"
    trained = [line for line in log.read_text().splitlines() if json.loads(line)["event"] == "train"]
    resumed = run("stopped")
    assert trained and not (tmp_path / "stopped" / "work").exists()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_what_is_refused(
    first: Path, second: Path, photos: Path, tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    large = checkpoint.save(tmp_path / "large", loud(("z",), min_size=(64,), max_size=96))
    for words, said in (
        ([first, second], "add --images"),
        ([first, second, "--how", "heads"], "needs two detectors that share all but their predictors"),
        ([first, first], "are all known to the first"),
        ([first, large, "--images", photos], "min_size: is (64,), the first has (48,)"),
        ([first, second, "--images", tmp_path / "none"], "none"),
        ([first, tmp_path / "none"], "does not exist"),
        ([first, second, "--images", photos, "train.increment.lrr=1"], "did you mean"),
    ):
        done = incdet_command("merge", *words, "--output", tmp_path / "out")
        assert done.code == 2 and said in done.err, done.err
    assert not (tmp_path / "out").exists()
