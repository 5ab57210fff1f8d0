from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_run import Finished, quiet
from helpers import assert_equal_states, state_of

from incdet.app.origin import run_of
from incdet.app.progress import Display
from incdet.app.train import train
from incdet.config import Config, load_config
from incdet.errors import InputError, TrainingError
from incdet.evaluation.match_file import load_matches
from incdet.evaluation.metrics import average_precision
from incdet.evaluation.scoring import measure
from incdet.memory.manifest import load_memory
from incdet.methods.registry import frozen_settings, known_methods
from incdet.network import checkpoint
from incdet.training.worker import Worker

METHODS = known_methods()
STEPS = [["circle", "cross"], ["ring", "square"], ["star", "triangle"]]
Settings = Callable[..., Config]


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def timeless(value: Any) -> Any:
    """The same without seconds."""
    if isinstance(value, dict):
        return {
            key: timeless(item) for key, item in value.items() if key not in ("seconds", "RelGap", "AbsGap", "seal")
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value


def assert_same_network(first: Path, second: Path) -> None:
    one, two = checkpoint.load(first), checkpoint.load(second)
    assert one.vocab == two.vocab
    assert_equal_states(state_of(one.model), state_of(two.model))


# --- what a run leaves behind


def test_every_file_of_the_run_folder_is_there(finished: Finished) -> None:
    files = {path.relative_to(finished.root).as_posix() for path in finished.root.rglob("*") if path.is_file()}
    expected = {
        "config.yaml",
        "data.json",
        "run.json",
        "log.jsonl",
        "protocol.json",
        "comparison.json",
        "report.html",
        "base/results.json",
        "base/memory/step_1.json",
    }
    places = {"base/step_1", "joint/step_3"}
    for name, method in METHODS.items():
        expected.add(f"{name}/results.json")
        if not method.joint:
            places |= {f"{name}/step_2", f"{name}/step_3"}
        if method.replay:
            expected |= {f"{name}/memory/step_2.json", f"{name}/memory/step_3.json"}
    kept = ("model.safetensors", "checkpoint.json", "samples.json", "mistakes.json", "matches.npz")
    for place in places:
        expected |= {f"{place}/{file}" for file in kept}
    assert expected - files == set()
    assert any(name.startswith("plots/") and name.endswith(".svg") for name in files)
    assert any(name.startswith("samples/images/") for name in files)
    assert not [name for name in files if name.endswith((".pt", ".tmp"))]  # no state, no half-written file
    assert {path.name for path in finished.root.iterdir() if path.is_dir()} == {"base", "plots", "samples", *METHODS}


def test_the_frozen_configuration_is_that_of_the_run(finished: Finished) -> None:
    """With every number of its methods, so that a later version with others repeats it all the same."""
    found = load_config(finished.root / "config.yaml")
    assert found == finished.config.model_copy(update={"method": frozen_settings(list(METHODS), {})})
    assert found.method["cldetr"]["kd_response"]["weight"] == 0.5 and list(found.method) == list(METHODS)


def numbers(value: dict[str, Any], *names: str) -> None:
    assert list(value) == list(names)
    assert all(item is None or (isinstance(item, float) and item >= -1) for item in value.values())


@pytest.mark.parametrize("name", METHODS)
def test_results_follow_the_schema(finished: Finished, name: str) -> None:
    value = read(finished.root / name / "results.json")
    assert list(value) == [
        "schema",
        "method",
        "changed",
        "seed",
        "detector",
        "protocol",
        "steps",
        "matrix_AP50",
        "summary",
        "seal",
    ]
    assert (value["schema"], value["method"], value["seed"]) == (1, name, 0) and isinstance(value["detector"], str)
    assert set(value["protocol"]) == {"name", "order", "images", "hash", "steps"}
    assert value["protocol"]["name"] == "2x3" and value["protocol"]["steps"] == STEPS
    assert [entry["step"] for entry in value["steps"]] == ([3] if name == "joint" else [1, 2, 3])
    for entry in value["steps"]:
        assert list(entry) == [
            "step",
            "AP",
            "AP50",
            "old",
            "new",
            "per_class",
            "train_images",
            "memory",
            "seconds",
            "iterations",
        ]
        seen = [name for names in STEPS[: entry["step"]] for name in names]
        assert list(entry["per_class"]) == seen
        for part in (*entry["per_class"].values(), entry["new"]):
            numbers(part, "AP", "AP50")
        if entry["step"] == 1:
            assert entry["old"] is None
        else:
            numbers(entry["old"], "AP", "AP50")
        numbers(entry["seconds"], "train", "evaluate")
        assert entry["seconds"]["train"] > 0
        assert isinstance(entry["train_images"], int) and 0 < entry["train_images"] <= 14
        own = {"interim": METHODS[name].interim, "finetune": METHODS[name].balanced_finetune}
        kinds = {"train", *(kind for kind, part in own.items() if part is not None and entry["step"] > 1)}
        assert entry["iterations"].keys() == kinds and all(steps > 0 for steps in entry["iterations"].values())
        assert list(entry["memory"]) == ["images", "bytes"]
        if METHODS[name].replay:
            assert entry["memory"]["images"] == 6 and entry["memory"]["bytes"] > 1000
        else:
            assert entry["memory"] == {"images": 0, "bytes": 0}
    assert [len(row) for row in value["matrix_AP50"]] == [3, 3, 3]
    numbers(
        value["summary"],
        "AP",
        "AP50",
        "old_AP50",
        "new_AP50",
        "FPP",
        "forgetting",
        "BWT",
        "average_incremental_AP",
        "AbsGap",
        "RelGap",
    )


def test_all_methods_share_step_one_and_the_protocol(finished: Finished) -> None:
    base = read(finished.root / "base" / "results.json")
    for name in METHODS:
        value = read(finished.root / name / "results.json")
        assert value["protocol"] == base["protocol"]
        if name != "joint":
            first = value["steps"][0]
            assert first["per_class"] == base["steps"][0]["per_class"]
            assert first["train_images"] == base["steps"][0]["train_images"]


def test_protocol_json_says_what_every_step_sees(finished: Finished) -> None:
    value = read(finished.root / "protocol.json")
    assert [view["step"] for view in value["views"]] == [1, 2, 3]
    for view, names in zip(value["views"], STEPS, strict=True):
        assert view["names"] == names and view["images"] > 0 and len(view["hash"]) == 16
        line = f"step {view['step']}: 2 classes ({', '.join(names)}), {view['images']} images"
        assert line in finished.text and view["hash"] in finished.text
    assert finished.text.index("step 3: 2 classes") < finished.text.index("step 1 train")  # before training


def test_the_comparison_holds_every_method_against_joint(finished: Finished) -> None:
    value = read(finished.root / "comparison.json")
    assert value["reference"] == "joint" and list(value["methods"]) == list(METHODS)
    for word in ("FPP", "RelGap", "exemplars", "minutes", *METHODS):
        assert word in finished.text  # the table


def test_the_log_tells_of_every_step_and_of_what_was_chosen(finished: Finished) -> None:
    lines = [json.loads(line) for line in (finished.root / "log.jsonl").read_text().splitlines()]
    said = [line["text"] for line in lines if line["event"] == "message"]
    assert re.fullmatch(r"device: cpu, \d+ threads, precision off", said[0])
    assert any(text.startswith("teacher: ") for text in said)  # what the device and the data chose for the user
    steps = [(line["method"], line["step"]) for line in lines if line["event"] == "step"]
    incremental = [name for name, method in METHODS.items() if not method.joint]
    assert sorted(steps) == sorted([("base", 1), ("joint", 3), *((name, t) for name in incremental for t in (2, 3))])
    phases = {line["phase"] for line in lines if line["event"] == "train"}
    assert phases == {
        "step 1 train",
        "step 2 interim",
        "step 2 train",
        "step 2 finetune",
        "step 3 interim",
        "step 3 train",
        "step 3 finetune",
        "joint train",
    }
    fitted = [text for text in said if text.startswith("pseudo-labels: ")]
    listening = [name for name, method in METHODS.items() if "pseudo_labels" in method.parts]
    assert len(fitted) == 2 * len(listening) > 0  # steps 2 and 3


def test_checkpoints_know_their_history(finished: Finished) -> None:
    found = checkpoint.load(finished.root / "eeil" / "step_3")
    assert found.vocab.steps == tuple(tuple(names) for names in STEPS)
    assert [entry["step"] for entry in found.history] == [1, 2, 3]
    # Every step's figures of every class would outgrow the weights over a long sequence.
    assert ["per_class" in entry for entry in found.history] == [False, False, True]
    results = read(finished.root / "eeil" / "results.json")
    assert found.metrics["all"] == results["steps"][2]["AP50"]
    assert not found.model.training


def test_changes_reach_back_to_the_step_that_learned_a_class(finished: Finished) -> None:
    steps = {entry["step"]: entry for entry in read(finished.root / "incdet" / "scores.json")["steps"]}
    assert list(steps[2]["since"]) == list(steps[2]["changes"]) == STEPS[0]
    assert set(steps[3]["since"]) == {*STEPS[0], *STEPS[1]}
    for name in STEPS[1]:
        assert steps[3]["since"][name] == steps[3]["changes"][name]
    name = STEPS[0][0]
    learned, now = (load_matches(finished.root / place) for place in ("base/step_1", "incdet/step_3"))
    assert learned is not None and now is not None
    start, end = average_precision(learned[name]), average_precision(now[name])
    assert start is not None and end is not None
    assert steps[3]["since"][name]["change"] == pytest.approx(end - start)
    for entry in (steps[2], steps[3]):
        assert set(entry["false_alarms"]) == {"old", "new"}
        assert set(entry["confusion"]["objects"]) == {n for names in STEPS[: entry["step"]] for n in names}


# --- the same run again


@pytest.mark.usefixtures("without_report")
def test_the_same_seed_gives_the_same_results_and_weights(finished: Finished, settings: Settings) -> None:
    root = train(settings(methods=["joint", "eeil"]), display=quiet()[0])  # whatever the other methods were
    for name, steps in (("base", [1]), ("joint", [3]), ("eeil", [2, 3])):
        assert timeless(read(root / name / "results.json")) == timeless(read(finished.root / name / "results.json"))
        for step in steps:
            assert_same_network(root / name / f"step_{step}", finished.root / name / f"step_{step}")
    for step in (2, 3):
        manifest = f"eeil/memory/step_{step}.json"
        assert load_memory(root / manifest) == load_memory(finished.root / manifest)
    assert read(root / "protocol.json") == read(finished.root / "protocol.json")


@pytest.mark.usefixtures("without_report")
def test_the_number_of_loader_processes_changes_no_bit(finished: Finished, settings: Settings) -> None:
    root = train(settings(methods=["finetune"], engine={"workers": 2}), display=quiet()[0])
    assert timeless(read(root / "results.json")) == timeless(read(finished.root / "finetune" / "results.json"))
    assert_same_network(root / "step_3", finished.root / "finetune" / "step_3")


@pytest.mark.usefixtures("without_report")
def test_another_seed_gives_other_weights_on_the_same_images(finished: Finished, settings: Settings) -> None:
    root = train(settings(methods=["finetune"], seed=1), display=quiet()[0])
    assert read(root / "results.json")["seed"] == 1
    assert read(root / "protocol.json") == read(finished.root / "protocol.json")
    theirs, ours = (state_of(checkpoint.load(place / "base" / "step_1").model) for place in (finished.root, root))
    assert (theirs["box_head.bbox_reg.weight"] != ours["box_head.bbox_reg.weight"]).any()


class Stopping(Display):
    """Interrupts at one iteration of one phase."""

    def __init__(self, phase: str, iteration: int) -> None:
        super().__init__(quiet()[0].console)
        self.phase, self.iteration = phase, iteration

    def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
        if (phase, done) == (self.phase, self.iteration):
            raise KeyboardInterrupt


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    ("phase", "iteration"),
    [("step 1 train", 2), ("step 2 interim", 1), ("step 2 train", 2), ("step 3 interim", 2), ("step 3 train", 1)],
)
def test_a_stopped_run_resumes_as_if_it_had_not_been(
    finished: Finished, settings: Settings, phase: str, iteration: int
) -> None:
    config = settings(methods=["incdet"])
    with pytest.raises(KeyboardInterrupt):
        train(config, display=Stopping(phase, iteration))
    display, text = quiet()
    root = train(config, resume=True, display=display)
    taken_up = "base: finished in an earlier part of the run: step 1\n" in text.getvalue()
    assert taken_up == (phase != "step 1 train")
    assert timeless(read(root / "results.json")) == timeless(read(finished.root / "incdet" / "results.json"))
    details = read(root / "scores.json")  # the changes of old classes among them
    assert details == read(finished.root / "incdet" / "scores.json") and details["steps"][2]["since"]
    assert_same_network(root / "base" / "step_1", finished.root / "base" / "step_1")
    for step in (2, 3):  # a run of one method keeps its results at the top
        assert_same_network(root / f"step_{step}", finished.root / "incdet" / f"step_{step}")
        own, other = root / "memory" / f"step_{step}.json", finished.root / "incdet" / "memory" / f"step_{step}.json"
        assert load_memory(own) == load_memory(other)
    assert not list(root.rglob("*.pt"))
    assert {path.name for path in root.iterdir()} - {"states"} == {
        "base",
        "comparison.json",
        "config.yaml",
        "data.json",
        "log.jsonl",
        "memory",
        "protocol.json",
        "results.json",
        "run.json",
        "samples",
        "scores.json",
        "step_2",
        "step_3",
    }


