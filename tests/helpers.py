"""Small networks, hand-made records and tiny runs shared by the tests of the learning layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from incdet.config import Config, parse_config
from incdet.config.architecture import Architecture
from incdet.data.records import Record
from incdet.distillation.teacher import Teacher, TeacherOutputs
from incdet.distillation.teacher_targets import BatchTargets
from incdet.distillation.term import Answers, Term
from incdet.network.retinanet import HeadOutputs, ImageBatch, IncrementalRetinaNet
from incdet.ops.assign import assign
from incdet.ops.losses import focal_losses
from incdet.vocab import Vocabulary

SMALL: dict[str, Any] = {
    "backbone": "tiny",
    "channels": 8,
    "tower_depth": 1,
    "anchor_sizes": ((12, 16), (24, 32)),
    "min_size": (48,),
    "max_size": 64,
}


def network(*steps: tuple[str, ...], seed: int = 0, **changes: Any) -> IncrementalRetinaNet:
    """A small detector whose scores differ from place to place, as those of a trained one do."""
    torch.manual_seed(seed)
    model = IncrementalRetinaNet(Architecture(**{**SMALL, **changes}), Vocabulary(steps or (("a", "b"),)))
    for parameter in model.class_head.predictors.parameters():
        if parameter.dim() == 4:
            nn.init.normal_(parameter, std=0.3)
    return model


def loud(*steps: tuple[str, ...], **changes: Any) -> IncrementalRetinaNet:
    """One that finds something everywhere, in evaluation mode."""
    model = network(*steps, **changes)
    for name, parameter in model.class_head.predictors.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return model.eval()


def pictures(count: int = 2, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 48, 48, generator=generator) for _ in range(count)]


def target(
    boxes: Sequence[Sequence[float]] = (),
    labels: Sequence[int] = (),
    coverage: Sequence[bool] | None = None,
    ignore: Sequence[bool] | None = None,
) -> dict[str, Any]:
    value: dict[str, Any] = {
        "boxes": torch.tensor([list(box) for box in boxes], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(list(labels), dtype=torch.int64),
    }
    if coverage is not None:
        value["coverage"] = torch.tensor(list(coverage), dtype=torch.bool)
    if ignore is not None:
        value["ignore"] = torch.tensor(list(ignore), dtype=torch.bool)
    return value


def responses(logits: Tensor, deltas: Tensor | None = None, anchors: Tensor | None = None) -> HeadOutputs:
    """A forward made of given tensors; without deltas every box is its anchor."""
    batch, count = logits.shape[:2]
    return HeadOutputs(
        logits,
        torch.zeros(batch, count, 4) if deltas is None else deltas,
        [],
        grid(count) if anchors is None else anchors,
    )


def draw(seed: int, *shape: int, spread: float = 3.0) -> Tensor:
    """Normal numbers that are the same at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def slope(loss: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of ``loss`` by ``leaf``; the graph is kept."""
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


def descend(losses: Mapping[str, Tensor]) -> None:
    """The backward pass of their sum."""
    torch.autograd.backward(list(losses.values()))


@dataclass(frozen=True)
class Told(TeacherOutputs):
    """A teacher's answer whose detections are given instead of decoded."""

    found: Sequence[Mapping[str, Tensor]] = ()

    def detections(self, lowest: float) -> list[dict[str, Tensor]]:
        return [{key: value[one["scores"] >= lowest] for key, value in one.items()} for one in self.found]


def answer(
    logits: Tensor,
    deltas: Tensor | None = None,
    *,
    first: int = 0,
    heads: Sequence[int] | None = None,
    anchors: Tensor | None = None,
    found: Sequence[Mapping[str, Tensor]] = (),
) -> TeacherOutputs:
    """A teacher's answer made of given tensors; anchors do not touch, and without deltas every box is its anchor."""
    given = responses(logits, deltas, anchors)
    own = (logits.shape[-1],) if heads is None else tuple(heads)
    size = [(20, 20 * logits.shape[1])] * len(logits)
    batch = ImageBatch(torch.zeros(len(logits), 3, 20, 20 * logits.shape[1]), size, size, None)
    teacher = _teacher(first + logits.shape[-1], first)
    return Told(given.logits, given.deltas, [], given.anchors, first, own, batch, teacher, found)


@cache
def _teacher(columns: int, first: int) -> Teacher:
    return Teacher(network(tuple(f"class{number}" for number in range(columns))), first)


def losses_of(term: Term, student: HeadOutputs, answers: Answers, batch: BatchTargets) -> dict[str, Tensor]:
    """What a term makes of a whole batch on its own."""
    targets = term.targets(answers, batch)
    total = term.count(targets, batch)
    charge = term.class_targets(targets, batch, total)
    focal = None if charge is None else focal_losses(student.logits, [charge])[0]
    return term.losses(student, targets, batch, total, focal)


def batch_targets(
    targets: Sequence[Mapping[str, Any]],
    heads: Sequence[int],
    anchors: Tensor | None = None,
    *,
    count: int = 4,
    masked: bool = True,
    box_kind: str = "l1",
) -> BatchTargets:
    """The annotations of a batch whose student has ``heads``, on ``count`` anchors that do not touch."""
    anchors = grid(count) if anchors is None else anchors
    everything = torch.ones(sum(heads), dtype=torch.bool)
    coverage = torch.stack([target.get("coverage", everything) for target in targets])
    trained = coverage if masked else torch.ones_like(coverage)
    return BatchTargets(targets, anchors, assign(targets, anchors), coverage, trained, tuple(heads), box_kind)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operation that reaches a kernel, with the elements of what it makes; views are free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[int] = []
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.names.append(func.overloadpacket.__name__)
            self.made.append(result.numel() if isinstance(result, Tensor) else 0)
        return result


def operations(call: Callable[[], object]) -> int:
    """How many operations ``call`` dispatches."""
    return len(sizes_made(call))


def waits(call: Callable[[], object]) -> list[str]:
    """The operations of ``call`` for whose result, a value or a length, a host would wait for its GPU."""
    watch = _Watch()
    with watch:
        call()
    waiting = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "repeat_interleave", "nms"}
    return [name for name in watch.names if name in waiting]


