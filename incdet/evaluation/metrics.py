"""Every figure of a results table, as pure functions of per-class scores; a figure that is unknown is None.

Symbols: T steps, R the (T, T) matrix of AP50: ``R[t][k]`` is the mean over the classes of step k after step t.
Fractions are in [0, 1]; the printed tables multiply by 100. Means over classes leave out classes without ground truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Number = float | None
Matrix = list[list[Number]]


class ClassScore(NamedTuple):
    """What one class scored on a test set; every value is in [0, 1].

    Attributes:
        AP: COCO's average precision over IoU .50:.05:.95, 100 detections per image and class.
        AP50: The same at IoU .50 alone.
        voc07: PASCAL VOC AP at IoU .50 in the 11-point form of 2007.
        voc12: PASCAL VOC AP at IoU .50 under the whole curve, the form since 2010.
        precision: Share of detections at or above the deployed threshold that are right, None if there are none.
        recall: Share of objects found at or above the deployed threshold.
    """

    AP: float
    AP50: float
    voc07: float | None = None
    voc12: float | None = None
    precision: float | None = None
    recall: float | None = None


_BLOCK = 1 << 22
"""Counts of detections times draws that are looked at together: 16 MiB."""

PerClass = Mapping[str, ClassScore | None]


class Matches(NamedTuple):
    """The detections of one class against the truth at one IoU, detections that may not count removed.

    Attributes:
        scores: (N,) float64, sorted from high to low.
        hits: (N,) bool, right or wrong.
        image: (N,) int64, position of the image among the records.
        positives: (I,) int64, objects to be found in every image; ignored ones are not among them.
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    image: NDArray[np.int64]
    positives: NDArray[np.int64]


class Interval(NamedTuple):
    """A change and its percentile interval; ``low <= high``, all None where a class has no ground truth."""

    change: Number
    low: Number
    high: Number


