"""The methods by name: those that come with incdet, and those of other packages.

A package adds its own by an entry point of the group ``incdet.methods`` whose value is a ``Method``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from incdet.errors import Finding, InputError, suggest
from incdet.methods.method import Method, Setting

GROUP = "incdet.methods"
OWN = (
    "finetune",
    "masked",
    "joint",
    "lwf",
    "eeil",
    "ilod",
    "rilod",
    "ewc",
    "mas",
    "erd",
    "pseudo",
    "cldetr",
    "abr",
    "bpf",
    "rclpod",
    "yolo_lwf",
    "incdet",
    "pair",
)


@cache
def known_methods() -> Mapping[str, Method]:
    """Every method by its name.

    Raises:
        InputError: A package offers something else under the entry point, or a name that is taken.
    """
    methods = {name: import_module(f"incdet.methods.{name}").METHOD for name in OWN}
    for point in entry_points(group=GROUP):
        method = point.load()
        if not isinstance(method, Method):
            raise _refused(point.value, f"is {type(method).__name__}, not a Method", "offer an incdet Method")
        if not method.name.isidentifier():  # a dash takes a part away
            raise _refused(point.value, f"is called {method.name!r}", "use letters, digits and underscores")
        if method.name in methods:
            raise _refused(point.value, f"is called {method.name!r}, as another is", "give it a name of its own")
        methods[method.name] = method
    return methods


CAME_LATER = {
    ("incdet", "precedence", "power"): 0.0,
    ("incdet", "mixup", "share"): 0.0,
    ("incdet", "kd_quality", "growth"): 0.0,
    ("incdet", "interim", "exemplars"): 0.0,
}
"""Method, part and field of settings whose default is not neutral -> the neutral value."""


def get_method(
    name: str, without: Sequence[str] = (), settings: Mapping[str, Mapping[str, Any]] | None = None
) -> Method:
    """The named method, with other numbers where ``settings[name]`` gives some, less the parts in ``without``.

    Raises:
        InputError: No method has that name, or one of the settings is of no method, part or range; the message lists
            the near ones.
    """
    methods = known_methods()
    for wanted, key in ((name, "key methods"), *((other, f"key method.{other}") for other in settings or {})):
        if wanted not in methods:
            raise InputError(Finding("config", key, f"no method is called {wanted!r}", suggest(wanted, methods)))
    method = methods[name].configured((settings or {}).get(name, {}))
    return method.without(*without) if without else method


def describe_settings() -> Iterator[Setting]:
    """Every setting of every method, under its whole key."""
    for method in known_methods().values():
        for setting in method.settings():
            yield setting._replace(key=f"method.{method.name}.{setting.key}")


def frozen_settings(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every setting of the named methods, and of those that are given some, with the given ones in place."""
    return {name: settings_tree(get_method(name, settings=settings)) for name in dict.fromkeys((*names, *settings))}


def settings_tree(method: Method) -> dict[str, Any]:
    """Every setting of a method as ``{part: {field: value}}``, for the frozen configuration."""
    tree: dict[str, Any] = {}
    for setting in method.settings():
        *words, last = setting.key.split(".")
        place = tree
        for word in words:
            place = place.setdefault(word, {})
        place[last] = setting.value
    return tree


def before_it_was_there(frozen: Mapping[str, Any]) -> list[str]:
    """``key=value`` words for what the ``method`` section of a frozen configuration does not know yet.

    A frozen configuration holds every setting of its time. A setting that came later does nothing there, whatever its
    default is now.
    """
    return [
        f"method.{name}.{part}.{field}={value}"
        for (name, part, field), value in CAME_LATER.items()
        if isinstance(frozen.get(name), Mapping) and frozen[name] and _lacks(frozen[name].get(part, {}), field)
    ]


def _lacks(section: Any, field: str) -> bool:
    """Whether a section has no such field; what is no section is left to the configuration to refuse."""
    return isinstance(section, Mapping) and field not in section


def _refused(item: str, problem: str, fix: str) -> InputError:
    return InputError(Finding(f"entry point {GROUP}", item, problem, fix))
