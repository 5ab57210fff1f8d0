from __future__ import annotations

import pytest

from incdet.app.estimate import Estimate, duration


def told(steps: dict[str, int], seconds: float, count: int, total: int) -> list[tuple[int, str]]:
    now = [0.0]
    estimate = Estimate(steps, lambda: now[0])
    lines = []
    for done in range(1, count + 1):
        now[0] += 100.0 if done == 1 else seconds  # the first step pays for what is done once
        if line := estimate.line(done, total):
            lines.append((done, line))
    return lines


def test_it_is_said_once_and_counts_the_phases_to_come() -> None:
    ((done, line),) = told({"interim": 100, "train": 200, "finetune": 20}, 2.0, 50, 100)
    assert done == 5 and line.startswith("a step takes 2 s: about 10 min to go for 100 (interim) + 200 (train)")


def test_a_resumed_run_counts_what_is_left() -> None:
    ((_, line),) = told({"interim": 100, "train": 200}, 6.0, 150, 200)
    assert "about 20 min to go" in line


def test_short_steps_are_watched_for_longer_and_short_phases_to_their_end() -> None:
    ((done, _),) = told({"train": 1000}, 0.1, 100, 1000)
    assert done in (41, 42)
    ((done, line),) = told({"train": 3}, 0.1, 3, 3)
    assert done == 3 and "about 1 s" in line


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (89, "about 89 s"), (91, "about 2 min"), (5000, "about 83 min"), (7300, "about 2 h 2 min")],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
