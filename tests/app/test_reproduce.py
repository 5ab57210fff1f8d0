from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_run import quiet

from incdet.app import suites
from incdet.app.cli import run_tool
from incdet.app.detector import build_model
from incdet.app.reproduce import Suite, reproduce
from incdet.app.suites import REHEARSAL, SUITES, Benchmark, Entry
from incdet.config import Config, load_config
from incdet.errors import InputError
from incdet.evaluation.results import Results
from incdet.methods.registry import OWN
from incdet.network import checkpoint
from incdet.vocab import Vocabulary

Settings = Callable[..., Config]


@pytest.fixture
def suite(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_report: None) -> Suite:
    """Two classes on two with fine-tuning and one more method, in a few iterations."""
    config = settings(protocol={"steps": [["circle", "cross"], ["ring", "square"]]})
    (tmp_path / "configs").mkdir()
    config.dump(tmp_path / "configs" / "tiny.yaml")
    monkeypatch.setitem(suites.SUITES, "tiny", Benchmark((Entry("2+2", "tiny.yaml"),)))
    out = tmp_path / "runs"
    return Suite("tiny", ["finetune", "incdet"], [0], out, tmp_path / "t" / "tiny.json", tmp_path / "configs")


def go(suite: Suite, **more: Any) -> bool:
    return reproduce(suite, display=quiet()[0], **more)


def read(suite: Suite) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(suite.results.read_text("utf-8"))
    return value


