from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights, retinanet_resnet50_fpn

import incdet
from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.importing import import_state, load_detector
from incdet.network.retinanet import ImageBatch, IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.vocab import Vocabulary

NAMES = ["__background__", "cat", "dog"]


def theirs(**changes: Any) -> Any:
    """A plain torchvision RetinaNet with a tiny body and K = 3 columns."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"backbone": "tiny", "channels": 8, "tower_depth": 1, **changes}
    model = IncrementalRetinaNet(Architecture(**settings), Vocabulary((("a", "b", "c"),)))
    for parameter in model.class_head.predictors.parameters():
        nn.init.normal_(parameter, std=0.3)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # its statistics are those of the next batch: else deep features of random weights vanish
    model.dense(ImageBatch(torch.randn(4, 3, 256, 256), [], [], None))
    for norm in norms:
        norm.momentum = 0.1
    return to_torchvision(model).eval()


@torch.no_grad()
def detect(model: Any) -> list[dict[str, Tensor]]:
    model.transform.min_size = (192,)
    found: list[dict[str, Tensor]] = model([torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))])
    return found


def same_detections(mine: Any, plain: Any) -> None:
    """``mine`` has no column for the background, the first of ``plain``."""
    nn.init.constant_(plain.head.classification_head.cls_logits.bias.view(-1, 3)[:, 0], -1000.0)
    found, wanted = detect(mine)[0], detect(plain)[0]
    assert len(found["labels"]) > 5 and torch.equal(found["labels"] + 1, wanted["labels"])
    torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=1e-5, atol=1e-3)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def old_towers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of torchvision before 0.13."""
    return {key.replace("conv.0.0.", "conv.0."): value for key, value in state.items()}


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": dict,
    "old names": old_towers,
    "module.": partial(prefixed, "module."),
    "model.": lambda state: {"state_dict": {**prefixed("model.", state), "metric.total": torch.zeros(1)}, "epoch": 3},
    "model": lambda state: {"model": prefixed("module.model.", state), "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_state_dict_goes_in_however_it_is_wrapped(wrapping: str, tmp_path: Path) -> None:
    plain = theirs()
    torch.save(WRAPPINGS[wrapping](plain.state_dict()), tmp_path / "state.pth")
    found = import_state(tmp_path / "state.pth", "tiny", NAMES)
    assert found.vocab.steps == (("cat", "dog"),) and not found.training
    same_detections(found, plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm": "group"},
        {"norm": "batch"},
        {"frozen_norm": True},
        {"backbone": "resnet18", "pyramid": False, "anchor_sizes": ((32, 64, 128, 256, 512),), "channels": 512},
    ],
)
def test_norms_towers_and_bodies_are_read_from_the_tensors(changes: dict[str, Any], tmp_path: Path) -> None:
    plain = theirs(**changes)
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    found = load_detector(tmp_path / "model.safetensors", changes.get("backbone", "tiny"), NAMES)
    assert found.architecture.frozen_norm == changes.get("frozen_norm", False)
    assert found.architecture.norm == changes.get("norm")
    same_detections(found, plain)
    checkpoint.save(tmp_path / "checkpoint", found)
    same_detections(incdet.load_detector(tmp_path / "checkpoint"), plain)


def test_torchvisions_builder_with_one_class_learns_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=1)
    torch.save({"state_dict": prefixed("model.", plain.state_dict())}, tmp_path / "tree.pth")
    found = load_detector(tmp_path / "tree.pth", "retinanet_resnet50_fpn", ["Tree"])
    assert found.vocab.names == ("Tree",) and found.architecture.detector == "retinanet_resnet50_fpn"
    assert torch.equal(found.class_head.joined()[0], plain.head.classification_head.cls_logits.weight)
    assert found.architecture.trainable_layers == 3
    with pytest.raises(InputError, match="arch: is not given.*give --arch retinanet_resnet50_fpn$"):
        load_detector(tmp_path / "tree.pth", classes=["Tree"])


