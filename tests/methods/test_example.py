from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incdet.app.train import train
from incdet.config import Config
from incdet.methods import registry
from incdet.methods.method import Method


class Point:
    """An installed package's entry point."""

    value = "squared_logits:METHOD"

    def __init__(self, method: Any) -> None:
        self._method = method

    def load(self) -> Any:
        return self._method


@pytest.fixture
def example(repository: Path) -> Method:
    path = repository / "docs" / "examples" / "squared_logits.py"
    spec = importlib.util.spec_from_file_location("squared_logits", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    method: Method = module.METHOD
    return method


@pytest.fixture
def installed(example: Method, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point(example)])
    registry.known_methods.cache_clear()
    yield
    registry.known_methods.cache_clear()


def test_the_example_is_no_longer_than_a_page(repository: Path) -> None:
    text = (repository / "docs" / "examples" / "squared_logits.py").read_text("utf-8")
    code = text.split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


@pytest.mark.usefixtures("installed", "without_report")
def test_the_example_of_the_docs_trains_with_a_number_changed(settings: Callable[..., Config], tmp_path: Path) -> None:
    changed = {"squared_logits": {"kd_squared": {"weight": 0.5}}}
    root = train(settings(methods=["squared_logits"], method=changed))
    found = json.loads((root / "results.json").read_text())
    assert found["changed"] == ["kd_squared.weight=0.5"] and len(found["steps"]) == 3
    losses = [json.loads(line) for line in (root / "log.jsonl").read_text().splitlines()]
    assert any(line.get("kd_squared", -1) >= 0 for line in losses)
