"""One finished run of every method, for all tests that need checkpoints, memories or results."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_settings
from rich.console import Console

from incdet.app.progress import Display
from incdet.app.train import train
from incdet.config import Config
from incdet.methods.registry import known_methods


class Finished:
    """A run folder and what was printed while it was made."""

    def __init__(self, root: Path, data: Path, config: Config, text: str) -> None:
        self.root, self.data, self.config, self.text = root, data, config, text


def quiet() -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, width=200, soft_wrap=True)), text


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Step 1, all methods from it, the report: nobody may write into it."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny_settings(folder / "run", methods=list(known_methods()))
    display, text = quiet()
    train(config, display=display)
    return Finished(folder / "run", folder / "shapes", config, text.getvalue())


@pytest.fixture
def settings(finished: Finished, tmp_path: Path) -> Callable[..., Config]:
    """Settings of a run of its own on the data of the finished one."""

    def make(**changes: Any) -> Config:
        data = {"root": str(finished.data), **changes.pop("data", {})}
        return tiny_settings(changes.pop("output", tmp_path / "run"), data=data, **changes)

    return make


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take longer than the tiny runs themselves; the finished run has them."""
    monkeypatch.setattr("incdet.app.steps.write_report", lambda folder: None)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: Any, **__: Any) -> None:
        raise AssertionError("training has begun")

    monkeypatch.setattr("incdet.training.engine.Engine.fit", fit)
