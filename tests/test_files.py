from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from incdet.errors import InputError, OutputError
from incdet.files import copy_file, reading, replacing, require_output, sha256, write_bytes, write_json, write_text

PACKAGE = Path(__file__).parents[1] / "incdet"


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@contextmanager
def small_disk(most: int) -> Iterator[None]:
    """No file may be longer than ``most`` bytes, which a writer meets as it meets a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_by_torch(path: Path) -> None:
    with replacing(path) as draft, draft.open("wb") as handle:
        torch.save({"a": torch.zeros(100_000)}, handle)


def save_by_safetensors(path: Path) -> None:
    with replacing(path) as draft:
        save_file({"a": torch.zeros(100_000)}, draft)


def copy_large(path: Path) -> None:
    copy_file(path.parent / "source", path)


WRITERS: list[Callable[[Path], None]] = [
    lambda path: write_json(path, ["x" * 100_000]),
    lambda path: write_bytes(path, bytes(100_000)),
    copy_large,
    save_by_torch,
    save_by_safetensors,
]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(os.urandom(100_000))
    return tmp_path / "target.dat"


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"name": "Grüße", "values": [1, 2.5, None]})
    assert json.loads((tmp_path / "new" / "a.json").read_text("utf-8")) == {"name": "Grüße", "values": [1, 2.5, None]}
    write_text(tmp_path / "b.txt", "one\ntwo\n")
    assert (tmp_path / "b.txt").read_bytes() == b"one\ntwo\n"
    copy_file(tmp_path / "b.txt", tmp_path / "c.txt")
    assert (tmp_path / "c.txt").read_bytes() == b"one\ntwo\n"
    assert names(tmp_path) == ["b.txt", "c.txt", "new"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_full_disk_is_told_and_leaves_the_old_file(target: Path, write: Callable[[Path], None]) -> None:
    target.write_text("old")
    with small_disk(10_000), pytest.raises(OutputError, match=r"target\.dat: output: cannot be written .* -> "):
        write(target)
    assert target.read_text() == "old"
    assert names(target.parent) == ["source", "target.dat"]
    write(target)  # and when there is room again, it goes
    assert target.stat().st_size >= 100_000


def test_another_failure_is_not_called_a_full_disk_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"schema": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"schema": float("nan")})
    with pytest.raises(FileNotFoundError):
        copy_file(tmp_path / "missing", path)
    with pytest.raises(KeyboardInterrupt), replacing(path) as draft:
        draft.write_text("half of")
        raise KeyboardInterrupt
    assert json.loads(path.read_text("utf-8")) == {"schema": 1}
    assert names(tmp_path) == ["a.json"]


def test_files_that_belong_together_are_replaced_together(tmp_path: Path) -> None:
    for name in "ab":
        write_text(tmp_path / name, "old")
    with small_disk(1000), pytest.raises(OutputError), replacing(tmp_path / "a") as first:
        first.write_text("new")
        with replacing(tmp_path / "b") as second:
            second.write_bytes(bytes(5000))
    assert [(tmp_path / name).read_text() for name in "ab"] == ["old", "old"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_gives_the_mode_whatever_library_writes(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        save_by_safetensors(tmp_path / "a")
        write_text(tmp_path / "b", "text")
    finally:
        os.umask(before)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


def test_what_killed_processes_left_goes_when_their_folder_is_written_to_again(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from incdet.files import replacing\n"
        "with replacing(Path(sys.argv[1]) / 'a.pt') as draft:\n"
        "    draft.write_text('half'); os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=PACKAGE.parent, timeout=60, check=False)
    (tmp_path / ".hidden.tmp").write_text("of somebody else")
    with replacing(tmp_path / "alive.txt") as draft:  # that of a process at work stays
        assert len(names(tmp_path)) == 2 and draft.exists(), "the half file is gone"
        draft.write_text("whole")
    assert names(tmp_path) == [".hidden.tmp", "alive.txt"]


def test_a_draft_of_another_thread_stays(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first:
        first.write_text("first")
        write_text(tmp_path / "b", "second")
        assert first.exists()
    assert names(tmp_path) == ["a", "b"]


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    for write in (*WRITERS[:2], save_by_torch, save_by_safetensors):
        write(tmp_path / "below" / "file.dat")
    assert names(tmp_path) == []
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "3")
    write_text(tmp_path / "a", "written")
    assert names(tmp_path) == ["a"]


def test_an_output_that_cannot_be_is_refused_before_work(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("content")
    folder.mkdir()
    with pytest.raises(InputError, match="is no file"):
        require_output(folder)
    with pytest.raises(InputError, match="is no folder"):
        require_output(file, folder=True)
    with pytest.raises(InputError, match="a folder of that path is a file"):
        require_output(file / "below" / "further")
    with pytest.raises(InputError, match="shorten the name"):
        require_output(tmp_path / ("n" * 5000))
    with pytest.raises(InputError, match="device"):
        require_output(Path(os.devnull))
    require_output(file)
    require_output(tmp_path / "new" / "deep.json")
    require_output(tmp_path / "new", folder=True)
    assert names(tmp_path) == ["file", "folder"] and file.read_text() == "content"


def test_long_names_leave_room_for_the_temporary_one(tmp_path: Path) -> None:
    name = "ü" * 100 + ".png"
    write_text(tmp_path / name, "content")
    assert names(tmp_path) == [name]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_nobody_else_replaces_files() -> None:
    own = re.compile(r"os\.replace|os\.fsync|\.with_suffix\(\"\.tmp|\.write_text\(|\.write_bytes\(|copyfile\(")
    found = {path.name: len(own.findall(path.read_text("utf-8"))) for path in PACKAGE.rglob("*.py")}
    assert found.pop("files.py") > 3
    assert found.pop("checkpoint.py") == 1, "into a draft that it was given"
    assert {name: count for name, count in found.items() if count} == {}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "3", '{"a": "9"}', '{"a": [null]}', "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]
)
def test_whatever_is_wrong_with_a_file_that_was_written_here_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    said = r"a\.json: thing: cannot be read.* -> put it back"
    with pytest.raises(InputError, match=said), reading(path, "thing", "put it back"):
        assert sum(json.loads(path.read_text())["a"]) > 0
    with (
        pytest.raises(InputError, match=r"b\.json: thing: .*does not exist"),
        reading(tmp_path / "b.json", "thing", "x"),
    ):
        (tmp_path / "b.json").read_text()
    with pytest.raises(ZeroDivisionError), reading(path, "thing", "put it back"):
        print(1 / 0)
