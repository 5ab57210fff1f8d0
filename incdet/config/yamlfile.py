"""YAML as a person means it: ``1e-4`` is a number, ``no`` and ``off`` are words, a key stands once.

PyYAML follows YAML 1.1, where ``1e-4`` is a string, ``off`` is False and ``12:30`` is 750. Here the core schema of
YAML 1.2 decides what a plain word is, both on reading and on writing, so that reading a written file is the identity.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from incdet.errors import Finding, InputError

_CORE = (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("merge", r"^<<$", "<"),
)
MOST_NODES = 100_000
"""Values of a file with its aliases written out; a few lines of aliases of aliases can stand for billions."""
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_.]*)\}")


class _Loader(yaml.SafeLoader):
    """Reads the core schema of YAML 1.2 and refuses a key that stands twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def get_single_node(self) -> yaml.Node | None:
        """The whole text, refused before anything is built from it where its aliases grow without bound."""
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _size(node, {}) > MOST_NODES:
            problem = f"stands for more than {MOST_NODES:,} values when its aliases are written out"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is a list or a mapping", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_decimal(self, node: yaml.ScalarNode) -> int:
        """YAML 1.1 reads ``010`` as eight; 1.2 as ten."""
        return int(self.construct_scalar(node))


class _Dumper(yaml.SafeDumper):
    """Quotes exactly the strings that ``_Loader`` would read as something else."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values ``node`` stands for; one that holds itself counts as more than any file may have."""
    if id(node) not in sizes:
        sizes[id(node)] = MOST_NODES + 1
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        below = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = 1 + sum(_size(one, sizes) for one in below)
    return sizes[id(node)]


for _kind, _pattern, _first in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(_pattern), ["" if letter == "\0" else letter for letter in _first]
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_decimal)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: The file is missing, cut off, names a key twice, or is no mapping.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for, a device read without end
            problem = "is a folder" if path.is_dir() else "is a pipe, a socket or a device"
            raise InputError(Finding(str(path), "file", problem, "give a YAML text file"))
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(Finding(str(path), "file", "does not exist", "check the path")) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(Finding(str(path), "file", f"cannot be read: {error}", "give a YAML text file")) from None
    value = parse_yaml(text, str(path))
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(Finding(str(path), "file", f"holds a {type(value).__name__}", "write `key: value` lines"))
    return value


def parse_yaml(text: str, source: str) -> Any:
    """The value of a piece of YAML; ``source`` is named in the error.

    Raises:
        InputError: The text is no YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "text"
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(Finding(source, where, f"is not valid YAML: {problem}", "correct the line")) from None
    except RecursionError:
        raise InputError(Finding(source, "text", "nests its brackets thousands deep", "correct the line")) from None
    except ValueError as error:  # Python's bound on the digits of a whole number
        raise InputError(Finding(source, "text", str(error), "correct the number")) from None


def write_yaml(value: Mapping[str, Any]) -> str:
    """The text that ``parse_yaml`` reads back as an equal value; keys keep their order, short lists stay on a line."""
    return str(
        yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    )


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set ``tree["a"]["b"]`` for the dotted key ``a.b``, making the mappings on the way."""
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.get(parent)
        if not isinstance(below, dict):
            below = tree[parent] = {}
        tree = below
    tree[last] = value


def parse_override(text: str) -> tuple[str, Any]:
    """The dotted key and the YAML value of ``a.b=value``.

    Raises:
        InputError: There is no ``=``, the key is empty, or the value is no YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
        raise InputError(
            Finding("command line", repr(text), "is not of the form key=value", "write for example train.base.lr=0.001")
        )
    return key, parse_yaml(value, f"command line {text!r}")


def expand(tree: Any, source: str, lookup: Callable[[str], Any], at: Sequence[str] = ()) -> Any:
    """``tree`` with every ``${NAME}`` (environment) and ``${section.key}`` (same file) in its strings replaced.

    A name without a dot is a key of the file where the file has it, as ``${output}``, and else of the environment.

    Args:
        tree: Mappings, lists and scalars.
        source: The file to name in an error.
        lookup: Gives the value of a dotted key of the file, or None.
        at: Where ``tree`` hangs; for the error.

    Raises:
        InputError: A name is not set.
    """
    if isinstance(tree, dict):
        return {key: expand(value, source, lookup, (*at, str(key))) for key, value in tree.items()}
    if isinstance(tree, list):
        return [expand(value, source, lookup, at) for value in tree]
    if not isinstance(tree, str):
        return tree

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        value = lookup(name)
        if "." not in name and (value in (None, "") or isinstance(value, dict | list)):
            value = os.environ.get(name)
        if value in (None, ""):
            key = ".".join(at)
            fix = f"add {name}=..." if "." in name else f"export {name}=... or give {key}=..."
            raise InputError(Finding(source, f"key {key}", f"uses ${{{name}}}, which is not set", fix))
        return str(value)

    return _REFERENCE.sub(replace, tree)
