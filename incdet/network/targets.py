"""Targets on their way to the network: checked, rescaled and moved for the whole batch at once.

Shape letters: B images, M boxes, K seen classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from incdet.errors import Finding, InputError
from incdet.vocab import Vocabulary

Target = dict[str, Any]
Shape = tuple[int, int]


def check_targets(images: Sequence[Tensor] | Tensor, targets: Sequence[Mapping[str, Any]], vocab: Vocabulary) -> None:
    """Accepts torchvision's targets with columns of ``vocab`` as labels.

    torchvision takes label -1 silently for the last class, and label K fails far from its cause. Tensors of the host
    cost no wait for the device; those of a device cost one, however many images there are.

    Raises:
        InputError: With one finding per faulty image.
    """
    if len(images) != len(targets):
        raise InputError(
            Finding(
                "targets", "batch", f"has {len(targets)} targets for {len(images)} images", "pass one dict per image"
            )
        )
    faults = [_form_fault(target) for target in targets]
    if not any(faults) and _all_valid(targets, len(vocab)):
        return
    faults = [fault or _value_fault(target, len(vocab)) for fault, target in zip(faults, targets, strict=True)]
    findings = [Finding("targets", f"image {index}", *fault) for index, fault in enumerate(faults) if fault]
    if findings:
        raise InputError(findings)


def resized_targets(
    targets: Sequence[Mapping[str, Any]], before: Sequence[Shape], after: Sequence[Shape], device: torch.device
) -> list[Target]:
    """Copies of ``targets`` on ``device`` with float32 ``boxes`` (M, 4) in pixels of the resized images.

    All tensors of one dtype travel in one copy. The results may be views of one tensor.

    Args:
        targets: As ``check_targets`` accepts them; keys other than ``boxes`` are kept as they are.
        before: (height, width) of each image as given.
        after: (height, width) of each image after resizing.
        device: Where the tensors go.
    """
    boxes = scale_boxes([target["boxes"] for target in targets], before, after)
    result = [{**target, "boxes": scaled} for target, scaled in zip(targets, boxes, strict=True)]
    places = [(target, key) for target in result for key, value in target.items() if isinstance(value, Tensor)]
    moved = move_together([target[key] for target, key in places], device)
    for (target, key), value in zip(places, moved, strict=True):
        target[key] = value
    return result


def move_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors on ``device``; those of the host travel in one copy per dtype and arrive as views of it."""
    result = [tensor if tensor.device.type == "cpu" else tensor.to(device) for tensor in tensors]
    kinds: dict[torch.dtype, list[int]] = {}
    for index, tensor in enumerate(result):
        if tensor.device != device:
            kinds.setdefault(tensor.dtype, []).append(index)
    for dtype, members in kinds.items():
        flat = [result[index].reshape(-1) for index in members]
        sizes = [len(values) for values in flat]
        # The copy runs beside the host's work only from pinned memory.
        together = torch.empty(sum(sizes), dtype=dtype, pin_memory=device.type == "cuda")
        moved = torch.cat(flat, out=together).to(device, non_blocking=True)
        for index, values in zip(members, torch.split(moved, sizes), strict=True):
            result[index] = values.view(result[index].shape)
    return result


def scale_boxes(boxes: Sequence[Tensor], before: Sequence[Shape], after: Sequence[Shape]) -> list[Tensor]:
    """``boxes`` times the ratio of the sizes; the float32 arithmetic is that of torchvision's ``resize_boxes``."""
    if list(before) == list(after):
        return [group.float() for group in boxes]
    old, new = (torch.tensor([shape[::-1] for shape in shapes], dtype=torch.float32) for shapes in (before, after))
    ratios = (new / old).repeat(1, 2)
    counts = [len(group) for group in boxes]
    if len({group.device for group in boxes}) > 1:
        rows = move_together(list(ratios), boxes[0].device)
        return [group.float() * row.to(group.device) for group, row in zip(boxes, rows, strict=True)]
    factors = move_together([ratios.repeat_interleave(torch.tensor(counts), dim=0)], boxes[0].device)[0]
    return list(torch.split(torch.cat([group.float() for group in boxes]) * factors, counts))


def _form_fault(target: Mapping[str, Any]) -> tuple[str, str] | None:
    """Problem and fix of the types and shapes of one target, or None."""
    boxes, labels = target.get("boxes"), target.get("labels")
    if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[-1] != 4:
        shape = tuple(boxes.shape) if isinstance(boxes, Tensor) else type(boxes).__name__
        return f"boxes are {shape}", "pass a float tensor of shape (M, 4), (0, 4) for no object"
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != boxes.shape[:1]:
        shape = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        return f"labels are {shape}", f"pass an int64 tensor of shape ({boxes.shape[0]},)"
    return None


def _all_valid(targets: Sequence[Mapping[str, Any]], classes: int) -> bool:
    """Whether no box and no label of the batch is faulty; False where the answer would need several waits."""
    boxes, labels = ([target[key] for target in targets] for key in ("boxes", "labels"))
    if len({tensor.device for tensor in (*boxes, *labels)}) > 1:
        return False
    valid, known = _sound(torch.cat(boxes), torch.cat(labels), classes)
    return bool((valid & known).all())


def _sound(boxes: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(M,) bool: finite boxes of positive size, and labels that are columns."""
    valid = (boxes[:, 2:] > boxes[:, :2]).all(1) & torch.isfinite(boxes).all(1)
    return valid, (labels >= 0) & (labels < classes)


def _value_fault(target: Mapping[str, Any], classes: int) -> tuple[str, str] | None:
    """Problem and fix of the first faulty box or label of one target, or None."""
    boxes, labels = target["boxes"], target["labels"]
    valid, known = _sound(boxes, labels.to(boxes.device), classes)
    if not bool(valid.all()):
        row = int((~valid).nonzero()[0])
        return f"box {row} is {boxes[row].tolist()}", "boxes are [x1, y1, x2, y2] with x1 < x2 and y1 < y2"
    if not bool(known.all()):
        row = int((~known).nonzero()[0])
        return f"label {row} is {int(labels[row])}", f"labels are logit columns 0 to {classes - 1}"
    return None
