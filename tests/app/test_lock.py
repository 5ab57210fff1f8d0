from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from incdet.app.lock import locked
from incdet.errors import InputError

OWNER = """
import os, sys, time
from pathlib import Path
from incdet.app.lock import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader's worker, which may outlive its parent for a moment
        time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def owner(folder: Path, repository: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OWNER, str(folder)]
    process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_second_process_is_told_who_is_there(tmp_path: Path, repository: Path) -> None:
    with owner(tmp_path, repository) as process, pytest.raises(InputError) as caught, locked(tmp_path):
        raise AssertionError("two at a time")
    assert f"is in use by process {process.pid} on " in str(caught.value)


def test_the_lock_of_a_killed_process_holds_nobody_up_though_its_workers_live(tmp_path: Path, repository: Path) -> None:
    with owner(tmp_path, repository) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / ".lock").exists()
        with locked(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_one_process_cannot_hold_a_folder_twice(tmp_path: Path) -> None:
    with locked(tmp_path):
        with pytest.raises(InputError, match="in use by this very process"), locked(tmp_path):
            raise AssertionError("two at a time")
        with pytest.raises(InputError, match="in use"), locked(tmp_path / "." / ""):
            raise AssertionError("two at a time")
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
