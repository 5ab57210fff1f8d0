"""What a run that goes on finds in its folder and its data is what it left there, or is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from finished_run import Finished, quiet

from incdet.app.train import train
from incdet.config import Config
from incdet.errors import InputError

pytestmark = pytest.mark.usefixtures("without_report", "no_training")


@pytest.fixture
def copy(finished: Finished, tmp_path: Path) -> Callable[..., Config]:
    """A maker of the settings of a copy of the finished run with a data set of its own."""

    def make() -> Config:
        data = shutil.copytree(finished.data, tmp_path / "data")
        root = shutil.copytree(finished.root, tmp_path / "run")
        for path in root.rglob("memory/*.json"):  # as if the run had been made here
            text = path.read_text().replace(str(finished.data), str(data))
            content = json.loads(text)
            content.pop("sha256")
            path.write_text(json.dumps(content))
        manifest = json.loads((root / "run.json").read_text())
        manifest.pop("seal")
        manifest["files"] = {name: digest for name, digest in manifest["files"].items() if "memory/" not in name}
        (root / "run.json").write_text(json.dumps(manifest))
        update = {"output": root, "data": finished.config.data.model_copy(update={"root": data})}
        return finished.config.model_copy(update=update)

    return make


def refused(config: Config, *said: str) -> None:
    before = {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as caught:
        train(config, resume=True, display=quiet()[0])
    for words in said:
        assert words in str(caught.value)
    assert {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()} == before


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    content.pop("seal", None)  # an edit that knows of it
    path.write_text(json.dumps(content))


def test_an_unchanged_copy_goes_on(copy: Callable[..., Config]) -> None:
    train(copy(), resume=True, display=quiet()[0])


def test_other_annotations_are_refused(copy: Callable[..., Config]) -> None:
    config = copy()
    edit(config.data.root / "train.json", lambda content: content["annotations"][0]["bbox"].__setitem__(2, 9.0))
    refused(config, "train data", "1 images have another annotation", "the first is ", "put the data back")


def test_another_picture_is_refused(copy: Callable[..., Config]) -> None:
    config = copy()
    picture = next((config.data.root / "images" / "test").iterdir())
    cv2.imwrite(str(picture), np.zeros((48, 48, 3), np.uint8))
    refused(config, "test data", "1 images have another picture", picture.name)


def test_images_that_are_gone_or_new_are_refused(copy: Callable[..., Config]) -> None:
    config = copy()

    def swap(content: Any) -> None:
        name = content["images"][0]["file_name"]
        content["images"][0]["file_name"] = f"{name}.png"
        shutil.copy(config.data.root / "images" / name, config.data.root / "images" / f"{name}.png")

    edit(config.data.root / "train.json", swap)
    refused(config, "1 images are gone", "1 images are new")


def test_the_checkpoint_of_another_method_is_refused(copy: Callable[..., Config]) -> None:
    """It is whole, and only not the one that was written there."""
    config = copy()
    shutil.rmtree(config.output / "eeil" / "step_3")
    shutil.copytree(config.output / "incdet" / "step_3", config.output / "eeil" / "step_3")
    refused(config, "eeil/step_3/model.safetensors", "is not the one that the run wrote", "put it back")


def test_a_checkpoint_that_is_gone_is_refused(copy: Callable[..., Config]) -> None:
    config = copy()
    (config.output / "base" / "step_1" / "checkpoint.json").unlink()
    refused(config, "base/step_1/checkpoint.json", "is missing")


def test_results_that_were_edited_are_refused(copy: Callable[..., Config]) -> None:
    config = copy()
    edit(config.output / "lwf" / "results.json", lambda content: content["steps"][1].update(AP50=0.99, train_images=1))
    refused(config, "lwf/results.json", "are not those that the last checkpoint knows of")


def test_a_memory_that_is_gone_is_refused(finished: Finished, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    (root / "eeil" / "memory" / "step_3.json").unlink()
    refused(finished.config.model_copy(update={"output": root}), "eeil/memory/step_3.json", "is missing")


def test_a_memory_that_was_edited_is_refused(finished: Finished, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    edit(root / "eeil" / "memory" / "step_3.json", lambda content: content["exemplars"].popitem())
    refused(finished.config.model_copy(update={"output": root}), "eeil/memory/step_3.json", "is not the one that")


def test_exemplars_of_other_pixels_are_refused(copy: Callable[..., Config]) -> None:
    """Of the same length, so that the comparison of the data does not see it."""
    config = copy()
    entry = json.loads((config.output / "eeil" / "memory" / "step_3.json").read_text())["exemplars"]["circle"][0]
    content = bytearray(Path(entry["image"]).read_bytes())
    content[-20] ^= 1
    Path(entry["image"]).write_bytes(content)
    refused(config, "memory manifest", "1 images are not those that were stored", Path(entry["image"]).name)


@pytest.mark.parametrize("name", ["run.json", "data.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"train": [], "test": 3, "id": 1, "files": [2]}'])
def test_damaged_files_of_the_run_are_refused(finished: Finished, tmp_path: Path, name: str, text: str) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    (root / name).write_text(text)
    refused(finished.config.model_copy(update={"output": root}), name, "cannot be read")


def test_a_run_of_before_the_digests_goes_on(finished: Finished, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    for name in ("run.json", "data.json"):
        (root / name).unlink()
    train(finished.config.model_copy(update={"output": root}), resume=True, display=quiet()[0])
    assert (root / "run.json").is_file() and (root / "data.json").is_file()
