from __future__ import annotations

from typing import Any, ClassVar

import pytest
from helpers import network

from incdet.config import Config, parse_config
from incdet.distillation.part import Selection
from incdet.distillation.provider import Teaching
from incdet.distillation.term import PlainTerm
from incdet.methods.registry import get_method
from incdet.training.provider import obstacle

ASKED = Teaching({}, get_method("incdet").speaking().terms)


def settings(**sections: Any) -> Config:
    return parse_config(sections)


@pytest.mark.parametrize(
    ("changes", "draws", "reason"),
    [
        ({}, 250, None),
        ({}, 249, "249 draws of 200 pictures would not pay"),
        ({"engine": {"response_cache": 0}}, 9999, "engine.response_cache is 0"),
        ({"augment": {"crop": True}}, 9999, "augment.crop"),
        ({"augment": {"photometric": True}}, 9999, "augment.photometric"),
        ({"augment": {"scale": [0.5, 2.0]}}, 9999, "augment.scale"),
    ],
)
def test_the_cache_is_used_where_it_is_exact_and_pays(changes: dict[str, Any], draws: int, reason: str | None) -> None:
    recipe = network().architecture
    found = obstacle(ASKED, recipe, settings(**changes), draws, 200)
    assert (found is None) if reason is None else (found is not None and reason in found)


def test_sizes_that_are_drawn_need_the_teacher_itself() -> None:
    recipe, config = network().recipe, settings()
    several = recipe.changed(min_size=(40, 48))
    assert "several values" in str(obstacle(ASKED, several, config, 999, 100))
    assert obstacle(ASKED, several.changed(fixed_size=(48, 48)), config, 999, 100) is None
    assert obstacle(ASKED, several.changed(skip_resize=True), config, 999, 100) is None


def test_ears_for_everything_need_the_teacher_itself() -> None:
    recipe, config = network().recipe, settings()
    assert "every anchor" in str(obstacle(Teaching({}, get_method("lwf").terms), recipe, config, 999, 100))
    settings_of_lwf = {"lwf": {"kd_response": {"selection": {"kind": "topk", "value": 9.0}}}}
    few = get_method("lwf", settings=settings_of_lwf)
    assert few.terms[0].selection == Selection(kind="topk", value=9)  # type: ignore[attr-defined]
    assert obstacle(Teaching({}, few.terms), recipe, config, 999, 100) is None


def test_whole_feature_maps_are_never_cached() -> None:
    class Maps(PlainTerm):
        needs: ClassVar[frozenset[str]] = frozenset({"features"})

    reason = obstacle(Teaching({}, (Maps(),)), network().recipe, settings(), 999, 100)
    assert reason == "the method compares feature maps"
