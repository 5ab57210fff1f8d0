"""The class vocabulary: ordered class names grouped by step, the only owner of logit columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from incdet.errors import Finding, InputError, shown, suggest

LONGEST_NAME = 200
"""Characters of a class name; a longer one is a mistake."""


def clean_name(name: str) -> str:
    """The class name that ``name`` writes: composed (NFC), without space around it, single spaces inside."""
    if name.isascii() and name.isprintable() and "  " not in name:
        return name.strip(" ")
    return " ".join(unicodedata.normalize("NFC", name).replace("\ufeff", "").split())


def name_problem(name: object) -> str:
    """Why ``name`` cannot be a class name, "" if it can."""
    if not isinstance(name, str) or not clean_name(name):
        return f"has the name {shown(name)!r}" if isinstance(name, str) else f"has the name {shown(name)}"
    if len(name) > LONGEST_NAME:
        return f"has a name of {len(name)} characters, {shown(name)}"
    if any(unicodedata.category(sign) in ("Cc", "Cs") for sign in clean_name(name)):
        return f"has the name {name!r}, with characters that cannot be written"
    return ""


def look_alikes(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """The ``names`` that only look like one of ``known``, each with the known one.

    Alike are names that differ in case, width of characters, spaces, hyphens and underscores alone.
    """
    own = tuple(known)
    folded = {_folded(name): name for name in reversed(own)}
    alike = {name: folded.get(_folded(name), name) for name in names if name not in own}
    return {name: other for name, other in alike.items() if name != other}


def look_alike_warnings(file: str, names: Sequence[str], known: Sequence[str]) -> list[Finding]:
    """A warning for each of a file's class ``names`` that only looks like one of ``known``."""
    return [
        Finding(
            file,
            f"class {name!r}",
            f"looks like {other!r} and is taken for a class of its own",
            f"rename it to {other!r} in the annotations if it is the same class",
            "warning",
        )
        for name, other in look_alikes(names, known).items()
    ]


def _folded(name: str) -> str:
    signs = unicodedata.normalize("NFKC", name).casefold()
    return "".join(sign for sign in signs if sign != "_" and unicodedata.category(sign) not in ("Zs", "Pd")) or name


@dataclass(frozen=True)
class Vocabulary:
    """Every name has exactly one logit column: its position when the steps are written one after another.

    Attributes:
        steps: Class names of step 1, step 2, ...; a step may not be empty and a name may stand once only.
        source_ids: The category id of a name in the annotation file it came from, where one is known.

    Raises:
        InputError: A name is empty, stands twice, or a step has no class.
    """

    steps: tuple[tuple[str, ...], ...]
    source_ids: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for words in (self.steps, *self.steps):
            _refuse_string(words)
        given = [tuple(step) for step in self.steps]
        steps = (tuple(clean_name(name) if isinstance(name, str) else name for name in step) for step in given)
        object.__setattr__(self, "steps", tuple(steps))
        findings = []
        seen: set[str] = set()
        for number, (step, words) in enumerate(zip(self.steps, given, strict=True), start=1):
            if not step:
                findings.append(_finding(f"step {number}", "has no class", "name at least one class"))
            for name, word in zip(step, words, strict=True):
                if problem := name_problem(word):
                    findings.append(
                        _finding(
                            f"step {number}", f"a class {problem}", f"use 1 to {LONGEST_NAME} printable characters"
                        )
                    )
                elif name in seen:
                    findings.append(
                        _finding(
                            f"class {name!r}",
                            f"is already known (again in step {number})",
                            "remove it from the new classes or rename it",
                        )
                    )
                seen.add(name)
        if findings:
            raise InputError(findings)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All class names in column order, (K,)."""
        return tuple(name for step in self.steps for name in step)

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def column(self, name: str) -> int:
        """The logit column of ``name``, in [0, K).

        Raises:
            InputError: The name is unknown; the message lists the near ones.
        """
        try:
            return self._columns[name]
        except KeyError:
            raise InputError(
                _finding(f"class {name!r}", "is not in the vocabulary", suggest(name, self.names))
            ) from None

    def columns(self, names: Iterable[str]) -> list[int]:
        """The logit columns of ``names``, in their order."""
        return [self.column(name) for name in names]

    def step_of(self, name: str) -> int:
        """The step (1-based) that taught ``name``."""
        column = self.column(name)
        for number, step in enumerate(self.steps, start=1):
            if column < len(step):
                return number
            column -= len(step)
        raise AssertionError("unreachable: the column of a known name lies in some step")

    def seen(self, step: int) -> tuple[str, ...]:
        """Classes of steps 1..``step``."""
        return tuple(name for names in self.steps[:step] for name in names)

    def old(self, step: int) -> tuple[str, ...]:
        """Classes of the steps before ``step``."""
        return self.seen(step - 1)

    def new(self, step: int) -> tuple[str, ...]:
        """Classes that ``step`` (1-based) teaches."""
        return self.steps[step - 1]

    def grow(self, names: Sequence[str], source_ids: Mapping[str, int] | None = None) -> Vocabulary:
        """The vocabulary with one more step; the columns of all earlier names stay as they are."""
        _refuse_string(names)
        merged = {**(self.source_ids or {}), **(source_ids or {})}
        return Vocabulary((*self.steps, tuple(names)), merged or None)

    def source_id(self, name: str) -> int:
        """The category id of ``name`` in its source; its column + 1 where the source gave none."""
        column = self.column(name)
        return self.source_ids.get(name, column + 1) if self.source_ids else column + 1

    def to_json(self) -> dict[str, Any]:
        """A value that ``json.dump`` writes and ``from_json`` reads back."""
        return {"steps": [list(step) for step in self.steps], "source_ids": dict(self.source_ids or {}) or None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Vocabulary:
        """The inverse of ``to_json``."""
        return cls(tuple(tuple(step) for step in value["steps"]), value.get("source_ids"))


def _refuse_string(words: object) -> None:
    """A string is a sequence of strings too: its letters."""
    if isinstance(words, str):
        problem = f"are the string {words!r}, which is no list"
        raise InputError(_finding("classes", problem, f"give a list: [{words!r}]"))


def _finding(item: str, problem: str, fix: str) -> Finding:
    return Finding("class vocabulary", item, problem, fix)
