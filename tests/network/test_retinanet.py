from __future__ import annotations

import copy
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from incdet.config.architecture import Architecture
from incdet.errors import InputError
from incdet.network.retinanet import CACHED_SHAPES, HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.ops.assign import assign
from incdet.vocab import Vocabulary

SMALL: dict[str, Any] = {
    "backbone": "tiny",
    "channels": 8,
    "tower_depth": 1,
    "anchor_sizes": ((12, 16), (24, 32)),
    "min_size": (48,),
    "max_size": 64,
}


def network(*steps: tuple[str, ...], seed: int = 0, **changes: Any) -> IncrementalRetinaNet:
    torch.manual_seed(seed)
    model = IncrementalRetinaNet(Architecture(**{**SMALL, **changes}), Vocabulary(steps or (("a", "b"), ("c",))))
    for parameter in model.class_head.predictors.parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=0.3)
    return model


def images(count: int = 2) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3, 48 + 8 * index, 64) for index in range(count)]


def targets(*labels: list[int]) -> list[dict[str, Tensor]]:
    """One image for each list, with a box for each of its labels."""
    box = torch.tensor([[5.0, 6.0, 25.0, 30.0], [30.0, 10.0, 46.0, 24.0], [2.0, 2.0, 40.0, 44.0]])
    return [{"boxes": box[: len(row)], "labels": torch.tensor(row, dtype=torch.int64)} for row in labels]


def descend(found: dict[str, Tensor]) -> None:
    torch.autograd.backward(list(found.values()))


def losses(model: nn.Module, batch: list[Tensor], truth: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = model.train()(batch, truth)
    return found


def test_anchors_are_matched_by_the_detectors_own_thresholds() -> None:
    model = network(fg_iou=0.7, bg_iou=0.3)
    prepared = model.prepare(images(), targets([0, 2], [1]))
    outputs, truth = model.dense(prepared), prepared.targets or []
    found = model.match(outputs, truth)
    assert torch.equal(found.matched, assign(truth, outputs.anchors, high=0.7, low=0.3).matched)
    assert not torch.equal(found.matched, assign(truth, outputs.anchors).matched)
    static = model.match(outputs.anchors, truth, static=True)
    assert static.mask is not None and torch.equal(static.matched, found.matched)


@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("labels", [([0, 2], [1]), ([1], []), ([], [])])
def test_losses_and_gradients_equal_torchvisions(kind: str, labels: tuple[list[int], ...]) -> None:
    model = network(box_loss=kind, frozen_norm=True)
    plain = to_torchvision(model)
    ours = losses(model, images(), targets(*labels))
    theirs = losses(plain, images(), targets(*labels))
    assert ours.keys() == theirs.keys() == {"classification", "bbox_regression"}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)
    descend(ours)
    descend(theirs)
    other = dict(plain.named_parameters())
    for name, parameter in model.backbone.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, other[f"backbone.{name}"].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("levels", [2, 5])
