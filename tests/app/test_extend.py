from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from finished_run import Finished, quiet
from helpers import assert_equal_states, network, state_of

import incdet
from incdet.app.extend import extend
from incdet.app.extend_data import chosen_classes, new_classes
from incdet.app.progress import Display
from incdet.app.train import train
from incdet.config import load_config
from incdet.data.dataset import read_image
from incdet.data.formats import read_coco
from incdet.errors import InputError
from incdet.memory.manifest import load_memory
from incdet.network import checkpoint
from incdet.training.fitting import fitted_steps
from incdet.vocab import Vocabulary

SHAPES = ("circle", "cross", "ring", "square", "star", "triangle")
ROOM = ("memory.total=8", "train.increment.iterations=4")


def teach(finished: Finished, data: Path, images: Path | None, output: Path, **more: Any) -> Path:
    path = more.pop("path", finished.root / "incdet" / "step_3")
    made = extend(path, data, images, output=output, overrides=more.pop("overrides", ROOM), **more)
    assert made.run is not None
    return made.run


def assert_taught(finished: Finished, root: Path) -> None:
    before, after = (checkpoint.load(place) for place in (finished.root / "incdet" / "step_3", root / "step_4"))
    assert after.vocab.steps == (*before.vocab.steps, ("cat", "dog"))
    old = after.model.state_dict()
    assert any(not torch.equal(value, old[name]) for name, value in before.model.state_dict().items())
    manifest = load_memory(root / "memory" / "step_4.json")
    assert list(manifest.exemplars) == [*SHAPES, "cat", "dog"]
    assert [len(ranked) for ranked in manifest.exemplars.values()][-2:] == [1, 1]
    stored = load_memory(finished.root / "incdet" / "memory" / "step_3.json")
    for name in SHAPES:
        assert manifest.exemplars[name] == stored.exemplars[name][:1]
    value = json.loads((root / "results.json").read_text())
    assert [entry["step"] for entry in value["steps"]] == [3, 4]
    assert value["steps"][1]["memory"]["images"] == len(manifest) <= 8
    assert value["protocol"]["steps"][3] == ["cat", "dog"]


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(("keep", "images"), [(False, 2), (True, 4)])
def test_known_classes_of_the_file_are_refreshed_and_images_of_them_alone_kept_by_choice(
    finished: Finished,
    make_coco: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    keep: bool,
    images: int,
) -> None:
    mixed = make_coco(names=("circle", "dog"))
    root = teach(finished, mixed.annotations, mixed.images, tmp_path / "own", method="masked", keep_old_images=keep)
    assert checkpoint.load(root / "step_4").vocab.steps[-1] == ("dog",)
    told = capsys.readouterr().out
    assert f"{images} images" in told.split("step 4:")[1] and ("refreshes circle" in told) == keep
    view = json.loads((root / "protocol.json").read_text())["views"][-1]
    assert view["images"] == images and view["boxes_visible"] == images


