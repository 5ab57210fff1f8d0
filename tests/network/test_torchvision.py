from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from helpers import network, pictures
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, fcos_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.misc import FrozenBatchNorm2d

from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import from_torchvision, to_torchvision
from incdet.vocab import Vocabulary

NAMES = ["a", None, "b", "c", None]
KEPT = [0, 2, 3]


def images() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3, 64, 48), torch.rand(3, 40, 64)]


def lively(model: nn.Module, drop: list[int]) -> Any:
    """Predictors with detections for every column but ``drop``."""
    torch.manual_seed(0)
    logits: Any = model.head.classification_head.cls_logits  # type: ignore[union-attr]
    nn.init.normal_(logits.weight, std=0.3)
    nn.init.zeros_(logits.bias)
    columns = logits.bias.data.view(-1, len(NAMES))
    columns[:, drop] = -1000.0
    return model.eval()


def small_resnet(norm: Callable[..., nn.Module] | None = None, loss: str = "l1", **settings: Any) -> Any:
    """A plain torchvision RetinaNet that incdet has no name for: two levels from other layers than ours."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=settings.pop("body_norm", nn.BatchNorm2d),
        trainable_layers=2,
        returned_layers=[1],
    )
    generator = AnchorGenerator(((16, 24), (32, 48)), ((0.5, 1.0),) * 2)
    head = RetinaNetHead(256, 4, len(NAMES), norm_layer=norm)
    head.regression_head._loss_type = loss
    return lively(
        RetinaNet(backbone, len(NAMES), anchor_generator=generator, head=head, min_size=48, max_size=64, **settings),
        [1, 4],
    )


def same_detections(ours: list[dict[str, Tensor]], theirs: list[dict[str, Tensor]], columns: list[int]) -> None:
    """``columns`` are the labels of ``theirs`` in the order of ours."""
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine["boxes"]) > 5
        assert torch.equal(torch.tensor(columns)[mine["labels"]], other["labels"])
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def detect(model: Any) -> list[dict[str, Tensor]]:
    found: list[dict[str, Tensor]] = model(images())
    return found


@pytest.mark.parametrize("builder", [retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2])
def test_torchvisions_builders_go_in_and_out_with_equal_detections(builder: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    plain = builder(weights=None, weights_backbone=None, num_classes=len(NAMES), min_size=64, max_size=64)
    plain = lively(plain, [1, 4])
    ours = from_torchvision(plain, NAMES)
    assert ours.architecture.detector == builder.__name__
    assert ours.vocab.steps == (("a", "b", "c"),)
    expected = detect(plain)
    same_detections(detect(ours), expected, KEPT)
    same_detections(detect(to_torchvision(ours)), expected, KEPT)


@pytest.mark.parametrize("norm", [None, partial(nn.GroupNorm, 8), nn.BatchNorm2d])
def test_any_backbone_is_kept_as_a_module(norm: Callable[..., nn.Module] | None, tmp_path: Path) -> None:
    plain = small_resnet(norm, loss="giou", score_thresh=0.2, detections_per_img=20, topk_candidates=50)
    ours = from_torchvision(plain, NAMES)
    assert ours.architecture.backbone == "external"
    same_detections(detect(ours), detect(plain), KEPT)
    checkpoint.save(tmp_path, ours)
    with pytest.raises(InputError, match="external backbone"):
        checkpoint.load(tmp_path)
    fresh = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=2, returned_layers=[1]
    )
    loaded = checkpoint.load(tmp_path, backbone=fresh).model
    assert torch.equal(detect(loaded)[0]["boxes"], detect(ours)[0]["boxes"])
    assert loaded.trainable_names() == ours.trainable_names()


def test_the_model_that_was_given_stays_untouched() -> None:
    plain = small_resnet()
    before = copy.deepcopy(plain.state_dict())
    ours = from_torchvision(plain, NAMES)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())


def test_mode_trainable_set_and_frozen_norm_come_along() -> None:
    plain = small_resnet(body_norm=FrozenBatchNorm2d).train()
    ours = from_torchvision(plain, NAMES)
    assert ours.training and ours.architecture.frozen_norm and ours.architecture.norm_module == "frozen"
    learning = {name for name, parameter in plain.backbone.named_parameters() if parameter.requires_grad}
    assert {name[9:] for name in ours.trainable_names() if name.startswith("backbone.")} == learning
    assert len(learning) < len(list(plain.backbone.parameters()))


def grown(**changes: Any) -> IncrementalRetinaNet:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"anchor_sizes": ((16, 24), (32, 48)), "channels": 8, "tower_depth": 2, "min_size": 48}
    recipe = Architecture(backbone="tiny", max_size=64, **{**settings, **changes})
    model = IncrementalRetinaNet(recipe, Vocabulary((("a", "b"),)))
    model.grow(["c"])
    model.grow(["d", "e", "f"])
    for parameter in model.class_head.predictors.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.train()(images(), [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([5])}] * 2)
    return model.eval()


@pytest.mark.parametrize("changes", [{}, {"norm": "group", "box_loss": "giou", "fg_iou": 0.6}, {"norm": "batch"}])
def test_a_grown_network_fuses_into_plain_torchvision_and_comes_back(changes: dict[str, Any]) -> None:
    model = grown(**changes)
    plain: Any = to_torchvision(model)
    expected = detect(model)
    same_detections(detect(plain), expected, list(range(6)))
    back = from_torchvision(plain, model.vocab.names)
    same_detections(detect(back), expected, list(range(6)))
    assert back.architecture.backbone == "tiny" and back.architecture.decisive() == {
        **model.architecture.decisive(),
        "norm_eps": 1e-5,
        "norm_groups": back.architecture.norm_groups,
    }
    assert (
        back.architecture.fg_iou == model.architecture.fg_iou
        and back.architecture.box_loss == model.architecture.box_loss
    )


def test_the_plain_model_holds_nothing_of_incdet() -> None:
    plain = to_torchvision(grown())
    assert type(plain) is RetinaNet
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    assert b"incdet" not in buffer.getvalue()


def test_frozen_norm_stays_frozen_in_the_plain_model() -> None:
    model = grown()
    model.freeze_norm()
    plain = to_torchvision(model)
    same_detections(detect(plain), detect(model), list(range(6)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in plain.modules())
    assert isinstance(model.backbone.body.stem[1], nn.BatchNorm2d)  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b"], "names 2 of 2 columns, the model has 5"),
        ([None] * 5, "names 0 of 5"),
        (["a", "b", "c", "a", None], "already known"),
    ],
)
def test_names_must_fit_the_columns(names: list[str | None], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_torchvision(small_resnet(), names)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (partial(fcos_resnet50_fpn, weights=None, weights_backbone=None), "FCOS: is not a torchvision RetinaNet"),
        (partial(small_resnet, loss="ciou"), "is 'ciou'"),
        (partial(small_resnet, nn.InstanceNorm2d), "InstanceNorm2d"),
        (torchvision.models.resnet18, "ResNet: is not"),
    ],
)
def test_other_detectors_are_refused(model: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_torchvision(model(), NAMES)


class OwnThreshold(RetinaNet):  # type: ignore[misc]
    def postprocess_detections(self, *args: Any) -> Any:
        return super().postprocess_detections(*args)


class OwnTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    def normalize(self, image: Tensor) -> Tensor:
        return image


class OwnAnchors(AnchorGenerator):  # type: ignore[misc]
    def grid_anchors(self, *args: Any) -> Any:
        return super().grid_anchors(*args)


class OwnConstructor(RetinaNet):  # type: ignore[misc]
    """Does what torchvision's own does."""

    def __init__(self) -> None:
        body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, returned_layers=[1], trainable_layers=1)
        generator = AnchorGenerator(((16,), (32,)), ((1.0,),) * 2)
        super().__init__(body, 2, anchor_generator=generator, min_size=48, max_size=64)

    def names(self) -> list[str]:
        return ["a", "b"]


