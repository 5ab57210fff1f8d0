from __future__ import annotations

import json
from pathlib import Path

from saved_run import log_lines, train

from incdet.report.events import read_log


def written(path: Path, *lines: object) -> Path:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_losses_belong_to_the_method_that_was_begun_last(tmp_path: Path) -> None:
    log = read_log(written(tmp_path / "log.jsonl", *log_lines()))
    assert [(phase.method, phase.name) for phase in log.phases] == [
        ("base", "step 1 train"),
        ("finetune", "step 2 train"),
        ("incdet", "step 2 train"),
    ]
    first = log.phases[0]
    assert first.curve() == [(1.0, 2.0), (2.0, 1.0), (3.0, 2 / 3)] and first.terms == ["focal"]
    assert log.starts[0]["commit"] == "c0ffee"


def test_a_resumed_part_takes_the_place_of_what_it_did_again(tmp_path: Path) -> None:
    lines = [train("a", 1, 1.0), train("a", 2, 1.0), {"event": "start"}, train("a", 2, 9.0), train("a", 3, 1.0)]
    log = read_log(written(tmp_path / "log.jsonl", *lines))
    assert log.phases[0].curve() == [(1.0, 1.0), (2.0, 9.0), (3.0, 1.0)] and len(log.starts) == 1


def test_lines_that_are_not_whole_are_passed_over(tmp_path: Path) -> None:
    good = train("a", 1, 1.0)
    lines = ['{"event": "tra', "\n", [1], "7\n", good, {**good, "loss": float("nan")}]
    log = read_log(written(tmp_path / "log.jsonl", *lines))
    assert len(log.phases) == 1 and log.phases[0].losses[1] == {"focal": 0.5}
    assert read_log(tmp_path / "none.jsonl").phases == []
