"""Every kind of bad input, through the command line: exit code 2, a line that says what and where, nothing trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Edit = Callable[[dict[str, Any]], object]


def first_box(*numbers: float) -> Edit:
    return lambda content: content["annotations"][0].update(bbox=list(numbers))


def corners_for_sizes(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        annotation["bbox"] = [24, 14, 56, 38]  # as x, y, width, height it leaves the image of 64 x 48


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., list[object]]:
    """The words of a training on COCO data that would take seconds if it were not refused."""

    def words(data: Any, *overrides: str) -> list[object]:
        split = {"annotations": str(data.annotations), "images": str(data.images)}
        path = tmp_path / "run.yaml"
        value = {
            "output": str(tmp_path / "run"),
            "methods": ["eeil"],
            "data": {"format": "coco", "root": str(tmp_path), "train": split, "test": split},
            "protocol": {"steps": [["cat"], ["dog"]]},
            "model": {
                "backbone": "tiny",
                "channels": 16,
                "tower_depth": 1,
                "min_size": 48,
                "anchor_sizes": [[16], [32], [48]],
            },
            "train": {"base": {"iterations": 1, "batch_size": 2, "warmup": 0}},
            "memory": {"total": 2},
            "engine": {"workers": 0, "device": "cpu"},
        }
        path.write_text(json.dumps(value), encoding="utf-8")  # JSON is YAML
        return ["train", "--config", path, *overrides]

    return words


def refused(done: Any, *said: str) -> None:
    assert done.code == 2, done.out + done.err
    assert "Traceback" not in done.err
    for word in said:
        assert word in done.err


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (first_box(8, 10, 0, 24), ["annotation 1", "annotations.json"]),
        (first_box(8, 10, 20, -4), ["annotation 1"]),
        (first_box(-30, 10, 20, 4), ["annotation 1"]),
        (first_box(8, math.nan, 20, 4), ["annotation 1"]),
        (first_box(70, 60, 20, 4), ["annotation 1", "64"]),
        (first_box(8, 10, 20), ["annotation 1"]),
        (corners_for_sizes, ["corners", "[x, y, width, height]"]),
        (lambda content: content["annotations"][0].update(category_id=9), ["annotation 1", "9"]),
        (lambda content: content["categories"][1].update(name="cat"), ["'cat'"]),
        (lambda content: content["images"][0].update(file_name="gone.png"), ["gone.png"]),
        (lambda content: content.pop("categories"), ["categories"]),
    ],
    ids=[
        "empty",
        "negative",
        "left of the image",
        "nan",
        "outside",
        "three numbers",
        "xyxy",
        "no category",
        "twins",
        "no image",
        "no categories",
    ],
)
def test_faulty_annotations(
    edit: Edit, said: list[str], make_coco: Any, config: Any, incdet_command: Any, tmp_path: Path
) -> None:
    refused(incdet_command(*config(make_coco(edit=edit))), *said)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_missing_and_cut_off_files(make_coco: Any, config: Any, incdet_command: Any) -> None:
    data = make_coco()
    refused(incdet_command(*config(data, "data.train.annotations=gone.json")), "gone.json")
    refused(incdet_command(*config(data, "data.train.images=gone")), "gone")
    text = data.annotations.read_text("utf-8")
    data.annotations.write_text(text[: len(text) // 2], encoding="utf-8")
    refused(incdet_command(*config(data)), str(data.annotations))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("protocol.steps=[[cat],[dgo]]", ["'dgo'", "did you mean 'dog'"]),
        ("protocol.steps=[[cat],[dog,cat]]", ["'cat'"]),
        ("protocol.steps=15+5", ["15+5"]),
        ("memory.total=1", ["memory.total", "2"]),
        ("methods=[eel]", ["did you mean 'eeil'"]),
        ("without=[replya]", ["replya"]),
        ("model.backbone=resnet51", ["resnet51"]),
        ("model.weights=gone.safetensors", ["gone.safetensors"]),
        ("base=gone", ["gone"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_do_not_fit_the_data(
    override: str, said: list[str], make_coco: Any, config: Any, incdet_command: Any, tmp_path: Path
) -> None:
    refused(incdet_command(*config(make_coco(), override)), *said)
    assert not list((tmp_path / "run").rglob("*.safetensors"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    import torch

    from incdet.config.architecture import Architecture
    from incdet.network.checkpoint import save
    from incdet.network.retinanet import IncrementalRetinaNet
    from incdet.vocab import Vocabulary

    torch.manual_seed(0)
    recipe = Architecture(
        backbone="tiny", channels=16, tower_depth=1, min_size=(48,), anchor_sizes=((16,), (32,), (48,))
    )
    save(tmp_path / "checkpoint", IncrementalRetinaNet(recipe, Vocabulary((("cat",),))))
    return tmp_path / "checkpoint"


def test_a_class_that_is_not_there(make_coco: Any, incdet_command: Any, checkpoint: Path, tmp_path: Path) -> None:
    data = make_coco(names=("cat",))
    words = ["--checkpoint", checkpoint, "--data", data.annotations, "--images", data.images]
    refused(incdet_command("extend", *words, "--output", tmp_path / "run", "--classes", "cta"), "did you mean 'cat'")
    assert not (tmp_path / "run").exists()


def test_checkpoints_that_cannot_be_used(make_coco: Any, config: Any, incdet_command: Any, checkpoint: Path) -> None:
    data = make_coco()
    words = ["evaluate", "--checkpoint", checkpoint, "--data", data.annotations, "--images", data.images]
    weights, description = checkpoint / "model.safetensors", checkpoint / "checkpoint.json"
    whole, told = weights.read_bytes(), description.read_text("utf-8")

    refused(incdet_command(*config(data, "protocol.steps=[[dog],[cat]]", f"base={checkpoint}")), "cat", "dog")
    weights.write_bytes(whole[: len(whole) // 2])
    refused(incdet_command(*words), "model.safetensors")
    weights.write_bytes(whole)
    for change in ({"channels": 32}, {"backbone": "resnet18"}):
        entry = json.loads(told)
        entry["recipe"].update(change)
        description.write_text(json.dumps(entry), encoding="utf-8")
        refused(incdet_command(*words), str(checkpoint))
    description.write_text(told.replace('"cat"', '"cat", "dog"'), encoding="utf-8")
    refused(incdet_command(*words), str(checkpoint))
    description.write_text(told[: len(told) // 2], encoding="utf-8")
    refused(incdet_command(*words), "checkpoint.json")
    weights.unlink()
    description.unlink()
    refused(incdet_command(*words), str(checkpoint))


def test_a_folder_that_holds_another_run(make_coco: Any, config: Any, incdet_command: Any, tmp_path: Path) -> None:
    from incdet.config import load_config

    words = config(make_coco())
    load_config(words[2]).dump(tmp_path / "run/config.yaml")
    before = (tmp_path / "run/config.yaml").read_bytes()
    refused(incdet_command(*words, "seed=4"), "already holds", str(tmp_path / "run"))
    refused(incdet_command(*words, "seed=4", "--resume"), "key seed")
    assert (tmp_path / "run/config.yaml").read_bytes() == before


def test_the_drawn_data_of_another_run_stay(incdet_command: Any, repository: Path, tmp_path: Path) -> None:
    from incdet.config import load_config
    from incdet.data.shapes import write_shapes

    demo, output = repository / "configs/shapes/demo.yaml", f"output={tmp_path}/run"
    config = load_config(demo, [output, "data.train_images=8", "data.test_images=4"])
    config.dump(tmp_path / "run/config.yaml")
    write_shapes(config.data.root, train=8, test=4, size=config.data.image_size, seed=config.data.draw_seed)
    before = (config.data.root / "train.json").read_bytes()
    refused(incdet_command("train", "--config", demo, output, "data.train_images=6", "data.test_images=4"), "already")
    assert (config.data.root / "train.json").read_bytes() == before
