from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from measured import CLASSES as NAMES
from measured import scene

from incdet.data.records import Record
from incdet.evaluation.detections import Detections
from incdet.evaluation.matching import match_classes
from incdet.evaluation.metrics import Matches, _resampled_ap, _weighted_ap, bootstrap_change
from incdet.evaluation.scoring import match


def one_by_one(records: Sequence[Record], found: Sequence[Detections], name: str, column: int, iou: float) -> Matches:
    """The devkit's rule, one image and one detection after the other."""
    rows: list[tuple[float, bool, int]] = []
    positives = np.zeros(len(records), np.int64)
    for place, (record, item) in enumerate(zip(records, found, strict=True)):
        mine = [number for number, other in enumerate(record.names) if other == name]
        positives[place] = sum(not record.ignore[number] for number in mine)
        taken: set[int] = set()
        chosen = np.flatnonzero(item.labels == column)
        for row in chosen[np.argsort(-item.scores[chosen], kind="stable")]:
            best, target = -1.0, -1
            for number in mine:
                a, b = item.boxes[row].astype(np.float64), record.boxes[number].astype(np.float64)
                width, height = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
                common = max(width, 0.0) * max(height, 0.0)
                union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
                if common / union > best:
                    best, target = common / union, number
            if best >= iou and record.ignore[target]:
                continue
            right = best >= iou and target not in taken
            taken |= {target} if right else set()
            rows.append((float(item.scores[row]), right, place))
    rows.sort(key=lambda row: -row[0])
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    scores, hits, image = columns
    return Matches(np.array(scores, float), np.array(hits, bool), np.array(image, np.int64), positives)


@pytest.mark.parametrize("iou", [0.5, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_all_classes_at_once_are_matched_as_one_by_one(seed: int, iou: float) -> None:
    records, found = scene(seed)
    every = match_classes(records, found, NAMES, iou)
    assert sum(int(matches.hits.sum()) for matches in every) > 10
    for column, name in enumerate(NAMES):
        expected = one_by_one(records, found, name, column, iou)
        alone = match(records, {r.image_id: f for r, f in zip(records, found, strict=True)}, NAMES, name, iou=iou)
        for mine, single, other in zip(every[column], alone, expected, strict=True):
            assert np.array_equal(mine, other) and np.array_equal(single, other)
            assert mine.dtype == single.dtype == other.dtype


def test_no_record_no_class_and_no_detection_match_nothing() -> None:
    records, _ = scene(0, images=3)
    empty = [Detections.empty()] * 3
    assert match_classes([], [], ()) == [] and match_classes(records, empty, ()) == []
    for images, found in ((records, empty), ([], [])):
        for matches in match_classes(images, found, NAMES):
            assert len(matches.scores) == len(matches.hits) == len(matches.image) == 0
            assert matches.positives.shape == (len(images),)


@pytest.mark.parametrize("draws", [1, 7, 200])
@pytest.mark.parametrize("seed", range(4))
def test_resampling_all_draws_at_once_is_resampling_one_by_one(
    seed: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incdet.evaluation.metrics._BLOCK", 400)  # several blocks
    records, found = scene(seed, images=3 if draws == 200 else 30)  # few images: some draws hold no object
    for matches in match_classes(records, found, NAMES):
        rng, expected = np.random.default_rng(seed), []
        for _ in range(draws):
            weights = np.bincount(rng.integers(len(records), size=len(records)), minlength=len(records))
            expected.append(_weighted_ap(matches, weights.astype(np.float64), "voc12"))
        assert _resampled_ap(matches, draws, seed, "voc12") == expected
        # The other form has no shortcut, and the same draws.
        if matches.positives.any():
            for form in ("voc07", "voc12"):
                assert bootstrap_change(matches, matches, draws=draws, seed=seed, form=form) == (0.0, 0.0, 0.0)
