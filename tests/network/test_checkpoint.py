from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary

RECIPE = Architecture(
    backbone="tiny", channels=8, tower_depth=1, anchor_sizes=((12, 16), (24, 32)), min_size=(48,), max_size=64
)


def network(seed: int = 0, recipe: Architecture = RECIPE) -> IncrementalRetinaNet:
    torch.manual_seed(seed)
    model = IncrementalRetinaNet(recipe, Vocabulary((("a", "b"),), {"a": 7, "b": 9}))
    model.grow(["c"])
    truth = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([2])}]
    model([torch.rand(3, 48, 48)], truth)  # moves the running statistics
    return model


def logits(model: IncrementalRetinaNet) -> Tensor:
    torch.manual_seed(5)
    return model.dense(model.prepare([torch.rand(3, 48, 64)])).logits


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / checkpoint.DESCRIPTION).read_text())
    return found


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("given", ["", checkpoint.TENSORS, checkpoint.DESCRIPTION])
def test_load_after_save_gives_equal_logits_in_the_same_mode(tmp_path: Path, training: bool, given: str) -> None:
    model = network()
    model.freeze_norm()
    model.freeze_stages(2)
    model.class_head.predictors[0].requires_grad_(False)
    model.train(training)
    history = [{"step": 1, "names": ["a", "b"]}, {"step": 2, "names": ["c"]}]
    checkpoint.save(tmp_path, model, history=history, metrics={"AP50": 0.5})
    found = checkpoint.load(tmp_path / given)
    assert torch.equal(logits(found.model), logits(model))
    assert found.model.training is training
    assert [module.training for module in found.model.modules()] == [module.training for module in model.modules()]
    assert found.model.trainable_names() == model.trainable_names()
    assert found.model.architecture == model.architecture
    assert found.vocab == found.model.vocab == model.vocab
    assert found.history == history and found.metrics == {"AP50": 0.5}


def test_live_norm_stays_live(tmp_path: Path) -> None:
    model = network().train()
    loaded = checkpoint.load(checkpoint.save(tmp_path, model)).model
    norms = [module for module in loaded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and all(module.training and module.weight.requires_grad for module in norms)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_a_loaded_network_trains_and_grows(tmp_path: Path) -> None:
    model = checkpoint.load(checkpoint.save(tmp_path, network())).model
    model.grow(["d"])
    truth = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([3])}]
    found: Any = model.train()([torch.rand(3, 48, 48)], truth)
    torch.autograd.backward(list(found.values()))
    assert all(parameter.grad is not None for parameter in model.parameters())
    again = checkpoint.load(checkpoint.save(tmp_path, model)).model
    assert again.vocab.steps == (("a", "b"), ("c",), ("d",))