def test_torchvisions_weights_come_by_name_from_the_hubs_folder_or_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*args: Any, **settings: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(InputError, match=r"COCO_V1: weights: cannot be downloaded .*no network.* -> fetch https"):
        load_detector("retinanet_resnet50_fpn:COCO_V1")
    plain = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    file = Path(RetinaNet_ResNet50_FPN_Weights.COCO_V1.url).name
    state = {key: value for key, value in plain.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "hub" / "checkpoints" / file)
    found = load_detector("retinanet_resnet50_fpn:COCO_V1")
    assert len(found.vocab) == 80 and found.vocab.names[:2] == ("person", "bicycle")
    assert found.architecture.norm_eps == 0.0 and found.architecture.frozen_norm
    column = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"].index("toothbrush")
    theirs = plain.head.classification_head.cls_logits.weight.view(9, 91, 256, 3, 3)[:, column]
    assert torch.equal(found.class_head.class_weights()[0][:, found.vocab.column("toothbrush")], theirs)


def without(*parts: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {key: value for key, value in state.items() if not any(part in key for part in parts)}


@pytest.mark.parametrize(
    ("change", "arch", "classes", "message"),
    [
        (dict, "resnet18", NAMES, r"resnet18: does not fit: backbone\S+ is \(8, 48, 1, 1\), .* -> give --arch tiny"),
        (dict, "tiny", None, "classes: has 3 columns, the names are none -> give 3 .--classes-known., with -"),
        (dict, "tiny", ["cat", "dog"], "has 3 columns, the names are 2"),
        (dict, "tiny", "abc", "the names are 'abc'"),
        (dict, "tiny", ["-"] * 3, "class vocabulary: step 1: has no class"),
        (dict, "tinny", NAMES, "arch tinny: is unknown -> did you mean 'tiny'"),
        (dict, None, NAMES, "arch: is not given.*give --arch tiny"),
        (without("stage5"), "tiny", NAMES, r"backbone.body.stage5.0.weight is missing; .* -> load it"),
        (without("cls_logits"), "tiny", NAMES, "holds no torchvision RetinaNet"),
        (lambda state: {**state, "extra": torch.ones(1)}, "tiny", NAMES, "does not fit: extra is unknown"),
        (without("."), "tiny", NAMES, "holds no state dict"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused_with_what_differs_and_what_fits(
    change: Callable[[dict[str, Tensor]], Any], arch: str, classes: list[str], message: str, tmp_path: Path
) -> None:
    torch.save(change(theirs().state_dict()), tmp_path / "state.pth")
    with pytest.raises(InputError, match=message):
        load_detector(tmp_path / "state.pth", arch, classes)


def test_other_anchors_cannot_be_told_from_tensors(tmp_path: Path) -> None:
    torch.save(theirs(anchor_sizes=((16, 20),) * 5).state_dict(), tmp_path / "state.pth")
    with pytest.raises(InputError, match=r"bias has 24 values.*use incdet.from_torchvision"):
        load_detector(tmp_path / "state.pth", "tiny", NAMES)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save(theirs(), tmp_path / "model.pth")
    with pytest.raises(InputError, match="cannot be read.*tensors only"):
        load_detector(tmp_path / "model.pth", "tiny", NAMES)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("retinanet_resnet50:COCO_V1", "builder retinanet_resnet50: is unknown -> did you mean"),
        ("retinanet_resnet50_fpn:COCO_V7", "no torchvision weights of retinanet_resnet50_fpn -> did you mean"),
        ("nowhere", "does not exist"),
    ],
)
def test_an_unknown_name_is_refused(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_detector(spec)


def test_a_checkpoint_knows_its_own_classes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = ((16,), (32,))
    model = IncrementalRetinaNet(Architecture(backbone="tiny", anchor_sizes=sizes), Vocabulary((("cat",),)))
    checkpoint.save(tmp_path, model)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert load_detector(path).vocab == model.vocab
    for given in ({"arch": "tiny"}, {"classes": ["cat"]}):
        with pytest.raises(InputError, match="only a state dict needs it"):
            load_detector(tmp_path, **given)
