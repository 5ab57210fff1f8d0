from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from helpers import network, record, state_of

from incdet.evaluation.detections import Detections
from incdet.memory.exemplars import Budget, Memory
from incdet.memory.propagation import propagate, with_labels

NAMES = ("ant", "bee", "cow")
FOUND = Detections(
    np.array(
        [[30, 30, 49, 44], [5, 5, 25, 25], [30, 2, 44, 20], [2, 30, 20, 44], [1, 1, 9, 9], [48, 3, 50, 9]], np.float32
    ),
    np.array([0.9, 0.9, 0.3, 0.1, 0.9, 0.9], np.float32),
    np.array([1, 1, 2, 2, 0, 1]),
)
"""A sure one over the border, the ant under another name, a doubtful one, a weak one, one of a class that is annotated,
and one outside."""


def test_sure_detections_of_unannotated_classes_become_objects_and_doubtful_ones_are_ignored() -> None:
    own = record("a.png", ["ant"])
    labelled = with_labels(own, FOUND, NAMES, 0.5)
    assert labelled.names == ("ant", "bee", "cow") and labelled.ignore.tolist() == [False, False, True]
    assert labelled.boxes.tolist() == [[4, 5, 24, 25], [30, 30, 48, 44], [30, 2, 44, 20]]
    assert labelled.coverage == set(NAMES) and own.coverage == {"ant"}


def test_what_is_annotated_for_everything_stays_as_it_is() -> None:
    whole = record("a.png", ["ant"], coverage=NAMES)
    assert with_labels(whole, FOUND, NAMES, 0.5) == whole
    nothing = with_labels(record("a.png", coverage=["ant"]), Detections.empty(), NAMES, 0.5)
    assert nothing.names == () and nothing.coverage == set(NAMES)


def test_a_network_labels_every_exemplar_of_a_memory_and_keeps_its_order(tmp_path: Path) -> None:
    model = network(("ant",), ("bee",)).train()
    model.architecture = model.architecture.changed(score_thresh=0.0)
    records = []
    for number, name in enumerate(("ant", "bee")):
        picture = np.random.default_rng(number).integers(0, 255, (48, 48, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), picture)
        records.append(replace(record(tmp_path / f"{name}.png", [name]), image_id=7))  # ids of two steps may be equal
    memory = Memory(Budget(total=2), {"ant": (records[0],), "bee": (records[1],)})
    before = state_of(model)
    labelled = propagate(model, memory, 1e-6, batch_size=1)
    assert model.training and before.keys() == state_of(model).keys()
    for own, name, other in zip(records, ("ant", "bee"), ("bee", "ant"), strict=True):
        (found,) = labelled.exemplars[name]
        assert found.image == own.image and found.image_id == 7 and found.coverage == {"ant", "bee"}
        assert found.names[0] == name and len(found.names) > 1 and set(found.names[1:]) == {other}
