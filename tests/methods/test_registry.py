from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import Any

import pytest

from incdet.distillation.terms import KdBox
from incdet.errors import InputError
from incdet.methods import registry
from incdet.methods.method import Method, Replay
from incdet.methods.registry import (
    before_it_was_there,
    describe_settings,
    frozen_settings,
    get_method,
    known_methods,
    settings_tree,
)


def test_the_methods_that_come_with_incdet() -> None:
    methods = known_methods()
    assert " ".join(methods) == (
        "finetune masked joint lwf eeil ilod rilod ewc mas erd pseudo cldetr abr bpf rclpod yolo_lwf incdet pair"
    )
    assert all(method.name == name and method.source and not method.changed for name, method in methods.items())
    assert not methods["finetune"].masked and methods["masked"].masked and methods["joint"].joint
    alone = [name for name, method in methods.items() if not method.teachers]
    assert alone == ["finetune", "masked", "joint", "mas"]
    replaying = {"eeil", "cldetr", "abr", "rclpod", "yolo_lwf", "incdet"}
    assert {name for name, method in methods.items() if method.replay} == replaying
    assert not methods["eeil"].masked  # as in the paper, unlabelled old objects are background
    assert methods["eeil"].balanced_finetune and "pseudo_labels" in methods["cldetr"].parts
    assert [name for name, method in methods.items() if method.interim] == ["bpf", "incdet", "pair"]
    assert [name for name, method in methods.items() if method.needs_features] == ["rilod", "abr", "rclpod"]
    assert methods["rclpod"].replay == Replay(share=0.5, propagation=0.5)


def test_an_unknown_method_is_refused_with_the_near_one() -> None:
    with pytest.raises(InputError, match="'incdte'.*'incdet'"):
        get_method("incdte")
    with pytest.raises(InputError, match=r"method\.icdet.*no method.*'incdet'"):
        get_method("cldetr", settings={"icdet": {"kd_box": {"weight": 2.0}}})
    with pytest.raises(InputError, match="'finetune' has no part 'replay'"):
        get_method("finetune", ["replay"])
    assert get_method("lwf") == known_methods()["lwf"]


def test_a_method_is_got_with_its_own_settings_and_less_its_parts() -> None:
    settings = {"cldetr": {"kd_box": {"weight": 2.0}}, "lwf": {"kd_response": {"temperature": 2.0}}}
    method = get_method("cldetr", ["pseudo_labels"], settings)
    assert method.title == "cldetr-pseudo_labels (kd_box.weight=2.0)"
    assert get_method("lwf", settings=settings).changed == ("kd_response.temperature=2.0",)
    assert get_method("pseudo", settings=settings).changed == ()


def test_every_setting_of_every_method_is_described_under_its_whole_key() -> None:
    found = {setting.key: setting for setting in describe_settings()}
    assert found["method.lwf.kd_response.selection.kind"].value == "all"
    assert found["method.cldetr.kd_response.weight"].value == 0.5
    assert not any(key.startswith(("method.finetune", "method.masked", "method.joint")) for key in found)
    assert len(found) == sum(len([*method.settings()]) for method in known_methods().values())


@pytest.mark.parametrize("name", known_methods())
def test_a_frozen_configuration_rebuilds_the_method(name: str) -> None:
    assert get_method(name, settings={name: settings_tree(get_method(name))}) == get_method(name)


@pytest.mark.parametrize("spoiled", [None, 3, "x", []])
def test_a_part_that_is_no_section_is_left_to_the_settings_to_refuse(spoiled: Any) -> None:
    frozen = {"incdet": {"kd_quality": spoiled}}
    added = before_it_was_there(frozen)
    assert "method.incdet.mixup.share=0.0" in added and not any("kd_quality" in word for word in added)
    with pytest.raises(InputError, match=r"method\.incdet\.kd_quality"):
        get_method("incdet", settings=frozen)
    assert "method.incdet.kd_quality.growth=0.0" in before_it_was_there({"incdet": {"kd_quality": {"weight": 1.0}}})


def test_frozen_settings_hold_what_was_given_and_all_else() -> None:
    given = {"cldetr": {"kd_box": {"weight": 2.0}}}
    tree = frozen_settings(["cldetr", "finetune"], given)
    assert tree["finetune"] == {} and tree["cldetr"]["kd_box"]["weight"] == 2.0
    assert tree["cldetr"]["kd_response"]["selection"] == {"kind": "score", "value": 0.05}
    assert get_method("cldetr", settings=tree) == get_method("cldetr", settings=given)


# --- methods of other packages

MINE = Method("mine", "a package", terms=(KdBox(),), replay=Replay())


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The values of the entry points that are installed."""
    values: list[Any] = []

    def points(*, group: str) -> list[SimpleNamespace]:
        assert group == "incdet.methods"
        return [SimpleNamespace(value=f"package:{n}", load=lambda value=value: value) for n, value in enumerate(values)]

    monkeypatch.setattr(registry, "entry_points", points)
    known_methods.cache_clear()
    yield values
    known_methods.cache_clear()


def test_a_package_adds_a_method_of_its_own(offered: list[Any]) -> None:
    offered.append(MINE)
    assert [*known_methods()][-2:] == ["pair", "mine"]
    assert get_method("mine", ["kd_box"]).name == "mine-kd_box"
    assert get_method("mine", settings={"mine": {"kd_box": {"weight": 2.0}}}).changed == ("kd_box.weight=2.0",)
    assert "method.mine.kd_box.weight" in {setting.key for setting in describe_settings()}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (KdBox(), "package:0: is KdBox, not a Method"),
        (Method("my-own", "a package"), "is called 'my-own'.*letters"),
        (Method("cldetr", "a package"), "is called 'cldetr', as another is"),
    ],
)
def test_what_is_no_method_of_its_own_name_is_refused(offered: list[Any], value: Any, words: str) -> None:
    offered.append(value)
    with pytest.raises(InputError, match=words):
        known_methods()


def test_two_packages_cannot_offer_one_name(offered: list[Any]) -> None:
    offered += [MINE, MINE]
    with pytest.raises(InputError, match="package:1: is called 'mine', as another is"):
        known_methods()


def test_an_entry_point_that_is_installed_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real class, which reads "module:attribute".
    point = EntryPoint("again", "incdet.methods.lwf:METHOD", "incdet.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    known_methods.cache_clear()
    with pytest.raises(InputError, match="incdet.methods.lwf:METHOD: is called 'lwf'"):
        known_methods()
    known_methods.cache_clear()
