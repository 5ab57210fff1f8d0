from __future__ import annotations

import numpy as np

from incdet.app.extend_outcome import Change, Outcome, _change
from incdet.app.extend_proof import Proof
from incdet.evaluation.metrics import Matches


def matches(hits: list[bool], images: int = 20) -> Matches:
    """One detection and one object in each image."""
    right = np.array(hits, bool)
    order = np.argsort(~right, kind="stable")
    return Matches(np.linspace(0.9, 0.1, images), right[order], order.astype(np.int64), np.ones(images, np.int64))


def test_a_new_class_begins_at_nothing() -> None:
    found = _change("tram", "new", None, matches([True] * 16 + [False] * 4))
    assert found.before is None and found.after is not None and found.change == found.after
    assert found.low is not None and found.low > 0.4 and found.verdict == "gained" and found.objects == 20


def test_a_class_has_lost_only_beyond_chance() -> None:
    whole = matches([True] * 20)
    assert _change("cat", "old", whole, matches([True] * 5 + [False] * 15)).verdict == "lost"
    assert _change("cat", "old", whole, whole).verdict == "as before"
    assert _change("cat", "old", whole, matches([True] * 19 + [False])).verdict == "as before"


def ended(*changes: Change, measured: str = "the test set") -> Outcome:
    return Outcome(
        "runs/new", "runs/new/step_2", "runs/new/report.html", changes, {}, measured, 1.0, Proof(3, 5, 1, 4, 2)
    )


def test_the_end_is_told_in_words() -> None:
    tram = Change("tram", "new", 9, None, 0.5, 0.5, 0.3, 0.7)
    cat = Change("cat", "old", 20, 0.6, 0.4, -0.2, -0.3, -0.1)
    dog = Change("dog", "old", 20, 0.6, 0.6, 0.0, -0.1, 0.1)
    text = "\n".join(ended(tram, cat, dog).lines())
    assert "gained: 1 new classes at AP50 50.0" in text
    assert "old classes: AP50 60.0 before, 50.0 after; lost beyond chance: cat" in text
    assert "tram   new              9            -   50.0   +50.0  +30.0 .. +70.0" in text
    assert "detector: runs/new/step_2" in text
    assert "old detections (score of 0.3 and more) found again on 3 images: 2 of 4" in text


def test_what_was_not_measured_is_said() -> None:
    tram = Change("tram", "new", 9, None, 0.5, 0.5, 0.3, 0.7)
    assert any("old classes lost is not measured" in line for line in ended(tram).lines())
    assert any("nothing was measured" in line for line in ended(measured="").lines())


def test_json_has_every_figure() -> None:
    value = ended(Change("cat", "old", 20, 0.6, 0.4, -0.2, -0.3, -0.1)).to_json()
    assert value["changes"][0]["verdict"] == "lost" and value["changes"][0]["low"] == -0.3
    assert value["checkpoint"] == "runs/new/step_2"
