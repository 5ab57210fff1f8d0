"""Parts of a method: frozen values whose every number is a setting, ``method.<method>.<part>.<field>``."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """A part of a method; the docstring below a field is its description in ``incdet keys``."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    name: ClassVar[str] = "part"
    """What ``without`` and the settings call it."""


class Selection(Part):
    """Which anchors of a teacher a term takes; an anchor's score is that of its highest class."""

    kind: Literal["all", "topk", "score", "statistical"] = "score"
    """all; the `value` highest of an image; those above the score `value`; or those whose logit exceeds the image's
    mean by `value` standard deviations (ERD, Feng et al., CVPR 2022, eq. 4)."""
    value: float = Field(0.05, ge=0)
    """Bound of the kind; `all` does not use it."""
