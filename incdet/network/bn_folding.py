"""Frozen BatchNorm inside the convolution before it: ``norm(conv(x))`` becomes one ``conv(x, w * scale, shift)``.

``scale = weight / sqrt(var + eps)`` and ``shift = bias - mean * scale`` are computed in float32 at least. The modules
that run such pairs change their class, for one that computes the same; parameters, buffers and their names stay what
they are.

Filters are folded in every forward, so that no way of writing to a tensor can be missed: ``p.data.mul_`` and fused
optimisers leave its version as it was. That costs one multiplication a weight (ResNet-50: 8 ms on one core). Loops
that know that nobody writes while they run avoid it with ``folded_once``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops.misc import Conv2dNormActivation, FrozenBatchNorm2d


def fold_norms(root: nn.Module) -> None:
    """Every module of a known kind at or below ``root`` runs its pairs of convolution and frozen norm as one.

    The kinds are ``Sequential`` and ``Conv2dNormActivation``, ResNet's two blocks, and the body of torchvision's
    feature extractors. Whether a pair is folded is asked at each call: never one with a live norm or with hooks.
    """
    module: Any
    for module in list(root.modules()):
        kind = FOLDING.get(type(module))
        if kind is not None and any(_is_pair(module, *pair) for pair in kind.pairs(module)):
            module.__class__ = kind
            module._folds = Folds()


def unfold_norms(root: nn.Module) -> None:
    """Takes ``fold_norms`` back: the modules at and below ``root`` have their own classes again."""
    for module in list(root.modules()):
        if isinstance(module, Folding):
            plain: Any = type(module).PLAIN
            module.__class__ = plain
            del module._folds


def is_frozen(norm: nn.Module) -> bool:
    """Whether ``norm`` is a BatchNorm whose statistics and affine parameters are fixed as it stands now."""
    if type(norm) is FrozenBatchNorm2d:
        return True
    if type(norm) is not nn.BatchNorm2d or norm.training or norm.running_mean is None:
        return False
    return not any(parameter is not None and parameter.requires_grad for parameter in (norm.weight, norm.bias))


@contextmanager
def folded_once(root: nn.Module) -> Iterator[None]:
    """Inside, the filters at and below ``root`` are folded once and kept: those that do not learn, in eval mode all.

    The caller promises that nobody writes to them meanwhile in a way that does not show: through ``parameter.data``,
    or, where they learn, by a fused optimiser in eval mode. Any other change is seen, and ``train`` starts afresh.
    """
    kept, scope = [module._folds for module in root.modules() if isinstance(module, Folding)], object()
    for folds in kept:
        folds.open(scope)
    try:
        yield
    finally:
        for folds in kept:
            folds.close(scope)


class Folds:
    """Tensors that were folded, while somebody wants them kept; a copy or a pickle of it starts empty and closed."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[tuple[Any, ...], list[Any], tuple[Tensor, ...]]] = {}
        self._scopes: set[object] = set()

    def __reduce__(self) -> tuple[type[Folds], tuple[()]]:
        return Folds, ()

    def open(self, scope: object) -> None:
        """Keeps what is made until every scope that was opened is closed again."""
        self._scopes.add(scope)

    def close(self, scope: object) -> None:
        """The inverse of ``open``."""
        self._scopes.discard(scope)
        if not self._scopes:
            self.clear()

    def clear(self) -> None:
        """Forgets everything."""
        self._made.clear()

    def get(
        self, name: str, sources: Sequence[Tensor], setting: object, make: Callable[[], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What ``make`` makes of ``sources`` and ``setting``; what it made before, if that is kept and none changed."""
        if not self._scopes or not _can_remember(sources):
            return make()
        key = (setting, *((t.data_ptr(), t._version, t.dtype, t.device) for t in sources))
        known = self._made.get(name)
        if known is None or known[0] != key:
            # A tensor made in inference mode could never enter a loss later. Memory that is held has no second owner,
            # so that an address says which tensor it is.
            with torch.inference_mode(False), torch.no_grad():
                known = self._made[name] = (key, [tensor.untyped_storage() for tensor in sources], make())
        return known[2]


class Folding(nn.Module):
    """Runs pairs of children, convolution and frozen norm, as one convolution."""

    PLAIN: ClassVar[type[nn.Module]]
    """The class it stands in for."""

    _folds: Folds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._folds = Folds()

    @classmethod
    def pairs(cls, module: nn.Module) -> Iterable[tuple[str, str]]:
        """The names of children that run one directly after the other; by default each and its neighbour."""
        names = list(module._modules)
        return zip(names, names[1:], strict=False)

    def train(self, mode: bool = True) -> Any:
        """As ``nn.Module.train``; what was folded is dropped."""
        self._folds.clear()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._folds.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def _get_name(self) -> str:
        return self.PLAIN.__name__


class _Chain(Folding):
    """Children that run one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        return run_chain(self, list(self._modules), x)[0]


class FoldedSequential(_Chain, nn.Sequential):
    """A ``Sequential``."""

    PLAIN = nn.Sequential


class FoldedConv2dNormActivation(_Chain, Conv2dNormActivation):  # type: ignore[misc]
    """A ``Conv2dNormActivation``."""

    PLAIN = Conv2dNormActivation


class FoldedLayerGetter(_Chain, IntermediateLayerGetter):  # type: ignore[misc]
    """An ``IntermediateLayerGetter``, the body of torchvision's detectors."""

    PLAIN = IntermediateLayerGetter

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:  # type: ignore[override]
        """(B, 3, H, W) -> the outputs that ``return_layers`` names."""
        return run_chain(self, list(self._modules), x)[1]


class _Block(Folding):
    """A residual block of ResNet."""

    LAYERS: ClassVar[tuple[tuple[str, str], ...]]
    relu: nn.Module
    downsample: nn.Module | None

    @classmethod
    def pairs(cls, module: nn.Module) -> Iterable[tuple[str, str]]:
        return cls.LAYERS

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for conv, norm in self.LAYERS[:-1]:
            out = self.relu(_run_pair(self, conv, norm, out))
        out = _run_pair(self, *self.LAYERS[-1], out)
        out += x if self.downsample is None else self.downsample(x)
        result: Tensor = self.relu(out)
        return result


class FoldedBasicBlock(_Block, BasicBlock):  # type: ignore[misc]
    """A ``BasicBlock``."""

    PLAIN = BasicBlock
    LAYERS = (("conv1", "bn1"), ("conv2", "bn2"))


class FoldedBottleneck(_Block, Bottleneck):  # type: ignore[misc]
    """A ``Bottleneck``."""

    PLAIN = Bottleneck
    LAYERS = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))


