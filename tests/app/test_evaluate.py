from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished_run import Finished

from incdet.app.evaluate import evaluate
from incdet.data.formats import read_coco
from incdet.errors import InputError
from incdet.evaluation.detections import detect
from incdet.evaluation.scoring import score
from incdet.network import checkpoint


def test_a_checkpoint_is_scored_on_a_file_with_further_classes(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    own = make_coco(names=("circle", "dog", "star"), images=6)
    path, output = finished.root / "eeil" / "step_2", tmp_path / "deep" / "scores.json"  # circle, cross, ring, square
    value = evaluate(path, own.annotations, own.images, output=output, device="cpu")
    assert list(value) == ["schema", "checkpoint", "data", "images", "AP", "AP50", "per_class", "warnings", "skipped"]
    assert value["schema"] == 1 and value["images"] == 6
    assert list(value["per_class"]) == ["circle"]
    assert value["skipped"] == ["cross", "dog", "ring", "square", "star"]
    assert value["AP50"] == value["per_class"]["circle"]["AP50"] is not None
    assert json.loads(output.read_text()) == value


def test_on_the_runs_own_test_set_the_scores_are_the_runs(finished: Finished) -> None:
    data = finished.data
    value = evaluate(
        finished.root / "incdet" / "step_3", data / "test.json", data / "images", device="cpu", batch_size=5
    )
    entry = json.loads((finished.root / "incdet" / "results.json").read_text())["steps"][2]
    assert value["per_class"] == entry["per_class"]
    assert (value["AP"], value["AP50"], value["skipped"]) == (entry["AP"], entry["AP50"], [])
    model = checkpoint.load(finished.root / "incdet" / "step_3").model
    records = read_coco(data / "test.json", data / "images").records
    again = score(records, detect(model, records, batch_size=5), model.vocab.names)
    assert {name: one and one.AP50 for name, one in again.items()} == {
        name: one["AP50"] for name, one in value["per_class"].items()
    }


def test_without_a_common_class_there_is_nothing_to_score(finished: Finished, make_coco: Callable[..., Any]) -> None:
    own = make_coco()
    with pytest.raises(InputError, match="share no class.*cat, dog.*circle"):
        evaluate(finished.root / "base" / "step_1", own.annotations, own.images, device="cpu")


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a folder of that path is a file"):
        evaluate(Path("gone"), Path("gone.json"), None, output=tmp_path / "file" / "scores.json")


def test_classes_that_look_like_known_ones_are_told(
    finished: Finished, make_coco: Callable[..., Any], incdet_command: Callable[..., Any]
) -> None:
    own = make_coco(names=("circle", "Star"))
    path = finished.root / "eeil" / "step_3"
    done = incdet_command("evaluate", "--checkpoint", path, "--data", own.annotations, "--device", "cpu")
    assert done.code == 0
    assert f"{own.annotations}: COCO JSON: 4 images, 4 boxes, 2 classes" in done.out
    assert "warning: " in done.out and "class 'Star': looks like 'star'" in done.out
