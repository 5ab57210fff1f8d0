"""A detector and labelled pictures that it did not learn from: which thresholds to deploy, and what its scores mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from incdet.app.annotations import picture_progress
from incdet.app.load import Detector
from incdet.app.new_checkpoint import require_no_checkpoint
from incdet.app.progress import Display
from incdet.data.formats.reader import open_annotations
from incdet.data.records import Exif
from incdet.data.resize import Geometry
from incdet.errors import Finding, InputError, suggest
from incdet.evaluation.calibrate import calibrate as measure_scores
from incdet.evaluation.detections import detect
from incdet.evaluation.scoring import measure
from incdet.evaluation.temperature import calibration_error, scale_scores
from incdet.evaluation.thresholds import Threshold, choose_thresholds, pooled
from incdet.network import checkpoint
from incdet.network.calibration import Calibration


class Calibrated(NamedTuple):
    """What was measured.

    Attributes:
        calibration: As it was stored.
        thresholds: By class, with the precision and recall that they give on these pictures.
        errors: The mean distance between score and share of right ones, as it was and with the temperature.
    """

    calibration: Calibration
    thresholds: Mapping[str, Threshold]
    errors: tuple[float, float]


def calibrate(
    detector: Detector,
    annotations: Path,
    images: Path | None,
    output: Path,
    *,
    split: str | None = None,
    exif: Exif = "auto",
    precision: float | None = None,
    batch_size: int = 8,
) -> Calibrated:
    """Measures the detector's scores and writes a checkpoint of it that knows what they are worth.

    Args:
        detector: On the device it is to run on; it gets the calibration too.
        annotations: Of pictures that it did not learn from, in any format.
        images: Folder of the pictures, where they lie apart.
        output: Folder of the new checkpoint; holds none yet.
        split: Which split; None takes a test split.
        exif: Whether pictures are turned as the camera says.
        precision: The share of shown detections that has to be right, in (0, 1]; None takes the best F1.
        batch_size: Pictures in a forward pass.

    Raises:
        InputError: A file cannot be used, or the pictures show no class of the detector.
    """
    require_no_checkpoint(output)
    model = detector.model
    geometry = Geometry.smallest(model.architecture)
    with picture_progress() as progress:
        data = open_annotations(
            annotations, images, split, purpose="test", exif=exif, geometry=geometry, progress=progress
        )
    with Display.on_stderr() as display:
        found = detect(
            model,
            data.records,
            batch_size=batch_size,
            progress=lambda done, total: display.advance("calibrate", done, total),
        )
    # A class that the annotations do not know is unlabelled in them: its detections are neither right nor wrong.
    every = measure(data.records, found, detector.names).matches
    matches = {name: one for name, one in every.items() if name in data.names and one.positives.sum()}
    if not matches:
        fix = suggest(detector.names[0], data.names)
        problem = f"show no object of {', '.join(detector.names[:10])}"
        raise InputError(Finding(str(annotations), "annotations", problem, fix))
    # A checkpoint is handed on: where things lie on this machine is nobody's business.
    told = f"{annotations.name}, split {split}" if split else annotations.name
    fresh = measure_scores(matches, told, precision=precision, before=model.calibration)
    assert fresh is not None, "some class is shown"
    model.calibration = fresh
    source = Path(detector.source)
    known = checkpoint.load(source) if (source / checkpoint.DESCRIPTION).is_file() else None
    checkpoint.save(output, model, history=known.history if known else (), metrics=known.metrics if known else None)
    one = pooled(list(matches.values()))
    scaled = scale_scores(one.scores, fresh.temperature)
    errors = (calibration_error(one.scores, one.hits), calibration_error(scaled, one.hits))
    return Calibrated(fresh, choose_thresholds(matches, precision=precision), errors)
