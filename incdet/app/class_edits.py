"""The classes of a detector renamed, merged, removed, reordered, and a proof that the others find what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from incdet.app.photograph import read_photograph
from incdet.app.progress import Display
from incdet.app.sources import find_sources
from incdet.config.architecture import Architecture
from incdet.errors import Finding, InputError, suggest
from incdet.evaluation.sameness import Sameness, compare
from incdet.network.columns import with_columns
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.training.union import fit_union
from incdet.vocab import Vocabulary, clean_name

DRAWN = 4
"""Pictures of noise for a proof where none are given."""


@dataclass(frozen=True)
class Edits:
    """What is to change, done in this order; each speaks of the names that those before it left.

    Attributes:
        rename: New names by the old ones.
        merge: New names with the classes that each stands for; it takes the place of the first.
        remove: Classes to drop.
        order: All classes that are left, in their new order; empty leaves it as it is.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remove: Sequence[str] = ()
    order: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.rename or self.merge or self.remove or self.order)


class _Class(NamedTuple):
    """A class of the result: its name, step, and the columns of the detector that it stands for."""

    name: str
    step: int
    columns: tuple[int, ...]


class Edited(NamedTuple):
    """A detector with other classes.

    Attributes:
        model: The new one.
        kept: The untouched classes: their names before and now.
        proof: What they find, before and now.
        divergence: How far each merged class is from the loudest of those it stands for, see ``fit_union``.
    """

    model: IncrementalRetinaNet
    kept: dict[str, str]
    proof: Sameness
    divergence: dict[str, float]


def edit_classes(
    model: IncrementalRetinaNet, edits: Edits, images: Sequence[Path] = (), *, display: Display | None = None
) -> Edited:
    """A copy of ``model`` with edited classes; the numbers of all others stay as they are.

    Args:
        model: It stays as it is.
        edits: What is to change.
        images: Pictures, or folders of them, to prove it on and to learn merged classes from; no labels are needed.
            Without any the proof is made on noise, where every score is compared all the same.
        display: Where to show how far it is.

    Raises:
        InputError: A name is unknown or would stand twice, no class would be left, a merge has no picture to learn
            from, or a picture cannot be read.
    """
    classes = _planned(model.vocab, edits)
    files = [source.file for source in find_sources(images)] if images else []
    if any(len(one.columns) > 1 for one in classes) and not files:
        fix = "add --images with pictures of the kind that the detector is for; they need no labels"
        raise InputError(Finding("command line", "merge", "has no picture to learn from", fix))
    names = model.vocab.names
    steps = [one.step for one in classes]
    if model.architecture.precedence and steps != sorted(steps):
        problem = "puts a later step's class before an earlier one's, and earlier classes go first in this detector"
        fix = "keep the steps in their order, and reorder the classes within them"
        raise InputError(Finding("command line", "order", problem, fix))
    result = with_columns(model, _vocabulary(model.vocab, classes), [one.columns[0] for one in classes])
    display = display or Display.on_stderr()

    drawn = [] if files else noise(model.architecture)
    pictures = [partial(_planes, file) for file in files] + [partial(Tensor.clone, one) for one in drawn]
    divergence = {}
    with display:
        for column, one in enumerate(classes):
            if len(one.columns) > 1:
                words = f"merge into {one.name}"
                divergence[one.name] = fit_union(
                    result, column, model, one.columns, pictures, progress=_told(display, words)
                )[-1]
        kept = {names[one.columns[0]]: one.name for one in classes if len(one.columns) == 1}
        if model.calibration is not None:
            result.calibration = model.calibration.renamed(kept)
        seen = (picture() for picture in pictures)
        proof = compare(model, result, kept, seen, lambda done: display.advance("proof", done, len(pictures)))
    return Edited(result, kept, proof, divergence)


def _planes(file: Path) -> Tensor:
    return read_photograph(file).planes


def _told(display: Display, words: str) -> Callable[[int, int, float], None]:
    return lambda done, total, divergence: display.advance(words, done, total, f"divergence {divergence:.4f}")


def _planned(vocab: Vocabulary, edits: Edits) -> list[_Class]:
    """The classes of the result, in the order of their columns."""
    classes = {name: _Class(name, vocab.step_of(name), (column,)) for column, name in enumerate(vocab.names)}
    for old in edits.rename:
        _known(old, classes, "rename")
    renamed = {old: clean_name(new) for old, new in edits.rename.items()}
    every = [one._replace(name=renamed.get(one.name, one.name)) for one in classes.values()]
    for new, given in edits.merge.items():
        if len(set(given)) < 2:
            fix = "name the new class and at least two old ones: --merge animal cat dog"
            raise InputError(Finding("command line", f"merge {new!r}", f"is of {len(set(given))} class", fix))
        for name in given:
            _known(name, [one.name for one in every], "merge")
        members = [one for name in dict.fromkeys(given) for one in every if one.name == name]
        place = every.index(members[0])
        columns = tuple(column for one in members for column in one.columns)
        every[place] = members[0]._replace(name=clean_name(new), columns=columns)
        every = [one for one in every if one not in members[1:]]
    for name in edits.remove:
        _known(name, [one.name for one in every], "remove")
    every = [one for one in every if one.name not in edits.remove]
    if not every:
        raise InputError(Finding("command line", "remove", "would leave no class", "keep at least one"))
    return _ordered(every, edits.order) if edits.order else every


def _ordered(every: Sequence[_Class], order: Sequence[str]) -> list[_Class]:
    names = [one.name for one in every]
    for name in order:
        _known(name, names, "order")
    if missing := [name for name in names if name not in order]:
        fix = "name every class that is left, or drop it with --remove"
        raise InputError(Finding("command line", "order", f"leaves out {', '.join(missing)}", fix))
    if len(order) > len(names):
        twice = next(name for name in order if list(order).count(name) > 1)
        raise InputError(Finding("command line", "order", f"names {twice!r} twice", "name every class once"))
    return [every[names.index(name)] for name in order]


def _known(name: str, names: Iterable[str], what: str) -> None:
    if name not in names:
        raise InputError(Finding("command line", f"{what} {name!r}", "is no class of it", suggest(name, names)))


def _vocabulary(vocab: Vocabulary, classes: Sequence[_Class]) -> Vocabulary:
    """The steps as far as the new order leaves their classes together, else one step."""
    steps = [one.step for one in classes]
    groups = [[one.name for one in classes if one.step == step] for step in dict.fromkeys(steps)]
    if [name for group in groups for name in group] != [one.name for one in classes]:
        groups = [[one.name for one in classes]]
    ids = {one.name: vocab.source_id(vocab.names[one.columns[0]]) for one in classes}
    return Vocabulary(tuple(map(tuple, groups)), ids if vocab.source_ids else None)


def noise(architecture: Architecture) -> list[Tensor]:
    """Pictures (3, H, W) of nothing, on which scores can be compared all the same."""
    generator = torch.Generator().manual_seed(0)
    side = architecture.min_size[-1]
    return [torch.rand(3, side, side, generator=generator) for _ in range(DRAWN)]