@pytest.mark.usefixtures("without_report")
def test_classes_of_a_coco_file_are_taught_with_the_runs_own_exemplars(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_coco()
    root = teach(finished, own.annotations, own.images, tmp_path / "own")
    assert root == tmp_path / "own"
    assert_taught(finished, root)
    printed = capsys.readouterr().out
    assert "exemplars of the run that made the checkpoint" in printed and "nothing was measured" in printed


@pytest.mark.usefixtures("without_report")
def test_classes_of_a_folder_of_voc_xml_are_taught(finished: Finished, voc_folder: Path, tmp_path: Path) -> None:
    assert_taught(finished, teach(finished, voc_folder, None, tmp_path / "own"))


@pytest.mark.usefixtures("without_report")
def test_old_and_new_classes_are_measured_on_test_data(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_coco()
    root = teach(
        finished,
        own.annotations,
        own.images,
        tmp_path / "own",
        method="masked",
        classes=["dog"],
        test_data=finished.data / "test.json",
        test_images=finished.data / "images",
    )
    first, second = json.loads((root / "results.json").read_text())["steps"]
    assert list(second["per_class"]) == [*SHAPES, "dog"]
    before = json.loads((finished.root / "incdet" / "results.json").read_text())["steps"][2]
    assert first["AP50"] == before["AP50"] and second["old"]["AP50"] is not None
    assert second["new"]["AP50"] is None  # the test data has no dog
    told = capsys.readouterr().out
    assert "old classes: AP50" in told and "takes them): circle 0." in told
    assert all(f"{name:<8}  old " in told for name in SHAPES) and "dog  " not in told.split("class     ")[1]
    assert checkpoint.load(root / "step_4").vocab.names == (*SHAPES, "dog")


@pytest.mark.usefixtures("without_report")
def test_exemplars_are_chosen_from_old_data_where_no_run_stored_any(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = shutil.copytree(finished.root / "incdet" / "step_3", tmp_path / "lone")
    own = make_coco()
    short = (
        "engine.device=cpu",
        "engine.workers=0",
        "train.increment.iterations=2",
        "train.increment.batch_size=2",
        "memory.per_class=1",
    )
    root = teach(
        finished,
        own.annotations,
        own.images,
        tmp_path / "own",
        path=lone,
        overrides=short,
        old_data=finished.data / "train.json",
        old_images=finished.data / "images",
    )
    memory = load_memory(root / "memory" / "step_4.json")
    assert {name: len(ranked) for name, ranked in memory.exemplars.items()} == dict.fromkeys((*SHAPES, "cat", "dog"), 1)
    assert {one.image.parent.name for one in memory.exemplars["ring"]} == {"train"}
    assert "chosen from" in capsys.readouterr().out
    bare = teach(finished, own.annotations, own.images, tmp_path / "bare", path=lone, overrides=short)
    assert len(load_memory(bare / "memory" / "step_4.json")) == 2  # its own classes alone
    assert "--old-data" in capsys.readouterr().out


@pytest.mark.usefixtures("without_report")
def test_the_old_data_set_may_be_gone_when_the_run_kept_the_pixels(
    settings: Callable[..., Any], finished: Finished, make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    data = shutil.copytree(finished.data, tmp_path / "data")
    keep = settings(methods=["eeil"], data={"root": str(data)}, memory={"copy_images": True})
    base = train(keep, display=quiet()[0])
    shutil.rmtree(data)
    own = make_coco()
    root = teach(finished, own.annotations, own.images, tmp_path / "own", path=base / "step_3", method="eeil")
    memory = load_memory(root / "memory" / "step_4.json")
    assert len(memory.exemplars["circle"]) == 1
    for one in memory:
        assert one.image.is_relative_to(root) and read_image(one).shape[2] == 3


@pytest.fixture
def bereft(settings: Callable[..., Any], finished: Finished, tmp_path: Path) -> Path:
    """A run whose old data set is gone, the pictures of its exemplars with it."""
    data = shutil.copytree(finished.data, tmp_path / "gone")
    root = train(settings(methods=["eeil"], data={"root": str(data)}), display=quiet()[0])
    shutil.rmtree(data)
    return root / "step_3"


@pytest.mark.usefixtures("without_report")
def test_every_way_out_of_lost_exemplars_works(
    bereft: Path, finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_coco()

    def attempt(name: str, **more: Any) -> Path:
        return teach(finished, own.annotations, own.images, tmp_path / name, path=bereft, **more)

    with pytest.raises(InputError, match="images are missing.*--old-data.*memory.total=0"):
        attempt("refused")
    assert not (tmp_path / "refused").exists()
    old = {"old_data": finished.data / "train.json", "old_images": finished.data / "images"}
    again = attempt("again", method="eeil", **old)
    assert len(load_memory(again / "memory" / "step_4.json")) == 8
    assert "exemplars chosen from" in capsys.readouterr().out
    for name, more in (("none", {"overrides": ["memory.total=0"]}), ("lwf", {"method": "lwf"})):
        assert checkpoint.load(attempt(name, **more) / "step_4").vocab.steps[-1] == ("cat", "dog")


@pytest.mark.usefixtures("without_report")
def test_old_data_is_used_where_a_run_stored_exemplars_too(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own, old = make_coco(), make_coco(names=("circle", "star"), folder="old")
    root = teach(
        finished,
        own.annotations,
        own.images,
        tmp_path / "own",
        method="eeil",
        old_data=old.annotations,
        old_images=old.images,
    )
    memory = load_memory(root / "memory" / "step_4.json")
    assert {one.image.parent for one in memory.exemplars["circle"]} == {old.images}
    assert not memory.exemplars["ring"]
    assert "exemplars chosen from" in capsys.readouterr().out


# --- said before anything is done


@pytest.mark.usefixtures("no_training")
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    own = make_coco(names=("cat", "circle", "dog"))
    words = ["extend", finished.root / "incdet", "--data", own.annotations, "--images", own.images, *ROOM]
    words += ["--out", tmp_path / "own", "--classes", "cat", "circle", "--dry-run"]
    done = incdet_command(*words)
    assert done.code == 0 and not (tmp_path / "own").exists()
    lines = {line.partition(":")[0]: line.partition(":")[2].strip() for line in done.out.splitlines()}
    assert lines["known"] == f"6 classes: {', '.join(SHAPES)}" and lines["new"] == "1 classes: cat"
    assert lines["left out"].startswith("circle, dog (") and "COCO JSON" in lines["data"]
    assert "6 exemplars of the run" in lines["kept"] and lines["method"].startswith("balanced: incdet")
    assert lines["writes"] == str(tmp_path / "own" / "step_4")
    assert lines["measured on"].startswith("nothing, as no image is held out (too few of a class")
    told = json.loads(incdet_command(*words, "--json").out)
    assert told["plan"]["new"] == ["cat"] and told["plan"]["objects"] == {"cat": 1}


@pytest.mark.usefixtures("without_report")
def test_json_is_one_object_on_stdout_and_all_else_on_stderr(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    own = make_coco()
    words = ["--data", own.annotations, "--images", own.images, "--method", "masked", *ROOM, "--json"]
    done = incdet_command("extend", finished.root / "incdet" / "step_3", *words, "--out", tmp_path / "own")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["outcome"]["run"] == str(tmp_path / "own") and told["plan"]["new"] == ["cat", "dog"]
    assert "new:         2 classes: cat, dog" in done.err


def test_a_loaded_detector_can_be_extended_and_is_left_as_it_was(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    own = make_coco()
    before = incdet.load(finished.root / "incdet")
    state = state_of(before.model)
    settings = (*ROOM, "train.increment.iterations=1")
    after = incdet.extend(before, own.annotations, own.images, output=tmp_path / "own", overrides=settings)
    assert after.names == (*before.names, "cat", "dog") and after.source == str(tmp_path / "own" / "step_4")
    assert not after.model.training and after.outcome is not None and after.outcome.checkpoint == after.source
    assert_equal_states(state, state_of(before.model))
    assert after.predict(own.images / "001.png").save(tmp_path / "found.png").is_file()


def test_what_is_no_detector_is_refused_in_words(make_coco: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"IncrementalRetinaNet.*no file and no folder.*incdet\.save"):
        incdet.extend(network(("a",)), make_coco().annotations)  # type: ignore[arg-type]


# --- stopped and gone on with


class Stopping(Display):
    """Interrupts at one iteration of one phase."""

    def __init__(self, phase: str, iteration: int, number: int = signal.SIGINT) -> None:
        super().__init__(quiet()[0].console)
        self.at, self.number = (phase, iteration), number

    def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
        if (phase, done) == self.at:
            signal.raise_signal(self.number)


@pytest.mark.usefixtures("without_report")
@pytest.mark.parametrize(
    ("way", "number", "code"),
    [
        ("the same command", signal.SIGTERM, 143),
        ("with --resume", signal.SIGINT, 130),
        ("the frozen file", signal.SIGTERM, 143),
    ],
)
def test_a_stopped_extension_goes_on_as_if_it_had_not_been(
    finished: Finished,
    make_coco: Callable[..., Any],
    tmp_path: Path,
    incdet_command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    number: int,
    code: int,
) -> None:
    own, path = make_coco(), finished.root / "incdet" / "step_3"
    test = ["--test-data", finished.data / "test.json", "--test-images", finished.data / "images"]
    words = ["extend", "--checkpoint", path, "--data", own.annotations, "--images", own.images, *ROOM, *test]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert incdet_command(*words, "--output", whole).code == 0
    with monkeypatch.context() as patch:
        patch.setattr("incdet.app.extend.Display", lambda: Stopping("step 4 train", 2, number))
        done = incdet_command(*words, "--output", parts)
    assert done.code == code and list(parts.rglob("*.pt"))
    again = {
        "the same command": [*words, "--output", parts],
        "with --resume": [*words, "--resume", "--output", parts],
        "the frozen file": ["train", "--config", parts / "config.yaml", "--resume"],
    }[way]
    assert incdet_command(*again).code == 0
    first, second = (checkpoint.load(root / "step_4").model.state_dict() for root in (whole, parts))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert load_memory(whole / "memory" / "step_4.json") == load_memory(parts / "memory" / "step_4.json")
    assert read_scores(whole) == read_scores(parts)
    assert not list(parts.rglob("*.pt"))
    assert incdet_command(*words, "--output", parts).code == 0, "and a finished one is done"


def read_scores(root: Path) -> list[Any]:
    details = json.loads((root / "scores.json").read_text())
    steps = json.loads((root / "results.json").read_text())["steps"]
    return [details, [{key: value for key, value in step.items() if key != "seconds"} for step in steps]]


@pytest.mark.usefixtures("without_report")
def test_the_frozen_file_is_that_of_the_extension(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_coco()
    monkeypatch.chdir(own.images.parent)
    root = teach(finished, Path("annotations.json"), Path("images"), tmp_path / "own", method="masked")
    config = load_config(root / "config.yaml")
    assert config.extend is not None and config.extend.annotations == own.annotations
    assert config.extend.checkpoint == str(finished.root / "incdet" / "step_3")
    assert config.methods == ("masked",) and config.memory.total == 8
    mine, theirs = config.train.increment, finished.config.train.increment
    assert (mine.optimizer, mine.schedule, mine.clip, mine.lr) == ("adamw", "cosine", 5.0, theirs.lr)
    assert mine.batch_size == theirs.batch_size == 4 and mine.iterations == 4
    for foreign in ("data", "model", "protocol", "base", "joint"):
        assert f"{foreign}:" not in (root / "config.yaml").read_text()
    start = next(json.loads(line) for line in (root / "log.jsonl").open() if '"start"' in line)
    assert start["data"]["root"] == str(own.annotations)
    assert json.loads((root / "results.json").read_text())["detector"] == "RetinaNet tiny FPN-8, 48 px"


def test_another_call_does_not_go_on_with_an_extension(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_coco()
    monkeypatch.setattr("incdet.app.extend.Display", lambda: Stopping("step 4 train", 1))
    with pytest.raises(KeyboardInterrupt):
        teach(finished, own.annotations, own.images, tmp_path / "own")
    with pytest.raises(InputError, match="already holds a run"):
        teach(finished, own.annotations, own.images, tmp_path / "own", classes=["dog"])
    with pytest.raises(InputError, match="key extend.classes.*differs"):
        teach(finished, own.annotations, own.images, tmp_path / "own", classes=["dog"], resume=True)


# --- the old network as it is


@pytest.mark.usefixtures("without_report")
def test_strict_leaves_old_detections_as_they_are_and_proves_it(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    own, path = make_coco(names=("circle", "dog"), images=12), finished.root / "incdet" / "step_3"
    words = ["--data", own.annotations, "--images", own.images, "--keep", "strict", "train.increment.iterations=30"]
    done = incdet_command("extend", path, *words, "--out", tmp_path / "own", "--json")
    assert done.code == 0
    told = json.loads(done.out)
    assert told["plan"]["keep"] == "strict" and told["plan"]["new"] == ["dog"] and not told["plan"]["refreshed"]
    proof = told["outcome"]["proof"]
    assert proof["holds"] and proof["identical"] == proof["images"] > 0 and proof["detections"] > 0
    assert f"proved: on {proof['images']} images all {proof['detections']:,} detections of old classes" in done.err
    by_name = {one["name"]: one for one in told["outcome"]["changes"]}
    assert by_name["circle"]["change"] == 0 and by_name["circle"]["before"] == by_name["circle"]["after"]
    # Once more with other classes, and never in one network again.
    more = make_coco(names=("cat", "circle"), folder="more")
    words = ["extend", tmp_path / "own", "--data", more.annotations, "--images", more.images, *ROOM[1:]]
    words += ["--out", tmp_path / "next"]
    done = incdet_command(*words)
    assert done.code == 2 and "extend it with --keep strict again" in done.err
    assert incdet_command(*words, "--keep", "strict", "--classes", "circle", "--dry-run").code == 2
    done = incdet_command(*words, "--keep", "strict")
    assert done.code == 0 and "proved: on" in done.out
    assert incdet.load(tmp_path / "next").names == (*SHAPES, "dog", "cat")


@pytest.mark.usefixtures("without_report")
def test_fast_goes_without_old_images_and_a_second_network(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    own = make_coco()
    root = teach(finished, own.annotations, own.images, tmp_path / "own", keep="fast")
    (last,) = (step for step in json.loads((root / "results.json").read_text())["steps"] if step["step"] == 4)
    assert last["iterations"] == {"train": 4} and last["memory"]["images"] == 0
    assert not (root / "memory").exists()


def test_keep_and_method_exclude_each_other(finished: Finished, make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco()
    with pytest.raises(InputError, match="--method: is given beside --keep"):
        teach(finished, own.annotations, own.images, tmp_path / "own", keep="fast", method="lwf")


# --- more pictures of the same classes


@pytest.mark.parametrize("method", ["incdet", "eeil", "lwf"])
def test_a_file_of_known_classes_refreshes_them(
    finished: Finished,
    make_coco: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    if method != "incdet":  # one report is enough
        monkeypatch.setattr("incdet.app.steps.write_report", lambda folder: None)
    own = make_coco(names=("circle", "ring"), images=12)
    before = finished.root / "incdet" / "step_3"
    root = teach(finished, own.annotations, own.images, tmp_path / "own", method=method, validation=0.2)
    told = capsys.readouterr().out
    assert "new:         none: known ones are refreshed" in told and "refreshed:   circle, ring" in told
    first, second = (checkpoint.load(place).model for place in (before, root / "step_4"))
    assert first.vocab == second.vocab
    state = state_of(first)
    assert any(not torch.equal(value, state[name]) for name, value in state_of(second).items())
    value = json.loads((root / "results.json").read_text())
    assert value["protocol"]["steps"][-1] == [] and [one["step"] for one in value["steps"]] == [3, 4]
    assert value["steps"][1]["old"]["AP50"] is not None and value["steps"][1]["new"]["AP50"] is None
    assert "interim" not in value["steps"][1]["iterations"]
    assert "refreshed" in told.split("AP50 before")[1]
    if method != "incdet":
        return
    assert (root / "report.html").is_file()
    monkeypatch.setattr("incdet.app.steps.write_report", lambda folder: None)
    more = make_coco(folder="next")
    again = teach(finished, more.annotations, more.images, tmp_path / "next", method=method, path=root)
    assert checkpoint.load(again / "step_4").vocab.steps == (*first.vocab.steps, ("cat", "dog"))


# --- how long, and on what it is measured


@pytest.mark.usefixtures("no_training")
def test_the_schedule_fits_the_data_and_is_kept_when_the_run_goes_on(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = make_coco(images=12)
    lone = shutil.copytree(finished.root / "incdet" / "step_3", tmp_path / "lone")
    device = ("engine.device=cpu", "engine.workers=0")

    def begun() -> Any:
        with pytest.raises(AssertionError, match="training has begun"):
            teach(finished, own.annotations, own.images, tmp_path / "own", path=lone, overrides=device)
        return load_config(tmp_path / "own" / "config.yaml").train.increment

    first = begun()
    assert (first.batch_size, first.iterations, first.epochs) == (4, fitted_steps(10, 5, 4), None)
    assert first.lr == 2.5e-4 and first.warmup == 30
    monkeypatch.setattr("incdet.app.extend_settings.free_memory", lambda device: 0)
    assert begun() == first, "less memory than before is no reason to train otherwise"
    shutil.rmtree(tmp_path / "own")
    assert begun().batch_size == 1


@pytest.mark.usefixtures("without_report")
def test_images_are_held_out_where_there_is_nothing_else_to_measure_on(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = make_coco(images=10)
    old = {"old_data": finished.data / "train.json", "old_images": finished.data / "images"}
    root = teach(finished, own.annotations, own.images, tmp_path / "own", validation=0.25, **old)
    told = capsys.readouterr().out
    assert "2 of 10 images held out of the annotations (25 % of each class's, seed 0)" in told
    held = json.loads((root / "data.json").read_text())
    assert len(held["train"]) == 8 and len(held["test"]) > 2, "old images too"
    memory = load_memory(root / "memory" / "step_3.json")
    tested = {Path(name).name for name in held["test"]}
    assert not {one.image.name for one in memory if "train" in one.image.parts} & tested, "no exemplar is measured on"
    before, after = json.loads((root / "results.json").read_text())["steps"]
    assert before["AP50"] is not None and after["new"]["AP50"] is not None


@pytest.mark.usefixtures("no_training")
def test_the_test_split_of_the_annotations_is_measured_on(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, incdet_command: Callable[..., Any]
) -> None:
    data = tmp_path / "data"
    for name, images in (("train", 6), ("val", 3)):
        one = make_coco(images=images, folder=f"data/{name}")
        for number, picture in enumerate(sorted(one.images.iterdir())):
            content = cv2.imread(str(picture))
            assert content is not None
            content[40:, 4 * (number + images) :] = 255  # no two pictures alike
            cv2.imwrite(str(picture), content)
    words = [
        "extend",
        finished.root / "incdet",
        "--data",
        data,
        *ROOM,
        "--out",
        tmp_path / "own",
        "--dry-run",
        "--json",
    ]
    told = json.loads(incdet_command(*words).out)["plan"]
    assert told["images"] == 6 and told["measured_images"] == 3 and "split val" in told["measured"]
    told = json.loads(incdet_command(*words, "--validation", "0").out)["plan"]
    assert told["images"] == 6 and told["measured_images"] == 0 and not told["measured"]


# --- whose settings


@pytest.mark.usefixtures("no_training")
def test_only_the_run_that_made_the_checkpoint_gives_settings(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path
) -> None:
    own, foreign = make_coco(), tmp_path / "foreign"
    lone = shutil.copytree(finished.root / "incdet" / "step_3", foreign / "kept" / "mine")
    for place in (foreign, foreign / "kept", lone):
        (place / "config.yaml").write_text("sead: 1")
    with pytest.raises(AssertionError, match="training has begun"):
        teach(finished, own.annotations, own.images, tmp_path / "own", path=lone, overrides=("engine.device=cpu",))
    train = load_config(tmp_path / "own" / "config.yaml").train
    assert train.increment != finished.config.train.increment
    assert (train.increment.optimizer, train.increment.weight_decay) == ("adamw", 0.01)


# --- refused before any training

OLD_UNUSED: dict[str, Any] = {"old_data": Path("old.json"), "validation": 0.0}


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "lwf", **OLD_UNUSED}, "--old-data.*lwf with this memory keeps no exemplar"),
        ({"overrides": ("memory.total=0",), **OLD_UNUSED}, "--old-data.*is not used"),
        ({"old_images": Path("old")}, "--old-images: is not used alone -> give --old-data"),
        ({"test_images": Path("test")}, "--test-images: is not used alone -> give --test-data"),
        ({"test_split": "val"}, "--test-split: is not used alone"),
    ],
)
def test_a_file_without_a_use_is_refused(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    own = make_coco()
    with pytest.raises(InputError, match=said):
        teach(finished, own.annotations, own.images, tmp_path / "own", **more)
    assert not (tmp_path / "own").exists()


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model.backbone=resnet18", "the network is that of the detector"),
        ("model.score_thresh=0.1", "the network is that of the detector"),
        ("data.train_images=9", "those of --data"),
        ("protocol.steps=5+5", "--classes"),
        ("methods=[eeil]", "give --method"),
        ("output=elsewhere", "give --out"),
        ("base=there", "that of the command"),
        ("train.joint.lr=1", "no joint training"),
        ("train.base.lr=1", "train.increment"),
        ("extend.classes=[dog]", "options of the command"),
    ],
)
def test_a_setting_without_effect_is_refused(
    finished: Finished, make_coco: Callable[..., Any], tmp_path: Path, override: str, said: str
) -> None:
    own = make_coco()
    with pytest.raises(InputError, match=f"key {override.partition('=')[0]}.*is not used by incdet extend.*{said}"):
        teach(finished, own.annotations, own.images, tmp_path / "own", overrides=(*ROOM, override))
    assert not (tmp_path / "own").exists()


@pytest.mark.usefixtures("no_training")
def test_what_is_refused(finished: Finished, make_coco: Callable[..., Any], tmp_path: Path) -> None:
    own = make_coco()
    output = tmp_path / "own"
    with pytest.raises(InputError, match="'dgo'.*'dog'"):
        teach(finished, own.annotations, own.images, output, classes=["dgo"])
    with pytest.raises(InputError, match="at least 8"):
        teach(finished, own.annotations, own.images, output, overrides=())
    with pytest.raises(InputError, match="--images"):
        teach(finished, Path(shutil.copy(own.annotations, tmp_path / "apart.json")), None, output)
    with pytest.raises(InputError, match="nowhere"):
        teach(finished, own.annotations, own.images, output, path=tmp_path / "nowhere")
    assert not output.exists()
    with pytest.raises(InputError, match="already holds a run"):
        teach(finished, own.annotations, own.images, finished.root)


def test_new_classes_are_those_that_the_file_shows_unless_named(make_coco: Callable[..., Any]) -> None:
    own = read_coco(*make_coco())
    file = Path("own.json")
    assert new_classes(Vocabulary((("ant",),)), own, None, file) == (("cat", "dog"), ())
    assert new_classes(Vocabulary((("ant",),)), own, ["dog"], file) == (("dog",), ())
    assert new_classes(Vocabulary((("cat",),)), own, None, file) == (("dog",), ("cat",))
    with pytest.raises(InputError, match="'zebra'.*is not in the file"):
        new_classes(Vocabulary((("cat",),)), own, ["cat", "zebra"], file)
    assert new_classes(Vocabulary((("cat",),)), own, ["cat"], file) == ((), ("cat",))
    assert new_classes(Vocabulary((("cat", "dog"),)), own, None, file) == ((), ("cat", "dog"))


def test_a_class_without_an_object_is_neither_learned_nor_refreshed(make_coco: Callable[..., Any]) -> None:
    own = make_coco(edit=lambda content: content["categories"].append({"id": 9, "name": "cow"}))
    data = read_coco(*own)
    assert new_classes(Vocabulary((("ant",),)), data, None, own.annotations) == (("cat", "dog"), ())
    assert new_classes(Vocabulary((("cow",),)), data, None, own.annotations) == (("cat", "dog"), ())
    assert new_classes(Vocabulary((("cow",),)), data, ["cow", "dog"], own.annotations) == (("dog",), ())
    with pytest.raises(InputError, match="'cow'.*has no object"):
        new_classes(Vocabulary((("ant",),)), data, ["cow"], own.annotations)
    with pytest.raises(InputError, match="no object of cow is annotated"):
        new_classes(Vocabulary((("cow",),)), data, ["cow"], own.annotations)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["cat", "dog"], ("cat", "dog")),
        (["cat,dog"], ("cat", "dog")),
        (["cat, dog", "cow"], ("cat", "dog", "cow")),
        (["salt, pepper", "dog"], ("salt, pepper", "dog")),
        (["cat", "cat"], ("cat",)),
        ([" cat ,"], ("cat",)),
    ],
    ids=str,
)
def test_words_with_commas_are_lists_unless_a_class_has_that_name(words: list[str], chosen: tuple[str, ...]) -> None:
    assert chosen_classes(words, ["cat", "dog", "cow", "salt, pepper"]) == chosen