def test_detections_equal_torchvisions(levels: int) -> None:
    sizes = tuple((12 * 2**level, 16 * 2**level) for level in range(levels))
    model = network(anchor_sizes=sizes, score_thresh=0.01).eval()
    plain = to_torchvision(model)
    with torch.no_grad():
        ours, theirs = model(images()), plain(images())
    assert isinstance(ours, list)
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine["boxes"]) > 0
        assert torch.equal(mine["labels"], other["labels"])
        torch.testing.assert_close(mine["boxes"], other["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(mine["scores"], other["scores"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("levels", [2, 5])
@pytest.mark.parametrize("kind", ["l1", "giou"])
@pytest.mark.parametrize("labels", [([], []), ([0, 2], []), ([1], [2])])
def test_every_trainable_parameter_has_a_gradient(labels: tuple[list[int], ...], kind: str, levels: int) -> None:
    sizes = tuple((12 * 2**level,) for level in range(levels))
    model = network(anchor_sizes=sizes, box_loss=kind)
    descend(losses(model, images(), targets(*labels)))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()), name


def test_uncovered_columns_get_a_zero_gradient_but_keep_their_path() -> None:
    model = network()
    truth = targets([2], [2])
    for target in truth:
        target["coverage"] = torch.tensor([False, False, True])
    descend({"classification": losses(model, images(), truth)["classification"]})
    old, new = (next(predictor.parameters()).grad for predictor in model.class_head.predictors)
    assert old is not None and not old.any()
    assert new is not None and bool(new.any())


def test_a_target_without_coverage_covers_everything() -> None:
    model, truth = network(), targets([0], [2])
    expected = losses(model, images(), truth)["classification"]
    truth[0]["coverage"] = torch.ones(3, dtype=torch.bool)
    assert torch.equal(losses(model, images(), truth)["classification"], expected)


def test_growth_keeps_old_logits_bit_equal() -> None:
    model = network().eval()
    prepared = model.prepare(images())
    before = model(prepared)
    model.grow(["d", "e"])
    after = model(prepared)
    assert model.vocab.steps == (("a", "b"), ("c",), ("d", "e"))
    assert after.logits.shape[-1] == 5
    assert torch.equal(after.logits[..., :3], before.logits)
    assert torch.equal(after.deltas, before.deltas)


def test_a_known_class_is_refused_and_changes_nothing() -> None:
    model = network()
    with pytest.raises(InputError, match="already known"):
        model.grow(["d", "a"])
    assert len(model.vocab) == 3 and len(model.class_head.predictors) == 2


def test_frozen_norm_survives_train() -> None:
    model = network()
    model.freeze_norm()
    state = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    model.train()
    losses(model, images(), targets([0], [1]))
    assert state and all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(not module.training and not module.weight.requires_grad for module in norms)
    assert model.training and model.architecture.frozen_norm


def test_live_norm_learns_while_training() -> None:
    model = network()
    before = model.state_dict()["backbone.body.stem.1.running_mean"].clone()
    losses(model, images(), targets([0], [1]))
    assert not torch.equal(model.state_dict()["backbone.body.stem.1.running_mean"], before)


def test_frozen_stages_leave_the_trainable_set() -> None:
    model = network()
    everything = model.trainable_names()
    assert everything == [name for name, _ in model.named_parameters()]
    model.freeze_stages(2)
    gone = set(everything) - set(model.trainable_names())
    assert gone == {name for name in everything if name.startswith(("backbone.body.stem", "backbone.body.stage2"))}
    assert model.architecture.trainable_layers == 2
    with pytest.raises(ValueError, match="4 stages"):
        model.freeze_stages(5)


def test_anchors_are_float32_under_autocast_and_made_once() -> None:
    model = network(anchor_sizes=((12, 15), (24, 31)))
    prepared = model.prepare(images())
    with torch.autocast("cpu", torch.bfloat16):
        low = model.dense(prepared)
    full = model.dense(prepared)
    assert low.logits.dtype == torch.bfloat16
    assert low.anchors.dtype == torch.float32
    assert low.anchors is full.anchors
    theirs: Any = to_torchvision(model)
    image_list, _ = theirs.transform(images())
    assert torch.equal(full.anchors, theirs.anchor_generator(image_list, full.features)[0])


def test_losses_are_float32_under_autocast() -> None:
    model = network()
    with torch.autocast("cpu", torch.bfloat16):
        low = losses(model, images(), targets([0], [1]))
    assert all(value.dtype == torch.float32 for value in low.values())


def test_anchors_made_in_inference_mode_can_be_trained_with() -> None:
    model = network(box_loss="giou")
    with torch.inference_mode():
        model.eval()(images())
    descend(losses(model, images(), targets([0], [1])))


def test_the_anchor_cache_is_bounded() -> None:
    model = network().eval()
    for side in range(2 * CACHED_SHAPES):
        model.anchors((32 + side, 32), [(4, 4), (2, 2)])
    assert len(model._anchors) == CACHED_SHAPES


def test_threads_share_one_model_whatever_shapes_they_ask_for() -> None:
    model = network().eval()
    shapes = [(32 + side, 32) for side in range(CACHED_SHAPES + 8)]
    grids = [(1, 1)] * 2
    wanted = {shape: network().anchors(shape, grids) for shape in shapes}
    batches = [[torch.rand(3, 48, 64)], [torch.rand(3, 48, 48), torch.rand(3, 48, 40)]]
    with torch.no_grad():
        expected = [model(batch) for batch in batches]

    def ask(seed: int) -> None:
        for shape in random.Random(seed).choices(shapes, k=6000):
            assert torch.equal(model.anchors(shape, grids), wanted[shape])
        with torch.no_grad():
            found = model(batches[seed % 2])
        for image, other in zip(found, expected[seed % 2], strict=True):
            assert all(torch.equal(image[key], other[key]) for key in other)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
    finally:
        sys.setswitchinterval(interval)
    assert len(model._anchors) <= CACHED_SHAPES


def test_prepare_is_torchvisions_transform_and_keeps_other_keys() -> None:
    model = network()
    truth: list[dict[str, Any]] = [{**target, "image_id": 7} for target in targets([0, 2], [])]
    boxes = truth[0]["boxes"].clone()
    prepared = model.prepare(images(), truth)
    recipe = model.architecture
    transform = GeneralizedRCNNTransform(48, 64, list(recipe.image_mean), list(recipe.image_std))
    batch, resized = transform(images(), targets([0, 2], []))
    assert torch.equal(prepared.images, batch.tensors)
    assert prepared.image_sizes == batch.image_sizes
    assert prepared.original_sizes == [(48, 64), (56, 64)]
    assert prepared.targets is not None and prepared.targets[0]["image_id"] == 7
    assert torch.equal(prepared.targets[0]["boxes"], resized[0]["boxes"])
    assert torch.equal(truth[0]["boxes"], boxes)


def test_teacher_and_student_share_one_draw_of_the_scale() -> None:
    model = network(min_size=(32, 40, 48, 56)).train()
    batch = images(1)
    prepared = model.prepare(batch)
    assert len({model.prepare(batch).image_sizes[0] for _ in range(20)}) > 1
    assert copy.deepcopy(model)(prepared).logits.shape == model(prepared).logits.shape


@pytest.mark.parametrize(
    ("changes", "shape"), [({"fixed_size": (64, 32)}, (32, 64)), ({"skip_resize": True}, (64, 64))]
)
def test_resizing_rules_are_torchvisions(changes: dict[str, Any], shape: tuple[int, int]) -> None:
    prepared = network(**changes).train().prepare([torch.rand(3, 50, 60)])
    assert tuple(prepared.images.shape[-2:]) == shape


def test_detections_come_back_in_original_pixels() -> None:
    model = network(score_thresh=0.01).eval()
    prepared = model.prepare([torch.rand(3, 96, 120)])
    dense = model(prepared)
    inside = model.postprocess(dense, prepared.image_sizes)[0]["boxes"]
    outside = model.detections(dense, prepared)[0]["boxes"]
    scale = torch.tensor([120.0, 96.0]) / torch.tensor([float(side) for side in prepared.image_sizes[0][::-1]])
    torch.testing.assert_close(outside, inside * scale.repeat(2))


def test_a_higher_threshold_returns_fewer_detections() -> None:
    model = network(score_thresh=0.01).eval()
    prepared = model.prepare(images(1))
    dense = model(prepared)
    every = model.postprocess(dense, prepared.image_sizes)[0]["scores"]
    cut = float(every.median())
    some = model.postprocess(dense, prepared.image_sizes, score_thresh=cut)[0]["scores"]
    assert 0 < len(some) < len(every) and float(some.min()) > cut


def bad(**changes: Any) -> list[dict[str, Any]]:
    target: dict[str, Any] = {"boxes": torch.tensor([[5.0, 6.0, 25.0, 30.0]]), "labels": torch.tensor([0])}
    return [{**target, **changes}]


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (bad(boxes=torch.tensor([[5.0, 6.0, 5.0, 30.0]])), r"image 0: box 0 is \[5.0, 6.0, 5.0, 30.0\]"),
        (bad(boxes=torch.tensor([[5.0, 6.0, float("nan"), 30.0]])), "box 0"),
        (bad(boxes=torch.tensor([[5.0, 6.0, float("inf"), 30.0]])), "box 0"),
        (bad(boxes=[[5.0, 6.0, 25.0, 30.0]]), "boxes are list"),
        (bad(boxes=torch.zeros(4)), r"boxes are \(4,\)"),
        (bad(labels=torch.tensor([-1])), "label 0 is -1.*columns 0 to 2"),
        (bad(labels=torch.tensor([3])), "label 0 is 3.*columns 0 to 2"),
        (bad(labels=torch.tensor([0], dtype=torch.int32)), "labels are torch.int32"),
        (bad(labels=torch.tensor([0, 1])), r"labels are torch.int64 \(2,\)"),
        ([{"boxes": torch.zeros(0, 4)}], "labels are NoneType"),
        ([], "0 targets for 1 images"),
    ],
)
def test_invalid_targets_are_refused_in_words(truth: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network().train()(images(1), truth)


def test_training_needs_targets_and_evaluation_does_not() -> None:
    model = network()
    with pytest.raises(InputError, match="while training"):
        model.train()(images())
    found = model.eval()(images())
    assert isinstance(found, list) and [set(image) for image in found] == [{"boxes", "scores", "labels"}] * 2


def test_images_of_other_types_are_refused_and_uint8_is_taken_as_256_levels() -> None:
    model = network()
    with pytest.raises(InputError, match=r"image 1.*int32.*uint8 in 0\.\.255"):
        model.eval()([torch.zeros(3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.int32)])
    levels = torch.randint(0, 256, (3, 48, 64), dtype=torch.uint8)
    floats = model.prepare([levels / 255]).images
    assert torch.equal(model.prepare([levels]).images, floats)
    assert torch.equal(model.prepare(levels[None]).images, floats)


def test_a_prepared_batch_gives_dense_outputs_of_the_stated_shapes() -> None:
    model = network()
    prepared = model.prepare(images())
    assert isinstance(prepared, ImageBatch) and prepared.images.shape == (2, 3, 64, 64)
    dense = model(prepared)
    anchors = (8 * 8 + 4 * 4) * 2 * 3
    assert dense.logits.shape == (2, anchors, 3)
    assert dense.deltas.shape == (2, anchors, 4)
    assert dense.anchors.shape == (anchors, 4)
    assert [tuple(feature.shape) for feature in dense.features] == [(2, 8, 8, 8), (2, 8, 4, 4)]


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_normalised_towers_train(norm: str) -> None:
    model = network(norm=norm, tower_depth=2)
    descend(losses(model, images(), targets([0], [1])))
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("body", ["tiny", "resnet18", "mobilenet_v2"])
def test_a_stem_that_is_handed_over_changes_no_bit(body: str) -> None:
    student = network(backbone=body, channels=16, frozen_norm=True)
    student.freeze_stages(2)
    teacher = copy.deepcopy(student).eval().requires_grad_(False)
    assert student.train().has_stem and teacher.shares_stem(student) and student.shares_stem(teacher)
    prepared = student.prepare(images(), targets([0, 2], [1]))
    assert prepared.targets is not None
    shared = student.with_stem(prepared)
    assert prepared.stem is None and shared.stem is not None and not shared.stem.requires_grad
    assert student.with_stem(shared) is shared
    again, dense = student.dense(shared), student.dense(prepared)
    for mine, other in zip(tensors(again), tensors(dense), strict=True):
        assert torch.equal(mine, other)
    learning = [parameter for parameter in student.parameters() if parameter.requires_grad]
    found = [
        torch.autograd.grad(sum(student.compute_losses(one, prepared.targets).values(), torch.zeros(())), learning)
        for one in (again, dense)
    ]
    assert all(torch.equal(mine, other) for mine, other in zip(*found, strict=True))
    with torch.no_grad():
        handed, own = teacher.dense(shared), teacher.dense(prepared)
    assert all(torch.equal(a, b) for a, b in zip(tensors(handed), tensors(own), strict=True))


def tensors(dense: HeadOutputs) -> list[Tensor]:
    return [dense.logits, dense.deltas, *dense.features]


def test_the_pieces_of_a_batch_have_its_canvas_and_lose_no_image() -> None:
    model = network(backbone="resnet18", channels=16, frozen_norm=True)
    model.freeze_stages(2)
    whole = model.with_stem(model.prepare(images() + images(), [*targets([0, 2], [1]), *targets([], [1])]))
    for number, sizes in ((1, [4]), (2, [2, 2]), (3, [1, 1, 2]), (9, [1, 1, 1, 1])):
        pieces = whole.pieces(number)
        assert [len(piece.images) for piece in pieces] == sizes
        assert {piece.padded for piece in pieces} == {whole.padded}
        for name in ("images", "stem"):
            assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name))
        for name in ("image_sizes", "original_sizes"):
            assert [one for piece in pieces for one in getattr(piece, name)] == getattr(whole, name)
        found = [one for piece in pieces for one in piece.targets or []]
        assert all(mine is other for mine, other in zip(found, whole.targets or [], strict=True))
    bare = model.prepare(images())
    assert all(piece.targets is None and piece.stem is None for piece in bare.pieces(2))


