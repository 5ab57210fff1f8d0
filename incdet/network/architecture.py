"""The recipe of a network: everything that is needed to build the same detector again, as plain JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from incdet.errors import Finding, InputError, suggest

BACKBONES = ("tiny", "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large")
EXTERNAL = "external"
DETECTORS = ("retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2")
RETINANET_SIZES = tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in (32, 64, 128, 256, 512))

# What torchvision's two builders fix; the remaining fields are free with a builder too.
_BUILDER: dict[str, dict[str, Any]] = {
    "retinanet_resnet50_fpn": {
        "backbone": "resnet50",
        "channels": 256,
        "tower_depth": 4,
        "norm": None,
        "box_loss": "l1",
        "p6_from": "p5",
    },
    "retinanet_resnet50_fpn_v2": {
        "backbone": "resnet50",
        "channels": 256,
        "tower_depth": 4,
        "norm": "group",
        "box_loss": "giou",
        "p6_from": "c5",
    },
}
_ARCHITECTURE = (
    "backbone",
    "channels",
    "tower_depth",
    "norm",
    "norm_groups",
    "p6_from",
    "norm_eps",
    "anchor_sizes",
    "aspect_ratios",
    "image_mean",
    "image_std",
)


@dataclass(frozen=True)
class Recipe:
    """Valid or refused; ``from_json(to_json())`` is the identity.

    Attributes:
        detector: A torchvision builder whose architecture is taken over, or None for the fields below. A builder
            replaces fields left at their default and refuses other values.
        backbone: One of ``BACKBONES``, or ``"external"`` for a module that was handed in.
        channels: Channels of the feature pyramid and of both towers.
        tower_depth: 3x3 convolutions in the class tower and in the box tower.
        norm: Normalisation inside the towers: None, ``"group"`` or ``"batch"``.
        norm_groups: Most groups of a GroupNorm; fewer where they do not divide ``channels``.
        box_loss: ``"l1"`` on encoded offsets or ``"giou"`` on decoded boxes.
        p6_from: Pyramid level P6 is computed from ``"p5"`` (pyramid) or ``"c5"`` (body); counts with five levels only.
        trainable_layers: Stages of the body that learn, counted from the last; without pretrained weights all do.
        frozen_norm: BatchNorm statistics and affine parameters are fixed; None decides on construction as torchvision
            does (fixed with pretrained weights, but not in the v2 builder).
        norm_module: ``"batch"`` for ``nn.BatchNorm2d``, ``"frozen"`` for torchvision's ``FrozenBatchNorm2d``.
        norm_eps: Epsilon of every BatchNorm of the backbone; None leaves the architecture's own.
        anchor_sizes: Anchor sizes in pixels, one tuple per pyramid level, finest first (1 to 5 levels, stride 8 first).
        aspect_ratios: Height / width, one tuple for all levels or one per level.
        min_size: Shorter image side in pixels; several values are drawn from while training.
        max_size: Longest image side in pixels.
        image_mean: Per channel, subtracted from images in [0, 1].
        image_std: Per channel, divided by.
        size_divisible: A batch is padded to a multiple of this.
        fixed_size: (width, height) of every resized image instead of ``min_size``.
        skip_resize: Images are taken as they come while training.
        score_thresh: Detections score higher than this, in [0, 1).
        nms_thresh: IoU in [0, 1] above which the weaker of two boxes of one class is dropped.
        detections_per_img: Most detections of an image.
        topk_candidates: Most candidates of an image and level before suppression.
        fg_iou: IoU from which an anchor is positive.
        bg_iou: IoU below which an anchor is background.

    Raises:
        InputError: A value is out of its range, with what was expected.
    """

    detector: str | None = None
    backbone: str = "resnet50"
    channels: int = 256
    tower_depth: int = 4
    norm: str | None = None
    norm_groups: int = 32
    box_loss: str = "l1"
    p6_from: str = "p5"
    trainable_layers: int = 3
    frozen_norm: bool | None = None
    norm_module: str = "batch"
    norm_eps: float | None = None
    anchor_sizes: tuple[tuple[int, ...], ...] = RETINANET_SIZES
    aspect_ratios: tuple[Any, ...] = (0.5, 1.0, 2.0)
    min_size: tuple[int, ...] = (800,)
    max_size: int = 1333
    image_mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: tuple[float, ...] = (0.229, 0.224, 0.225)
    size_divisible: int = 32
    fixed_size: tuple[int, int] | None = None
    skip_resize: bool = False
    score_thresh: float = 0.05
    nms_thresh: float = 0.5
    detections_per_img: int = 300
    topk_candidates: int = 1000
    fg_iou: float = 0.5
    bg_iou: float = 0.4

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "min_size" and isinstance(value, int):
                value = (value,)
            object.__setattr__(self, field.name, _tuples(value))
        findings = [*self._apply_builder(), *self._faults()]
        if findings:
            raise InputError(findings)

    @property
    def levels(self) -> int:
        """L, the number of pyramid levels."""
        return len(self.anchor_sizes)

    @property
    def ratios(self) -> tuple[tuple[float, ...], ...]:
        """The aspect ratios of each of the L levels."""
        if self.aspect_ratios and isinstance(self.aspect_ratios[0], tuple):
            return self.aspect_ratios
        return (self.aspect_ratios,) * self.levels

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at one position of a level; the same on every level, because the towers are shared."""
        return len(self.anchor_sizes[0]) * len(self.ratios[0])

    def architecture(self) -> dict[str, Any]:
        """The fields two checkpoints must share for the tensors of one to mean the same in the other."""
        return {name: getattr(self, name) for name in _ARCHITECTURE} | {"aspect_ratios": self.ratios}

    def to_json(self) -> dict[str, Any]:
        """A value that ``json.dump`` writes and ``from_json`` reads back."""
        return {field.name: _lists(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """The inverse of ``to_json``.

        Raises:
            InputError: A key is unknown or a value is out of its range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [key for key in value if key not in known]
        if unknown:
            raise InputError([_finding(key, "is not a part of a recipe", suggest(key, known)) for key in unknown])
        return cls(**value)

    def _apply_builder(self) -> list[Finding]:
        if self.detector is None:
            return []
        if self.detector not in DETECTORS:
            return [_finding("detector", f"is {self.detector!r}", suggest(str(self.detector), DETECTORS))]
        findings = []
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, value in _BUILDER[self.detector].items():
            given = getattr(self, name)
            if given not in (defaults[name], value):
                findings.append(
                    _finding(
                        name,
                        f"is {given!r}, but {self.detector} fixes {value!r}",
                        f"leave {name} out, or set detector to null and describe the network",
                    )
                )
            object.__setattr__(self, name, value)
        return findings

    def _faults(self) -> list[Finding]:
        findings = []

        def choice(name: str, known: tuple[str | None, ...]) -> None:
            value = getattr(self, name)
            if value not in known:
                hint = suggest(str(value), [word for word in known if word is not None])
                findings.append(_finding(name, f"is {value!r}", hint + (" or null" if None in known else "")))

        def must(name: str, holds: bool, expected: str) -> None:
            if not holds:
                findings.append(_finding(name, f"is {getattr(self, name)!r}", f"use {expected}"))

        choice("backbone", (*BACKBONES, EXTERNAL))
        choice("norm", (None, "group", "batch"))
        choice("box_loss", ("l1", "giou"))
        choice("p6_from", ("p5", "c5"))
        choice("norm_module", ("batch", "frozen"))
        for name in ("channels", "norm_groups", "max_size", "size_divisible", "detections_per_img", "topk_candidates"):
            must(name, _is_count(getattr(self, name), 1), "an integer of at least 1")
        for name in ("tower_depth", "trainable_layers"):
            must(name, _is_count(getattr(self, name), 0), "an integer of at least 0")
        must(
            "min_size",
            bool(self.min_size) and all(_is_count(size, 1) for size in self.min_size),
            "one or more sides in pixels",
        )
        for name in ("score_thresh", "nms_thresh"):
            must(name, 0.0 <= getattr(self, name) <= 1.0, "a number in [0, 1]")
        must("bg_iou", 0.0 <= self.bg_iou <= self.fg_iou <= 1.0, "0 <= bg_iou <= fg_iou <= 1")
        must("image_mean", len(self.image_mean) == 3, "three numbers")
        must("image_std", len(self.image_std) == 3 and all(std > 0 for std in self.image_std), "three positive numbers")
        sizes_hold = self.levels >= 1 and all(
            isinstance(level, tuple)
            and level
            and len(level) == len(self.anchor_sizes[0])
            and all(size > 0 for size in level)
            for level in self.anchor_sizes
        )
        must(
            "anchor_sizes",
            sizes_hold and (self.backbone == EXTERNAL or self.levels <= 5),
            "1 to 5 levels of equally many positive sizes, such as [[16, 20, 25], [32, 40, 50]]",
        )
        ratios_hold = len(self.ratios) == self.levels and all(
            level and len(level) == len(self.ratios[0]) and all(ratio > 0 for ratio in level) for level in self.ratios
        )
        must("aspect_ratios", ratios_hold, "positive numbers, one list for all levels or one per level")
        if self.detector is not None:
            must("anchor_sizes", self.levels == 5, f"five levels: {self.detector} has P3 to P7")
        return findings


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _finding(item: str, problem: str, fix: str) -> Finding:
    return Finding("model", item, problem, fix)
