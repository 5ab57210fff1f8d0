"""A real run that takes about a second, done again and again in processes of their own, and what it leaves behind.

The processes are forks of one that has imported everything, so that a start costs nothing and nearly all of a process's
life is work that a kill can hit; with ``fresh`` they are started as a user would start them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = """\
methods: [incdet]
data: {format: shapes, train_images: 14, test_images: 5, image_size: 48}
protocol: {steps: 2x3}
model:
  {backbone: tiny, channels: 8, tower_depth: 1, min_size: [48], max_size: 48, anchor_sizes: [[12, 16], [24, 32]],
   aspect_ratios: [1.0], detections: 20, score_thresh: 0.005}
train:
  base: {iterations: 4, batch_size: 4, optimizer: adamw, lr: 0.002, warmup: 1, schedule: cosine, clip: 5.0}
  increment: {iterations: 4}
  finetune: {iterations: 2, warmup: 0}
memory: {total: 6}
engine: {workers: 0, device: cpu, log_every: 1, checkpoint_every: 1}
evaluation: {batch_size: 5, samples: 1}
"""
TIMES = {"seconds", "minutes", "seal"}
"""Keys of JSON files whose values are never the same twice: times, and the digest that goes over them."""
UNEQUAL = {"log.jsonl", "report.html", "run.json", "config.yaml"}
"""Files that hold times, a number drawn at random or their own place; charts of the report show times too."""

Before = Callable[[], None]


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: Its exit code; minus the signal that ended it.
        said: What it printed.
    """

    code: int
    said: str


@dataclass
class Scene:
    """A command of incdet whose run folder is chosen anew each time.

    Attributes:
        root: Where its settings, its data and what its processes print lie.
        words: The command line but for the run folder, which takes the place of ``{}``.
        fresh: Start an interpreter for every process in place of a fork.
        environment: Of the processes, beside this one's.
    """

    root: Path
    words: Sequence[str]
    fresh: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def train(cls, root: Path, overrides: Sequence[str] = (), *, fresh: bool = False) -> Scene:
        """``incdet train`` over three steps: interim teacher, training, fine-tune, memory, cached answers, report."""
        root.mkdir(parents=True, exist_ok=True)
        warm_up()
        (root / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
        words = ["train", "--config", str(root / "settings.yaml"), "--resume", "output={}", *overrides]
        return cls(root, words, fresh, {"INCDET_CACHE": str(root / "cache")})

    @classmethod
    def extend(cls, root: Path, overrides: Sequence[str] = (), *, fresh: bool = False) -> Scene:
        """``incdet extend`` with one class for a detector of two, exemplars and test data."""
        before = cls.train(root, ["protocol.steps=[[circle, cross], [star]]", "methods=[finetune]"])
        base = root / "before"
        ended = before.run(base)
        if ended.code:
            raise RuntimeError(f"the run to extend failed:\n{ended.said}")
        data = next((base / "data").iterdir())
        named = ["--data", data / "train.json", "--old-data", data / "train.json", "--test-data", data / "test.json"]
        places = [str(word) for word in named]
        words = ["extend", "--checkpoint", str(base / "base" / "step_1"), *places, "--classes", "star"]
        words += ["--output", "{}", *overrides]
        return cls(root, words, fresh, before.environment)

    def start(self, folder: Path, before: Before | None = None) -> int:
        """The number of a new process that works in the run folder ``folder``.

        Args:
            folder: Made by the process where it is missing.
            before: Called in the process before it begins; none with ``fresh``.
        """
        words = [word.replace("{}", str(folder)) for word in self.words]
        if self.fresh:
            return self._spawned(words)
        number = os.fork()
        if number:
            return number
        code = 70
        try:
            handle = os.open(self.root / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.environ.update(self.environment)
            from incdet.app.cli import main

            if before is not None:
                before()
            code = main(words)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _spawned(self, words: Sequence[str]) -> int:
        environment = {**os.environ, **self.environment, "PYTHONPATH": str(REPOSITORY)}
        with (self.root / "said.txt").open("wb") as said:
            command = [sys.executable, "-m", "incdet", *words]
            process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=self.root)
        process.returncode = 0  # ``wait`` below reaps it, so that nobody is to wait for it at the end
        return process.pid

    def wait(self, number: int) -> Ended:
        """Waits for a process of ``start``."""
        _, status = os.waitpid(number, 0)
        code = os.waitstatus_to_exitcode(status)
        return Ended(code, (self.root / "said.txt").read_text(encoding="utf-8", errors="replace"))

    def run(self, folder: Path, before: Before | None = None) -> Ended:
        """A process from start to end."""
        return self.wait(self.start(folder, before))

    def kill(self, folder: Path, delay: float) -> Ended:
        """A process that is killed (SIGKILL) ``delay`` seconds after its start, if it still lives then."""
        number = self.start(folder)
        until = time.perf_counter() + delay
        while time.perf_counter() < until and not has_ended(number):
            time.sleep(0.002)
        os.kill(number, signal.SIGKILL)  # it is not reaped before ``wait``, so that nobody else has its number
        return self.wait(number)


def has_ended(number: int) -> bool:
    """Whether a process of ``Scene.start`` has ended; it still has to be waited for."""
    return os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def warm_up() -> None:
    """Imports all that a run needs, so that forks find it there."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = ["cli", "train", "extend", "verbs.train", "verbs.extend"]
    for name in [f"incdet.app.{name}" for name in names] + ["pycocotools.cocoeval", "albumentations", "torchvision"]:
        importlib.import_module(name)


def outcome(folder: Path) -> dict[str, str]:
    """Every file of a finished run folder with a digest of what has to be equal in it: all, but for times.

    The digest of a file whose content is never the same twice is empty, so that it has to be there, and no more.
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        content = path.read_bytes()
        if name in UNEQUAL or path.suffix == ".svg":
            content = b""
        elif path.suffix == ".json":
            content = json.dumps(timeless(json.loads(content))).encode()
        found[name] = hashlib.sha256(content).hexdigest() if content else ""
    return found


def timeless(value: Any) -> Any:
    """A JSON value without what tells of time."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def deviations(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """What differs between two outcomes, a line each."""
    lines = [f"{name} is missing" for name in wanted if name not in found]
    lines += [f"{name} is left over" for name in found if name not in wanted]
    return lines + [f"{name} differs" for name in wanted if name in found and found[name] != wanted[name]]
