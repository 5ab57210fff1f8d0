"""The class head rebuilt from chosen columns of another: rename, drop and reorder classes without touching a number.

Shape letters: K classes, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from incdet.errors import Finding, InputError
from incdet.network.heads import ClassHead
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.network.torchvision import select_columns
from incdet.vocab import Vocabulary


def with_columns(model: IncrementalRetinaNet, vocab: Vocabulary, columns: Sequence[int]) -> IncrementalRetinaNet:
    """A copy of ``model`` whose class i is the one that ``model`` has in column ``columns[i]``.

    The logits of a class are those that it had: trunk, towers and box head are copies, and its filters move as they
    are. Convolutions may round by where a channel stands (3e-6 was measured on a CPU). Whether predictors learn is as
    in the model's first.

    Args:
        model: It stays as it is.
        vocab: The classes of the copy, by steps.
        columns: For every class of ``vocab`` a column of ``model``, in [0, K); one may be taken twice.

    Raises:
        InputError: ``model`` is made of several networks.
        ValueError: ``columns`` are not as many as ``vocab`` has classes.
    """
    require_one_network(model)
    if len(columns) != len(vocab):
        raise ValueError(f"{len(columns)} columns for {len(vocab)} classes")
    result = copy.deepcopy(model)
    old, sizes = result.class_head, [len(step) for step in vocab.steps]
    weight, bias = old.joined()
    learning = next(old.predictors.parameters()).requires_grad
    head = ClassHead(old.tower, old.channels, old.anchors, sizes).to(weight.device, weight.dtype)
    first = 0
    with torch.no_grad():
        for predictor, size in zip(head.predictors, sizes, strict=True):
            assert isinstance(predictor, nn.Conv2d) and predictor.bias is not None
            own = columns[first : first + size]
            predictor.weight.copy_(select_columns(weight, old.anchors, own))
            predictor.bias.copy_(select_columns(bias, old.anchors, own))
            first += size
    head.predictors.requires_grad_(learning)
    result.class_head, result.vocab = head, vocab
    if model.calibration is not None:
        names = model.vocab.names
        taken = {names[column]: new for column, new in zip(columns, vocab.names, strict=True)}
        result.calibration = model.calibration.renamed(taken)
    return result.train(model.training)


def select(model: IncrementalRetinaNet, names: Sequence[str]) -> IncrementalRetinaNet:
    """A copy of ``model`` that knows ``names`` alone, in the order and the steps that they have there.

    Raises:
        InputError: A name is unknown, there is none, or ``model`` is made of several networks.
    """
    wanted = {model.vocab.names[column] for column in model.vocab.columns(names)}
    if not wanted:
        raise InputError(Finding("classes", "names", "are none", "name at least one class"))
    steps = (tuple(name for name in step if name in wanted) for step in model.vocab.steps)
    ids = {name: number for name, number in (model.vocab.source_ids or {}).items() if name in wanted}
    vocab = Vocabulary(tuple(step for step in steps if step), ids or None)
    return with_columns(model, vocab, model.vocab.columns(vocab.names))


def require_one_network(model: IncrementalRetinaNet) -> None:
    """Refuses a detector that holds more than one class head.

    Raises:
        InputError: It does.
    """
    if type(model) is not IncrementalRetinaNet:
        problem = "holds a network for each of several steps, whose classes cannot be moved"
        raise InputError(Finding("detector", type(model).__name__, problem, "begin from the checkpoint before them"))
