"""SIGKILL at random, and before every file operation: what is resumed afterwards has to be what nobody disturbed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from trust.scene import Before, Scene, deviations, has_ended, outcome, warm_up

FILE_EVENTS = frozenset(
    ("os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate")
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Told(NamedTuple):
    """One trial.

    Attributes:
        what: What was done.
        kills: Processes that were killed in it.
        faults: What was not as it has to be; none if all is well.
    """

    what: str
    kills: int
    faults: list[str]


def at_random(scene: Scene, kills: int, seed: int) -> Iterator[Told]:
    """``kills`` kills at moments drawn evenly over the length of a run; every other resumed process is killed too."""
    wanted, seconds, begun = undisturbed(scene)
    chance, done = random.Random(seed), 0
    while done < kills:
        folder = scene.root / "killed"
        moments: list[float] = []
        while done + len(moments) < kills and (not moments or chance.random() < 0.5):
            moment = chance.uniform(begun, seconds)
            if scene.kill(folder, moment).code != -signal.SIGKILL:  # it was quicker, or failed: the next one will tell
                break
            moments.append(moment)
        done += len(moments)
        what = "killed after " + (", ".join(f"{moment:.2f}" for moment in moments) or "its end, at no") + " s"
        yield Told(what, len(moments), _taken_up(scene, folder, wanted))


def before_every_operation(scene: Scene, stride: int = 1, first: int = 1) -> Iterator[Told]:
    """A kill before each operation that changes a file or a folder, from the ``first`` to the last of a run."""
    wanted, _, _ = undisturbed(scene)
    folder, listed = scene.root / "killed", scene.root / "operations.txt"
    scene.run(folder, _counter(folder, listed, None))
    total = len(listed.read_text(encoding="utf-8").splitlines())
    shutil.rmtree(folder)
    for number in range(first, total + 1, stride):
        listed.unlink(missing_ok=True)
        ended = scene.run(folder, _counter(folder, listed, number))
        last = listed.read_text(encoding="utf-8").splitlines()[-1]
        faults = _taken_up(scene, folder, wanted)
        if ended.code not in (0, -signal.SIGKILL):
            faults.append(f"ended with {ended.code} and not by the kill: {ended.said[-2000:]}")
        yield Told(f"killed before {number}/{total} {last}", int(ended.code == -signal.SIGKILL), faults)


def undisturbed(scene: Scene) -> tuple[dict[str, str], float, float]:
    """What a run that nobody disturbs leaves, how many seconds it takes, and after how many its folder appears."""
    folder = scene.root / "undisturbed"
    shutil.rmtree(folder, ignore_errors=True)
    if not scene.fresh:
        warm_up()
    start, begun = time.perf_counter(), None
    number = scene.start(folder)
    while not has_ended(number):
        if begun is None and folder.exists():
            begun = time.perf_counter() - start
        time.sleep(0.002)
    ended = scene.wait(number)
    if ended.code:
        raise RuntimeError(f"the run fails without any disturbance:\n{ended.said}")
    return outcome(folder), time.perf_counter() - start, begun or 0.0


def _taken_up(scene: Scene, folder: Path, wanted: dict[str, str]) -> list[str]:
    """What is wrong with a run after it was resumed and ended; its folder is removed."""
    ended = scene.run(folder)
    faults = [] if ended.code == 0 else [f"cannot be resumed, exit code {ended.code}: {ended.said[-2000:]}"]
    faults += [] if ended.code else deviations(outcome(folder), wanted)
    if "Traceback" in ended.said:
        faults.append("a traceback was printed")
    shutil.rmtree(folder, ignore_errors=True)
    return faults


def _counter(folder: Path, listed: Path, number: int | None) -> Before:
    """Lists the operations on files below ``folder`` and kills the process before the one with ``number``."""

    def begin() -> None:
        handle = os.open(listed, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        count = 0

        def hook(event: str, words: tuple[Any, ...]) -> None:
            nonlocal count
            if (event in FILE_EVENTS or (event == "open" and _writes(words))) and _concerns(words, folder):
                count += 1
                os.write(handle, f"{event} {Path(os.fsdecode(words[0])).name}\n".encode())
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return begin


def _writes(words: tuple[Any, ...]) -> bool:
    _, mode, flags = words
    return bool(flags & WRITING) if isinstance(flags, int) else any(letter in str(mode) for letter in "wax+")


def _concerns(words: tuple[Any, ...], folder: Path) -> bool:
    """Whether a path lies below ``folder``; what is removed relative to an open folder is taken for it."""
    if not isinstance(words[0], str | bytes | os.PathLike):
        return False
    path = os.fsdecode(words[0])
    return not os.path.isabs(path) or path.startswith(str(folder))
