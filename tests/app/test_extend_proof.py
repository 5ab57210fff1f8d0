from __future__ import annotations

import numpy as np
from helpers import record

from incdet.app.extend_proof import MOST, compare, images_of
from incdet.evaluation.detections import Detections


def found(*rows: tuple[float, float, int]) -> Detections:
    """Boxes of 10 px at (x, 0) with a score and a label: (x, score, label)."""
    boxes = np.array([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.array([row[1] for row in rows], np.float32), np.array([row[2] for row in rows], np.int64)
    )


def test_detections_of_new_classes_do_not_count() -> None:
    old = {1: found((0, 0.9, 0), (20, 0.1, 1)), 2: found()}
    proof = compare(old, {1: found((0, 0.9, 0), (5, 0.8, 2), (20, 0.1, 1)), 2: found((5, 0.8, 3))}, known=2)
    assert proof.holds and (proof.images, proof.detections, proof.sure, proof.found) == (2, 2, 1, 1)
    assert proof.line() == ("proved: on 2 images all 2 detections of old classes are what they were, bit for bit")


def test_the_last_bit_of_a_score_is_a_change() -> None:
    score = np.float32(0.9)
    old, new = found((0, float(score), 0)), found((0, float(np.nextafter(score, np.float32(1))), 0))
    proof = compare({1: old}, {1: new}, known=1)
    assert not proof.holds and proof.identical == 0 and proof.found == 1
    assert "found again on 1 images: 1 of 1" in proof.line()


def test_found_again_is_of_the_same_class_in_the_same_place_and_once() -> None:
    old = {1: found((0, 0.9, 0), (3, 0.8, 0), (50, 0.7, 1))}
    assert compare(old, {1: found((1, 0.9, 0), (50, 0.7, 0))}, known=2).found == 1
    assert compare(old, {1: found((1, 0.9, 0), (2, 0.9, 0), (52, 0.7, 1))}, known=2).found == 3
    assert compare(old, {1: found((0, 0.2, 0))}, known=2).found == 0
    assert compare(old, {}, known=2) == (1, 3, 0, 3, 0)


def test_images_are_those_measured_on_else_those_learned_from() -> None:
    some = [record(f"{number}.png", number=number) for number in range(1, 121)]
    assert images_of(some[:3], some) == some[:3]
    chosen = images_of((), some)
    assert len(chosen) == 40 <= MOST and chosen[1] == some[3]
