from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from incdet.app.unused import idle_keys
from incdet.methods.registry import get_method, known_methods

DEMO = Path("configs/shapes/demo.yaml")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("methods", "word", "fix"),
    [
        ("finetune", "memory.total=20", "name a method with replay"),
        ("finetune", "train.finetune.lr=0.1", "name a method with balanced fine-tuning"),
        ("finetune,incdet", "train.joint.iterations=5", "add joint to the methods"),
        ("joint", "train.increment.lr=0.1", "name a method that learns in steps"),
        ("lwf", "method.incdet.replay.share=0.4", "add incdet to the methods"),
    ],
)
def test_a_setting_that_no_method_of_the_run_uses_is_refused(
    incdet_command: Callable[..., Any], repository: Path, tmp_path: Path, methods: str, word: str, fix: str
) -> None:
    output = f"output={tmp_path / 'run'}"
    done = incdet_command("train", "--config", repository / DEMO, "--method", methods, output, word)
    assert done.code == 2 and f"key {word.partition('=')[0]}: is not used by this run -> {fix}" in done.err
    assert not (tmp_path / "run").exists()


def test_what_one_of_several_methods_uses_is_used() -> None:
    methods = [get_method(name) for name in ("finetune", "eeil", "joint")]
    assert set(idle_keys(methods, list(known_methods()))) == {
        f"method.{name}" for name in known_methods() if name not in ("finetune", "eeil", "joint")
    }
    ablated = get_method("eeil", ("replay",))
    assert "memory" in idle_keys([ablated], ["eeil"]) and "method.eeil" not in idle_keys([ablated], ["eeil"])
