from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from incdet.app.progress import Display


def display(terminal: bool = False) -> tuple[Display, io.StringIO]:
    text = io.StringIO()
    return Display(Console(file=text, force_terminal=terminal, width=120, soft_wrap=True)), text


def test_without_a_terminal_a_phase_ends_with_one_plain_line() -> None:
    shown, text = display()
    with shown:
        shown.prefix = "incdet"
        for done in range(1, 6):
            shown("step 2 train", done, 5, 1.5)
    lines = text.getvalue().splitlines()
    assert lines == ["incdet step 2 train: 5/5 loss 1.500 ETA 0 s"]


def test_without_a_terminal_a_long_phase_speaks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 10))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    shown, text = display()
    with shown:
        for done in range(1, 10):
            shown.advance("evaluate", done, 100)
    lines = text.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("evaluate: ") and "ETA" in line for line in lines)


def test_a_terminal_gets_a_bar_with_eta_and_lines_above_it() -> None:
    shown, text = display(terminal=True)
    with shown:
        shown("step 1 train", 1, 4, 2.0)
        shown.say("a word")
        shown("step 1 train", 4, 4, 1.0)
        shown._bar.refresh()
        shown.advance("step 1 evaluate", 1, 2)
        assert len(shown._bar.tasks) == 1  # the new phase took the place of the old
        shown._bar.refresh()
    printed = text.getvalue()
    for word in ("step 1 train", "loss", "4/4", "ETA", "a word", "step 1 evaluate"):
        assert word in printed


def test_names_that_look_like_markup_are_printed_as_they_are() -> None:
    shown, text = display()
    with shown:
        shown.say("step 1: [/b], [red], :dog:, \\[x]")
        shown.prefix = "[/b]"
        shown.advance("evaluate", 1, 1)
    assert text.getvalue().splitlines()[0] == "step 1: [/b], [red], :dog:, \\[x]"
    assert text.getvalue().splitlines()[1].startswith("[/b] evaluate: 1/1")


def test_what_cannot_tell_how_far_it_is_is_said_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text = display()
    with shown.doing("scoring"):
        assert text.getvalue() == "scoring ...\n"
    assert text.getvalue() == "scoring ...\n"  # it was quick
    clock = iter([0.0, 31.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with shown.doing("drawing"):
        pass
    assert text.getvalue().splitlines()[1:] == ["drawing ...", "drawing: 31 s"]


def test_a_terminal_shows_what_is_done_beside_the_bar() -> None:
    shown, text = display(terminal=True)
    with shown:
        shown.advance("step 1 evaluate", 1, 2)
        with shown.doing("scoring"):
            assert [task.description for task in shown._bar.tasks] == ["step 1 evaluate", "scoring"]
            shown._bar.refresh()
        assert len(shown._bar.tasks) == 1
    assert "scoring" in text.getvalue() and "scoring ..." not in text.getvalue()


def test_square_brackets_are_printed_as_they_are() -> None:
    for terminal in (False, True):
        shown, text = display(terminal)
        with shown:
            shown.prefix = "a[/b]"
            shown.say("warning: class [red]")
            shown.advance("[/b] evaluate", 2, 2, "[/i]")
            with shown.doing("[/b]"):
                shown._bar.refresh()
            shown._bar.refresh()
        plain = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", text.getvalue())
        assert "class [red]" in plain and "a[/b] [/b] evaluate" in plain and "[/i]" in plain
