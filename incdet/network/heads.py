"""The class head (one shared tower, one predictor per increment) and torchvision's box head on a tower of any depth.

Shape letters: B images, A anchors over all levels, N anchors per cell, K classes, C channels, H x W cells of a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetRegressionHead
from torchvision.ops.misc import Conv2dNormActivation

PRIOR = 0.01


class TowerGroupNorm(nn.GroupNorm):
    """Torch's GroupNorm, of one image as of several.

    Torch refuses one image where a group is a single value (one channel a group, on a map of one cell), though it takes
    the same image in a batch of two, where the norm gives its bias.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def norm_layer(norm: str | None, channels: int, groups: int = 32) -> Callable[[int], nn.Module] | None:
    """The constructor of a tower's normalisation; GroupNorm takes the largest number of groups that divides."""
    if norm == "group":
        return partial(TowerGroupNorm, math.gcd(groups, channels))
    return nn.BatchNorm2d if norm == "batch" else None


def build_tower(channels: int, depth: int, norm: Callable[[int], nn.Module] | None) -> nn.Sequential:
    """``depth`` 3x3 convolutions (B, C, H, W) -> (B, C, H, W), initialised as torchvision's heads are."""
    tower = nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=norm) for _ in range(depth)))
    for layer in tower.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return tower


def build_box_head(channels: int, anchors: int, tower: nn.Sequential, loss: str) -> BoxHead:
    """A torchvision regression head on ``tower``: list of (B, C, H, W) -> (B, A, 4), shared by all classes."""
    head = BoxHead(channels, anchors)
    head.conv = tower
    head._loss_type = loss
    return head


def flatten_levels(maps: Sequence[Tensor], values: int) -> Tensor:
    """The outputs of a predictor on all levels as one tensor, copied once.

    Args:
        maps: L x (B, N * ``values``, H, W), anchor-major channels, finest level first.
        values: Numbers per anchor, K or 4.

    Returns:
        (B, A, ``values``) in torchvision's order: level, row, column, anchor.
    """
    # Rows of all channels of a cell are views until the concatenation writes them where they belong.
    rows = torch.cat([level.flatten(2).permute(0, 2, 1) for level in maps], dim=1)
    return rows.reshape(rows.shape[0], -1, values)


class BoxHead(RetinaNetRegressionHead):  # type: ignore[misc]
    """Torchvision's regression head, which copies its output once instead of twice."""

    def forward(self, x: Sequence[Tensor]) -> Tensor:
        """List of (B, C, H, W), finest first -> (B, A, 4)."""
        return flatten_levels([self.bbox_reg(self.conv(feature)) for feature in x], 4)


class ClassHead(nn.Module):
    """Logits of all seen classes; ``grow`` moves no number of earlier ones.

    Args:
        tower: Shared convolutions, C -> C channels.
        channels: C.
        anchors: N, anchors per cell.
        sizes: Number of classes of each increment.
    """

    def __init__(self, tower: nn.Sequential, channels: int, anchors: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.tower = tower
        self.channels = channels
        self.anchors = anchors
        self.predictors = nn.ModuleList(_predictor(channels, anchors * size) for size in sizes)

    @property
    def sizes(self) -> list[int]:
        """K_t, the number of classes of each increment."""
        return [weight.shape[1] for weight in self.class_weights()]

    def class_weights(self) -> list[Tensor]:
        """The filters of each increment with the class as an axis of its own: (N, K_t, C, 3, 3).

        A predictor's channels are anchor-major (``anchor * K_t + class``, torchvision's layout); joining increments is
        right on axis 1 of this view only.
        """
        return [
            predictor.weight.reshape(self.anchors, -1, *predictor.weight.shape[1:])
            for predictor in self._convolutions()
        ]

    def class_biases(self) -> list[Tensor]:
        """The biases of each increment, (N, K_t)."""
        return [
            predictor.bias.reshape(self.anchors, -1) for predictor in self._convolutions() if predictor.bias is not None
        ]

    def grow(self, classes: int, init: str = "prior") -> None:
        """One more predictor for ``classes`` new classes; no earlier parameter moves.

        Args:
            classes: K_t of the new increment, at least 1.
            init: ``"prior"`` draws small filters with the prior-probability bias; ``"mean"`` starts every new class
                from the mean filter of the old ones, with the same bias.

        Raises:
            ValueError: ``init`` is unknown or ``classes`` is not positive.
        """
        if init not in ("prior", "mean"):
            raise ValueError(f"init is {init!r}; use 'prior' or 'mean'")
        if classes < 1:
            raise ValueError(f"an increment needs at least one class, not {classes}")
        predictor = _predictor(self.channels, self.anchors * classes)
        like = self._convolutions()[0].weight
        predictor.to(device=like.device, dtype=like.dtype)
        if init == "mean":
            with torch.no_grad():
                mean = torch.cat(self.class_weights(), dim=1).mean(dim=1, keepdim=True)
                predictor.weight.copy_(mean.expand(-1, classes, -1, -1, -1).flatten(0, 1))
        self.predictors.append(predictor)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """List of (B, C, H, W), finest first -> (B, A, K) in torchvision's order: level, row, column, anchor.

        The increments run as one convolution, whose filters are joined once for all levels: forty small ones would
        take several times as long. The logits of a class do not depend on how many others stand beside it but for
        rounding: a convolution may add up otherwise for another number of channels, or where a channel stands elsewhere
        among them. On a CPU 3e-6 was measured with 256 channels, and none with few.
        """
        weight, bias = self.joined()
        maps = [F.conv2d(self.tower(feature), weight, bias, padding=1) for feature in features]
        return flatten_levels(maps, weight.shape[0] // self.anchors)

    def joined(self) -> tuple[Tensor, Tensor]:
        """Filters (N * K, C, 3, 3) and biases (N * K,) of all increments in torchvision's anchor-major layout."""
        if len(self.predictors) == 1:
            only = self._convolutions()[0]
            assert only.bias is not None
            return only.weight, only.bias
        return torch.cat(self.class_weights(), dim=1).flatten(0, 1), torch.cat(self.class_biases(), dim=1).flatten()

    def _convolutions(self) -> list[nn.Conv2d]:
        return [predictor for predictor in self.predictors if isinstance(predictor, nn.Conv2d)]


def _predictor(channels: int, outputs: int) -> nn.Conv2d:
    """A 3x3 convolution whose every output starts at probability ``PRIOR`` (Lin et al., ICCV 2017, section 4.1)."""
    predictor = nn.Conv2d(channels, outputs, kernel_size=3, padding=1)
    nn.init.normal_(predictor.weight, std=0.01)
    if predictor.bias is not None:
        nn.init.constant_(predictor.bias, -math.log((1 - PRIOR) / PRIOR))
    return predictor
