"""torchvision's attributes of a detector, such as ``model.score_thresh = 0.1`` and ``model.transform.min_size = 400``.

They read and write the detector's architecture, so that they act at once, are checked, and go wherever it goes: into a
checkpoint, a copy, and a plain torchvision model.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from incdet.config.architecture import Architecture
from incdet.errors import Finding, InputError

T = TypeVar("T")
_ADVICE = {
    "transform": "set its values, such as model.transform.min_size",
    "anchor_generator": "set model.architecture = model.architecture.changed(anchor_sizes=...)",
    "proposal_matcher": "set model.architecture = model.architecture.changed(fg_iou=..., bg_iou=...)",
    "box_coder": "offsets have unit weights",
    "head": "the heads are model.class_head and model.box_head",
}


class _Holder(Protocol):
    architecture: Architecture


class Setting(Generic[T]):
    """An attribute that is a field of its owner's ``architecture``."""

    def __init__(self, field: str) -> None:
        self._field = field

    def __get__(self, owner: _Holder, kind: type[Any]) -> T:
        value: T = getattr(owner.architecture, self._field)
        return value

    def __set__(self, owner: _Holder, value: T) -> None:
        owner.architecture = owner.architecture.changed(**{self._field: value})


class TransformSettings:
    """The attributes of torchvision's ``GeneralizedRCNNTransform``.

    Args:
        owner: The detector whose architecture they are fields of.
    """

    min_size = Setting["int | tuple[int, ...]"]("min_size")
    max_size = Setting[int]("max_size")
    image_mean = Setting[tuple[float, float, float]]("image_mean")
    image_std = Setting[tuple[float, float, float]]("image_std")
    size_divisible = Setting[int]("size_divisible")
    fixed_size = Setting["tuple[int, int] | None"]("fixed_size")
    _skip_resize = Setting[bool]("skip_resize")

    __slots__ = ("_owner",)

    def __init__(self, owner: _Holder) -> None:
        self._owner = owner

    @property
    def architecture(self) -> Architecture:
        """The owner's."""
        return self._owner.architecture

    @architecture.setter
    def architecture(self, value: Architecture) -> None:
        self._owner.architecture = value


class TorchvisionSettings:
    """The attributes of torchvision's ``RetinaNet``, for a class with an ``architecture``."""

    architecture: Architecture
    score_thresh = Setting[float]("score_thresh")
    nms_thresh = Setting[float]("nms_thresh")
    detections_per_img = Setting[int]("detections_per_img")
    topk_candidates = Setting[int]("topk_candidates")

    @property
    def transform(self) -> TransformSettings:
        """Sizes and normalisation of images."""
        return TransformSettings(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _ADVICE:
            raise InputError(Finding("model", name, "cannot be replaced in a detector of incdet", _ADVICE[name]))
        super().__setattr__(name, value)
