"""The README and the pages of the documentation, as tests read them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md"))
VERB_OF_TOOL = {"train_incremental": "train", "evaluate": "evaluate", "finetune_custom": "extend"}


def blocks(text: str, language: str) -> list[str]:
    """The content of every fenced block of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The words of every command of the bash blocks, those joined by ``&&`` apart."""
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [words for line in lines for part in line.split("&&") if (words := shlex.split(part, comments=True))]


def as_incdet(words: list[str]) -> list[str] | None:
    """The arguments of ``incdet`` that a command stands for; None for a command that is not ours."""
    if words[0] == "incdet":
        return words[1:]
    if words[0] == "python" and words[1].startswith("tools/"):
        assert (ROOT / words[1]).is_file()
        verb = VERB_OF_TOOL.get(Path(words[1]).stem)
        return None if verb is None else [verb, *words[2:]]
    return None


def our_commands(text: str) -> list[list[str]]:
    """The arguments of ``incdet`` in every command of ours."""
    return [words for words in map(as_incdet, commands(text)) if words is not None]


def answers(text: str) -> list[str]:
    """The commands that stand in tables and sentences."""
    return [code for code in re.findall(r"(?<!`)`(incdet [^`]+)`", text) if "." not in code.split()[0]]


def links(text: str) -> list[tuple[str, str]]:
    """Where links and pictures lead that are no addresses: (path, anchor)."""
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", plain)
    return [(path, anchor) for path, anchor in found]


def anchors(text: str) -> set[str]:
    """The anchors that the headings of a page have."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
