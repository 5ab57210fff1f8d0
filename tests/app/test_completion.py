from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from incdet.app import completion
from incdet.app.cli import VERBS, build_parser
from incdet.app.verbs import completion as verb

TYPED = [
    (["exp"], ["export"]),
    (["export", "--as", ""], ["state", "onnx", "onnx-raw", "torchscript"]),
    (["export", "runs/x", "--as", "onnx-"], ["onnx-raw"]),
    (["predict", "--as", "json", "co"], ["coco"]),
    (["predict", "--rec"], ["--recursive"]),
    (["extend", "--output", ""], []),
]


@pytest.fixture(scope="module")
def bash() -> str:
    return completion.script("bash", build_parser())


@pytest.mark.parametrize(("words", "expected"), TYPED, ids=lambda words: " ".join(words))
def test_bash_completes(bash: str, words: list[str], expected: list[str]) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    typed = " ".join(f"'{word}'" for word in ("incdet", *words))
    program = f"{bash}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words)}; _incdet; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "--norc"], input=program, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == expected and not done.stderr


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_reads_its_script(shell: str, incdet_command: Callable[..., Any]) -> None:
    done = incdet_command("completion", shell)
    assert done.code == 0 and all(name in done.out for name in VERBS)
    assert "recursive" in done.out and "--checkpoint" not in done.out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed; its script was printed and not read")
    subprocess.run([shell, "-n"], input=done.out, text=True, check=True, timeout=30)


def test_an_unknown_shell_is_refused(incdet_command: Callable[..., Any]) -> None:
    done = incdet_command("completion", "csh")
    assert done.code == 2 and "invalid choice" in done.err
    assert verb.SHELLS == completion.SHELLS