def become(kind: type, part: str = "") -> Callable[[Any], None]:
    def change(plain: Any) -> None:
        (getattr(plain, part) if part else plain).__class__ = kind

    return change


def own_method(plain: Any) -> None:
    plain.postprocess_detections = lambda *args: []


def own_cells(plain: Any) -> None:
    plain.anchor_generator.cell_anchors = [cells * 1.5 for cells in plain.anchor_generator.cell_anchors]


def own_weights(plain: Any) -> None:
    plain.box_coder.weights = (10.0, 10.0, 5.0, 5.0)


def own_matcher(plain: Any) -> None:
    plain.proposal_matcher.allow_low_quality_matches = False


def own_box_tower(plain: Any) -> None:
    plain.head.regression_head.conv = plain.head.regression_head.conv[:2]


def own_predictor(plain: Any) -> None:
    plain.head.classification_head.cls_logits = nn.Conv2d(256, 4 * len(NAMES), 1)


def own_towers(plain: Any) -> None:
    for part in (plain.head.classification_head, plain.head.regression_head):
        part.conv[0][0] = nn.Conv2d(256, 256, 3, padding=2, dilation=2)


def hooked(plain: Any) -> None:
    plain.head.register_forward_hook(lambda *args: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (become(OwnThreshold), "model: OwnThreshold has its own postprocess_detections"),
        (become(OwnTransform, "transform"), "transform: OwnTransform has its own normalize"),
        (become(OwnAnchors, "anchor_generator"), "anchor_generator: OwnAnchors has its own grid_anchors"),
        (own_method, "model: RetinaNet has its own postprocess_detections"),
        (own_cells, "cell anchors that do not follow"),
        (own_weights, "weights .10.0, 10.0, 5.0, 5.0."),
        (own_matcher, "without an anchor"),
        (own_box_tower, "towers: of classes and of boxes differ"),
        (own_predictor, "cls_logits: is Conv2d.*use a 3x3"),
        (own_towers, "tower: is Sequential"),
        (hooked, "head: has forward hooks"),
        (lambda plain: plain.double(), "are float64 -> call model.float"),
        (lambda plain: plain.requires_grad_(False), "all frozen: after an increment the new predictor alone"),
    ],
)
def test_what_cannot_be_carried_is_refused_with_the_reason(change: Callable[[Any], object], message: str) -> None:
    plain = small_resnet()
    change(plain)
    with pytest.raises(InputError, match=message):
        from_torchvision(plain, NAMES)


