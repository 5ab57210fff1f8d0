"""Two detectors in one: what they share, and how their classes come together without learning anything.

Shape letters: K classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch

from incdet.config.architecture import Architecture
from incdet.errors import Finding, InputError
from incdet.network.columns import require_one_network, with_columns
from incdet.network.paired import Trunk, paired
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.vocab import Vocabulary

_PICTURES = ("image_mean", "image_std", "min_size", "max_size", "size_divisible", "fixed_size")
_GRID = ("anchor_sizes", "ratios", "pyramid")


def share_trunk(first: IncrementalRetinaNet, second: IncrementalRetinaNet) -> bool:
    """Whether both are of one architecture and compute the same features, bit for bit."""
    alike = _numbers(first.architecture) == _numbers(second.architecture)
    return alike and _same(first, second, "backbone.")


def share_heads(first: IncrementalRetinaNet, second: IncrementalRetinaNet) -> bool:
    """Whether they differ in nothing but the classes of their predictors."""
    return (
        share_trunk(first, second) and _same(first, second, "class_head.tower.") and _same(first, second, "box_head.")
    )


def new_classes(first: IncrementalRetinaNet, second: IncrementalRetinaNet) -> list[str]:
    """The classes of ``second`` that ``first`` does not know: of a class of both, the first one's is kept.

    Raises:
        InputError: There is none, or one of the two is made of several networks.
    """
    for model in (first, second):
        require_one_network(model)
    names = [name for name in second.vocab.names if name not in first.vocab]
    if not names:
        fix = "rename a class that is another one of the same name: incdet classes --rename"
        raise InputError(Finding("second detector", "classes", "are all known to the first", fix))
    return names


def joined(first: IncrementalRetinaNet, second: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """A copy of ``first`` with the new predictors of ``second``, for detectors that ``share_heads``.

    The filters of all classes are those of the detector they come from, bit for bit, and so are the features.
    """
    part = only_new(first, second)
    result = copy.deepcopy(first)
    result.class_head.predictors.extend(part.class_head.predictors.to(first.device))
    result.vocab = merged_vocabulary(first.vocab, part.vocab)
    if first.calibration is not None and part.calibration is not None:
        thresholds = {**part.calibration.thresholds, **first.calibration.thresholds}
        result.calibration = replace(first.calibration, thresholds=thresholds)
    return result.train(first.training)


def beside(first: IncrementalRetinaNet, second: IncrementalRetinaNet, trunk: Trunk) -> IncrementalRetinaNet:
    """Both networks in one detector: the first as it is, the new classes of the second beside it.

    What the first finds stays bit for bit; see ``incdet.network.paired`` for the scores of the second where both see
    something in one place.

    Args:
        first: All its classes.
        second: Its new classes, with its box head and, with an ``own`` trunk, its backbone.
        trunk: ``shared`` for detectors that ``share_trunk``, else ``own``.

    Raises:
        InputError: The two are not of one architecture.
    """
    _refuse_other(_numbers(first.architecture), _numbers(second.architecture))
    part = only_new(first, second)
    flat = with_columns(part, Vocabulary((part.vocab.names,)), range(len(part.vocab)))
    flat.freeze_norm()
    return paired(first, flat, trunk)


def only_new(first: IncrementalRetinaNet, second: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """``second`` with the classes alone that ``first`` does not know, in the steps they have."""
    names = set(new_classes(first, second))
    steps = [tuple(name for name in step if name in names) for step in second.vocab.steps]
    vocab = Vocabulary(tuple(step for step in steps if step), second.vocab.source_ids)
    result = with_columns(second, vocab, second.vocab.columns(vocab.names))
    if result.calibration is not None:
        result.calibration = result.calibration.renamed({name: name for name in names})
    return result


def as_later_teacher(first: IncrementalRetinaNet, second: IncrementalRetinaNet) -> IncrementalRetinaNet:
    """``second`` with its new classes in the columns that they have in the union; nobody may ask for those before."""
    part = only_new(first, second)
    vocab = merged_vocabulary(first.vocab, part.vocab)
    columns = [0] * len(first.vocab) + second.vocab.columns(part.vocab.names)
    return with_columns(second, vocab, columns)


def merged_vocabulary(first: Vocabulary, later: Vocabulary) -> Vocabulary:
    """The steps of both; ids of the annotations only where no two classes have the same."""
    ids = {**(first.source_ids or {}), **(later.source_ids or {})}
    names = {*first.names, *later.names}
    own = {name: number for name, number in ids.items() if name in names}
    return Vocabulary((*first.steps, *later.steps), own if own and len(set(own.values())) == len(own) else None)


def require_same_pictures(first: Architecture, second: Architecture) -> None:
    """Checks that both see the same pictures and speak of the same anchors, as a student of both has to.

    Raises:
        InputError: With what differs.
    """
    _refuse_other(_seen(first), _seen(second))


def _seen(architecture: Architecture) -> dict[str, object]:
    """What a network is shown, and the anchors it speaks of."""
    return {name: getattr(architecture, name) for name in (*_PICTURES, *_GRID)}


def _numbers(architecture: Architecture) -> dict[str, object]:
    """The same, and what it is built of."""
    return architecture.decisive() | _seen(architecture)


def _refuse_other(ours: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    fix = "merge detectors that were built alike; what is trained on both detectors' data has no such bound"
    findings = [
        Finding("second detector", f"architecture, {name}", f"is {theirs[name]!r}, the first has {ours[name]!r}", fix)
        for name in ours
        if ours[name] != theirs[name]
    ]
    if findings:
        raise InputError(findings)


def _same(first: IncrementalRetinaNet, second: IncrementalRetinaNet, prefix: str) -> bool:
    mine, theirs = (
        {name: value for name, value in model.state_dict().items() if name.startswith(prefix)}
        for model in (first, second)
    )
    return mine.keys() == theirs.keys() and all(
        value.shape == theirs[name].shape and torch.equal(value.cpu(), theirs[name].cpu())
        for name, value in mine.items()
    )
