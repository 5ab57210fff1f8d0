"""Per-class score thresholds of pseudo-labels, fitted on what the truth is known of, else on the scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from incdet.evaluation.metrics import Matches


class Thresholds(NamedTuple):
    """Scores in [0, 1] per teacher column, low <= high."""

    high: tuple[float, ...]
    low: tuple[float, ...]

    def widened(self, columns: int) -> Thresholds:
        """Thresholds of ``columns`` classes: those that were not fitted get the mean of the fitted ones."""
        missing = columns - len(self.high)
        means = [float(np.float32(np.mean(part))) if part else 0.0 for part in self]
        return Thresholds(*((*part, *[mean] * missing) for part, mean in zip(self, means, strict=True)))


def fit_thresholds(
    scores: Sequence[NDArray[np.float32]],
    matches: Sequence[Matches | None],
    *,
    bounds: tuple[float, float] = (0.15, 0.7),
    low_share: float = 0.5,
) -> Thresholds:
    """Per-class thresholds: the cut of best F1 where the truth is known (exemplars), else two means of the scores.

    Args:
        scores: The teacher's detection scores on the step's images, an array (N_c,) for each teacher column.
        matches: Its detections on the exemplars against their annotations; None where a class has no exemplar.
        bounds: Range that ``high`` is clipped to: a class seen in few exemplars must not switch itself off.
        low_share: ``low`` is this share of ``high``.

    Returns:
        Thresholds with O entries.
    """
    cuts = [
        _best_f1_cut(match) if match is not None and match.hits.any() else _two_means_cut(values)
        for values, match in zip(scores, matches, strict=True)
    ]
    high = np.clip(np.asarray(cuts, dtype=np.float32), *(np.float32(bound) for bound in bounds))
    return Thresholds(tuple(high.tolist()), tuple((high * np.float32(low_share)).tolist()))


def _best_f1_cut(match: Matches) -> float:
    """The score of the last detection kept by the cut of best F1; scores are sorted from high to low."""
    f1 = 2 * np.cumsum(match.hits) / (np.arange(1, len(match.hits) + 1) + match.positives.sum())
    return float(match.scores[int(np.argmax(f1))])


def _two_means_cut(scores: NDArray[np.floating[Any]], rounds: int = 20) -> float:
    """The middle between the two cluster centres of one-dimensional 2-means; 0.4 where there is nothing to cluster."""
    if len(scores) < 2 or float(np.ptp(scores)) == 0.0:
        return 0.4
    # In float32 the middle of two neighbours rounds onto one of them and leaves its cluster empty.
    scores = scores.astype(np.float64)
    cut = float(scores.min() + scores.max()) / 2
    for _ in range(rounds):
        cut = float(scores[scores <= cut].mean() + scores[scores > cut].mean()) / 2
    return cut
