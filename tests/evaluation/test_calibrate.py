from __future__ import annotations

import numpy as np
import pytest

from incdet.evaluation.calibrate import calibrate
from incdet.evaluation.metrics import Matches
from incdet.evaluation.temperature import fit_temperature
from incdet.evaluation.thresholds import choose_thresholds
from incdet.network.calibration import Calibration


def judged(seed: int, objects: int = 30) -> Matches:
    draw = np.random.default_rng(seed)
    scores = np.sort(draw.uniform(0.05, 0.95, 60))[::-1]
    hits = draw.uniform(size=60) < scores**2
    return Matches(scores, hits, np.zeros(60, np.int64), np.array([objects]))


def test_thresholds_and_temperature_are_those_of_their_modules() -> None:
    matches = {"cat": judged(1), "dog": judged(2)}
    found = calibrate(matches, "a test")
    assert found is not None and (found.images, found.source) == (1, "a test")
    expected = choose_thresholds(matches)
    assert found.thresholds == {name: pytest.approx(one.score, abs=1e-6) for name, one in expected.items()}
    scores, hits = (np.concatenate([getattr(one, key) for one in matches.values()]) for key in ("scores", "hits"))
    assert found.temperature == pytest.approx(fit_temperature(scores, hits), abs=1e-4) != 1.0


def test_a_class_that_is_not_shown_keeps_its_threshold() -> None:
    before = Calibration({"cat": 0.9, "cow": 0.8}, 3.0, 7, "before")
    found = calibrate({"cat": judged(1), "cow": judged(2, objects=0)}, "now", before=before)
    assert found is not None and found.thresholds["cow"] == 0.8 and found.thresholds["cat"] != 0.9
    assert found.source == "now" and found.temperature != 3.0
    assert calibrate({"cow": judged(2, objects=0)}, "now", before=before) is before
    assert calibrate({}, "now") is None
