"""The architecture of a detector: everything that is needed to build the same network again, as plain JSON values.

It lives in the lowest folder because three parties share it: the ``model:`` section of a YAML file, the JSON of a
checkpoint, and the code that builds the network. Nothing here knows torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from typing_extensions import Self

from incdet.config.faults import findings_of
from incdet.config.section import Flag, Fraction, Section
from incdet.errors import InputError

Detector = Literal["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"]
Backbone = Literal[
    "tiny", "resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large", "external"
]
EXTERNAL = "external"
BACKBONES: tuple[str, ...] = tuple(name for name in get_args(Backbone) if name != EXTERNAL)
DETECTORS: tuple[str, ...] = get_args(Detector)
RETINANET_SIZES = tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in (32, 64, 128, 256, 512))
MOST_ANCHORS = 256
"""Anchors of a cell."""

Side = Annotated[int, Field(ge=1, le=65536)]
Size = Annotated[int | float, Field(gt=0, le=65536)]
Ratio = Annotated[float, Field(ge=0.001, le=1000)]
Ratios = Annotated[tuple[Ratio, ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]

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
# Channels of a body's last map, which a network without a pyramid takes as they are.
BODY_WIDTHS = {
    "tiny": 96,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet101": 2048,
    "mobilenet_v2": 1280,
    "mobilenet_v3_large": 960,
}
_DECISIVE = (
    "backbone",
    "pyramid",
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


class Architecture(Section):
    """Valid or refused, as soon as it is made; ``from_json(to_json())`` is the identity.

    Lists are taken for tuples, and one number for ``min_size``.

    Raises:
        InputError: A value is out of its range, with what was expected; all faults at once.
    """

    detector: Detector | None = None
    """A torchvision builder, which fixes backbone, channels, tower_depth, norm, box_loss and p6_from; or null."""
    backbone: Backbone = "resnet50"
    """tiny, resnet18, resnet34, resnet50, resnet101, mobilenet_v2 or mobilenet_v3_large; in code also external."""
    pyramid: Flag = True
    """A feature pyramid from stride 8; no: the body's last map alone, one level at stride 32, with its channels."""
    channels: Annotated[int, Field(ge=1, le=8192)] = 256
    """Channels of the feature pyramid and of both towers, at least 1, at most 8192."""
    tower_depth: Annotated[int, Field(ge=0, le=64)] = 4
    """3x3 convolutions in the class tower and in the box tower, 0 to 64."""
    norm: Literal["group", "batch"] | None = None
    """Normalisation in the towers: group, batch or null."""
    norm_groups: Annotated[int, Field(ge=1, le=8192)] = 32
    """Most groups of a GroupNorm, 1 to 8192; fewer where they do not divide the channels."""
    box_loss: Literal["l1", "giou"] = "l1"
    """Loss of the box branch: l1 on encoded offsets or giou on decoded boxes."""
    p6_from: Literal["p5", "c5"] = "p5"
    """Pyramid level P6 is computed from p5 (pyramid) or c5 (body); counts with five levels only."""
    trainable_layers: Annotated[int, Field(ge=0, le=10000)] = 3
    """Stages of the body that train, counted from the last; without pretrained weights all do."""
    frozen_norm: Flag | None = None
    """Fix statistics and affine parameters of BatchNorm; null decides as torchvision (with weights, but not v2)."""
    norm_module: Literal["batch", "frozen"] = "batch"
    """batch for nn.BatchNorm2d, frozen for torchvision's FrozenBatchNorm2d."""
    norm_eps: Annotated[float, Field(ge=0, le=1)] | None = None
    """Epsilon in [0, 1] of every BatchNorm of the backbone; null leaves the body's own."""
    anchor_sizes: tuple[tuple[Size, ...], ...] = Field(default=RETINANET_SIZES, validate_default=True)
    """Anchor sizes in pixels: 1 to 5 levels, the finest (stride 8) first, of equally many sizes, at most 65536."""
    aspect_ratios: Ratios | Annotated[tuple[Ratios, ...], Field(min_length=1)] = Field(
        default=(0.5, 1.0, 2.0), validate_default=True
    )
    """Anchor heights over widths, 0.001 to 1000: one list for all levels, or one per level."""
    min_size: Annotated[tuple[Side, ...], Field(min_length=1, max_length=1000)] = (800,)
    """Shorter image side in pixels, at most 65536; several are drawn from in training."""
    max_size: Count = 1333
    """Upper bound of the longer image side in pixels."""
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from images in [0, 1], three numbers."""
    image_std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (
        0.229,
        0.224,
        0.225,
    )
    """Divided by, three positive numbers."""
    size_divisible: Annotated[int, Field(ge=1, le=4096)] = 32
    """A batch is padded to a multiple of this, 1 to 4096."""
    fixed_size: tuple[Side, Side] | None = None
    """[width, height] of every resized image instead of min_size; or null."""
    skip_resize: Flag = False
    """Take images as they come while training."""
    score_thresh: Fraction = 0.05
    """Detections score higher than this, in [0, 1]."""
    nms_thresh: Fraction = 0.5
    """Two detections of one class that overlap more than this, in [0, 1], are one."""
    precedence: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Power, 0 to 10, of (1 - the highest score of earlier steps at the anchor), which a score is multiplied by."""
    detections_per_img: Count = 300
    """Most detections in an image, at least 1."""
    topk_candidates: Count = 1000
    """Most candidates of an image and level before suppression, at least 1."""
    fg_iou: Fraction = 0.5
    """IoU from which an anchor is positive, in [0, 1]."""
    bg_iou: Annotated[float, Field(gt=0, le=1, validate_default=True)] = 0.4
    """IoU below which an anchor is background, 0 < bg_iou <= fg_iou."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InputError(findings_of(error, type(self), lambda _: "model", word="")) from None

    # Inside another section pydantic makes it without this constructor, and faults keep the names of their keys.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        whole = {name: _tuples(value) for name, value in values.items()}
        if type(whole.get("min_size")) is int:
            whole["min_size"] = (whole["min_size"],)
        for name, value in _fixed(whole).items():
            default = cls.model_fields[name].default
            if whole.get(name, default) == default:
                whole[name] = value
        return whole

    @field_validator("backbone", "pyramid", "channels", "tower_depth", "norm", "box_loss", "p6_from")
    @classmethod
    def _is_what_others_fix(cls, value: Any, info: ValidationInfo) -> Any:
        fixed = _fixed(info.data).get(str(info.field_name), value)
        if fixed != value:
            detector = info.data.get("detector")
            fixer = detector or f"{info.data['backbone']} without a pyramid"
            other = "set detector to null and describe the network" if detector else "take the pyramid"
            raise ValueError(f"but {fixer} fixes {fixed!r}: leave {info.field_name} out, or {other}")
        return value

    @field_validator("anchor_sizes")
    @classmethod
    def _levels_are_alike(cls, value: tuple[tuple[float, ...], ...], info: ValidationInfo) -> Any:
        most = 64 if info.data.get("backbone") == EXTERNAL else 5
        numbers = {len(level) for level in value}
        if not 1 <= len(value) <= most or len(numbers) != 1 or not 1 <= max(numbers) <= MOST_ANCHORS:
            raise ValueError(f"use 1 to {most} levels of equally many sizes, such as [[16, 20, 25], [32, 40, 50]]")
        if not info.data.get("pyramid", True) and len(value) != 1 and info.data.get("backbone") != EXTERNAL:
            raise ValueError("use one level, such as [[32, 64, 128, 256, 512]]: there is no pyramid")
        if info.data.get("detector") is not None and len(value) != 5:
            raise ValueError(f"use five levels: {info.data['detector']} has P3 to P7")
        return value

    @field_validator("aspect_ratios")
    @classmethod
    def _ratios_fit_the_levels(cls, value: tuple[Any, ...], info: ValidationInfo) -> Any:
        sizes = info.data.get("anchor_sizes")
        if sizes is None:
            return value
        levels = value if isinstance(value[0], tuple) else (value,) * len(sizes)
        if len(levels) != len(sizes) or len({len(level) for level in levels}) != 1:
            raise ValueError(f"use one list for all {len(sizes)} levels, or one per level, of equally many ratios")
        if len(sizes[0]) * len(levels[0]) > MOST_ANCHORS:
            raise ValueError(f"makes {len(sizes[0]) * len(levels[0])} anchors a cell: use at most {MOST_ANCHORS}")
        return value

    @field_validator("bg_iou")
    @classmethod
    def _background_is_below(cls, value: float, info: ValidationInfo) -> float:
        if value > info.data.get("fg_iou", 1.0):
            raise ValueError(f"is more than fg_iou, {info.data['fg_iou']}")
        return value

    @property
    def levels(self) -> int:
        """L, the number of pyramid levels."""
        return len(self.anchor_sizes)

    @property
    def ratios(self) -> tuple[tuple[float, ...], ...]:
        """The aspect ratios of each of the L levels."""
        every: tuple[Any, ...] = self.aspect_ratios
        return every if isinstance(every[0], tuple) else (every,) * self.levels

    @property
    def anchors_per_cell(self) -> int:
        """Anchors at one position of a level; the same on every level, because the towers are shared."""
        return len(self.anchor_sizes[0]) * len(self.ratios[0])

    def changed(self, **changes: Any) -> Self:
        """A copy with other values, checked like a new one."""
        return type(self)(**{**dict(self), **changes})

    def decisive(self) -> dict[str, Any]:
        """The fields two checkpoints must share for the tensors of one to mean the same in the other."""
        return {name: getattr(self, name) for name in _DECISIVE} | {"aspect_ratios": self.ratios}

    def to_json(self) -> dict[str, Any]:
        """A value that ``json.dump`` writes and ``from_json`` reads back."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``; reads what any earlier incdet wrote.

        Raises:
            InputError: A key is unknown or a value is out of its range.
        """
        return cls(**value)


def _fixed(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a builder, or a body without a pyramid, leaves no choice of."""
    detector, body = values.get("detector"), values.get("backbone", "resnet50")
    if isinstance(detector, str) and detector in _BUILDER:
        return {"pyramid": True, **_BUILDER[detector]}
    if values.get("pyramid", True) is False and isinstance(body, str) and body in BODY_WIDTHS:
        return {"channels": BODY_WIDTHS[body]}
    return {}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
