"""Which split of a data set is read: the one that is named, else the one that the purpose asks for. One rule for all.

Test data are never taken from a training split by default, nor training data from a test split.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from incdet.errors import Finding, InputError, suggest

Purpose = Literal["train", "test"]
_TRAINING, _TESTING = ("trainval", "train", "training"), ("test", "testing", "val", "valid", "validation", "eval")


def purpose_of(split: str) -> Purpose | None:
    """What a split is for, told from the words of its name (``train2017``, ``2007_test``); None if they do not say."""
    words = set(re.findall("[a-z]+", split.lower()))
    if words & set(_TRAINING):
        return "train"
    return "test" if words & set(_TESTING) else None


def choose_split(splits: Sequence[str], wanted: str | None, purpose: Purpose, where: Path) -> str:
    """The split to read.

    Args:
        splits: Those there are; "" stands for data without splits.
        wanted: The one that was named; None takes the one of ``purpose``.
        purpose: What the data are for.
        where: For messages.

    Raises:
        InputError: There is none of that name; or none, or more than one, for the purpose.
    """
    if wanted is not None:
        return _named(splits, wanted, where)
    if set(splits) == {""}:
        return ""
    for word in _TESTING if purpose == "test" else _training_words(splits):
        fitting = [split for split in splits if word in re.findall("[a-z]+", split.lower())]
        if len(fitting) > 1:
            several = f"has several splits for a {purpose}: {', '.join(fitting)}"
            raise InputError(Finding(str(where), "split", several, f"name one, for example --split {fitting[0]}"))
        if fitting:
            return fitting[0]
    others = [split for split in splits if purpose_of(split) is None]
    if len(others) == 1:
        return others[0]
    listed = ", ".join(split or "the folder itself" for split in splits)
    fix = f"name one: --split {next(iter(split for split in others + list(splits) if split))}"
    raise InputError(Finding(str(where), "split", f"has no split to {purpose} on, only {listed}", fix))


def apart(splits: Sequence[str]) -> list[str]:
    """The splits that hold every image once: without those that join others of the list, such as ``trainval``."""
    words = {split: re.findall("[a-z]+", split.lower()) for split in splits}
    plain = any("train" in found for found in words.values())
    return [split for split in splits if not (plain and "trainval" in words[split])]


def _training_words(splits: Sequence[str]) -> tuple[str, ...]:
    """``trainval`` first where there is a test split, else ``train``: then ``val`` is what is tested on."""
    words = {word for split in splits for word in re.findall("[a-z]+", split.lower())}
    return _TRAINING if words & {"test", "testing"} or "train" not in words else ("train", "trainval", "training")


def _named(splits: Sequence[str], wanted: str, where: Path) -> str:
    if wanted in splits:
        return wanted
    longer = [split for split in splits if split.endswith(f"_{wanted}") or wanted.endswith(f"_{split}") and split]
    if len(longer) == 1:  # 2007_trainval and trainval mean the same where there is one year
        return longer[0]
    if len(longer) > 1:
        years = ", ".join(longer)
        raise InputError(Finding(str(where), "split", f"has {years}", f"name one, for example --split {longer[0]}"))
    if set(splits) == {""}:
        problem = f"there is no {wanted!r}: the data are not split"
        raise InputError(Finding(str(where), "split", problem, "leave --split out, or give the folder of the split"))
    raise InputError(Finding(str(where), "split", f"there is no {wanted!r}", suggest(wanted, filter(None, splits))))
