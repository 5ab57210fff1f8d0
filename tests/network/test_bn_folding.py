from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.misc import Conv2dNormActivation, FrozenBatchNorm2d

from incdet.config.architecture import Architecture
from incdet.network.backbones import BATCH_NORMS, build_backbone, freeze_first_stages
from incdet.network.bn_folding import (
    FOLDING,
    FoldedSequential,
    Folding,
    Folds,
    fold_norms,
    folded_once,
    is_frozen,
    unfold_norms,
)
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import to_torchvision
from incdet.vocab import Vocabulary

BODIES = ["tiny", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large"]
# Relative to the largest value of a tensor; found are 6e-15 and 3e-6.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def lively(root: nn.Module) -> nn.Module:
    """Norms that do something, and that are frozen."""
    norms: list[Any] = [module for module in root.modules() if isinstance(module, BATCH_NORMS)]
    for norm in norms:
        with torch.no_grad():
            norm.running_mean.normal_(0.0, 0.2)
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0.0, 0.2)
        norm.eval().requires_grad_(False)
    return root


def pair(name: str, norm_module: str = "batch", frozen_stages: int = 2) -> tuple[nn.Module, nn.Module]:
    """A backbone that learns behind its frozen stages, as it is and folded."""
    torch.manual_seed(0)
    plain = lively(build_backbone(Architecture(backbone=name, norm_module=norm_module, channels=16)))
    freeze_first_stages(plain, frozen_stages)
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    return plain, folded