def test_every_method_starts_from_one_step_1_and_has_a_row(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    assert go(suite)
    place = suite.output / "2+2" / "seed-0"
    assert load_config(place / "incdet" / "config.yaml").base == place / "finetune" / "base" / "step_1"
    value = read(suite)
    assert [row["method"] for row in value["rows"]] == ["finetune", "incdet", "step 1"]
    assert value["protocols"]["2+2"]["missing"] == []
    own = Results.load(place / "incdet" / "results.json")
    row = value["rows"][1]["figures"]
    assert (row["old_AP50"], row["all_AP"]) == (own.summary["old_AP50"], own.summary["AP"])
    assert row["steps"] == sum(own.steps[2].iterations.values()) > 4  # the interim teacher counts
    assert value["rows"][2]["figures"]["new_AP50"] is None
    assert value["protocols"]["2+2"]["differences"]["incdet"]["rival"] == "finetune"
    page = suite.results.with_suffix(".md").read_text("utf-8")
    assert "| incdet | 1 |" in page and "| step 1 | 1 |" in page and "Not measured yet" not in page
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "2+2 seed 0 finetune: AP50 old" in lines[0]


def test_what_is_finished_is_not_trained_again_and_what_is_asked_beyond_it_is_missing(
    suite: Suite, request: pytest.FixtureRequest
) -> None:
    go(suite)
    first = read(suite)
    request.getfixturevalue("no_training")
    assert go(suite) and read(suite) == first
    suite.results.unlink()
    assert go(suite)  # adopted from the run folders, whatever these are called
    assert read(suite) == first
    place = suite.output / "2+2" / "seed-0"
    suite.results.unlink()
    (place / "incdet").rename(place / "of_another_name")
    assert go(suite) and read(suite)["rows"] == first["rows"]
    shutil.rmtree(suite.output)
    assert go(suite) and read(suite)["rows"] == first["rows"]  # rows from elsewhere stay
    assert read(suite)["protocols"]["2+2"]["differences"] == first["protocols"]["2+2"]["differences"]
    changed = read(suite)
    changed["rows"][0]["figures"]["all_AP50"] += 0.01  # another training of the same name
    suite.results.write_text(json.dumps(changed), "utf-8")
    assert go(suite) and read(suite)["protocols"]["2+2"]["differences"] == {}  # they were between other figures
    with pytest.raises(AssertionError, match="training has begun"):
        go(suite._replace(seeds=[0, 1]))
    with pytest.raises(AssertionError, match="training has begun"):
        go(suite._replace(settings=["train.increment.iterations=5"]))


def test_a_study_starts_from_the_step_1_of_the_benchmark_and_takes_up_its_runs(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    few = Entry("few", "tiny.yaml", ("protocol.images_per_class=2",))
    one = Entry("one by one", "tiny.yaml", ("protocol.steps=[[circle, cross], [ring], [square]]",))
    benchmark = Benchmark((Entry("all", "tiny.yaml"), few, one), ("finetune", "incdet"))
    monkeypatch.setitem(suites.SUITES, "study", benchmark)
    assert go(suite)
    study = suite._replace(name="study", methods=[], results=suite.results.with_name("study.json"))
    assert go(study)
    place, base = suite.output / "2+2" / "seed-0", suite.output / "2+2" / "seed-0" / "finetune" / "base" / "step_1"
    assert not (suite.output / "all").exists()
    for name in ("few", "one by one"):
        assert load_config(suite.output / name / "seed-0" / "incdet" / "config.yaml").base == base
    rows = {(row["protocol"], row["method"]): row for row in read(study)["rows"]}
    assert rows["all", "incdet"]["figures"] == read(suite)["rows"][1]["figures"]
    assert rows["few", "incdet"]["protocol_hash"] != rows["all", "incdet"]["protocol_hash"]
    assert {protocol["differences"]["incdet"]["rival"] for protocol in read(study)["protocols"].values()} == {
        "finetune"
    }
    page = study.results.with_suffix(".md").read_text("utf-8")
    assert (
        "| few | finetune | 1 |" in page and "| one by one | incdet | 1 |" in page and page.count("|---|---|---:|") == 2
    )
    assert "Not measured yet" not in page and place.is_dir()
    request.getfixturevalue("no_training")
    assert go(study)


def test_a_stopped_run_goes_on_and_gives_the_same_row(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite._replace(methods=["finetune"], settings=["engine.checkpoint_every=1"])
    assert go(suite)
    whole, other = read(suite), suite._replace(output=suite.output / "b", results=suite.results.with_name("b.json"))
    saved = checkpoint.save

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        go(other)
    assert not other.results.is_file()
    monkeypatch.setattr(checkpoint, "save", saved)
    assert go(other)

    def plain(value: dict[str, Any]) -> list[Any]:
        return [{key: item for key, item in row["figures"].items() if key != "minutes"} for row in value["rows"]]

    assert plain(read(other)) == plain(whole)


def test_at_the_time_limit_the_table_says_what_is_missing(suite: Suite) -> None:
    go(suite._replace(methods=["finetune"]))
    assert not go(suite, limit=0.0)
    page = suite.results.with_suffix(".md").read_text("utf-8")
    assert "| finetune | 1 |" in page and "Not measured yet: seed 0: incdet." in page
    assert go(suite, limit=600.0)


def test_unknown_words_are_refused_before_anything_is_trained(suite: Suite, no_training: None) -> None:
    for changed, words in (
        ({"name": "nosuch"}, "is no suite"),
        ({"methods": ["incdett"]}, "incdet"),
        ({"methods": ["incdet-kd_boxx"]}, "kd_box"),
        ({"settings": ["train.basee=1"]}, "basee"),
        ({"settings": ["method.eeil.replay.share=0.5"]}, "no method of this suite"),
    ):
        with pytest.raises(InputError, match=words):
            go(suite._replace(**changed))
    assert not suite.results.exists()


def test_the_numbers_of_a_method_go_to_its_own_run(suite: Suite) -> None:
    rows = suite._replace(settings=["method.incdet.replay.share=0.5"]).wanted()
    assert [row.method_title for row in rows] == ["finetune", "incdet (replay.share=0.5)"]
    assert list(rows[0].config.method) == []


def test_the_configurations_of_all_suites_are_there(repository: Path) -> None:
    for name in SUITES:
        rows = Suite(name, [], [0, 1], Path("out"), Path("t.json"), repository / "configs", ["data.root=d"]).wanted()
        assert len({(row.place, row.word) for row in rows}) == len(rows)
        assert len(rows) == 2 * len(SUITES[name].entries) * (len(SUITES[name].methods) or len(OWN))


@pytest.fixture
def tool(repository: Path) -> Any:
    spec = importlib.util.spec_from_file_location("reproduce_tool", repository / "tools" / "reproduce.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_takes_settings_anywhere(tool: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--suite", "shapes", "--methods", "incdet", "nosuch", "data.draw_seed=1"]
    assert run_tool(tool.VERB, words) == 2
    assert "nosuch" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_tool(tool.VERB, ["--suite", "shapes", "--seeds", "one"])


def test_a_rehearsal_goes_from_end_to_end_and_leaves_the_results_alone(
    tool: Any, tmp_path: Path, repository: Path, without_report: None
) -> None:
    before = sorted((repository / "docs" / "results").iterdir())
    words = ["--suite", "shapes", "--rehearse", "--methods", "pair", "--seeds", "0", "--output", str(tmp_path)]
    assert run_tool(tool.VERB, [*words, "data.train_images=20", "data.test_images=5"]) == 0
    page = (tmp_path / "rehearsal" / "shapes" / "shapes.md").read_text("utf-8")
    assert "| pair | 1 |" in page and "## 2x3" in page
    assert sorted((repository / "docs" / "results").iterdir()) == before


@pytest.mark.parametrize("file", sorted({entry.config for suite in SUITES.values() for entry in suite.entries}))
def test_a_rehearsal_makes_detectors_that_look_at_a_single_image(file: str, repository: Path) -> None:
    """As importance is measured, for the penalties of ``ewc`` and ``mas``."""
    words = [*REHEARSAL, "data.root=/nowhere", "model.weights=null", "methods=[finetune]"]
    config = load_config(repository / "configs" / file, words)
    model = build_model(config, Vocabulary((("a",), ("b",)))).eval()
    assert len(model([torch.rand(3, 64, 64)])) == 1
