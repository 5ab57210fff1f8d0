from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.network import checkpoint, weights
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.vocab import Vocabulary

VOCAB = Vocabulary((("a", "b"),))
SMALL: dict[str, Any] = {"backbone": "tiny", "channels": 8, "tower_depth": 2, "anchor_sizes": ((12,), (24,), (48,))}


def network(source: str | Path | None = None, seed: int = 0, **changes: Any) -> IncrementalRetinaNet:
    torch.manual_seed(seed)
    return IncrementalRetinaNet(Architecture(**{**SMALL, **changes}), VOCAB, source)


def write(state: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(value, other[key]) for key, value in first.state_dict().items())


def parts(model: IncrementalRetinaNet) -> list[torch.nn.Module]:
    return [model.backbone, model.class_head.tower, model.box_head]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_torchvision_detector_file_fills_all_but_the_predictors(tmp_path: Path, suffix: str) -> None:
    source = network()
    file = write(to_torchvision(source).state_dict(), tmp_path / f"w{suffix}")
    model = network(file, seed=1)
    assert all(equal(mine, other) for mine, other in zip(parts(model), parts(source), strict=True))
    assert not equal(model.class_head.predictors, source.class_head.predictors)


def test_detector_files_of_old_torchvision_versions_are_read(tmp_path: Path) -> None:
    source = network()
    old = {}
    for key, value in to_torchvision(source).state_dict().items():
        for index in range(2):
            key = key.replace(f"head.conv.{index}.0.", f"head.conv.{2 * index}.")
        key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "_blocks" in key else key
        old[key] = value
    assert "backbone.fpn.inner_blocks.2.weight" in old and "head.regression_head.conv.2.weight" in old
    model = network(write(old, tmp_path / "old.pth"), seed=1)
    assert all(equal(mine, other) for mine, other in zip(parts(model), parts(source), strict=True))


def test_a_checkpoint_folder_is_a_source_of_weights(tmp_path: Path) -> None:
    source = network()
    model = network(checkpoint.save(tmp_path, source), seed=1)
    assert all(equal(mine, other) for mine, other in zip(parts(model), parts(source), strict=True))


def test_a_classifier_fills_the_body_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = torchvision.models.mobilenet_v2()
    half = {f"features.{key}": value.half() for key, value in classifier.features.state_dict().items()}
    model: Any = network(write(half, tmp_path / "w.safetensors"), backbone="mobilenet_v2")
    weight = model.backbone.body["0"][0].weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, classifier.features[0][0].weight.half().float())


def test_a_classifiers_own_file_may_hold_its_last_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = torchvision.models.resnet18()
    wrapped: dict[str, Any] = {"model": {f"module.{key}": value for key, value in classifier.state_dict().items()}}
    torch.save(wrapped, tmp_path / "w.pth")
    model: Any = network(tmp_path / "w.pth", backbone="resnet18")
    assert torch.equal(model.backbone.body.layer4[1].conv2.weight, classifier.layer4[1].conv2.weight)


def test_pretrained_networks_keep_torchvisions_habits(tmp_path: Path) -> None:
    """Frozen norm and three trainable stages with weights; everything live and trainable without."""
    source = network()
    model = network(write(to_torchvision(source).state_dict(), tmp_path / "w.pth"), trainable_layers=1)
    assert model.architecture.frozen_norm and model.architecture.trainable_layers == 1
    learning = [name for name in model.trainable_names() if ".body." in name]
    assert learning and all(name.startswith("backbone.body.stage5.0.") for name in learning)
    assert source.architecture.frozen_norm is False and source.architecture.trainable_layers == 5
    assert len(source.trainable_names()) == len(list(source.parameters()))


def test_coco_weights_of_the_first_builder_run_with_epsilon_zero(tmp_path: Path) -> None:
    file = write(to_torchvision(network()).state_dict(), tmp_path / "retinanet_resnet50_fpn_coco-eeacb38b.pth")
    model: Any = network(file)
    assert model.architecture.norm_eps == 0.0 and model.backbone.body.stem[1].eps == 0.0


def test_a_torchvision_name_is_resolved_and_downloads_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    state = torchvision.models.resnet18().state_dict()

    def download(self: object, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        asked.append(str(self))
        return dict(state)

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", download)
    network(backbone="resnet18")
    assert asked == []
    model: Any = network("IMAGENET1K_V1", backbone="resnet18")
    assert asked == ["ResNet18_Weights.IMAGENET1K_V1"]
    assert torch.equal(model.backbone.body.conv1.weight, state["conv1.weight"])


def test_builder_names_reach_the_detectors_and_the_bodys_weights() -> None:
    known = weights._named_weights(Architecture(detector="retinanet_resnet50_fpn"))
    assert str(known["COCO_V1"]) == "RetinaNet_ResNet50_FPN_Weights.COCO_V1"
    assert str(known["IMAGENET1K_V2"]) == "ResNet50_Weights.IMAGENET1K_V2"


def test_a_failed_download_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(self: object, *args: Any, **kwargs: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(InputError, match="no route.*fetch https://"):
        network("ResNet18_Weights.DEFAULT", backbone="resnet18")


def test_a_missing_file_and_an_unknown_name_are_refused() -> None:
    with pytest.raises(InputError, match="does not exist"):
        network("nowhere/weights.pth")
    with pytest.raises(InputError, match="did you mean 'IMAGENET1K_V1'"):
        network("IMAGENET_V1", backbone="resnet18")


def test_a_file_that_matches_nothing_says_what_was_expected(tmp_path: Path) -> None:
    file = write(torchvision.models.resnet18().state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"matches no parameter.*expected stem.0.weight \(16, 3, 3, 3\).*the file has"):
        network(file)


def test_an_incomplete_file_is_refused(tmp_path: Path) -> None:
    state: dict[str, Tensor] = dict(network().backbone.body.state_dict())  # type: ignore[union-attr]
    del state["stem.0.weight"]
    with pytest.raises(InputError, match="lacks 1 of .*expected stem.0.weight"):
        network(write(state, tmp_path / "w.pth"))


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    file = write(to_torchvision(network(channels=16)).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="another shape.*expected"):
        network(file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, suffix: str) -> None:
    file = write(to_torchvision(network()).state_dict(), tmp_path / f"w{suffix}")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        network(file)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="holds no state dict"):
        network(tmp_path / "w.pth")