def small() -> Any:
    """A convolution and a frozen norm, folded."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    fold_norms(lively(layer))
    assert isinstance(layer, Folding)
    return layer


def plain_of(module: nn.Module) -> Any:
    copied = copy.deepcopy(module)
    unfold_norms(copied)
    assert not any(isinstance(part, Folding) for part in copied.modules())
    return copied


def picture(dtype: torch.dtype = torch.float32, side: int = 64) -> Tensor:
    return torch.rand(2, 3, side, side, dtype=dtype, generator=torch.Generator().manual_seed(1))


def outputs(module: nn.Module, image: Tensor) -> list[Tensor]:
    return list(module(image).values())


def gradients(module: nn.Module, found: list[Tensor]) -> list[Tensor]:
    torch.manual_seed(2)
    loss = torch.stack([(value * torch.randn_like(value)).sum() for value in found]).sum()
    return list(torch.autograd.grad(loss, [value for value in module.parameters() if value.requires_grad]))


def gap(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float(((a - b).abs().max() / b.abs().max()).detach()) for a, b in zip(found, wanted, strict=True))


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    call()
    with Counter() as counter:
        call()
    return int(counter.operations)


@pytest.mark.parametrize("norm_module", ["batch", "frozen"])
@pytest.mark.parametrize("name", BODIES)
def test_outputs_and_gradients_equal_those_of_the_unfolded_network(name: str, norm_module: str) -> None:
    plain, folded = pair(name, norm_module)
    for dtype, tolerance in TOLERANCE.items():
        image = picture(dtype)
        wanted, found = outputs(plain.to(dtype), image), outputs(folded.to(dtype), image)
        assert gap(found, wanted) < tolerance
        assert gap(gradients(folded, found), gradients(plain, wanted)) < tolerance
        with torch.no_grad():
            assert gap(outputs(folded, image), wanted) < tolerance


@pytest.mark.parametrize("name", BODIES)
def test_names_parameters_and_text_stay(name: str) -> None:
    plain, folded = pair(name)
    before = pair(name)[0]
    kept = dict(before.named_parameters())
    fold_norms(before)
    assert all(kept[name] is value for name, value in before.named_parameters())
    assert list(folded.state_dict()) == list(plain.state_dict()) and repr(folded) == repr(plain)
    assert [p.requires_grad for p in folded.parameters()] == [p.requires_grad for p in plain.parameters()]
    for mine, other in zip(folded.modules(), plain.modules(), strict=True):
        assert isinstance(mine, type(other))
    unfold_norms(folded)
    assert [type(module) for module in folded.modules()] == [type(module) for module in plain.modules()]
    assert [sorted(module.__dict__) for module in folded.modules()] == [sorted(m.__dict__) for m in plain.modules()]


def test_a_forward_of_resnet50_in_training_has_less_than_a_third_of_the_operations() -> None:
    """Of 755 with FrozenBatchNorm2d and 278 with BatchNorm2d, 214 are left."""
    image = picture(side=32)
    for norm_module, share in (("frozen", 0.3), ("batch", 0.8)):
        plain, folded = pair("resnet50", norm_module)
        with folded_once(folded):
            assert operations(partial(folded, image)) <= share * operations(partial(plain, image))
    with folded_once(folded.eval()), torch.no_grad():
        # Only the convolutions, activations and sums; nothing is folded a second time.
        convolutions = sum(isinstance(module, nn.Conv2d) for module in folded.modules())
        assert operations(partial(folded, image)) < 2.5 * convolutions


@pytest.mark.parametrize("name", BODIES)
def test_every_norm_of_a_known_body_is_folded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = pair(name)[1]

    def refuse(norm: nn.Module, x: Tensor) -> Tensor:
        raise AssertionError("a norm was run")

    monkeypatch.setattr(nn.BatchNorm2d, "forward", refuse)
    folded(picture())


def test_a_live_norm_is_never_folded() -> None:
    live = build_backbone(Architecture(backbone="tiny", channels=8))
    fold_norms(live)
    assert not any(isinstance(module, Folding) for module in live.modules())
    woken = small()
    woken.train()
    assert not is_frozen(woken[1])
    before = woken[1].running_mean.clone()
    torch.testing.assert_close(woken(picture()), plain_of(woken)(picture()), rtol=0, atol=0)
    assert not torch.equal(woken[1].running_mean, before)
    learning = small()
    learning[1].requires_grad_(True)
    learning(picture()).sum().backward()
    assert learning[1].weight.grad is not None


def test_a_watched_or_replaced_convolution_keeps_its_output() -> None:
    layer = small()
    seen: list[Tensor] = []
    handle = layer[0].register_forward_hook(lambda module, args, output: seen.append(output))
    wanted = plain_of(layer)
    wanted[0]._forward_hooks.clear()
    torch.testing.assert_close(layer(picture()), wanted(picture()), rtol=0, atol=0)
    assert len(seen) == 1 and torch.equal(seen[0], wanted[0](picture()))
    handle.remove()
    layer[1] = nn.Identity()
    torch.testing.assert_close(layer(picture()), layer[0](picture()).relu(), rtol=0, atol=0)


def change_by_loading(layer: Any) -> None:
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()})


def change_by_assigning(layer: Any) -> None:
    layer.load_state_dict({name: value * 2 for name, value in layer.state_dict().items()}, assign=True)


def change_in_place(layer: Any) -> None:
    with torch.no_grad():
        layer[1].running_var.mul_(3.0)


def change_epsilon(layer: Any) -> None:
    layer[1].eps = 0.5


def change_data(layer: Any) -> None:
    for parameter in layer.parameters():
        # Twice, so that the second may come to lie where the first was.
        for _ in range(2):
            parameter.data = parameter.data * 2


def change_unseen(layer: Any) -> None:
    for parameter in layer.parameters():
        parameter.data.mul_(2)


def change_by_a_step_on_a_late_gradient(layer: Any) -> None:
    layer(picture()).square().sum().backward()
    layer.requires_grad_(False)
    with torch.no_grad():
        layer(picture())
    torch.optim.SGD(layer[:1].parameters(), lr=0.1, fused=True).step()


def change_by(kind: Callable[..., torch.optim.Optimizer], **settings: Any) -> Callable[[Any], None]:
    def change(layer: Any) -> None:
        learning = [parameter for parameter in layer.parameters() if parameter.requires_grad]
        optimizer = kind(learning, lr=0.1, **settings)
        layer(picture()).square().sum().backward()
        optimizer.step()

    return change


CHANGES = [
    change_by_loading,
    change_by_assigning,
    change_in_place,
    change_epsilon,
    change_data,
    change_unseen,
    change_by_a_step_on_a_late_gradient,
    change_by(torch.optim.SGD),
    change_by(torch.optim.SGD, fused=True),
    change_by(torch.optim.SGD, foreach=True),
    change_by(torch.optim.AdamW, fused=True),
    change_by(torch.optim.AdamW, foreach=True),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_folded_is_never_stale(change: Callable[[Any], None]) -> None:
    layer = small()
    layer(picture())
    with torch.no_grad():
        before = layer(picture())
    change(layer)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            after = layer(picture())
            assert not torch.allclose(before, after)
            torch.testing.assert_close(after, plain_of(layer)(picture()), rtol=1e-5, atol=1e-5)


def test_moving_to_another_dtype_and_back_gives_tensors_of_that_dtype() -> None:
    layer = small().requires_grad_(False)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float32):
        image = picture(dtype)
        assert layer.to(dtype)(image).dtype is dtype
        torch.testing.assert_close(layer(image), plain_of(layer)(image), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("learns", [True, False])
def test_autocast_computes_in_its_own_dtype_with_a_fold_in_float32(learns: bool) -> None:
    layer = small()
    layer[0].requires_grad_(learns)
    exact = layer(picture())
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            found = layer(picture())
            assert found.dtype is torch.bfloat16
            torch.testing.assert_close(found.float(), exact, rtol=2e-2, atol=2e-2)
        torch.testing.assert_close(layer(picture()), exact, rtol=0, atol=0)


def test_a_frozen_filter_is_folded_once_in_a_scope_and_dropped_by_train() -> None:
    layer = small().requires_grad_(False)
    image = picture().requires_grad_()
    folds: Any = layer._folds
    with folded_once(layer):
        # What is made in inference mode is used in training.
        with torch.inference_mode():
            layer(picture())
        with folded_once(layer), torch.no_grad():
            assert operations(partial(layer, image)) == 2  # the convolution and the activation
        layer(image).sum().backward()
        assert image.grad is not None and folds._made
        layer.train()
        assert not folds._made
        layer(image)
    assert not folds._made
    with torch.no_grad():
        assert operations(partial(layer, image)) > 2 and not folds._made


def ordinary(change: Callable[[Any], None]) -> bool:
    """Whether a change shows in the versions or the addresses of tensors."""
    return change is not change_unseen


@pytest.mark.parametrize("change", [change for change in CHANGES if ordinary(change)])
def test_ordinary_changes_are_seen_inside_a_scope_too(change: Callable[[Any], None]) -> None:
    layer = small()
    with folded_once(layer):
        layer(picture())
        with torch.no_grad():
            before = layer(picture())
        change(layer)
        with torch.no_grad():
            after = layer(picture())
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, plain_of(layer)(picture()), rtol=1e-5, atol=1e-5)


def test_filters_that_learn_are_kept_in_eval_mode_alone() -> None:
    layer, image = small(), picture()
    with folded_once(layer), torch.no_grad():
        assert operations(partial(layer, image)) > 2
        layer.eval()
        assert operations(partial(layer, image)) == 2


def test_a_copy_and_a_pickle_hold_no_folded_tensors() -> None:
    layer = small().eval()
    buffer = io.BytesIO()
    with folded_once(layer), torch.no_grad():
        expected = layer(picture())
        copied: Any = copy.deepcopy(layer)
        torch.save(layer, buffer)
    buffer.seek(0)
    stored: Any = torch.load(buffer, weights_only=False)
    for twin in (copied, stored):
        assert [type(twin), type(twin._folds)] == [FoldedSequential, Folds] and not twin._folds._scopes
        with torch.no_grad():
            twin[0].weight.mul_(2)
            assert not torch.equal(twin(picture()), expected)
            assert torch.equal(layer(picture()), expected)


def test_a_convolution_with_bias_and_a_norm_without_affine_fold_too() -> None:
    torch.manual_seed(0)
    layer: Any = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6, affine=False))
    layer[1].running_mean.normal_()
    layer.eval()
    fold_norms(layer)
    plain = plain_of(layer)
    torch.testing.assert_close(layer(picture()), plain(picture()), rtol=1e-5, atol=1e-5)
    for mine, other in zip(
        torch.autograd.grad(layer(picture()).square().sum(), list(layer.parameters())),
        torch.autograd.grad(plain(picture()).square().sum(), list(plain.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-2)
    with torch.no_grad():
        torch.testing.assert_close(layer(picture()), plain(picture()), rtol=1e-5, atol=1e-5)


def test_channels_last_stays() -> None:
    layer = small().to(memory_format=torch.channels_last)
    image = picture().to(memory_format=torch.channels_last)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            assert layer(image).is_contiguous(memory_format=torch.channels_last)


def test_a_part_of_a_folded_sequence_is_one_too() -> None:
    layer = small()
    torch.testing.assert_close(layer[:2](picture()).relu(), layer(picture()), rtol=0, atol=0)


def test_other_modules_are_left_alone() -> None:
    class Own(nn.Sequential):
        pass

    root = nn.ModuleDict(
        {
            "own": Own(nn.Conv2d(3, 4, 1), FrozenBatchNorm2d(4)),
            "apart": nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), FrozenBatchNorm2d(4)),
            "linear": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(),
            "group": Conv2dNormActivation(3, 4, norm_layer=lambda width: nn.GroupNorm(2, width)),
        }
    )
    fold_norms(root)
    assert not any(isinstance(module, Folding) for module in root.modules())


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_a_detector_folds_when_its_norm_freezes_and_leaves_as_plain_torchvision(name: str) -> None:
    torch.manual_seed(0)
    recipe = Architecture(backbone=name, channels=16, norm="batch", tower_depth=1, min_size=(48,), max_size=64)
    late = IncrementalRetinaNet(recipe, Vocabulary((("a", "b"),)))
    assert not any(isinstance(module, Folding) for module in late.modules())
    lively(late).requires_grad_(True)
    late.freeze_norm()
    early = IncrementalRetinaNet(late.architecture, Vocabulary((("a", "b"),)))
    early.load_state_dict(late.state_dict())
    kinds = {type(module) for module in early.modules()}
    assert kinds & set(FOLDING.values()) and kinds == {type(module) for module in late.modules()}
    plain: Any = to_torchvision(late)
    assert not any(isinstance(module, Folding) for module in plain.modules())
    assert type(plain.backbone) is BackboneWithFPN
    assert any(isinstance(module, Folding) for module in late.modules())
    images = [torch.rand(3, 48, 64)]
    prepared = late.prepare(images)
    wanted = outputs(plain.backbone, prepared.images)
    for model in (late, early):
        assert gap(model.dense(prepared).features, wanted) < TOLERANCE[torch.float32]


def change_nothing(weight: Tensor) -> None:
    other = nn.Parameter(torch.ones(2))
    other.grad = torch.ones(2)
    for fused in (False, True):
        torch.optim.SGD([other], lr=0.1, fused=fused).step()


def step_on(fused: bool, weight: Tensor) -> None:
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.1, fused=fused).step()


@pytest.mark.parametrize(
    "change", [change_nothing, partial(step_on, False), partial(step_on, True), lambda weight: weight.data.mul_(2)]
)
def test_gradients_are_those_of_the_forwards_weights_whoever_steps_before_backward(
    change: Callable[[Tensor], object],
) -> None:
    layer = small()
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    plain = plain_of(layer)
    wanted = torch.autograd.grad(plain(x).square().sum(), [x, plain[0].weight])
    out = layer(x)
    change(layer[0].weight)
    found = torch.autograd.grad(out.square().sum(), [x, layer[0].weight])
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_importing_every_module_installs_no_hook() -> None:
    script = """
import importlib, pkgutil
import torch.optim.optimizer as optimizer, torch.nn.modules.module as module
import incdet
for found in pkgutil.walk_packages(incdet.__path__, "incdet."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
hooks = {
    f"{home.__name__}.{name}": value
    for home in (optimizer, module)
    for name, value in vars(home).items()
    if name.startswith("_global_") and "hook" in name and isinstance(value, dict)
}
assert len(hooks) > 5 and not any(hooks.values()), hooks
"""
    subprocess.run([sys.executable, "-c", script], check=True)