def mean(values: Iterable[Number]) -> Number:
    """The mean of the values that are known, None if none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def group_mean(scores: PerClass, names: Iterable[str], metric: str = "AP50") -> Number:
    """The mean of ``metric`` over the classes ``names`` that have ground truth."""
    return mean(getattr(score, metric) for name in names if (score := scores.get(name)) is not None)


def average_precision(matches: Matches, form: str = "voc12") -> Number:
    """VOC AP of one class: ``voc07`` takes 11 recall points, ``voc12`` the whole monotone curve.

    Everingham et al., The PASCAL VOC Challenge, IJCV 2010, section 4.2, and the development kits of 2007 and 2012.

    Returns:
        AP in [0, 1]; None if there is nothing to be found.
    """
    weights = np.ones(len(matches.positives), dtype=np.float64)
    return _weighted_ap(matches, weights, form)


def _weighted_ap(matches: Matches, weights: NDArray[np.float64], form: str) -> Number:
    """``average_precision`` with image i counted ``weights[i]`` times."""
    if form not in ("voc07", "voc12"):
        raise ValueError(f"form must be 'voc07' or 'voc12', not {form!r}")
    total = float(matches.positives @ weights)
    if total == 0:
        return None
    weight = weights[matches.image]
    right = np.cumsum(weight * matches.hits)
    seen = np.cumsum(weight)
    recall = right / total
    precision = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if form == "voc07":
        places = np.searchsorted(recall, np.arange(11) / 10, side="left")
        return float(np.append(envelope, 0.0)[places].sum() / 11)
    return float(np.diff(recall, prepend=0.0) @ envelope)


def precision_recall(matches: Matches, threshold: float) -> tuple[Number, Number]:
    """Precision and recall of what a user sees who shows detections with ``score >= threshold``.

    AP cannot see a class whose scores have all shrunk; this can.

    Returns:
        (precision or None without detections, recall or None without objects).
    """
    shown = matches.hits[matches.scores >= threshold]
    objects = int(matches.positives.sum())
    right = int(shown.sum())
    return (right / len(shown) if len(shown) else None), (right / objects if objects else None)


def bootstrap_change(
    before: Matches, after: Matches, *, draws: int = 1000, level: float = 0.95, seed: int = 0, form: str = "voc12"
) -> Interval:
    """The change of one class's AP50 with a paired percentile interval, images resampled with replacement.

    Both sides must come from the same records in the same order: every draw takes the same images for both, so that
    what is common to them cancels. Draws that hold no object of the class are left out.

    Args:
        before: Matches of the earlier model.
        after: Matches of the later model.
        draws: Number of resamples, >= 1.
        level: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.
        form: ``voc07`` or ``voc12``.

    Raises:
        ValueError: The two sides do not have the same objects per image.
    """
    if not np.array_equal(before.positives, after.positives):
        raise ValueError("a paired interval needs the same records on both sides; the objects per image differ")
    start, end = average_precision(before, form), average_precision(after, form)
    if start is None or end is None:
        return Interval(None, None, None)
    first, second = (_resampled_ap(side, draws, seed, form) for side in (before, after))
    changes = [new - old for old, new in zip(first, second, strict=True) if old is not None and new is not None]
    if not changes:
        return Interval(end - start, None, None)
    low, high = np.quantile(changes, [(1 - level) / 2, (1 + level) / 2])
    return Interval(end - start, float(low), float(high))


def bootstrap_mean_change(
    before: Sequence[Matches],
    after: Sequence[Matches],
    *,
    draws: int = 500,
    level: float = 0.95,
    seed: int = 0,
    form: str = "voc12",
) -> Interval:
    """The change of the mean AP50 over classes, seeds or both, with a paired percentile interval.

    All sides come from the same records in the same order, and every draw takes the same images for all of them: what
    is resampled is the test set, not the training. Classes without ground truth, and in a draw those that it holds no
    object of, are left out of both means.

    Args:
        before: Matches of every class (and seed) of one detector.
        after: Those of the other, in the same order.
        draws: Number of resamples, >= 1.
        level: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.
        form: ``voc07`` or ``voc12``.

    Raises:
        ValueError: The two sides differ in number, or in the objects per image.
    """
    changes, drawn = [], []
    for one, other in zip(before, after, strict=True):
        if not np.array_equal(one.positives, other.positives):
            raise ValueError("a paired interval needs the same records on both sides; the objects per image differ")
        start, end = average_precision(one, form), average_precision(other, form)
        if start is None or end is None:
            continue
        changes.append(end - start)
        pairs = zip(*(_resampled_ap(side, draws, seed, form) for side in (one, other)), strict=True)
        drawn.append([np.nan if a is None or b is None else b - a for a, b in pairs])
    if not changes:
        return Interval(None, None, None)
    means = [mean(value for value in draw if not np.isnan(value)) for draw in np.array(drawn).T]
    known = [value for value in means if value is not None]
    if not known:
        return Interval(float(np.mean(changes)), None, None)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.mean(changes)), float(low), float(high))


def paired_changes(
    before: Mapping[str, Matches],
    after: Mapping[str, Matches],
    names: Sequence[str],
    *,
    draws: int = 500,
    seed: int = 0,
) -> dict[str, Interval]:
    """``bootstrap_change`` of the classes ``names`` that both sides have matches of, by class."""
    return {
        name: bootstrap_change(before[name], after[name], draws=draws, seed=seed)
        for name in names
        if name in before and name in after
    }


@lru_cache(maxsize=2)
def _resamples(images: int, draws: int, seed: int) -> NDArray[np.int32]:
    """How often each image occurs in each draw of ``images`` images with replacement, (I, draws)."""
    rng = np.random.default_rng(seed)
    times = np.empty((images, draws), np.int32)
    for draw in range(draws):
        times[:, draw] = np.bincount(rng.integers(images, size=images), minlength=images)
    times.flags.writeable = False  # every class shares it
    return times


def _resampled_ap(matches: Matches, draws: int, seed: int, form: str) -> list[Number]:
    """``_weighted_ap`` under each resample, to the same last bit.

    Precision and recall change, and the envelope can lie, only where a detection is right: the sums between two of
    those are taken for all draws at once, and only the few right ones are looked at draw by draw.
    """
    times = _resamples(len(matches.positives), draws, seed)
    if form != "voc12":
        return [_weighted_ap(matches, times[:, draw].astype(np.float64), form) for draw in range(draws)]
    objects = np.flatnonzero(matches.positives)
    totals = matches.positives[objects] @ times[objects]
    hits = np.flatnonzero(matches.hits)
    if not len(hits):
        return [0.0 if total else None for total in totals.tolist()]
    found: list[Number] = []
    # The terms stand where they stand among all detections, the envelope back to front: the same sum in the same order
    # as without a shortcut.
    growth, height = np.zeros(len(matches.hits)), np.zeros(len(matches.hits))[::-1]
    block = max(1, _BLOCK // len(matches.hits))
    for start in range(0, draws, block):
        part = times[:, start : start + block]
        total = totals[start : start + block].astype(np.float64)
        starts = np.concatenate(([0], hits[:-1] + 1))
        seen = np.cumsum(np.add.reduceat(part[matches.image[: hits[-1] + 1]], starts, axis=0), axis=0)
        right = np.cumsum(part[matches.image[hits]], axis=0).astype(np.float64)
        precision = np.divide(right, seen, out=np.zeros_like(right), where=seen > 0)
        envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1].T
        recall = np.divide(right, total, out=np.zeros_like(right), where=total > 0)
        steps = np.diff(recall, axis=0, prepend=0.0).T
        for step, curve, objects_drawn in zip(steps, envelope, total, strict=True):
            growth[hits], height[hits] = step, curve
            found.append(float(growth @ height) if objects_drawn else None)
    return found


def matrix(scores: Mapping[int, PerClass], steps: Sequence[Sequence[str]], metric: str = "AP50") -> Matrix:
    """R as (T, T) nested lists: row t - 1 holds the mean of every step's classes after step t.

    Args:
        scores: Per-class scores after step t (1-based); steps that were not run are absent.
        steps: Class names of step 1..T.
        metric: A field of ``ClassScore``.

    Returns:
        None where step t was not run or the classes of step k are not yet known after step t.
    """
    size = len(steps)
    return [
        [group_mean(scores[t], steps[k], metric) if t in scores and k < t else None for k in range(size)]
        for t in range(1, size + 1)
    ]


def fpp(table: Matrix) -> Number:
    """First-step points lost: AP of the classes of step 1 after step 1, minus the same after step T."""
    return _minus(table[0][0], table[-1][0]) if table else None


def forgetting(table: Matrix) -> Number:
    """Mean over k < T of ``max_t R[t][k] - R[T][k]``, t from k to T - 1 (Chaudhry et al., ECCV 2018); None if T = 1."""
    losses = []
    for k in range(len(table) - 1):
        known = [value for row in table[k:-1] if (value := row[k]) is not None]
        losses.append(_minus(max(known) if known else None, table[-1][k]))
    return mean(losses)


def backward_transfer(table: Matrix) -> Number:
    """BWT, mean over k < T of ``R[T][k] - R[k][k]`` (Lopez-Paz & Ranzato, NeurIPS 2017); negative where it forgot."""
    return mean(_minus(table[-1][k], table[k][k]) for k in range(len(table) - 1))


def average_incremental(seen: Sequence[Number]) -> Number:
    """Mean over t = 2..T of the figure over all seen classes; step 1 is left out (Castro et al., ECCV 2018).

    ``seen`` holds the figure after step 1..T; one unknown step makes the mean unknown, as does T = 1.
    """
    later = seen[1:]
    return None if any(value is None for value in later) else mean(later)


def gaps(value: Number, joint: Number) -> tuple[Number, Number]:
    """(AbsGap, RelGap) = (joint - value, (joint - value) / joint); RelGap is None where joint is 0."""
    absolute = _minus(joint, value)
    return absolute, (absolute / joint if absolute is not None and joint else None)


def kept(learned: PerClass, final: PerClass, names: Iterable[str], metric: str = "AP50") -> Number:
    """The share of the mean over ``names`` when they were learned that is left in the end; more than 1 where it grew.

    Classes that one of the two does not know are left out of both.
    """
    both = [name for name in names if learned.get(name) is not None and final.get(name) is not None]
    start, end = group_mean(learned, both, metric), group_mean(final, both, metric)
    return end / start if start and end is not None else None


def intransigence(table: Matrix, joint: Sequence[Number]) -> Number:
    """Mean over k of ``joint[k] - R[k][k]``: what the method could not learn (Chaudhry et al., ECCV 2018).

    ``joint[k]`` is the score on the classes of step k of a detector trained on steps 1..k at once, None if not run.
    """
    return mean(_minus(joint[k], table[k][k]) for k in range(len(table)))


def relative_drop(scores: PerClass, joint: PerClass, names: Iterable[str], metric: str = "AP50") -> Number:
    """Mean over ``names`` of ``(joint_c - score_c) / joint_c``.

    Over the old classes this is the rate of stability deficit (RSD), over the new ones of plasticity deficit (RPD).
    Classes that joint training does not find at all are left out, for they have no rate.
    """
    drops = []
    for name in names:
        mine, best = scores.get(name), joint.get(name)
        if mine is not None and best is not None and getattr(best, metric) > 0:
            drops.append((getattr(best, metric) - getattr(mine, metric)) / getattr(best, metric))
    return mean(drops)


def summary(
    scores: Mapping[int, PerClass],
    steps: Sequence[Sequence[str]],
    joint: PerClass | None = None,
    metric: str = "AP50",
) -> dict[str, Number]:
    """The ``summary`` of results.json: the final figures, then what was lost on the way.

    The matrix of results.json and the tables are in AP50, so FPP, forgetting, BWT and the gaps to joint training are
    AP50 too; ``AP`` and ``average_incremental_AP`` are COCO's AP [.50:.95], as their names say. ``metric="AP"`` turns
    the AP50 of the former into AP (comparison.json gives both).

    Args:
        scores: Per-class scores after step t (1-based).
        steps: Class names of step 1..T.
        joint: Per-class scores of joint training on all steps; without it the gaps are None.
        metric: What FPP, forgetting, BWT and the gaps are measured in.
    """
    last, total = len(steps), [name for names in steps for name in names]
    final = scores.get(last, {})
    old = [name for names in steps[:-1] for name in names]
    table = matrix(scores, steps, metric)
    seen = [
        group_mean(scores.get(t, {}), [name for names in steps[:t] for name in names], "AP") for t in range(1, last + 1)
    ]
    absolute, relative = gaps(
        group_mean(final, total, metric), None if joint is None else group_mean(joint, total, metric)
    )
    return {
        "AP": group_mean(final, total, "AP"),
        "AP50": group_mean(final, total, "AP50"),
        "old_AP50": group_mean(final, old, "AP50"),
        "new_AP50": group_mean(final, steps[-1] if steps else [], "AP50"),
        "FPP": fpp(table),
        "forgetting": forgetting(table),
        "BWT": backward_transfer(table),
        "average_incremental_AP": average_incremental(seen),
        "AbsGap": absolute,
        "RelGap": relative,
    }


def _minus(left: Number, right: Number) -> Number:
    return None if left is None or right is None else left - right
