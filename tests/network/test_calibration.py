from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import network

from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.calibration import Calibration

KNOWN = Calibration({"a": 0.4, "b": 0.6}, 1.5, 12, "validation")


def test_it_goes_with_the_detector_into_checkpoint_copy_and_growth(tmp_path: Path) -> None:
    model = network()
    model.calibration = KNOWN
    copied = copy.deepcopy(model)
    copied.grow(["c"])
    assert copied.calibration == KNOWN
    checkpoint.save(tmp_path, copied)
    assert checkpoint.load(tmp_path).model.calibration == KNOWN
    checkpoint.save(tmp_path, network())
    assert checkpoint.load(tmp_path).model.calibration is None
    assert "calibration" not in json.loads((tmp_path / "checkpoint.json").read_text("utf-8"))


def test_json_and_back_and_other_names() -> None:
    assert Calibration.from_json(json.loads(json.dumps(KNOWN.to_json()))) == KNOWN
    assert KNOWN.renamed({"a": "z", "b": None, "c": "c"}).thresholds == {"z": 0.4}
    newer = Calibration({"b": 0.1}, 2.0, 3, "later")
    assert KNOWN.updated(newer) == Calibration({"a": 0.4, "b": 0.1}, 2.0, 3, "later")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"thresholds": {"a": 1.5}}, "threshold of 'a'"),
        ({"thresholds": {"a": True}}, "threshold of 'a'"),
        ({"thresholds": [1]}, "calibration"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"images": "many"}, "calibration"),
    ],
)
def test_an_edited_entry_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    model = network()
    model.calibration = KNOWN
    checkpoint.save(tmp_path, model)
    value = json.loads((tmp_path / "checkpoint.json").read_text("utf-8"))
    value["calibration"] |= change
    del value["seal"]  # as its message says for an edit that is meant
    (tmp_path / "checkpoint.json").write_text(json.dumps(value), "utf-8")
    with pytest.raises(InputError, match=said):
        checkpoint.load(tmp_path)