# --- scoring in the background


class Inline(Worker):
    """Does every job at once."""

    def submit(self, job: Callable[[], object]) -> None:
        job()


class Dying(Worker):
    """Loses every job, as a process does that is killed while it scores."""

    def submit(self, job: Callable[[], object]) -> None:
        pass


def assert_the_run_of_incdet(root: Path, finished: Finished) -> None:
    for name, place in (("base/results.json", "base"), ("results.json", "incdet")):
        assert timeless(read(root / name)) == timeless(read(finished.root / place / "results.json"))
    details = read(root / "scores.json")
    assert details == read(finished.root / "incdet" / "scores.json")
    assert details["steps"][1]["changes"]
    assert_same_network(root / "base" / "step_1", finished.root / "base" / "step_1")
    for step in (2, 3):
        assert_same_network(root / f"step_{step}", finished.root / "incdet" / f"step_{step}")
        own, other = (checkpoint.load(place / f"step_{step}") for place in (root, finished.root / "incdet"))
        assert (timeless(own.history), own.metrics) == (timeless(other.history), other.metrics)
    assert not list(root.rglob("*.pt"))


@pytest.mark.usefixtures("without_report")
def test_scoring_in_the_background_changes_no_result(
    finished: Finished, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("incdet.app.run.Worker", Inline)
    assert_the_run_of_incdet(train(settings(methods=["incdet"]), display=quiet()[0]), finished)


@pytest.mark.usefixtures("without_report")
def test_the_next_step_trains_while_the_last_is_scored(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reached = threading.Event()

    class Watching(Display):
        def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
            if phase == "step 2 train":
                reached.set()

    def patient(*args: Any, **more: Any) -> Any:
        assert reached.wait(60), "step 2 waits for the score of step 1"
        return measure(*args, **more)

    monkeypatch.setattr("incdet.app.run.measure", patient)
    train(settings(methods=["masked"]), display=Watching(quiet()[0].console))


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(("phase", "iteration"), [("step 2 train", 2), ("step 3 train", 2)])
def test_a_run_that_dies_while_it_scores_resumes_as_if_it_had_not(
    finished: Finished, settings: Settings, phase: str, iteration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(methods=["incdet"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("incdet.app.run.Worker", Dying)
        train(config, display=Stopping(phase, iteration))
    assert not list(config.output.rglob("results.json"))
    assert_the_run_of_incdet(train(config, resume=True, display=quiet()[0]), finished)


@pytest.mark.usefixtures("without_report")
def test_an_error_while_scoring_ends_the_run_with_its_own_message(
    finished: Finished, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(methods=["incdet"])
    with monkeypatch.context() as patch, pytest.raises(OSError, match="the disk is full"):

        def full(*_: Any, **__: Any) -> None:
            raise OSError("the disk is full")

        patch.setattr("incdet.app.run.save_samples", full)
        train(config, display=quiet()[0])
    assert not (config.output / "base" / "results.json").exists()
    assert_the_run_of_incdet(train(config, resume=True, display=quiet()[0]), finished)


@pytest.mark.usefixtures("without_report")
def test_joint_may_begin_with_the_detector_of_step_1(finished: Finished, settings: Settings) -> None:
    warm = settings(methods=["joint"], train={"joint": {"start": "step 1", "iterations": 1, "lr": 1e-9, "warmup": 0}})
    root = train(warm, display=quiet()[0])
    found, first = (checkpoint.load(root / place) for place in ("step_3", "base/step_1"))
    assert found.vocab.steps == tuple(tuple(names) for names in STEPS)
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_joint_resumes_too(finished: Finished, settings: Settings) -> None:
    config = settings(methods=["joint"])
    with pytest.raises(KeyboardInterrupt):
        train(config, display=Stopping("joint train", 3))
    root = train(config, resume=True, display=quiet()[0])
    assert_same_network(root / "step_3", finished.root / "joint" / "step_3")


@pytest.mark.usefixtures("without_report", "no_training")
def test_resuming_a_finished_run_trains_nothing(finished: Finished, settings: Settings, tmp_path: Path) -> None:
    root = shutil.copytree(finished.root, tmp_path / "run")
    train(settings(methods=list(METHODS)), resume=True, display=quiet()[0])
    for name in METHODS:
        assert read(root / name / "results.json") == read(finished.root / name / "results.json")


@pytest.mark.usefixtures("without_report")
def test_a_checkpoint_serves_as_step_one(finished: Finished, settings: Settings) -> None:
    base = finished.root / "base" / "step_1"
    root = train(settings(methods=["masked"], base=str(base)), display=quiet()[0])
    assert_same_network(root / "base" / "step_1", base)
    assert_same_network(root / "step_3", finished.root / "masked" / "step_3")
    first = read(root / "results.json")["steps"][0]
    assert first["seconds"]["train"] is None  # somebody else's time
    assert first["AP50"] == read(finished.root / "masked" / "results.json")["steps"][0]["AP50"]


@pytest.mark.usefixtures("without_report")
def test_an_ablation_runs_under_its_own_name(settings: Settings) -> None:
    changed = {"cldetr": {"kd_response": {"weight": 0.25}}}
    config = settings(methods=["cldetr"], without=["replay", "kd_box"], method=changed)
    root = train(config, display=quiet()[0])
    value = read(root / "results.json")
    assert value["method"] == "cldetr-replay-kd_box" and value["changed"] == ["kd_response.weight=0.25"]
    assert [entry["memory"]["images"] for entry in value["steps"]] == [0, 0, 0]
    lines = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train" and line["phase"] == "step 2 train"]
    assert trained and all("kd_box" not in line and "pseudo_focal" in line for line in trained)


@pytest.mark.usefixtures("without_report")
def test_a_run_that_was_copied_goes_on_at_its_new_place(
    finished: Finished, settings: Settings, incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    """Its shapes were drawn into it, and exemplars are named among them."""
    drawn = tmp_path / "run" / "data" / "shapes"
    shutil.copytree(finished.data, drawn)
    with pytest.raises(KeyboardInterrupt):
        train(settings(methods=["incdet"], data={"root": str(drawn)}), display=Stopping("step 3 train", 2))
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    shutil.rmtree(tmp_path / "run")
    assert incdet_command("train", "--config", tmp_path / "moved" / "config.yaml", "--resume").code == 0
    assert_the_run_of_incdet(tmp_path / "moved", finished)
    assert {one.image.parent.parent.parent for one in load_memory(tmp_path / "moved" / "memory" / "step_3.json")} == {
        tmp_path / "moved" / "data" / "shapes"
    }
    assert not (tmp_path / "run").exists()


def test_a_run_folder_called_base_is_a_run_folder(settings: Settings, tmp_path: Path) -> None:
    """As the folder of step 1 in it is called."""
    root = train(settings(methods=["masked"], output=tmp_path / "base"), display=quiet()[0])
    assert (root / "report.html").is_file() and (root / "base" / "step_1").is_dir()
    assert run_of(root / "step_3") == root and run_of(root / "base" / "step_1") == root


@pytest.mark.usefixtures("without_report")
def test_a_run_that_failed_is_replayed_and_goes_on_with_what_is_advised(
    settings: Settings, incdet_command: Callable[..., Any]
) -> None:
    config = settings(methods=["finetune"], train={"increment": {"iterations": 9, "lr": 1e18}})
    with pytest.raises(TrainingError, match="lower the learning rate.*set a clip") as caught:
        train(config, display=quiet()[0])
    (file,) = config.output.rglob("nonfinite.pt")
    assert f"incdet replay {file}" in str(caught.value)
    done = incdet_command("replay", file)
    assert done.code == 0 and "focal " in done.out and "not finite: " in done.out
    steps = config.train.model_copy(update={"increment": config.train.increment.model_copy(update={"lr": 0.001})})
    calmer = config.model_copy(update={"train": steps})
    train(calmer, resume=True, display=(shown := quiet())[0])
    assert "changed since the run began: train.increment.lr" in shown[1].getvalue()
    assert load_config(config.output / "config.yaml").train == calmer.train
    assert [step["step"] for step in read(config.output / "results.json")["steps"]] == [1, 2, 3]
    assert not list(config.output.rglob("*.pt"))


@pytest.mark.parametrize("content", [b"", b"no state", b"PK\x03\x04"])
def test_what_is_no_failed_step_is_not_replayed(
    content: bytes, incdet_command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "nonfinite.pt").write_bytes(content)
    for file in ("nonfinite.pt", "gone.pt"):
        done = incdet_command("replay", tmp_path / file)
        assert (
            done.code == 2 and file in done.err and "a failed run names" in done.err or "no file of incdet" in done.err
        )
        assert "weights_only=False" not in done.err and "Traceback" not in done.err


@pytest.mark.usefixtures("without_report")
def test_the_state_of_another_method_is_not_taken_up(settings: Settings) -> None:
    config = settings(methods=["finetune", "masked"])
    with pytest.raises(KeyboardInterrupt):
        train(config, display=Stopping("step 2 train", 2))
    state = config.output / "finetune" / "states" / "step_2" / "train.pt"
    (config.output / "masked" / "states" / "step_2").mkdir(parents=True)
    shutil.copy(state, config.output / "masked" / "states" / "step_2" / "train.pt")
    with pytest.raises(InputError, match="masked/states/step_2/train.pt.*of another training"):
        train(config, resume=True, display=quiet()[0])


# --- refused before any training


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": {"steps": [["circle"], ["hexagon"]]}}, "'hexagon'"),
        ({"protocol": {"steps": "4+4"}}, "8 classes"),
        ({"memory": {"total": 5}}, "at least 6"),
        ({"methods": ["incdte"]}, "'incdet'"),
        ({"methods": ["finetune"], "without": ["replay"]}, "no part 'replay'"),
        ({"method": {"cldetr": {"kd_respons": {"weight": 1.0}}}}, "did you mean 'kd_response'"),
        ({"method": {"cldetr": {"kd_response": {"weight": -1.0}}}}, r"method\.cldetr\.kd_response\.weight: is -1"),
        ({"method": {"incdte": {}}}, "no method is called 'incdte'"),
        ({"base": "nowhere"}, "nowhere"),
        (
            {
                "data": {
                    "format": "coco",
                    "train": {"annotations": "none.json", "images": "images"},
                    "test": {"annotations": "test.json", "images": "images"},
                }
            },
            "none.json",
        ),
    ],
)
def test_bad_input_is_refused_before_training(settings: Settings, changes: dict[str, Any], said: str) -> None:
    config = settings(**changes)
    with pytest.raises(InputError, match=said):
        train(config, display=quiet()[0])
    assert not config.output.exists()  # and the folder is free for the corrected run


@pytest.mark.usefixtures("no_training")
def test_a_base_of_other_classes_is_refused(finished: Finished, settings: Settings) -> None:
    config = settings(base=str(finished.root / "eeil" / "step_2"))
    with pytest.raises(InputError, match="knows circle, cross, ring, square"):
        train(config, display=quiet()[0])


@pytest.mark.usefixtures("no_training")
def test_a_memory_too_small_does_not_matter_to_methods_without_one(settings: Settings) -> None:
    with pytest.raises(AssertionError, match="training has begun"):
        train(settings(methods=["masked"], memory={"total": 1}), display=quiet()[0])


@pytest.mark.usefixtures("no_training")
def test_a_folder_with_another_run_is_left_alone(finished: Finished, settings: Settings) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")}
    with pytest.raises(InputError, match="already holds a run"):
        train(settings(output=finished.root, methods=["masked"]), display=quiet()[0])
    with pytest.raises(InputError, match="key methods.*differs"):
        train(settings(output=finished.root, methods=["masked"]), resume=True, display=quiet()[0])
    assert {path: path.stat().st_mtime_ns for path in finished.root.rglob("*")} == before


@pytest.mark.usefixtures("without_report")
def test_a_resumed_run_knows_the_changes_of_old_classes_too(finished: Finished, settings: Settings) -> None:
    config = settings(methods=["incdet"])
    with pytest.raises(KeyboardInterrupt):
        train(config, display=Stopping("step 3 train", 1))
    root = train(config, resume=True, display=quiet()[0])
    whole, resumed = (read(place / "scores.json")["steps"] for place in (finished.root / "incdet", root))
    assert [sorted(step["changes"]) for step in resumed] == [sorted(step["changes"]) for step in whole]
