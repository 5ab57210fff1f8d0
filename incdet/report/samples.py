"""The few test images whose detections a report shows: which they are, and how they are stored.

OUTPUT/samples/images/<image_id>.jpg holds the pixels once for all methods; a step's samples.json holds truth and
detections in the pixels of those pictures, mistakes.json the detections of new classes on old objects and back, so that
a report needs neither the data set nor a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from incdet.errors import Finding, InputError
from incdet.evaluation.results import SCHEMA, read_json
from incdet.files import write_bytes
from incdet.seal import write_sealed

if TYPE_CHECKING:
    from incdet.data.records import Record
    from incdet.evaluation.confusion import Mistake
    from incdet.evaluation.detections import Detections

FILE, MISTAKES = "samples.json", "mistakes.json"
LONGEST = 512
"""Stored pictures are shrunk to this many pixels on the longer side."""
LOWEST, MOST = 0.05, 100
"""Detections below this score, or beyond this number in an image, are not stored."""


def pick_samples(records: Sequence[Record], steps: Sequence[Sequence[str]], count: int = 4) -> list[Record]:
    """The ``count`` test images that show most: classes of many steps together, few objects, large enough to see.

    A pure function of its arguments; classes that earlier picks have shown count less, so that the picks differ.
    """
    step_of = {name: number for number, names in enumerate(steps) for name in names}
    shown: dict[str, int] = {}
    chosen: list[Record] = []
    left = [record for record in records if any(name in step_of for name in record.names)]
    while left and len(chosen) < count:
        best = max(left, key=lambda record: (_worth(record, step_of, shown), -record.image_id))
        left = [record for record in left if record.image_id != best.image_id]
        chosen.append(best)
        for name in set(best.names):
            shown[name] = shown.get(name, 0) + 1
    return chosen


def _worth(record: Record, step_of: Mapping[str, int], shown: Mapping[str, int]) -> float:
    names = {name for name in record.names if name in step_of}
    boxes = np.asarray(record.boxes, np.float64).reshape(-1, 4)
    share = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / (record.width * record.height)
    small = float((share < 0.01).mean())
    news = sum(1 / (1 + shown.get(name, 0)) for name in names)
    return len({step_of[name] for name in names}) + news - 0.25 * max(0, len(boxes) - 6) - small


def save_samples(
    folder: Path | str,
    records: Sequence[Record],
    detections: Mapping[int, Detections],
    names: Sequence[str],
    *,
    output: Path | str | None = None,
) -> None:
    """Writes ``folder``/samples.json for ``records``, and their pictures once into OUTPUT/samples/images.

    Args:
        folder: The folder of a method's step.
        records: The images to show, the same for every method and step.
        detections: By image id, more images than ``records`` are no harm; labels are indices into ``names``.
        names: The classes known to the detector.
        output: The run folder; if None the nearest folder above that holds config.yaml, else ``folder`` itself.

    Raises:
        InputError: An image file cannot be read.
    """
    folder = Path(folder)
    root = Path(output) if output is not None else _run_folder(folder)
    entries = []
    for record in records:
        entry, scale = _entry(root, record)
        entries.append({**entry, "detections": []})
        found = detections.get(record.image_id)
        if found is not None:
            order = [i for i in np.argsort(-found.scores, kind="stable")[:MOST] if found.scores[i] >= LOWEST]
            entries[-1]["detections"] = [
                {
                    "box": _box(found.boxes[i], scale),
                    "name": names[int(found.labels[i])],
                    "score": round(float(found.scores[i]), 4),
                }
                for i in order
            ]
    write_sealed(folder / FILE, {"schema": SCHEMA, "names": list(names), "samples": entries})


def pick_mistakes(mistakes: Sequence[Mistake], old: Sequence[str], count: int = 4) -> list[Mistake]:
    """The ``count`` mistakes between old and new classes that show most: each pair of classes once, then by score."""
    earlier = set(old)
    crossing = [one for one in mistakes if (one.true in earlier) != (one.detected in earlier)]
    seen: dict[tuple[str, str], int] = {}
    ranked = []
    for place, one in enumerate(sorted(crossing, key=lambda one: -one.score)):
        turn = seen[one.true, one.detected] = seen.get((one.true, one.detected), -1) + 1
        ranked.append((turn, place, one))
    return [one for _, _, one in sorted(ranked)[:count]]


def save_mistakes(folder: Path, records: Sequence[Record], mistakes: Sequence[Mistake], *, output: Path) -> None:
    """Writes ``folder``/mistakes.json, and the pictures the mistakes stand in into OUTPUT/samples/images.

    Args:
        folder: The folder of a method's step.
        records: The images that the mistakes were made in, and others.
        mistakes: Those to show, boxes in pixels of the image file.
        output: The run folder.

    Raises:
        InputError: An image file cannot be read.
    """
    wanted = {one.image_id for one in mistakes}
    by_id = {record.image_id: record for record in records if record.image_id in wanted}
    entries = []
    for one in mistakes:
        entry, scale = _entry(output, by_id[one.image_id])
        entries.append({**entry, **one._asdict(), "score": round(one.score, 4), "box": _box(one.box, scale)})
    write_sealed(folder / MISTAKES, {"schema": SCHEMA, "mistakes": entries})


def load_mistakes(folder: Path | str) -> list[dict[str, Any]]:
    """The entries of ``folder``/mistakes.json; none if the step stored none.

    Raises:
        InputError: The file is cut off or of another schema.
    """
    path = Path(folder) / MISTAKES
    entries: list[dict[str, Any]] = read_json(path).get("mistakes", []) if path.is_file() else []
    return entries


def load_samples(folder: Path | str) -> list[dict[str, Any]] | None:
    """The entries of ``folder``/samples.json; None if the step stored none.

    Raises:
        InputError: The file is cut off or of another schema.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    entries: list[dict[str, Any]] = read_json(path).get("samples", [])
    return entries


def _run_folder(folder: Path) -> Path:
    return next((place for place in (folder, *folder.parents) if (place / "config.yaml").is_file()), folder)


def _entry(root: Path, record: Record) -> tuple[dict[str, Any], float]:
    """Picture, size and truth of ``record``, and the scale from its pixels to those of the stored picture."""
    picture = root / "samples" / "images" / f"{record.image_id}.jpg"
    scale = min(1.0, LONGEST / max(record.width, record.height))
    width, height = (max(1, round(side * scale)) for side in (record.width, record.height))
    if not picture.is_file():
        _shrink(Path(record.image), picture, width, height)
    truth = [
        {"box": _box(box, scale), "name": name, "ignore": bool(ignore)}
        for box, name, ignore in zip(record.boxes, record.names, record.ignore, strict=True)
    ]
    place = picture.relative_to(root).as_posix()
    return {"image_id": record.image_id, "image": place, "width": width, "height": height, "truth": truth}, scale


def _shrink(source: Path, target: Path, width: int, height: int) -> None:
    import cv2

    pixels = cv2.imread(str(source), cv2.IMREAD_COLOR)
    if pixels is None:
        raise InputError(Finding(str(source), "image", "cannot be read", "restore the file or leave it out"))
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 92])
    write_bytes(target, content.tobytes())


def _box(box: Any, scale: float) -> list[float]:
    return [round(float(value) * scale, 2) for value in box]
