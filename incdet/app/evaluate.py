"""A checkpoint and somebody's own annotations: score the one on the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from incdet.app.annotations import picture_progress
from incdet.app.load import load
from incdet.data.formats.reader import open_annotations
from incdet.data.records import Exif
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError
from incdet.evaluation.detections import detect
from incdet.evaluation.metrics import group_mean
from incdet.evaluation.results import SCHEMA
from incdet.evaluation.scoring import score
from incdet.files import require_output, write_json
from incdet.network.device import device_named
from incdet.vocab import look_alike_warnings


def evaluate(
    path: str | Path,
    annotations: Path,
    images: Path | None,
    *,
    split: str | None = None,
    exif: Exif = "auto",
    output: Path | None = None,
    batch_size: int = 8,
    device: str = "auto",
    arch: str | None = None,
    known_classes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """COCO scores of a checkpoint on any annotation file; classes that only one of the two knows are left out.

    Args:
        path: Checkpoint folder, or what else ``incdet.load`` takes.
        annotations: In any format, see ``open_annotations``.
        images: Folder of the pictures, where they do not lie beside the annotations.
        split: The split to score; None takes a test split.
        exif: Whether pictures are turned as the camera says.
        output: File to write the result to.
        batch_size: Images per forward.
        device: ``auto``, ``cpu`` or ``cuda``.
        arch: Network of a state dict, see ``load_detector``.
        known_classes: Names of its columns.

    Returns:
        ``{"schema", "checkpoint", "data", "images", "AP", "AP50", "per_class": {name: {"AP", "AP50"}},
        "warnings": [texts], "skipped": [names]}``.

    Raises:
        InputError: A file cannot be used, or model and annotations share no class.
    """
    if output is not None:
        require_output(output)
    place = device_named(device)
    model = load(path, arch, known_classes).model
    geometry = Geometry.smallest(model.architecture)
    with picture_progress() as progress:
        data = open_annotations(
            annotations, images, split, purpose="test", exif=exif, geometry=geometry, progress=progress
        )
    warnings = [*data.warnings, *look_alike_warnings(str(annotations), data.names, model.vocab.names)]
    shared = [name for name in model.vocab.names if name in data.names]
    if not shared:
        raise InputError(
            Finding(
                str(annotations),
                "categories",
                f"share no class with the checkpoint ({', '.join(data.names[:10])})",
                f"the checkpoint knows {', '.join(model.vocab.names)}: rename the categories",
            )
        )
    model.to(place)
    detections = detect(model, data.records, batch_size=batch_size)
    scores = {
        name: value for name, value in score(data.records, detections, model.vocab.names).items() if name in shared
    }
    value = {
        "schema": SCHEMA,
        "checkpoint": str(path),
        "data": data.describe(),
        "images": len(data),
        "AP": group_mean(scores, shared, "AP"),
        "AP50": group_mean(scores, shared, "AP50"),
        "per_class": {name: {"AP": one and one.AP, "AP50": one and one.AP50} for name, one in scores.items()},
        "warnings": [str(warning) for warning in warnings],
        "skipped": sorted(set(data.names) ^ set(model.vocab.names)),
    }
    if output is not None:
        write_json(output, value)
    return value
