"""Scores that mean what they say: one temperature a detector, so that of those scoring 0.7 seven in ten are right.

Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2, on sigmoid scores: the logit of every
score is divided by T. The order of detections, and with it AP, stays.
Shapes: N detections.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures are sought between these."""
_EDGE = 1e-6
_ROUNDS = 60


def scale_scores(scores: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """``sigmoid(logit(score) / temperature)`` (N,); a temperature of 1 changes nothing, a higher one softens.

    Raises:
        ValueError: The temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return _sigmoid(_logits(scores) / temperature)


def fit_temperature(scores: NDArray[np.floating], hits: NDArray[np.bool_]) -> float:
    """The temperature of least negative log-likelihood of right and wrong detections.

    In ``1 / T`` the likelihood is that of a logistic regression without intercept, which is convex: Newton's method,
    kept in bounds by bisection, finds the one minimum.

    Args:
        scores: (N,) in [0, 1], on images that the detector did not learn from.
        hits: (N,) whether each detection is right, as in ``Matches``.

    Returns:
        T in [``LOWEST``, ``HIGHEST``]; 1 where all are right, all are wrong, or there is none: nothing can be learned.
    """
    right = np.asarray(hits, np.float64)
    if not len(right) or right.min() == right.max():
        return 1.0
    logits = _logits(scores)
    low, high = 1 / HIGHEST, 1 / LOWEST
    slope = 1.0
    for _ in range(_ROUNDS):
        expected = _sigmoid(slope * logits)
        gradient = float(logits @ (expected - right))
        low, high = (low, slope) if gradient > 0 else (slope, high)
        curvature = float((logits**2) @ (expected * (1 - expected)))
        step = slope - gradient / curvature if curvature > 0 else -1.0
        last, slope = slope, step if low < step < high else (low + high) / 2
        if abs(slope - last) < 1e-10 * last:
            break
    return float(1 / slope)


def negative_log_likelihood(scores: NDArray[np.floating], hits: NDArray[np.bool_], temperature: float = 1.0) -> float:
    """The mean over detections of ``-log p(right or wrong)`` under scaled scores; 0 where there is none."""
    if not len(scores):
        return 0.0
    logits = _logits(scores) / temperature
    return float(np.mean(np.logaddexp(0.0, np.where(hits, -logits, logits))))


def calibration_error(scores: NDArray[np.floating], hits: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: the mean distance of score and share of right ones, over equal bins of the score.

    Guo et al., section 2, weighted by the detections of each bin; in [0, 1], 0 where there is no detection.
    """
    if not len(scores):
        return 0.0
    place = np.minimum((np.asarray(scores, np.float64) * bins).astype(np.int64), bins - 1)
    distance = np.bincount(place, np.asarray(hits, np.float64) - scores, minlength=bins)
    return float(np.abs(distance).sum() / len(scores))


def _logits(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logits (N,) of scores that are moved off 0 and 1, where they have none."""
    inside = np.clip(np.asarray(scores, np.float64), _EDGE, 1 - _EDGE)
    result: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return result


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits))
    return result
