"""Every page of the documentation: commands that are understood, links that lead somewhere, a site that builds."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import PAGES, ROOT, anchors, answers, blocks, links, our_commands

from incdet.app.cli import build_parser
from incdet.config import load_config

README = ROOT / "README.md"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text("utf-8")


SHOWN = [(name(path), words) for path in PAGES for words in our_commands(read(path))]
SAID = [(name(path), shlex.split(words)[1:]) for path in (README, *PAGES) for words in answers(read(path))]


@pytest.mark.parametrize(("page", "words"), [*SHOWN, *SAID], ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_understood(page: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if len(words) == 1 or words[1:2] == ["--detector"]:
        return  # the name of a verb, not a command
    arguments, rest = build_parser().parse_known_args([word.replace("SEED", "0") for word in words])
    assert all("=" in word for word in rest)
    if arguments.verb == "train" and Path(arguments.config).is_file():
        load_config(arguments.config, [*arguments.overrides, *rest])


@pytest.mark.parametrize("path", [README, *PAGES], ids=name)
def test_links_lead_somewhere(path: Path) -> None:
    for place, anchor in links(read(path)):
        target = (path.parent / place).resolve() if place else path
        assert target.exists(), place
        assert not anchor or anchor in anchors(read(target)), f"{place}#{anchor}"


def pages_of(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in pages_of(part)]


def test_every_page_stands_in_the_navigation() -> None:
    nav = pages_of(yaml.safe_load(read(ROOT / "mkdocs.yml"))["nav"])
    written = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES}
    assert set(nav) == written and len(nav) == len(set(nav))


def test_the_methods_page_is_complete() -> None:
    import re

    from incdet.methods.registry import OWN

    assert set(re.findall(r"^\| `(\w+)`", read(ROOT / "docs/methods.md"), re.MULTILINE)) == set(OWN)


def questions(text: str) -> set[str]:
    return set(re.findall(r"^\| ([^|]+[.?]) \|", text, re.MULTILINE))


def test_the_questions_of_the_readme_are_among_those_of_the_page() -> None:
    asked = questions(read(README).split("## What people ask")[1].split("\n## ")[0])
    assert len(asked) >= 10 and asked <= questions(read(ROOT / "docs/questions.md"))


@pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install -e '.[docs]'"
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    page = read(tmp_path / "site/api/methods/index.html")
    assert "What teachers add to the loss." in page  # from a docstring
    assert blocks(read(ROOT / "docs/coverage.md"), "json")