# By exact type: whoever derives from one of these may run the children in another way.
FOLDING: dict[type[nn.Module], type[Folding]] = {
    kind.PLAIN: kind
    for kind in (FoldedSequential, FoldedConv2dNormActivation, FoldedLayerGetter, FoldedBasicBlock, FoldedBottleneck)
}


def run_chain(parent: nn.Module, names: Sequence[str], x: Tensor) -> tuple[Tensor, OrderedDict[str, Tensor]]:
    """Runs the children ``names`` of ``parent`` one after the other, pairs as one if it is a ``Folding``.

    Returns:
        The last output; and the outputs that ``parent.return_layers`` asks for, under the names it gives them.
    """
    taps: Any = getattr(parent, "return_layers", {})
    found: OrderedDict[str, Tensor] = OrderedDict()
    index = 0
    while index < len(names):
        name, *after = names[index : index + 2]
        # The output of a convolution that is asked for must not be that of the norm after it.
        if isinstance(parent, Folding) and after and name not in taps and _is_pair(parent, name, after[0]):
            x = _run_pair(parent, name, after[0], x)
            name = after[0]
            index += 1
        else:
            x = getattr(parent, name)(x)
        index += 1
        if name in taps:
            found[taps[name]] = x
    return x, found


def _is_pair(parent: nn.Module, conv: str, norm: str) -> bool:
    """Whether a convolution and a frozen norm stand there, and nobody watches or replaces what one of them does."""
    first, second = parent._modules[conv], parent._modules[norm]
    return type(first) is nn.Conv2d and second is not None and is_frozen(second) and not _watched(first, second)


def _watched(*modules: nn.Module) -> bool:
    return any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        for module in modules
    )


def _run_pair(parent: Folding, first: str, second: str, x: Tensor) -> Tensor:
    """``norm(conv(x))`` of the children of those names."""
    conv: Any = parent._modules[first]
    norm: Any = parent._modules[second]
    if not _is_pair(parent, first, second):
        unfolded: Tensor = norm(conv(x))
        return unfolded
    fixed = [value for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias) if value is not None]
    own = [value for value in (conv.weight, conv.bias) if value is not None]
    dtype = _operand_dtype(conv.weight)
    learns = any(value.requires_grad or value.grad is not None for value in own)
    if learns and (parent.training or torch.is_grad_enabled()):
        ready = dtype if conv.bias is None else None
        scale, shift = parent._folds.get(second, fixed, (norm.eps, ready), lambda: _affine(norm, ready))
        weight, bias = _scaled(conv, scale, shift, dtype)
    else:
        weight, bias = parent._folds.get(
            first, [*own, *fixed], (norm.eps, dtype), lambda: _scaled(conv, *_affine(norm), dtype)
        )
    result: Tensor = conv._conv_forward(x, weight, bias)
    return result


def _affine(norm: Any, ready: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """Scale (C, 1, 1, 1) and shift (C,), float32, or float64 where the norm is; the shift in ``ready`` if given."""
    dtype = torch.promote_types(norm.running_var.dtype, torch.float32)
    mean, variance = norm.running_mean.to(dtype), norm.running_var.to(dtype)
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = norm.weight.to(dtype) * scale
    shift = -mean * scale if norm.bias is None else torch.addcmul(norm.bias.to(dtype), mean, scale, value=-1)
    return scale[:, None, None, None], shift if ready is None else shift.to(ready)


def _scaled(conv: nn.Conv2d, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias of the folded convolution in ``dtype``."""
    if conv.bias is not None:
        shift = torch.addcmul(shift, conv.bias.to(shift.dtype), scale.flatten())
    return (conv.weight * scale).to(dtype), shift.to(dtype)


def _operand_dtype(weight: Tensor) -> torch.dtype:
    """What a convolution of ``weight`` computes in: autocast would cast a kept filter again at each call."""
    kind = weight.device.type
    available = torch.amp.is_autocast_available(kind)  # not on the meta device
    if weight.dtype == torch.float64 or not available or not torch.is_autocast_enabled(kind):
        return weight.dtype
    return torch.get_autocast_dtype(kind)


def _can_remember(sources: Sequence[Tensor]) -> bool:
    """Whether what is made of ``sources`` now may be used later.

    A CUDA graph would go on reading memory that was dropped, a compiled one would keep the value for ever, and a
    tensor made in inference mode does not say whether it has changed.
    """
    if torch.compiler.is_compiling() or any(tensor.is_inference() for tensor in sources):
        return False
    return not (sources[0].is_cuda and torch.cuda.is_current_stream_capturing())
