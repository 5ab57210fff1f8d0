from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from measured import CLASSES as NAMES
from measured import scene

from incdet.errors import InputError
from incdet.evaluation.match_file import FILE, load_matches, save_matches
from incdet.evaluation.matching import match_classes
from incdet.evaluation.metrics import Matches, average_precision, bootstrap_change


def judged(seed: int) -> dict[str, Matches]:
    records, found = scene(seed)
    return dict(zip(NAMES, match_classes(records, found, NAMES), strict=True))


def test_load_is_the_inverse_of_save(tmp_path: Path) -> None:
    matches = judged(3)
    save_matches(tmp_path / "step_2", matches)
    again = load_matches(tmp_path / "step_2")
    assert again is not None and list(again) == list(NAMES)
    for name, one in matches.items():
        for mine, stored in zip(one, again[name], strict=True):
            assert mine.dtype == stored.dtype
            np.testing.assert_array_equal(mine, stored)
        assert average_precision(again[name]) == average_precision(one)
    assert [path.name for path in (tmp_path / "step_2").iterdir()] == [FILE]


def test_intervals_from_two_files_are_those_of_the_matches(tmp_path: Path) -> None:
    before, after = judged(3)["cat"], judged(3)["cat"]._replace(hits=np.zeros(len(judged(3)["cat"].hits), np.bool_))
    for name, one in (("a", before), ("b", after)):
        save_matches(tmp_path / name, {"cat": one})
    stored = [load_matches(tmp_path / name) for name in ("a", "b")]
    assert stored[0] is not None and stored[1] is not None
    assert bootstrap_change(stored[0]["cat"], stored[1]["cat"], draws=20) == bootstrap_change(before, after, draws=20)


def test_no_class_no_detection_and_no_file(tmp_path: Path) -> None:
    assert load_matches(tmp_path) is None
    save_matches(tmp_path / "a", {})
    assert load_matches(tmp_path / "a") == {}
    nothing = Matches(np.zeros(0), np.zeros(0, bool), np.zeros(0, np.int64), np.array([0, 2, 0]))
    save_matches(tmp_path / "b", {"cat": nothing})
    again = load_matches(tmp_path / "b")
    assert again is not None and again["cat"].positives.tolist() == [0, 2, 0] and len(again["cat"].scores) == 0


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_file_that_is_cut_off_is_refused_with_its_name(tmp_path: Path, share: float) -> None:
    save_matches(tmp_path, judged(3))
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"matches\.npz.*cannot be read"):
        load_matches(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("scores", np.zeros(2**27, np.float32)), ("images", np.int64(2**40)), ("images", np.int64(-1))],
)
def test_an_archive_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path, field: str, value: Any) -> None:
    save_matches(tmp_path, judged(3))
    with np.load(tmp_path / FILE) as stored:
        content = {key: stored[key] for key in stored.files}
    np.savez_compressed(tmp_path / FILE, **{**content, field: value})
    assert (tmp_path / FILE).stat().st_size < 1_000_000
    with pytest.raises(InputError, match=r"cannot be read \(it (would unpack to more|tells of) "):
        load_matches(tmp_path)
