from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from helpers import loud, network
from rich.console import Console

from incdet.app.class_edits import Edits, edit_classes
from incdet.app.load import load
from incdet.app.progress import Display
from incdet.errors import InputError
from incdet.network import checkpoint


def quiet() -> Display:
    return Display(Console(quiet=True))


def steps(edits: Edits) -> tuple[tuple[str, ...], ...]:
    edited = edit_classes(network(("a", "b"), ("c",)), edits, display=quiet())
    assert not edited.proof.differing and edited.proof.images == 4
    return edited.model.vocab.steps


def test_steps_stay_as_far_as_the_order_lets_them() -> None:
    assert steps(Edits(rename={"a": "b", "b": "a"})) == (("b", "a"), ("c",))
    assert steps(Edits(remove=["c"])) == (("a", "b"),)
    assert steps(Edits(remove=["a", "b"])) == (("c",),)
    assert steps(Edits(order=["c", "b", "a"])) == (("c",), ("b", "a"))
    assert steps(Edits(order=["a", "c", "b"])) == (("a", "c", "b"),)
    assert steps(Edits(rename={"a": "x"}, remove=["x"], order=["c", "b"])) == (("c",), ("b",))


def test_where_earlier_classes_go_first_the_proof_says_who_is_believed_otherwise() -> None:
    model = loud(("a", "b"), ("c",), ("d",), precedence=1.0)
    same = edit_classes(model, Edits(rename={"c": "x"}, remove=["d"], order=["b", "a", "x"]), display=quiet()).proof
    assert not same.differing and not same.believed and "believed" not in same.describe()
    fewer = edit_classes(model, Edits(remove=["a"]), display=quiet()).proof
    assert not fewer.differing and fewer.believed == {"c": 4, "d": 4}
    assert "believed otherwise: c in 4, d in 4" in fewer.describe()
    with pytest.raises(InputError, match="earlier classes go first in this detector -> keep the steps in their order"):
        edit_classes(model, Edits(order=["c", "a", "b", "d"]), display=quiet())
    plain = loud(("a", "b"), ("c",), ("d",))
    assert not edit_classes(plain, Edits(remove=["a"]), display=quiet()).proof.believed


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (Edits(rename={"aa": "x"}), "rename 'aa': is no class of it"),
        (Edits(rename={"a": "b"}), "'b': is already known"),
        (Edits(rename={"a": ""}), "has the name ''"),
        (Edits(rename={"a": "x"}, remove=["a"]), "remove 'a': is no class of it"),
        (Edits(remove=["a", "b", "c"]), "would leave no class"),
        (Edits(order=["c", "b"]), "order: leaves out a"),
        (Edits(order=["c", "b", "a", "a"]), "order: names 'a' twice"),
        (Edits(merge={"x": ("a",)}), "merge 'x': is of 1 class"),
        (Edits(merge={"x": ("a", "b")}), "no picture to learn from"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(edits: Edits, said: str) -> None:
    with pytest.raises(InputError, match=said):
        edit_classes(network(("a", "b"), ("c",)), edits, display=quiet())


@pytest.fixture
def step(tmp_path: Path) -> Path:
    return checkpoint.save(
        tmp_path / "step_2", loud(("circle", "cross", "ring"), ("star",), detections_per_img=9999, topk_candidates=9999)
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (48, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), pixels)
    return tmp_path / "photos"


def test_a_renamed_and_merged_detector_is_a_checkpoint_that_finds_the_same(
    step: Path, photos: Path, tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    listed = incdet_command("classes", step)
    assert listed.code == 0
    assert listed.out.splitlines() == ["0  step 1  circle", "1  step 1  cross", "2  step 1  ring", "3  step 2  star"]
    words = ["--rename", "circle", "new name", "--merge", "both", "cross", "ring", "--images", photos]
    done = incdet_command("classes", step, *words, "--output", tmp_path / "out")
    assert done.code == 0, done.err
    assert "the 2 other classes are identical, bit for bit, on 2 pictures" in done.out and "both: 0." in done.out
    before, after = load(step), load(tmp_path / "out")
    assert after.vocab.steps == (("new name", "both"), ("star",))
    one, other = (detector.predict(photos / "0.png", threshold=0.0) for detector in (before, after))
    for old, new in (("circle", "new name"), ("star", "star")):
        mine, theirs = (
            [found[1:] for found in seen if found.name == name] for seen, name in ((one, old), (other, new))
        )
        assert mine == theirs != []
    again = incdet_command("classes", step, "--remove", "ring", "--output", tmp_path / "out")
    assert again.code == 2 and "already holds a checkpoint" in again.err


def test_what_is_wrong_with_the_command_is_said(step: Path, tmp_path: Path, incdet_command: Callable[..., Any]) -> None:
    for words, said in (
        (["--remove", "cirkle"], "--output"),
        (["--remove", "cirkle", "--output", tmp_path / "x"], "did you mean 'circle'?"),
        (["--remove", "circle", "--images", tmp_path / "no.png", "--output", tmp_path / "x"], "no.png"),
        (["--rename", "circle", "a", "--rename", "circle", "b", "--output", tmp_path / "x"], "stands twice"),
    ):
        done = incdet_command("classes", step, *words)
        assert done.code == 2 and said in done.err
    assert not (tmp_path / "x").exists()


def test_a_difference_is_told_and_nothing_is_written(
    step: Path, tmp_path: Path, incdet_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from incdet.app import class_edits
    from incdet.evaluation.sameness import Sameness

    monkeypatch.setattr(class_edits, "compare", lambda *_: Sameness(1, 4, 9, 9, {"cross": 1}))
    done = incdet_command("classes", step, "--remove", "circle", "--output", tmp_path / "x")
    assert done.code == 1 and "NOT identical" in done.out and "nothing was written" in done.out
    assert not (tmp_path / "x").exists()
