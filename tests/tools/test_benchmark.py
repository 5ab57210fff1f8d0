from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import benchmarks
import pytest
import torch
from benchmarks.harness import Equality, Options, Row, measure, peak_bytes

KEYS = ["suite", "case", "ours", "theirs", "ratio", "aa", "equal", "peak_ratio", "device", "torch", "commit"]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def main(repository: Path) -> Callable[[list[str]], int]:
    spec = importlib.util.spec_from_file_location("benchmark_tool", repository / "tools" / "benchmark.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    run: Callable[[list[str]], int] = tool.main
    return run


@pytest.mark.parametrize("suite", ["assignment", "losses", "memory", "postprocess", "replay", "step"])
def test_a_suite_writes_one_json_line_per_case_and_finds_equality(
    suite: str,
    main: Callable[[list[str]], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    threads: None,
) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    assert main([suite, "--quick", "--json", str(path)]) == 0
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(lines) >= 2
    assert len({line["case"] for line in lines}) == len(lines)
    for line in lines:
        assert list(line) == KEYS
        assert line["suite"] == suite
        assert line["equal"] is True
        assert line["ratio"] == pytest.approx(line["theirs"] / line["ours"], rel=1e-4)
        assert line["aa"] > 0
        assert line["case"] == "share of peak" or line["peak_ratio"] > 0
        assert line["torch"] == torch.__version__
    shown = capsys.readouterr().out
    assert shown.count("(A/A ") == len(lines)
    assert shown.rstrip().splitlines()[-1].split()[0] == suite  # the short table comes last


def test_a_step_has_the_same_operations_for_any_batch_and_waits_at_most_twice(
    main: Callable[[list[str]], int], tmp_path: Path, threads: None
) -> None:
    path = tmp_path / "rows.jsonl"
    assert main(["counts", "--quick", "--json", str(path)]) == 0
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    ours, theirs = ({line["case"]: line[side] for line in lines} for side in ("ours", "theirs"))
    assert ours["operations an image"] == ours["static operations an image"] == 0
    assert ours["waits B=8"] <= 2 and ours["static waits B=8"] == 0
    # What a count is worth is shown by the other side, whose figures are known.
    assert theirs["operations an image"] > 100 and theirs["waits an image"] >= 9
    assert ours["operations B=8"] < theirs["operations B=8"] / 2


def test_losses_need_a_third_of_the_memory(threads: None) -> None:
    # Counted, not timed: this holds on any machine.
    peaks = [row.peak_ratio for row in benchmarks.suite("losses")(Options(quick=True))]
    assert all(peak is not None and peak < 0.4 for peak in peaks)


def test_every_suite_has_a_name_and_rows() -> None:
    names = benchmarks.suite_names()
    assert {"assignment", "losses", "postprocess"} <= set(names)
    assert "harness" not in names
    assert all(callable(benchmarks.suite(name)) for name in names)


def test_a_different_result_is_said_and_fails(
    main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(options: Options) -> Iterator[Row]:
        yield Row("losses", "x", 1.0, 2.0, 2.0, 1.0, False, None, options.device, "t", None, "off by 1")

    monkeypatch.setattr("benchmarks.losses.rows", rows)
    assert main(["losses"]) == 1
    assert "DIFFERENT: off by 1" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["lossses"], ["losses", "--device", "cuda"], ["losses", "--json", "."]])
def test_wrong_words_are_refused_before_anything_runs(
    words: list[str], main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2


def test_peak_memory_is_the_most_that_was_held_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.ones(1 << 18)

    def together() -> None:
        kept = [torch.ones(1 << 18) for _ in range(3)]
        kept.clear()

    assert peak_bytes(one_after_the_other) == pytest.approx(1 << 20, rel=0.01)
    assert peak_bytes(together) == pytest.approx(3 << 20, rel=0.01)
    assert peak_bytes(lambda: None) == 0


def test_the_ratio_is_theirs_over_ours(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    calls = []

    def takes(name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            calls.append(name)
            clock["now"] += seconds

        return call

    row = measure("s", "c", takes("ours", 2.0), takes("theirs", 6.0), Equality(True, "same"), Options(quick=True))
    assert (row.ours, row.theirs, row.ratio, row.aa) == (2.0, 6.0, 3.0, 1.0)
    assert row.peak_ratio is None
    assert calls[2:11] == ["theirs", "ours", "theirs"] * 3
    assert list(json.loads(row.to_json())) == KEYS


def test_help_does_not_import_torch(repository: Path) -> None:
    code = "import runpy, sys; sys.argv = ['benchmark.py', '--help']\n"
    code += "try: runpy.run_path('tools/benchmark.py', run_name='__main__')\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join([str(repository), str(repository / "tools")])},
    )
    assert done.returncode == 0, done.stderr
    assert "losses" in done.stdout


def test_a_suite_that_fails_is_told_and_does_not_stop_the_next(
    main: Callable[[list[str]], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], threads: None
) -> None:
    import benchmarks.losses

    def fail(options: Options) -> Iterator[Row]:
        raise RuntimeError("out of memory")
        yield

    monkeypatch.setattr(benchmarks.losses, "rows", fail)
    assert main(["losses", "assignment", "--quick"]) == 1
    shown = capsys.readouterr()
    assert "out of memory" in shown.err
    assert "failed: losses" in shown.out and "assignment" in shown.out
