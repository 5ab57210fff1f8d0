from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from incdet.training.log import Journal


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_event_is_one_line_and_on_disk_at_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new" / "run")
    journal.write("step", step=2, old=0.5)
    journal.scalars("step 2 train", {"loss": 1.25}, 7)
    first, second = lines(tmp_path / "new" / "run")  # not closed yet
    assert {key: first[key] for key in ("event", "step", "old")} == {"event": "step", "step": 2, "old": 0.5}
    assert abs(time.time() - float(str(first["time"]))) < 60
    second.pop("time")
    assert second == {"event": "train", "phase": "step 2 train", "iteration": 7, "loss": 1.25}
    journal.close()


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    for number in range(2):
        with Journal(tmp_path) as journal:
            journal.write("step", step=number)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1]


def test_it_is_closed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Journal(tmp_path) as journal:
        raise RuntimeError
    with pytest.raises(ValueError, match="closed"):
        journal.write("step")


def test_tensorboard_is_neither_imported_nor_written_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Journal(tmp_path) as journal:
        journal.scalars("train", {"loss": 1.0}, 1)
    assert not (tmp_path / "tensorboard").exists()


if find_spec("tensorboard") is not None:

    def test_tensorboard_gets_the_scalars_where_it_is_installed(tmp_path: Path) -> None:
        with Journal(tmp_path, tensorboard=True) as journal:
            journal.scalars("train", {"loss": 1.0}, 1)
        events = list((tmp_path / "tensorboard").glob("events.*"))
        assert len(events) == 1 and events[0].stat().st_size > 0
        assert len(lines(tmp_path)) == 1