def test_a_subclass_that_only_builds_itself_is_carried() -> None:
    plain = OwnConstructor().eval()
    ours = from_torchvision(plain, plain.names())
    plain.score_thresh = ours.score_thresh = 0.0
    for mine, other in zip(detect(ours), detect(plain), strict=True):
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-5, atol=1e-4)


def test_which_tensor_of_the_predictor_learns_comes_along() -> None:
    plain = small_resnet()
    plain.head.classification_head.cls_logits.bias.requires_grad_(False)
    names = from_torchvision(plain, NAMES).trainable_names()
    assert "class_head.predictors.0.weight" in names and "class_head.predictors.0.bias" not in names


def test_a_string_is_no_list_of_classes() -> None:
    with pytest.raises(InputError, match="is the string 'abcde'"):
        from_torchvision(small_resnet(), "abcde")


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_a_body_without_a_pyramid_as_in_torchvisions_documentation_is_known_by_name(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    body: Any = torchvision.models.get_model(name, weights=None)
    body = body.features if name == "mobilenet_v2" else nn.Sequential(*list(body.children())[:-2])
    body.out_channels = 1280 if name == "mobilenet_v2" else 512
    generator = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    plain = RetinaNet(body, len(NAMES), anchor_generator=generator, min_size=64, max_size=64)
    plain = lively(plain, [1, 4])
    ours = from_torchvision(plain, NAMES)
    assert (ours.architecture.backbone, ours.architecture.pyramid) == (name, False)
    checkpoint.save(tmp_path, ours)
    loaded = checkpoint.load(tmp_path).model
    for model in (ours, loaded):
        same_detections(detect(model), detect(plain), KEPT)
    same_detections(detect(to_torchvision(loaded)), detect(ours), [0, 1, 2])


def test_torchvisions_head_puts_earlier_classes_first_when_it_detects() -> None:
    model = network(("a", "b"), ("c",), precedence=1.0, score_thresh=0.005, detections_per_img=3000)
    model.architecture = model.eval().architecture.changed(topk_candidates=10000)
    plain, silent = to_torchvision(model), copy.deepcopy(model)
    silent.architecture = model.architecture.changed(precedence=0.0)
    for image in pictures():
        (mine,), (other,), (before,) = model([image]), plain([image]), silent([image])
        assert mine["labels"].tolist() == other["labels"].tolist()
        torch.testing.assert_close(mine["scores"], other["scores"])
        highest = [found["scores"][found["labels"] == 2].max() for found in (mine, before)]
        assert highest[0] < highest[1]
        for column in (0, 1):
            old = [found["scores"][found["labels"] == column] for found in (mine, before)]
            assert torch.equal(*old)
    truth = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([2])}] * 2
    losses = [one.train()(pictures(), truth)["classification"] for one in (plain, to_torchvision(silent))]
    assert torch.equal(*losses)
