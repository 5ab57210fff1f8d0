"""Several processes do what one does; here two, on the CPU with gloo, started as ``torchrun`` would."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import together
import torch
from finished_run import quiet
from helpers import network
from torch import nn

import incdet.app.steps
from incdet.app.lock import locked
from incdet.app.progress import Display
from incdet.app.train import prepare_data, train
from incdet.data.dataset import DrawSampler
from incdet.data.protocols import step_view
from incdet.errors import Finding, InputError, OutputError, Terminated, TrainingError, is_relayed
from incdet.memory.manifest import load_memory
from incdet.network import checkpoint
from incdet.training import processes as module
from incdet.training.increment import phase_seed
from incdet.training.processes import Processes


class Several(NamedTuple):
    """What two processes left: their folder, what the first wrote, and by rank what they said and how jobs ended."""

    folder: Path
    written: dict[str, Any]
    said: list[tuple[str, str]]
    told: list[dict[str, dict[str, Any]]]


class Stopping(Display):
    """Interrupts in step 2."""

    def __call__(self, phase: str, done: int, total: int, loss: float) -> None:
        if (phase, done) == ("step 2 train", 3):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Several:
    folder = tmp_path_factory.mktemp("several")
    stage(folder)
    with locked(folder / "locked"):
        said, codes = launched(folder)
    assert codes == [0, 9], "\n".join(text for one in said for text in one)
    told = [json.loads((folder / f"told_{rank}.json").read_text()) for rank in range(2)]
    return Several(folder, torch.load(folder / "several.pt", weights_only=False), said, told)


def stage(folder: Path) -> None:
    """Puts there what the processes are to find."""
    source, protocol = prepare_data(together.run_settings(folder, "whole"))  # draws the images, once
    torn = Path(shutil.copytree(folder / "shapes", folder / "torn_shapes")) / "images" / "train"
    view = step_view(source.train, protocol, 1).records
    sampler = DrawSampler(len(view), 4, phase_seed(together.run_settings(folder, "torn"), 1, "step 1 train"))
    first, second = ({index for _, index in sampler.batch(number)} for number in range(2))
    seen = view[min(second - first)].image
    (torn / seen.name).write_bytes(seen.read_bytes()[:300])
    content = json.loads((folder / "shapes" / "train.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    ids = {"circle": 1, "cross": 2}
    content["annotations"] = [
        {**one, "category_id": ids[names[one["category_id"]]]}
        for one in content["annotations"]
        if names[one["category_id"]] in ids
    ]
    shutil.copytree(folder / "shapes" / "images", folder / "own" / "images")
    (folder / "own" / "annotations.json").write_text(json.dumps(content))
    for name in ("terminated", "locked", "died"):
        together.run_settings(folder, name).dump(folder / f"{name}.yaml")
    (folder / "locked").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(together.run_settings(folder, "resumed"), display=Stopping(quiet()[0].console))


def launched(folder: Path) -> tuple[list[tuple[str, str]], list[int]]:
    """What two processes said on stdout and stderr, and their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    shared = {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    running = [
        subprocess.Popen(
            [sys.executable, str(root / "tests" / "together.py"), str(folder)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [one.communicate(timeout=240) for one in running]
    finally:
        for one in running:
            one.kill()
    return said, [one.returncode for one in running]


@pytest.fixture(scope="module")
def alone(several: Several, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process in two pieces, and its extension."""
    folder = tmp_path_factory.mktemp("alone")
    for name in ("shapes", "own"):
        (folder / name).symlink_to(several.folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incdet.app.steps, "write_report", lambda folder: None)
        train(together.run_settings(folder, "whole", engine={"accumulation": 2}), display=quiet()[0])
        together.extend(folder, "extended", folder / "whole" / "step_2")
    return folder


def assert_close(first: Path, second: Path) -> None:
    one, two = checkpoint.load(first), checkpoint.load(second)
    assert one.vocab == two.vocab
    others = two.model.state_dict()
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(value, others[name], rtol=1e-5, atol=1e-5, msg=name)


# --- the weights


def test_two_processes_learn_what_one_does_in_two_pieces(several: Several, tmp_path: Path) -> None:
    mine = together.learn(several.folder, tmp_path, accumulation=2)
    assert several.written["found"].keys() == mine.keys() == set(together.METHODS)
    for name, own in mine.items():
        theirs = several.written["found"][name]
        assert len(theirs["losses"]) == len(own["losses"]) == together.STEPS == 20
        for one, other in zip(theirs["losses"], own["losses"], strict=True):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5), name
        for key, value in own["state"].items():
            torch.testing.assert_close(theirs["state"][key], value, rtol=1e-5, atol=1e-5, msg=f"{name}: {key}")
    words = {name: set(one["losses"][0]) - {"loss", "gradient", "iteration", "lr"} for name, one in mine.items()}
    assert words["eeil"] == {"focal", "box", "kd_softmax"} and words["cldetr"] > {"pseudo_focal", "kd_response"}
    assert words["incdet-mixup"] >= {"focal", "box", "kd_quality", "kd_box"}


def test_pictures_made_of_a_batch_do_not_depend_on_its_pieces(several: Several, tmp_path: Path) -> None:
    """They do depend on the processes, each of which makes them of its own images."""
    whole = together.learn(several.folder, tmp_path / "whole", methods=("incdet",))["incdet"]
    cut = together.learn(several.folder, tmp_path / "cut", accumulation=2, methods=("incdet",))["incdet"]
    # Gradients of up to 200, of pictures made of noise, double the rounding from step to step afterwards.
    for one, other in zip(whole["losses"][:6], cut["losses"][:6], strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert len(whole["losses"]) == together.STEPS


def test_a_process_that_lacks_memory_makes_all_cut_their_batch(several: Several) -> None:
    short, whole = several.written["short"]["finetune"], several.written["found"]["finetune"]
    assert (short["pieces"], whole["pieces"]) == (2, 1)
    for one, other in zip(short["losses"], whole["losses"], strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
    for key, value in whole["state"].items():
        torch.testing.assert_close(short["state"][key], value, rtol=1e-5, atol=1e-5, msg=key)
    log = several.folder / "processes" / "short" / "finetune" / "log.jsonl"
    said = [one["text"] for one in map(json.loads, log.read_text().splitlines()) if one["event"] == "message"]
    assert said[-1] == (
        "out of memory: from here on a batch is computed in 2 pieces of at most 1 images on each process; "
        "batch, loss and gradient stay the same"
    )


def test_a_process_whose_images_hold_no_box_learns_with_the_other(several: Several, tmp_path: Path) -> None:
    for name, value in together.learn_half_empty(tmp_path, accumulation=2).items():
        torch.testing.assert_close(several.written["half_empty"][name], value, rtol=1e-5, atol=1e-5, msg=name)
    lines = [
        json.loads(line) for line in (several.folder / "processes" / "half" / "log.jsonl").read_text().splitlines()
    ]
    said = [(line["text"], line.get("process")) for line in lines if line["event"] == "message"]
    assert said == [("all of us", None), ("I alone", 1)], "what one process alone has to say is logged too"


# --- whole runs


def test_a_run_of_two_processes_is_that_of_one(several: Several, alone: Path) -> None:
    """The base step, an interim teacher, cached responses, balanced fine-tuning, replay, sharded evaluation."""
    root = several.folder / "whole"
    for step in ("base/step_1", "step_2"):
        assert_close(root / step, alone / "whole" / step)
    assert several.told[0]["whole"]["value"] is several.told[1]["whole"]["value"] is None
    mine, theirs = (
        [one.image.name for one in load_memory(p / "memory" / "step_2.json")] for p in (root, alone / "whole")
    )
    assert mine == theirs and len(mine) == 6 and len(list((root / "memory" / "images").iterdir())) >= 6
    for name in ("base/results.json", "results.json"):
        own, other = (json.loads((place / name).read_text())["steps"] for place in (root, alone / "whole"))
        assert [one["step"] for one in own] == [one["step"] for one in other]
        for one, two in zip(own, other, strict=True):
            assert one["AP"] == pytest.approx(two["AP"], abs=1e-4) and one["memory"] == two["memory"]
    lines = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines].count("start") == 1
    assert any("cached" in line["text"] for line in lines if line["event"] == "message")
    steps = [line["iteration"] for line in lines if line.get("phase") == "step 2 train"]
    assert steps == list(range(1, 15))
    assert (root / "report.html").is_file() and not [path for path in root.rglob("*") if ".tmp" in path.name]
    assert not (root / ".lock").exists() and not list(root.rglob("*.pt"))


def test_an_extension_of_two_processes_is_that_of_one(several: Several, alone: Path) -> None:
    assert "error" not in several.told[0]["extended"], several.told[0]["extended"]
    assert_close(several.folder / "extended" / "step_3", alone / "extended" / "step_3")


def test_the_first_process_alone_speaks(several: Several) -> None:
    (out, _), (other, complaints) = several.said
    assert out.count("protocol 3+3, order") == 5 and out.count("incdet step 2: ") == 3
    assert other == "" and "Traceback" not in complaints and "is in use" not in complaints


def test_a_run_is_resumed_by_another_number_of_processes(several: Several, alone: Path) -> None:
    """Begun by one and ended by two, and the other way round."""
    assert "error" not in several.told[0]["resumed"]
    assert_close(several.folder / "resumed" / "step_2", several.folder / "whole" / "step_2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incdet.app.steps, "write_report", lambda folder: None)
        train(together.run_settings(several.folder, "terminated"), resume=True, display=quiet()[0])
    assert_close(several.folder / "terminated" / "step_2", several.folder / "whole" / "step_2")


# --- the ends


def test_a_signal_to_one_process_stops_all_at_the_same_step(several: Several) -> None:
    assert [told["terminated"]["value"] for told in several.told] == [143, 143]
    log = several.folder / "terminated" / "log.jsonl"
    trained = [one for one in map(json.loads, log.read_text().splitlines()) if one["event"] == "train"]
    assert len(trained) >= 9 and several.said[0][1].count("Interrupted.") == 1
    assert "Interrupted." not in several.said[1][1]


def test_a_folder_in_use_is_refused_to_both(several: Several) -> None:
    assert [told["locked"]["value"] for told in several.told] == [2, 2]
    assert several.said[0][1].count("is in use by process") == 1


def test_a_picture_that_one_process_cannot_read_ends_both_with_its_name(several: Several) -> None:
    first, second = (told["torn"] for told in several.told)
    assert first["error"] == second["error"] == "InputError" and first["text"] == second["text"]
    assert ".png" in first["text"] and first["relayed"] != second["relayed"]
    (state,) = (several.folder / "torn").rglob("train.pt")  # what was learned before it stands
    assert torch.load(state, weights_only=True)["done"] == 1


def test_a_process_that_dies_ends_the_other(several: Several) -> None:
    first, second = (told.get("died") for told in several.told)
    assert second is None and first is not None
    assert first["value"] == 1 and first["seconds"] < 60
    assert "another process of the run has ended" in several.said[0][1]


# --- what they say to each other


def test_what_processes_say_to_each_other(several: Several) -> None:
    assert several.written["facts"] == {
        "world": 2,
        "sum": 3.0,
        "ranks": [0, 1],
        "shared": "from 0",
        "highest": [1, 0],
        "share": [[0, 1, 4, 5], [2, 3, 6]],
        "totals": {"a": 4.0, "b": 10.0},
    }


@pytest.mark.parametrize(
    "error",
    [
        InputError([Finding("a", "b", "c", "d"), Finding("e", "f", "g", "h", "warning")]),
        OutputError(Finding("a", "b", "c", "d")),
        TrainingError("stop"),
        Terminated(),
    ],
)
def test_an_exception_arrives_as_it_was(error: BaseException) -> None:
    found = module._for_others(error)
    assert type(found) is type(error) and str(found) == str(error) and is_relayed(found) and not is_relayed(error)
    again = module._for_others(found)
    assert is_relayed(again) and getattr(again, "findings", None) == getattr(error, "findings", None)


def test_an_exception_that_cannot_be_sent_arrives_in_words() -> None:
    class Local(Exception):
        pass

    assert "Local('x')" in str(module._for_others(Local("x")))


def test_one_process_needs_no_other() -> None:
    alone, model = Processes("cpu"), network()
    assert (alone.rank, alone.world, alone.main, alone.device) == (0, 1, True, torch.device("cpu"))
    assert alone.wrapped(model) is model and alone.gathered(3) == [3] and alone.shared("x") == "x"
    values = torch.ones(2)
    assert alone.summed(values) is values and alone.share("abc", 2) == [0, 1, 2] and alone.highest([3]) == [3]
    for way in (alone.once, alone.together, alone.first):
        assert way(lambda: 5) == 5
    totals = alone.totals([{"a": torch.tensor(1), "b": torch.tensor(2.5)}, {"a": torch.tensor(3), "b": values[0]}])
    assert {name: float(value) for name, value in totals.items()} == {"a": 4.0, "b": 3.5}
    assert all(value.dtype == torch.float32 for value in totals.values())
    with alone.unsynchronised(nn.Identity()):
        alone.wait()
    with pytest.raises(RuntimeError, match="connection"), alone.talking():
        raise RuntimeError("connection")
    assert not torch.distributed.is_initialized()


def test_importing_and_training_leave_the_state_of_the_process_alone(tmp_path: Path, repository: Path) -> None:
    """Whoever uses accelerate or torch.distributed beside us finds neither begun."""
    code = f"""
import sys, torch
threads, random = torch.get_num_threads(), torch.get_rng_state()
import incdet, incdet.app.run, incdet.training.engine
from pathlib import Path
from incdet.config import Engine as Settings
from incdet.training.engine import Engine
from incdet.training.log import RunLog
Engine(Settings(device="cpu", precision="bf16"), RunLog(Path({str(tmp_path)!r})))
assert "accelerate" not in sys.modules, "accelerate is imported"
assert not torch.distributed.is_initialized()
assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), random)
assert not torch.is_autocast_enabled("cpu") and torch.get_default_dtype() == torch.float32
from accelerate.state import AcceleratorState, PartialState
assert not PartialState._shared_state and not AcceleratorState._shared_state
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=repository, timeout=120)