def sizes_made(call: Callable[[], object]) -> list[int]:
    """The number of elements that each operation of ``call`` makes."""
    watch = _Watch()
    with watch:
        call()
    return watch.made


def grid(count: int, side: float = 10.0, gap: float = 20.0) -> Tensor:
    """``count`` squares (count, 4) beside one another that do not touch."""
    left = torch.arange(count, dtype=torch.float32) * gap
    top = torch.zeros(count)
    return torch.stack([left, top, left + side, top + side], dim=1)


def record(
    image: str | Path,
    names: Iterable[str] = (),
    *,
    number: int = 1,
    coverage: Iterable[str] | None = None,
    boxes: Sequence[Sequence[float]] | None = None,
    ignore: Sequence[bool] | None = None,
    size: int = 48,
) -> Record:
    names = tuple(names)
    own = [[4.0 + 2 * i, 5.0, 24.0 + 2 * i, 25.0] for i in range(len(names))] if boxes is None else boxes
    return Record(
        Path(image),
        number,
        size,
        size,
        np.array(own, np.float32).reshape(-1, 4),
        names,
        np.array([False] * len(names) if ignore is None else ignore, bool),
        frozenset(names if coverage is None else coverage),
    )


def tiny_settings(output: Path, **changes: Any) -> Config:
    """A run of seconds on drawn shapes of 48 px: three steps of two classes, a few iterations each.

    Args:
        output: Run folder.
        changes: Top-level sections; a mapping is merged into the section, anything else replaces it.
    """
    tree: dict[str, Any] = {
        "output": str(output),
        "methods": ["incdet"],
        "data": {
            "format": "shapes",
            "root": str(output.parent / "shapes"),
            "train_images": 14,
            "test_images": 5,
            "image_size": 48,
        },
        "protocol": {"steps": "2x3"},
        "model": {
            "backbone": "tiny",
            "channels": 8,
            "tower_depth": 1,
            "min_size": [48],
            "max_size": 48,
            "anchor_sizes": [[12, 16], [24, 32]],
            "aspect_ratios": [1.0],
            "detections": 20,
            "score_thresh": 0.005,
        },
        "train": {
            "base": {
                "iterations": 4,
                "batch_size": 4,
                "optimizer": "adamw",
                "lr": 0.002,
                "warmup": 1,
                "schedule": "cosine",
                "clip": 5.0,
            },
            "increment": {"iterations": 4},
            "finetune": {"iterations": 2, "warmup": 0},
            "joint": {"iterations": 5},
        },
        "memory": {"total": 6},
        "engine": {"workers": 0, "device": "cpu", "log_every": 1},
        "evaluation": {"batch_size": 5, "samples": 1},
    }
    for name, value in changes.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, Mapping) else value
    return parse_config(tree)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def assert_equal_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    """Bit for bit, and names what differs."""
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
