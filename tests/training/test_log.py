from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from incdet.training.log import RunLog


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_event_is_one_line_and_on_disk_at_once(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "new" / "run")
    log.write("step", step=2, old=0.5)
    log.scalars("step 2 train", {"loss": 1.25}, 7)
    first, second = lines(tmp_path / "new" / "run")  # not closed yet
    assert {key: first[key] for key in ("event", "step", "old")} == {"event": "step", "step": 2, "old": 0.5}
    assert abs(time.time() - float(str(first["time"]))) < 60
    second.pop("time"), second.pop("seal")
    assert second == {"event": "train", "phase": "step 2 train", "iteration": 7, "loss": 1.25}
    log.close()


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    for number in range(2):
        with RunLog(tmp_path) as log:
            log.write("step", step=number)
    assert [line["step"] for line in lines(tmp_path)] == [0, 1]


def test_the_piece_of_a_line_that_a_kill_left_does_not_swallow_the_next(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        log.write("step", step=1)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"time": 1.0, "event": "st')
    with RunLog(tmp_path) as log:
        log.write("step", step=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_it_is_closed_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), RunLog(tmp_path) as log:
        raise RuntimeError
    with pytest.raises(ValueError, match="closed"):
        log.write("step")
