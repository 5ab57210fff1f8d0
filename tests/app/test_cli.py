from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

import incdet
from incdet.app.cli import VERBS, build_parser, run_tool
from incdet.errors import Finding, InputError, OutputError, Terminated, TrainingError

TOOLS = ("train_incremental", "evaluate", "finetune_custom", "predict", "calibrate", "export", "doctor")


@pytest.mark.parametrize(
    "words",
    [["-m", "incdet"], *(["-m", "incdet", verb] for verb in VERBS), *([f"tools/{tool}.py"] for tool in TOOLS)],
    ids=lambda words: words[-1],
)
def test_help_answers_within_half_a_second_without_torch(words: list[str], repository: Path) -> None:
    command = [sys.executable, "-X", "importtime", *words, "--help"]
    seconds = []
    for _ in range(4):  # the fastest, in processor time: what else the machine does is not our start
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if seconds[-1] < 0.5:
            break
    assert "usage:" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert loaded & {"incdet.app.cli"} and not loaded & {"torch", "pydantic", "numpy"}
    assert min(seconds) < 0.5


def test_the_package_offers_its_names_lazily() -> None:
    program = "import incdet, sys; assert len(sys.modules) < 200; incdet.Vocabulary; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2], timeout=60)
    assert set(incdet.__all__) - {"__version__"} == set(incdet._HOME)
    assert all(getattr(incdet, name) is not None for name in incdet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        incdet.nothing  # noqa: B018


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Replaces the functions behind the verbs by a recorder."""
    import incdet.app.evaluate
    import incdet.app.extend
    import incdet.app.train
    import incdet.report.html

    caught: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(*words: Any, **named: Any) -> dict[str, Any]:
        caught.append((words, named))
        return {"AP": 0.25, "AP50": 0.5, "per_class": {"cat": {"AP": 0.25, "AP50": None}}}

    monkeypatch.setattr(incdet.app.train, "train", record)
    monkeypatch.setattr(incdet.app.evaluate, "evaluate", record)
    monkeypatch.setattr(incdet.app.extend, "carry_out", lambda *words: record(*words) and MagicMock())
    monkeypatch.setattr(incdet.report.html, "write_report", record)
    return caught


def test_train_passes_the_checked_configuration(
    calls: list[Any], incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("methods: [finetune]", encoding="utf-8")
    words = [
        "train",
        "seed=3",
        "--config",
        file,
        "--method",
        "incdet,eeil",
        "--without",
        "replay",
        "output=x",
        "--resume",
    ]
    assert incdet_command(*words).code == 0
    (config,), named = calls[0]
    assert (config.seed, config.methods, config.without, named) == (
        3,
        ("incdet", "eeil"),
        ("replay",),
        {"resume": True},
    )
    assert config.output == Path("x").resolve()


@pytest.mark.usefixtures("no_training")
def test_train_refuses_what_other_data_formats_are_set_by(incdet_command: Callable[..., Any], tmp_path: Path) -> None:
    words = ["train", "--config", "configs/shapes/demo.yaml", f"output={tmp_path}/run", "data.test_splits=[2007_test]"]
    done = incdet_command(*words)
    assert done.code == 2 and "key data.test_splits: is not used" in done.err and "data.format=voc" in done.err
    assert not (tmp_path / "run").exists()


def test_evaluate_prints_a_table(calls: list[Any], incdet_command: Callable[..., Any], tmp_path: Path) -> None:
    done = incdet_command("evaluate", "--checkpoint", "a", "--data", "b", "--images", "c", "--output", tmp_path / "d")
    assert done.code == 0
    given = {"arch": None, "known_classes": None}
    assert calls == [
        (
            ("a", Path("b"), Path("c")),
            {"split": None, "exif": "auto", "output": tmp_path / "d", "batch_size": 8, "device": "auto", **given},
        )
    ]
    assert [line.split() for line in done.out.splitlines()[:3]] == [
        ["class", "AP", "AP50"],
        ["cat", "0.250", "-"],
        ["all", "0.250", "0.500"],
    ]


def test_extend_passes_classes_and_overrides(calls: list[Any], incdet_command: Callable[..., Any]) -> None:
    words = ["--checkpoint", "a", "--data", "b", "--output", "c", "--classes", "cat, dog", "train.base.iterations=2"]
    assert incdet_command("extend", *words).code == 0
    call = calls[0][0][0]
    assert (call.extension.checkpoint, call.extension.annotations, call.extension.images) == ("a", Path("b"), None)
    assert call.extension.classes == ("cat, dog",), "whether that is one class or two, the data knows"
    assert call.overrides == ["train.base.iterations=2"]
    assert (call.method, call.output) == (None, Path("c"))


@pytest.mark.parametrize(
    "words",
    [
        ["a", "--data", "b", "seed=3"],
        ["--data", "b", "a", "seed=3"],
        ["seed=3", "--data", "b", "a"],
        ["seed=3", "a", "--data", "b"],
        ["--data", "b", "seed=3", "a"],
        ["--data", "b", "seed=3", "--checkpoint", "a"],
        ["--checkpoint", "a", "seed=3", "--data", "b"],
    ],
    ids=" ".join,
)
def test_the_detector_and_the_settings_may_stand_anywhere(
    calls: list[Any], incdet_command: Callable[..., Any], words: list[str]
) -> None:
    assert incdet_command("extend", *words).code == 0
    call = calls[0][0][0]
    assert (call.extension.checkpoint, call.overrides, call.output) == ("a", ["seed=3"], Path("runs/new"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "b"], "required: DETECTOR"),
        (["--data", "b", "seed=3"], "required: DETECTOR"),
        (["a", "--data", "b", "c"], "'c' is one word too many"),
        (["a", "--data", "b", "--checkpoint", "c"], "'a' is one word too many"),
    ],
    ids=str,
)
def test_one_detector_is_needed(words: list[str], said: str, incdet_command: Callable[..., Any]) -> None:
    for verb in ("extend", "evaluate"):
        if verb == "extend" or "seed=3" not in words:
            done = incdet_command(verb, *words)
            assert done.code == 2 and said in done.err


def test_several_words_are_classes_and_settings_may_follow_them(
    calls: list[Any], incdet_command: Callable[..., Any]
) -> None:
    words = ["--classes", "cat", "a, b", "seed=3", "--out", "c", "--checkpoint", "a", "--data", "b", "--classes", "ox"]
    assert incdet_command("extend", "memory.total=0", *words).code == 0
    call = calls[0][0][0]
    assert call.extension.classes == ("cat", "a, b", "ox")
    assert sorted(call.overrides) == ["memory.total=0", "seed=3"]


def test_report_draws_the_folder(calls: list[Any], incdet_command: Callable[..., Any]) -> None:
    assert incdet_command("report", "runs/x").code == 0
    assert calls == [((Path("runs/x"),), {})]
    assert incdet_command("report", "runs/x", "--output", "elsewhere.html").code == 0
    assert calls[1] == ((Path("runs/x"), Path("elsewhere.html")), {})


def test_tools_are_the_verbs(calls: list[Any], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("", encoding="utf-8")
    assert run_tool("train", ["--config", str(file), "seed=5"]) == 0
    assert calls[0][0][0].seed == 5


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError(Finding("a.json", "image 3", "is missing", "add it")), 2, "a.json: image 3: is missing -> add it"),
        (TrainingError("the loss is nan"), 1, "the loss is nan"),
        (OutputError(Finding("a.json", "output", "cannot be written", "free some space")), 1, "free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), 1, "use a smaller batch"),
        (KeyboardInterrupt(), 130, "Interrupted. Files that were finished stay."),
        (Terminated(), 143, "Files that were finished stay."),
    ],
    ids=["refused", "stopped", "full", "full log", "full GPU", "interrupted", "terminated"],
)
def test_an_expected_end_has_its_code_and_no_traceback(
    monkeypatch: pytest.MonkeyPatch, incdet_command: Callable[..., Any], error: BaseException, code: int, said: str
) -> None:
    import incdet.report.html

    def fail(folder: Path) -> None:
        raise error

    monkeypatch.setattr(incdet.report.html, "write_report", fail)
    done = incdet_command("report", "x")
    assert done.code == code
    assert said in done.err and "Traceback" not in done.err and not done.out


def test_an_interrupted_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    import incdet.app.train

    def fail(*words: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(incdet.app.train, "train", fail)
    file = tmp_path / "run.yaml"
    file.write_text("", encoding="utf-8")
    done = incdet_command("train", "--config", file)
    assert done.code == 130 and "with --resume goes on" in done.err


def test_sigterm_ends_a_verb_in_order(monkeypatch: pytest.MonkeyPatch, incdet_command: Callable[..., Any]) -> None:
    import incdet.report.html

    left = []

    def work(folder: Path) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            left.append(folder)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(incdet.report.html, "write_report", work)
    assert incdet_command("report", "x").code == 143
    assert left == [Path("x")] and signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("device", ["cuda", "gpu", "mps", "cdua"])
@pytest.mark.usefixtures("no_training")
def test_a_device_that_is_not_there_is_refused_before_any_work(
    device: str, monkeypatch: pytest.MonkeyPatch, incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for words in (
        ["evaluate", "--checkpoint", "gone", "--data", "gone", "--device", device],
        ["predict", "--checkpoint", "gone", "--images", "gone", "--output", tmp_path / "out", "--device", device],
        ["train", "--config", "configs/shapes/demo.yaml", f"output={tmp_path}/run", f"engine.device={device}"],
        ["extend", "--checkpoint", "x", "--data", "y", "--output", tmp_path / "run", f"engine.device={device}"],
    ):
        done = incdet_command(*words)
        assert done.code == 2 and device in done.err and "gone" not in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trian"],
        ["train"],
        ["train", "--config", "x", "--resum_e"],
        ["train", "--config", "x", "--", "seed"],
        ["evaluate", "seed=1", "--checkpoint", "a", "--data", "b", "--images", "c"],
        ["evaluate", "--checkpoint", "a", "--data", "b", "--images", "c", "--batch-size", "0"],
        ["train", "--config", "nowhere.yaml"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_exits_with_2(words: list[str], incdet_command: Callable[..., Any]) -> None:
    done = incdet_command(*words)
    assert done.code == 2
    assert done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exten"], "'exten' is no verb; did you mean 'extend'?"),
        (["zzz"], "known: calibrate, check, "),
        (["train", "--config", "x", "--resmue"], "--resmue is no option; did you mean '--resume'?"),
        (["evaluate", "--checkpoint", "a", "--data", "b", "--batchsize=3"], "did you mean '--batch-size'?"),
        (["report", "a", "b"], "'b' is one word too many"),
    ],
    ids=str,
)
def test_a_slip_of_the_pen_gets_a_suggestion(words: list[str], said: str, incdet_command: Callable[..., Any]) -> None:
    done = incdet_command(*words)
    assert done.code == 2 and said in done.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_help_page_has_an_example_that_its_parser_takes(verb: str, incdet_command: Callable[..., Any]) -> None:
    done = incdet_command(verb, "--help")
    (example,) = (line for line in done.out.splitlines() if line.startswith("example: "))
    words = example.partition(" | ")[0].split()[1:]
    assert words[:2] == ["incdet", verb]
    assert build_parser().parse_args(words[1:]).verb == verb


@pytest.mark.parametrize(
    "words",
    [
        ["report", "LONG"],
        ["check", "--data", "LONG"],
        ["predict", "--checkpoint", "a", "--images", "LONG", "--output", "LONG"],
        ["evaluate", "--checkpoint", "LONG", "--data", "b", "--output", "LONG"],
        ["extend", "--checkpoint", "LONG", "--data", "b", "--output", "LONG", "--known-classes", "LONG"],
        ["train", "--config", "LONG"],
        ["import", "LONG", "--output", "LONG", "--classes", "LONG"],
        ["replay", "LONG"],
    ],
    ids=lambda words: words[0],
)
def test_names_of_thousands_of_letters_are_refused(words: list[str], incdet_command: Callable[..., Any]) -> None:
    done = incdet_command(*("n" * 5000 if word == "LONG" else word for word in words))
    assert done.code == 2 and "Traceback" not in done.err
    assert "nnnn" in done.err and len(done.err) < 12_000


def test_refused_input_in_a_process_of_its_own(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"output: {tmp_path}/run\nsead: 1\nengine: {{precision: half}}", encoding="utf-8")
    command = [sys.executable, "tools/train_incremental.py", "--config", str(file)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "did you mean 'seed'?" in done.stderr and "key engine.precision: is 'half'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_name_that_the_terminal_cannot_show_is_no_traceback(repository: Path) -> None:
    command: list[str | bytes] = [sys.executable, "-m", "incdet", "report", b"runs/\xff\xfe"]
    surroundings = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, cwd=repository, capture_output=True, timeout=60, env=surroundings)
    assert done.returncode == 2
    assert b"runs/\\udcff\\udcfe" in done.stderr and b"Traceback" not in done.stderr


def test_methods_and_keys_are_listed(incdet_command: Callable[..., Any]) -> None:
    assert {"finetune", "masked", "joint", "lwf", "eeil", "pseudo", "incdet"} <= {
        line.split()[0] for line in incdet_command("methods").out.splitlines()
    }
    keys = incdet_command("keys").out
    assert "train.finetune.lr [0.001]" in keys
    for line in (
        "method.cldetr.kd_response.weight [0.5]\n    Factor of the term.",
        'method.eeil.kd_softmax.selection.kind ["score"]',
        "method.incdet.replay.share [0.3]",
        "method.pseudo.pseudo_labels.highest [0.7]",
    ):
        assert f"\n{line}" in keys
    assert ".fitted" not in keys and all(text.strip() for text in keys.splitlines())


def test_check_tells_a_clean_set_from_a_faulty_one(
    make_coco: Callable[..., Any], incdet_command: Callable[..., Any]
) -> None:
    clean = make_coco(images=2)  # all of them different
    done = incdet_command("check", "--data", clean.annotations, "--images", clean.images)
    assert done.code == 0 and done.out.endswith(f"\n{clean.annotations}: 0 error(s), 0 warning(s)\n")

    def spoil(content: dict[str, Any]) -> None:
        content["annotations"][0]["bbox"] = [5, 5, 0, 9]
        content["annotations"][1]["category_id"] = 77

    faulty = make_coco(folder="faulty", edit=spoil)
    (faulty.images / "003.png").unlink()
    done = incdet_command("check", "--data", faulty.annotations, "--images", faulty.images)
    assert done.code == 2
    assert all(word in done.out for word in ("003.png", "77", "annotation"))
    assert f"{faulty.annotations}: 3 error(s)" in done.out


def test_check_reads_a_folder_of_xml(make_coco: Callable[..., Any], incdet_command: Callable[..., Any]) -> None:
    folder = make_coco(images=2).images
    box = "<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>{bottom}</ymax></bndbox>"
    for name, bottom in (("001", 30), ("002", 31)):
        entry = f"<object><name>cat</name>{box.format(bottom=bottom)}</object>"
        size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.png</filename>{size}{entry}</annotation>"
        (folder / f"{name}.xml").write_text(text, encoding="utf-8")
    assert incdet_command("check", "--data", folder).code == 0
    spoilt = (folder / "002.xml").read_text("utf-8").replace("<ymax>31", "<ymax>2")
    (folder / "002.xml").write_text(spoilt, encoding="utf-8")
    done = incdet_command("check", "--data", folder)
    assert done.code == 2
    assert "002.xml" in done.out and "001.xml" not in done.out


def test_check_of_a_cut_off_file(make_coco: Callable[..., Any], incdet_command: Callable[..., Any]) -> None:
    data = make_coco()
    text = data.annotations.read_text("utf-8")
    data.annotations.write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(json.JSONDecodeError):
        json.loads(data.annotations.read_text("utf-8"))
    done = incdet_command("check", "--data", data.annotations, "--images", data.images)
    assert done.code == 2
    assert "Traceback" not in done.out + done.err
