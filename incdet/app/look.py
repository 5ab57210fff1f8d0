"""How a detector looks at pictures: which of its detections are shown, and on what scale their scores are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from incdet.app.photograph import Photograph
from incdet.app.prediction import Prediction
from incdet.errors import Finding, InputError
from incdet.evaluation.detections import Detections, detect_planes
from incdet.evaluation.shown import Threshold, above, best_of_place, taken, threshold_of_columns
from incdet.evaluation.temperature import scale_scores
from incdet.network.retinanet import IncrementalRetinaNet
from incdet.ops.sizes import resized_shape


class Look:
    """Turns a batch of pictures into predictions.

    Args:
        model: The network, on the device it is to run on.
        threshold: Least score that is shown, one or by class; ``auto`` for those of the model's calibration, whose
            temperature then scales the scores.
        across: Of detections of different classes in one place, keep the best alone.

    Raises:
        InputError: A threshold is out of its range, or ``auto`` is asked of a detector without a calibration.
    """

    def __init__(
        self, model: IncrementalRetinaNet, threshold: Threshold | Literal["auto"], *, across: bool = False
    ) -> None:
        self._model, self._across = model, across
        self.temperature = 1.0
        self.words = "scores as the network gives them"
        if threshold == "auto":
            if model.calibration is None:
                problem = "are asked for, but this detector was never calibrated"
                fix = "run `incdet calibrate` on labelled pictures, or give a number"
                raise InputError(Finding("threshold", "thresholds of its own", problem, fix))
            known = model.calibration
            threshold, self.temperature = dict(known.thresholds), known.temperature
            where = f"measured on {known.images} pictures ({known.source})"
            self.words = f"a threshold for each class, scores scaled by temperature {known.temperature:g}; both {where}"
        elif isinstance(threshold, str):
            raise InputError(Finding("threshold", repr(threshold), "is no number", "give one in 0..1, or 'auto'"))
        self._least = threshold_of_columns(threshold, model.vocab.names)
        self.threshold = self._told(threshold)

    def _told(self, threshold: Threshold) -> float | dict[str, float]:
        """The least scores that are shown, on the scale of the scores."""
        if isinstance(threshold, int | float):
            return float(threshold)
        scaled = self._scaled(self._least)
        return {name: round(float(one), 4) for name, one in zip(self._model.vocab.names, scaled, strict=True)}

    def require_fit(self, picture: Photograph) -> None:
        """Checks that the picture survives being resized.

        Raises:
            InputError: It is so thin that a side would vanish.
        """
        made = self._model.architecture
        try:
            resized_shape(picture.height, picture.width, made.min_size[-1], made.max_size, made.fixed_size)
        except InputError as error:
            found = error.findings[0]
            file = "picture" if picture.file is None else str(picture.file)
            raise InputError(Finding(file, found.item, found.problem, found.fix)) from None

    def __call__(self, pictures: Sequence[Photograph]) -> list[Prediction]:
        """What is found in each picture, best first."""
        every = detect_planes(self._model, [picture.planes for picture in pictures])
        names = self._model.vocab.names
        return [Prediction.of(picture, self._shown(one), names) for picture, one in zip(pictures, every, strict=True)]

    def _shown(self, found: Detections) -> Detections:
        # A box that lies outside of the picture is clipped to a line, which nobody can see or train on.
        seen = np.flatnonzero((found.boxes[:, 2:] - found.boxes[:, :2] >= 0.01).all(axis=1))
        kept = above(taken(found, seen), self._least)
        if self._across:
            kept = best_of_place(kept, self._model.nms_thresh)
        return kept._replace(scores=self._scaled(kept.scores).astype(np.float32))

    def _scaled(self, scores: np.typing.NDArray[np.floating]) -> np.typing.NDArray[np.floating]:
        return scores if self.temperature == 1.0 else scale_scores(scores, self.temperature)
