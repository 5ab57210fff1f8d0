"""Detections in one's own photographs: a JSON file and a picture of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from incdet.app.load import load
from incdet.data.dataset import image_size, read_image
from incdet.data.records import Record
from incdet.errors import Finding, InputError
from incdet.evaluation.detections import detect
from incdet.evaluation.results import SCHEMA
from incdet.files import require_output, write_bytes, write_json
from incdet.network.device import device_named
from incdet.report.drawing import draw_detections

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def predict(
    path: str | Path,
    images: Sequence[Path],
    output: Path,
    *,
    threshold: float = 0.3,
    batch_size: int = 8,
    device: str = "auto",
    arch: str | None = None,
    known_classes: Sequence[str] | None = None,
) -> Path:
    """Runs the checkpoint at ``path`` over photographs and draws what it finds.

    Args:
        path: Checkpoint folder, or what else ``incdet.load`` takes.
        images: Files, or folders whose pictures are taken.
        output: Gets ``detections.json`` and ``<name>.png`` of every picture.
        threshold: Lowest score that is kept, in [0, 1].
        batch_size: Images per forward.
        device: ``auto``, ``cpu`` or ``cuda``.
        arch: Network of a state dict, see ``load_detector``.
        known_classes: Names of its columns.

    Returns:
        ``output/detections.json``: ``{"schema", "checkpoint", "threshold", "images": [{"image", "width", "height",
        "detections": [{"name", "score", "box": [x1, y1, x2, y2]}]}]}``, boxes in pixels of the file.

    Raises:
        InputError: A picture or the checkpoint cannot be read.
    """
    require_output(output, folder=True)
    place = device_named(device)
    records = [_record(file, number) for number, file in enumerate(_files(images), start=1)]
    model = load(path, arch, known_classes).model.to(place)
    found = detect(model, records, batch_size=batch_size)
    entries: list[dict[str, Any]] = []
    for record in records:
        boxes, scores, labels = found[record.image_id]
        kept = np.flatnonzero(scores >= threshold)
        detections = [
            {
                "name": model.vocab.names[labels[place]],
                "score": round(float(scores[place]), 4),
                "box": [round(float(edge), 2) for edge in boxes[place]],
            }
            for place in kept
        ]
        entry = {"image": str(record.image), "width": record.width, "height": record.height, "detections": detections}
        entries.append(entry)
        _write(output / f"{record.image.stem}_{record.image_id}.png", record, detections, model.vocab.names)
    file = output / "detections.json"
    write_json(file, {"schema": SCHEMA, "checkpoint": str(path), "threshold": threshold, "images": entries})
    return file


def _write(file: Path, record: Record, detections: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """The picture with its detections, a PNG of the photograph's own size."""
    drawn = draw_detections(read_image(record), detections, names)
    write_bytes(file, cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1].tobytes())


def _files(images: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for given in images:
        inside = (
            sorted(file for file in given.iterdir() if file.suffix.lower() in SUFFIXES) if given.is_dir() else [given]
        )
        if not inside:
            raise InputError(Finding(str(given), "folder", "holds no picture", f"known endings: {', '.join(SUFFIXES)}"))
        files += inside
    return files


def _record(file: Path, number: int) -> Record:
    width, height = image_size(file)
    nothing = np.zeros((0, 4), np.float32)
    return Record(file, number, width, height, nothing, (), np.zeros(0, np.bool_), frozenset())
