"""The score threshold to deploy for every class, chosen from how detections on labelled images were judged.

A detector whose classes were learned in different steps scores them on different scales: one threshold for all hides
the young classes or lets the old ones cry wolf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from incdet.evaluation.metrics import Matches

FALLBACK = 0.3
"""Where no image says anything."""
LEAST = 10
"""A class with fewer objects takes the threshold of all classes together."""


class Threshold(NamedTuple):
    """What to deploy for a class, and what it gave on the images it was chosen from.

    Attributes:
        score: Detections with this score or more are shown, in [0, 1].
        precision: Share of them that is right; None if there are none.
        recall: Share of the objects that is found; None if there are none.
        source: ``class`` (its own detections), ``all`` (those of all classes, for want of its own) or ``fallback``.
    """

    score: float
    precision: float | None
    recall: float | None
    source: str


def choose_thresholds(
    matches: Mapping[str, Matches],
    *,
    precision: float | None = None,
    least: int = LEAST,
    fallback: float = FALLBACK,
) -> dict[str, Threshold]:
    """A threshold for every class: with the best F1, or the lowest that reaches a precision.

    A class with fewer than ``least`` objects, or that reaches the precision nowhere, takes the threshold that all
    classes together ask for; where those ask for none it takes ``fallback``.

    Args:
        matches: By class, on images that the detector did not learn from.
        precision: The share of shown detections that has to be right, in (0, 1]; None maximises F1 instead.
        least: Objects that a class needs for a threshold of its own.
        fallback: See above, in [0, 1].

    Raises:
        ValueError: ``precision`` or ``fallback`` is out of its range.
    """
    if precision is not None and not 0 < precision <= 1:
        raise ValueError(f"precision must be in (0, 1], not {precision}")
    if not 0 <= fallback <= 1:
        raise ValueError(f"fallback must be in [0, 1], not {fallback}")
    common = _choose(pooled(list(matches.values())), precision) if matches else None
    chosen = {}
    for name, one in matches.items():
        own = _choose(one, precision) if int(one.positives.sum()) >= least else None
        score, source = (own, "class") if own is not None else (common, "all")
        if score is None:
            score, source = fallback, "fallback"
        chosen[name] = Threshold(score, *_judged(one, score), source)
    return chosen


def pooled(every: Sequence[Matches]) -> Matches:
    """The detections of several classes as if they were one class's; all on the same images."""
    scores = np.concatenate([one.scores for one in every])
    order = np.argsort(-scores, kind="stable")
    return Matches(
        scores[order],
        np.concatenate([one.hits for one in every])[order],
        np.concatenate([one.image for one in every])[order],
        np.sum([one.positives for one in every], axis=0),
    )


def f1(matches: Matches) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The distinct scores from high to low, and the F1 of showing everything that scores as much or more.

    F1 is ``2 TP / (shown + objects)``, the harmonic mean of precision and recall.
    """
    cuts, right, shown = _cuts(matches)
    total = shown + matches.positives.sum()
    return matches.scores[cuts], np.divide(2 * right, total, out=np.zeros(len(cuts)), where=total > 0)


def _choose(matches: Matches, precision: float | None) -> float | None:
    """Between the last score that is shown and the next lower one; None if no right detection can be shown."""
    cuts, right, shown = _cuts(matches)
    if not len(cuts) or not right[-1]:
        return None
    if precision is None:
        place = int(np.argmax(f1(matches)[1]))
    else:
        enough = np.flatnonzero((right / shown >= precision) & (right > 0))
        if not len(enough):
            return None
        place = int(enough[-1])
    last = float(matches.scores[cuts[place]])
    below = float(matches.scores[cuts[place + 1]]) if place + 1 < len(cuts) else 0.0
    middle = (last + below) / 2
    return middle if below < middle <= last else last


def _cuts(matches: Matches) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where a score is the last of its equals, and how many are right and shown down to there."""
    cuts = np.flatnonzero(np.append(matches.scores[1:] < matches.scores[:-1], True)[: len(matches.scores)])
    return cuts, np.cumsum(matches.hits, dtype=np.int64)[cuts], cuts + 1


def _judged(matches: Matches, score: float) -> tuple[float | None, float | None]:
    shown = matches.scores >= score
    right, objects = int(matches.hits[shown].sum()), int(matches.positives.sum())
    return (right / int(shown.sum()) if shown.any() else None), (right / objects if objects else None)
