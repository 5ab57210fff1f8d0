from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import loud

import incdet
from incdet.app import hub
from incdet.app.hub import Place, card, fetched, pull, push
from incdet.errors import InputError
from incdet.network import checkpoint
from incdet.network.calibration import Calibration


@pytest.fixture
def step(tmp_path: Path) -> Path:
    model = loud(("cat", "dog"), ("a|b",))
    model.calibration = Calibration({"cat": 0.4}, 1.5, 12, "somewhere")
    return checkpoint.save(tmp_path / "run" / "step_2", model)


def same(first: Any, second: Any) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_folder_is_a_hub_of_one(step: Path, tmp_path: Path, incdet_command: Callable[..., Any]) -> None:
    done = incdet_command("push", step, tmp_path / "shared")
    assert done.code == 0 and done.out == f"pushed: {tmp_path / 'shared'}\n"
    page = (tmp_path / "shared" / "README.md").read_text("utf-8")
    assert "| 2 | a\\|b |" in page and "for 1 classes, on 12 pictures" in page
    done = incdet_command("pull", tmp_path / "shared", "--output", tmp_path / "mine")
    assert done.code == 0 and "3 classes: cat, dog, a|b" in done.out
    assert same(checkpoint.load(tmp_path / "mine").model, checkpoint.load(step).model)
    assert incdet_command("pull", tmp_path / "shared", "--output", tmp_path / "mine").code == 2


def test_a_folder_stands_for_the_hub_where_it_is_named(
    step: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCDET_HUB", str(tmp_path / "hub"))
    assert push(checkpoint.load(step).model, "hub:me/pets") == str(tmp_path / "hub/me/pets")
    detector = incdet.load("hub:me/pets")
    assert detector.names == ("cat", "dog", "a|b") and same(detector.model, checkpoint.load(step).model)
    assert 'incdet.load("hub:me/pets")' in (tmp_path / "hub/me/pets/README.md").read_text("utf-8")
    with pytest.raises(InputError, match="hub:me/birds: hub: is not in"):
        incdet.load("hub:me/birds")


def test_what_is_damaged_on_the_way_is_refused(step: Path, tmp_path: Path) -> None:
    push(checkpoint.load(step).model, tmp_path / "shared")
    file = tmp_path / "shared" / checkpoint.TENSORS
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(InputError, match="tensors"):
        pull(str(tmp_path / "shared"), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("text", "place"),
    [("hub:me/x", Place("me/x")), ("hub:me/x.y-2@v1.0", Place("me/x.y-2", "v1.0"))],
)
def test_a_place_is_read(text: str, place: Place) -> None:
    assert Place.of(text) == place


@pytest.mark.parametrize(
    "text", ["hub:", "hub:me", "hub:me/x/y", "hub:../x", "hub:me/..", "hub:me/x@", "hub:me/x@../y"]
)
def test_what_is_no_place_is_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCDET_HUB", str(tmp_path))
    for call in (fetched, lambda place: push(loud(), place)):
        with pytest.raises(InputError, match="is no place on a hub"):
            call(text)


class Hub:
    """What of the package is used, with a folder behind it in place of a network."""

    def __init__(self, home: Path) -> None:
        self.home, self.calls = home, list[tuple[str, dict[str, Any]]]()
        self.HfApi = lambda: self

    def create_repo(self, name: str, **options: Any) -> None:
        self.calls.append(("create", {"name": name, **options}))

    def create_branch(self, name: str, **options: Any) -> None:
        self.calls.append(("branch", {"name": name, **options}))

    def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> Any:
        shutil.copytree(folder_path, self.home / repo_id, dirs_exist_ok=True)
        self.calls.append(("upload", options))
        return SimpleNamespace(commit_url=f"somewhere/{repo_id}")

    def snapshot_download(self, name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.calls.append(("download", {"revision": revision, "files": allow_patterns}))
        return str(self.home / name)


def test_a_hub_is_asked_for_what_a_detector_needs_and_no_more(
    step: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("INCDET_HUB", raising=False)
    stand_in = Hub(tmp_path / "far")
    monkeypatch.setattr(hub, "_package", lambda: stand_in)
    assert push(checkpoint.load(step).model, "hub:me/pets@next", private=False) == "somewhere/me/pets"
    assert stand_in.calls[0] == ("create", {"name": "me/pets", "private": False, "exist_ok": True})
    assert stand_in.calls[1] == ("branch", {"name": "me/pets", "branch": "next", "exist_ok": True})
    files = ["model.safetensors", "checkpoint.json", "README.md"]
    assert stand_in.calls[2][1]["allow_patterns"] == files and stand_in.calls[2][1]["revision"] == "next"
    assert same(pull("hub:me/pets@next", tmp_path / "mine"), checkpoint.load(step).model)
    assert stand_in.calls[3] == ("download", {"revision": "next", "files": files})


def test_what_is_used_of_the_package_is_there() -> None:
    package = pytest.importorskip("huggingface_hub")
    for name, words in (
        ("create_repo", ("private", "exist_ok")),
        ("create_branch", ("branch", "exist_ok")),
        ("upload_folder", ("repo_id", "folder_path", "revision", "allow_patterns", "commit_message")),
    ):
        assert set(words) <= set(inspect.signature(getattr(package.HfApi, name)).parameters)


def test_a_hub_that_cannot_be_reached_is_told_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("huggingface_hub.errors")
    monkeypatch.delenv("INCDET_HUB", raising=False)

    class Broken:
        error: Exception

        def snapshot_download(self, *_: Any, **__: Any) -> str:
            raise self.error

    monkeypatch.setattr(hub, "_package", Broken)
    for error, said in (
        (errors.LocalEntryNotFoundError("no network\nmore"), "cannot be reached (no network)"),
        (ConnectionError("offline mode is on"), "cannot be reached (offline mode is on)"),
        (errors.HFValidationError("bad name"), "is refused (bad name)"),
        (errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError), "is not on the hub"),
        (errors.RevisionNotFoundError.__new__(errors.RevisionNotFoundError), "has no such revision"),
    ):
        Broken.error = error
        with pytest.raises(InputError) as caught:
            pull("hub:me/pets", tmp_path / "mine")
        assert said in str(caught.value) and "hub:me/pets: hub: " in str(caught.value)


def test_without_the_package_both_ways_out_are_said(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INCDET_HUB", raising=False)
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    for call in (lambda: push(checkpoint.load(step).model, "hub:me/pets"), lambda: fetched("hub:me/pets")):
        with pytest.raises(InputError, match=r"pip install 'incdet\[hub\]', or set INCDET_HUB"):
            call()


def test_a_page_says_where_nothing_was_measured() -> None:
    assert "thresholds: not measured" in card(loud(("cat",)))