@pytest.mark.parametrize("body", ["tiny", "resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("external", [False, True])
def test_the_grids_and_anchors_of_a_batch_are_known_before_its_forward(body: str, external: bool) -> None:
    model = network(backbone=body, channels=16)
    if external:
        recipe = model.architecture.changed(backbone="external")
        model = IncrementalRetinaNet(recipe, model.vocab, backbone=model.backbone)
    before = {name: value.clone() for name, value in model.train().state_dict().items()}
    for canvas in ((64, 64), (64, 96), (96, 160)):
        batch = model.prepare(images(), canvas=canvas)
        grids, anchors = model.grids(batch), model.batch_anchors(batch)
        assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        with torch.no_grad():
            dense = copy.deepcopy(model).dense(batch)
        assert grids == [tuple(feature.shape[-2:]) for feature in dense.features]
        assert torch.equal(anchors, dense.anchors) and len(anchors) == dense.logits.shape[1]


def test_a_stem_equals_the_forward_without_one() -> None:
    """With a graph through the whole body, as torchvision runs it, outputs and gradients are the same bits."""
    model = network(backbone="resnet18", channels=16, frozen_norm=True)
    model.freeze_stages(2)
    plain = copy.deepcopy(model)
    plain.architecture = plain.architecture.changed(trainable_layers=5)
    assert model.has_stem and not plain.has_stem
    prepared = model.prepare(images(), targets([0], [1]))
    found = []
    for one in (model, plain):
        dense = one.dense(prepared)
        learning = [parameter for parameter in one.parameters() if parameter.requires_grad]
        total = sum(one.compute_losses(dense, prepared.targets or []).values(), torch.zeros(()))
        found.append([dense.logits, dense.deltas, *torch.autograd.grad(total, learning)])
    assert all(torch.equal(mine, other) for mine, other in zip(*found, strict=True))


def test_without_frozen_leading_modules_there_is_no_stem() -> None:
    free = network(frozen_norm=True)
    live = network()
    live.freeze_stages(2)  # weights are fixed, statistics are not
    for model in (free, live.train()):
        assert not model.has_stem and not model.shares_stem(model)
        batch = model.prepare(images())
        assert model.with_stem(batch) is batch
        with pytest.raises(ValueError, match="frozen as a whole"):
            model.dense(batch._replace(stem=batch.images))


def test_an_external_body_has_no_stem() -> None:
    built = network(frozen_norm=True)
    model = IncrementalRetinaNet(built.architecture.changed(backbone="external"), built.vocab, backbone=built.backbone)
    model.freeze_stages(2)
    assert not model.has_stem and model.with_stem(model.prepare(images())).stem is None


def test_images_that_learn_get_their_gradient_through_the_frozen_stages() -> None:
    model = network(frozen_norm=True)
    model.freeze_stages(2)
    prepared = model.prepare(images())
    prepared.images.requires_grad_()
    torch.autograd.backward(model.dense(prepared).logits.sum())
    assert prepared.images.grad is not None and bool(prepared.images.grad.any())


def test_the_stem_is_shared_only_where_every_bit_is() -> None:
    student = network(frozen_norm=True)
    student.freeze_stages(2)

    def other(name: str | None = None) -> IncrementalRetinaNet:
        model = copy.deepcopy(student)
        if name is not None:
            with torch.no_grad():
                model.state_dict()[name].add_(1e-6)
        return model

    assert other().shares_stem(student) and other("backbone.body.stage3.0.0.weight").shares_stem(student)
    assert not other("backbone.body.stem.0.weight").shares_stem(student)
    assert not other("backbone.body.stage2.1.running_var").shares_stem(student)
    shorter = network(frozen_norm=True)
    shorter.freeze_stages(1)
    assert shorter.has_stem and not shorter.shares_stem(student)
    epsilon: Any = other()
    epsilon.backbone.body.stem[1].eps = 0.5
    assert not epsilon.shares_stem(student)
    live = network()
    live.freeze_stages(2)
    live.load_state_dict(student.state_dict())
    # The arithmetic of a norm that is not folded rounds in another way.
    assert live.eval().has_stem and not live.shares_stem(student)
    live.freeze_norm()
    assert live.shares_stem(student)
