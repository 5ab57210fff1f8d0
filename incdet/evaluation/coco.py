"""COCO AP of every class, by hotcoco where it is installed and by pycocotools elsewhere; both to the same last bit."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from incdet.data.records import Record
    from incdet.evaluation.detections import Detections

MAX_DETECTIONS = 100
"""COCO's limit per image and class."""


class _Boxes(NamedTuple):
    """The annotations of a COCO data set as columns; n of them.

    Attributes:
        image: (n,) int64, numbers of the images from 1.
        category: (n,) int64, from 1.
        box: (n, 4) float64, x, y, width, height.
        extra: (n,) iscrowd of objects, float64 scores of detections.
    """

    image: NDArray[np.int64]
    category: NDArray[np.int64]
    box: NDArray[np.float64]
    extra: NDArray[Any]


def coco_scores(
    records: Sequence[Record], found: Sequence[Detections], names: Sequence[str], backend: str | None = None
) -> list[tuple[float, float] | None]:
    """(AP, AP50) of every class by COCOeval; None where a class has no ground truth.

    Args:
        records: The test set.
        found: The detections of every record, in their order.
        names: The classes, in label order.
        backend: ``hotcoco`` or ``pycocotools``; if None the former where it is installed, for it is equal and faster.
    """
    if not records or not names:
        return [None] * len(names)
    curves = precisions(records, found, names, backend)
    scores: list[tuple[float, float] | None] = []
    for column in range(len(names)):
        # Selected as summarize() does: the sum over the flat copy is pycocotools' to the last bit, a strided one's not.
        curve, first = curves[:, :, column], curves[0, :, column]
        valid, valid_first = curve[curve > -1], first[first > -1]
        scores.append((float(np.mean(valid)), float(np.mean(valid_first))) if valid.size else None)
    return scores


def precisions(
    records: Sequence[Record], found: Sequence[Detections], names: Sequence[str], backend: str | None = None
) -> NDArray[np.float64]:
    """COCOeval's precision (10 IoU thresholds, 101 recalls, classes); -1 where a class has no ground truth.

    Arguments as for `coco_scores`; there is at least one record and one name.
    """
    module = _backend(backend)
    numbers = _numbers(records)
    truth, guesses = _truth(records, names, numbers), _guesses(found, numbers)
    sizes = [(record.width, record.height) for record in records]
    images = [
        {"id": number, "width": width, "height": height, "file_name": ""}
        for number, (width, height) in zip(numbers, sizes, strict=True)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    with _silence():
        if hasattr(module.COCO, "from_arrays"):
            sides = _from_arrays(module, images, categories, truth, guesses)
        else:
            sides = _from_dicts(module, images, categories, truth, guesses)
        evaluation = module.COCOeval(*sides, "bbox")
        evaluation.params.imgIds = numbers
        evaluation.params.catIds = list(range(1, len(names) + 1))
        evaluation.params.areaRng = [[0.0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
        curves: NDArray[np.float64] = np.asarray(evaluation.eval["precision"], np.float64)[:, :, :, 0, 0]
    return curves


def _numbers(records: Sequence[Record]) -> list[int]:
    """1, 2, ... for the records in the order of their image ids, which a scorer might round to float64.

    In their order, for detections of equal scores are ranked by the image they stand in.
    """
    ranks = {image_id: rank for rank, image_id in enumerate(sorted({r.image_id for r in records}), start=1)}
    return [ranks[record.image_id] for record in records]


def _truth(records: Sequence[Record], names: Sequence[str], numbers: Sequence[int]) -> _Boxes:
    column = {name: number for number, name in enumerate(names, start=1)}
    category = np.array([column.get(name, 0) for record in records for name in record.names], np.int64)
    image = np.repeat(numbers, [len(record.names) for record in records])
    crowd = np.concatenate([record.ignore for record in records]).astype(np.int64)
    known = category > 0
    return _Boxes(image[known], category[known], _sides([r.boxes for r in records])[known], crowd[known])


def _guesses(found: Sequence[Detections], numbers: Sequence[int]) -> _Boxes:
    image = np.repeat(numbers, [len(item.labels) for item in found])
    category = np.concatenate([item.labels for item in found]).astype(np.int64) + 1
    scores = np.concatenate([item.scores for item in found]).astype(np.float64)
    return _Boxes(image, category, _sides([item.boxes for item in found]), scores)


def _sides(boxes: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """x, y, width, height (n, 4) of xyxy boxes, in the arithmetic of Python's floats."""
    joined = np.concatenate([np.asarray(part).reshape(-1, 4) for part in boxes]).astype(np.float64)
    joined[:, 2:] -= joined[:, :2]
    return joined


def _from_arrays(
    module: Any, images: list[dict[str, Any]], categories: list[dict[str, Any]], truth: _Boxes, guesses: _Boxes
) -> tuple[Any, Any]:
    """Both sides as hotcoco takes them without an object per box."""
    first = module.COCO.from_arrays(
        images, categories, truth.image, truth.category, truth.box, iscrowd=truth.extra.astype(np.uint8)
    )
    rows = np.column_stack((guesses.image, guesses.box, guesses.extra, guesses.category))
    return first, first.loadRes(rows)


def _from_dicts(
    module: Any, images: list[dict[str, Any]], categories: list[dict[str, Any]], truth: _Boxes, guesses: _Boxes
) -> tuple[Any, Any]:
    """Both sides as COCO's JSON; pycocotools' loadRes fails on no detection, so they are a data set of their own."""
    sides = []
    for boxes, extra in ((truth, "iscrowd"), (guesses, "score")):
        side = module.COCO()
        columns = zip(*(values.tolist() for values in boxes), strict=True)
        side.dataset = {
            "images": images,
            "categories": categories,
            # Ids start at 1, for pycocotools takes a match with id 0 as no match.
            "annotations": [
                {
                    "iscrowd": 0,
                    "id": number,
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    extra: value,
                }
                for number, (image, category, box, value) in enumerate(columns, start=1)
            ],
        }
        side.createIndex()
        sides.append(side)
    return sides[0], sides[1]


def _backend(name: str | None) -> Any:
    """The module with ``COCO`` and ``COCOeval``."""
    if name in (None, "hotcoco"):
        try:
            import hotcoco

            return hotcoco
        except ImportError:
            if name is not None:
                raise
    elif name != "pycocotools":
        raise ValueError(f"backend must be 'hotcoco' or 'pycocotools', not {name!r}")
    import pycocotools.coco
    import pycocotools.cocoeval

    class Pycocotools:
        COCO = pycocotools.coco.COCO
        COCOeval = pycocotools.cocoeval.COCOeval

    return Pycocotools


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps pycocotools' printing away from the progress bar, and, from any thread, that of nobody else."""
    modules = [sys.modules[name] for name in ("pycocotools.coco", "pycocotools.cocoeval") if name in sys.modules]
    for module in modules:
        vars(module)["print"] = lambda *_, **__: None
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("print", None)
