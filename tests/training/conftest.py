"""Engines on the CPU whose log is closed when the test ends, and a step to learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from finished_run import Finished
from scenery import Scenery

from incdet.config import Config
from incdet.config import Engine as Settings
from incdet.training.engine import Engine
from incdet.training.log import RunLog


@pytest.fixture
def make_engine(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    journals = []

    def make(progress: Any = None, **settings: Any) -> Engine:
        journals.append(RunLog(tmp_path / "run"))
        values = {"workers": 0, "device": "cpu", "log_every": 1, **settings}
        return Engine(Settings(**values), journals[-1], progress)

    yield make
    for log in journals:
        log.close()


@pytest.fixture
def scenery(finished: Finished, settings: Callable[..., Config], tmp_path: Path) -> Iterator[Scenery]:
    made = Scenery(finished, settings(methods=["incdet"]), tmp_path / "scenery")
    yield made
    made.log.close()
