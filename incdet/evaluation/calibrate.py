"""A calibration from how detections on labelled pictures were judged."""

from __future__ import annotations

from collections.abc import Mapping

from incdet.evaluation.metrics import Matches
from incdet.evaluation.temperature import fit_temperature
from incdet.evaluation.thresholds import choose_thresholds, pooled
from incdet.network.calibration import Calibration


def calibrate(
    matches: Mapping[str, Matches], source: str, *, precision: float | None = None, before: Calibration | None = None
) -> Calibration | None:
    """The thresholds to deploy and the temperature; None, or ``before``, where no picture shows a known class.

    Args:
        matches: By class, on pictures that the detector did not learn from; see ``measure``.
        source: Which pictures, for people.
        precision: See ``choose_thresholds``.
        before: An earlier calibration, which goes on speaking for classes that these pictures do not show.
    """
    shown = {name: one for name, one in matches.items() if one.positives.sum()}
    if not shown:
        return before
    chosen = choose_thresholds(shown, precision=precision)
    together = pooled(list(shown.values()))
    found = Calibration(
        {name: round(one.score, 6) for name, one in chosen.items()},
        round(fit_temperature(together.scores, together.hits), 4),
        len(together.positives),
        source,
    )
    return found if before is None else before.updated(found)