def test_loading_draws_nothing_and_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("load went online")

    checkpoint.save(tmp_path, network(recipe=Architecture(backbone="resnet18", channels=8, norm_module="frozen")))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    checkpoint.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_saving_again_replaces_both_files_and_leaves_the_rest(tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text("{}")
    checkpoint.save(tmp_path, network(0))
    second = network(1)
    checkpoint.save(tmp_path, second)
    assert torch.equal(logits(checkpoint.load(tmp_path).model), logits(second))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [checkpoint.DESCRIPTION, checkpoint.TENSORS, "samples.json"]


def test_a_failed_save_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    model = network()
    checkpoint.save(tmp_path, model)
    with pytest.raises(TypeError):
        checkpoint.save(tmp_path, network(1), metrics={"AP": object()})
    assert torch.equal(logits(checkpoint.load(tmp_path).model), logits(model))
    assert len(list(tmp_path.iterdir())) == 2


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        known = {key: value for key, value in state(folder).items() if key != "seal"}
        (folder / checkpoint.DESCRIPTION).write_text(json.dumps({**known, **changes}))

    return change


def flip(before: str, after: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / checkpoint.DESCRIPTION
        path.write_text(path.read_text().replace(before, after))

    return change


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


def without(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        rest = {name: value for name, value in state(folder).items() if name != key}
        (folder / checkpoint.DESCRIPTION).write_text(json.dumps(rest))

    return change


def other_tensors(folder: Path) -> None:
    other = checkpoint.save(folder / "other", network(1))
    shutil.copy(other / checkpoint.TENSORS, folder / checkpoint.TENSORS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda folder: (folder / checkpoint.TENSORS).unlink(), "lacks model.safetensors"),
        (lambda folder: (folder / checkpoint.DESCRIPTION).unlink(), "lacks checkpoint.json"),
        (cut(checkpoint.TENSORS, 0.5), "model.safetensors.*cut off"),
        (cut(checkpoint.TENSORS, 0.0), "model.safetensors.*cut off"),
        (cut(checkpoint.DESCRIPTION, 0.5), "checkpoint.json.*cut off"),
        (cut(checkpoint.DESCRIPTION, 0.0), "checkpoint.json.*cut off"),
        (other_tensors, "are not those that checkpoint.json describes"),
        (edit(format="other"), "not that of an incdet checkpoint"),
        (edit(version=99), "version: is 99"),
        (without("trainable"), "lacks trainable"),
        (edit(vocabulary={"steps": [["a", "b"], ["c", "d"]]}), "vocabulary.*does not fit.*predictors.1.weight"),
        (edit(vocabulary={"steps": [["a", "b"]]}), "vocabulary.*does not fit.*predictors.1.weight is unknown"),
        (edit(vocabulary={"steps": [["a", "a"]]}), "vocabulary.*already known"),
        (edit(vocabulary={}), "vocabulary: cannot be read"),
        (flip('"a"', '"e"'), "checkpoint.json: checkpoint: was damaged or edited.*copy or train it again"),
        (edit(recipe={**RECIPE.to_json(), "channels": 16}), "another architecture.*expected"),
        (edit(recipe={**RECIPE.to_json(), "backbone": "vgg"}), "recipe.*'vgg'"),
        (edit(recipe=3), "recipe: cannot be read"),
        (edit(trainable=[["a"]]), "no list of names under trainable"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_words(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = checkpoint.save(tmp_path / "step", network())
    damage(folder)
    with pytest.raises(InputError, match=message):
        checkpoint.load(folder)


def test_a_foreign_file_is_no_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    with pytest.raises(InputError, match="is no incdet checkpoint"):
        checkpoint.load(file)


def test_an_expected_architecture_is_checked(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, network())
    checkpoint.load(tmp_path, architecture=RECIPE)
    other = Architecture(**{**RECIPE.to_json(), "channels": 16, "backbone": "resnet18"})
    with pytest.raises(InputError, match="recipe backbone: is 'tiny', expected 'resnet18'") as caught:
        checkpoint.load(tmp_path, architecture=other)
    assert [finding.item for finding in caught.value.findings] == ["recipe backbone", "recipe channels"]


def test_an_expected_vocabulary_is_checked(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, network())
    checkpoint.load(tmp_path, vocab=Vocabulary((("a", "b"), ("c",))))
    with pytest.raises(InputError, match=r"is a, b \+ c, expected b, a \+ c"):
        checkpoint.load(tmp_path, vocab=Vocabulary((("b", "a"), ("c",))))


class Stride8(nn.Module):
    """The external backbone of the stored checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.conv(x)
        return {"0": fine, "1": nn.functional.max_pool2d(fine, 2)}


def test_a_checkpoint_of_the_first_version_is_read_for_ever() -> None:
    """``goldens/checkpoint`` holds what it wrote; never write it anew."""
    found = checkpoint.load(Path(__file__).parents[1] / "goldens" / "checkpoint", backbone=Stride8())
    assert found.vocab.steps == (("cat",), ("Füchse", "dog")) and found.history == [{"step": 1}]
    assert found.metrics == {"AP": 0.5} and not found.model.training
    assert not any(name.startswith("box_head") for name in found.model.trainable_names())
    prepared = found.model.prepare([torch.linspace(0, 1, 3 * 40 * 48).reshape(3, 40, 48)])
    with torch.no_grad():
        dense = found.model.dense(prepared)
    assert dense.logits.shape == (1, 160, 3)
    assert float(dense.logits.sum()) == pytest.approx(-2209.182, rel=1e-5)
    assert float(dense.deltas.sum()) == pytest.approx(-13.94997, rel=1e-4)
