from __future__ import annotations

import re

from measured import run

from incdet.evaluation.metrics import Interval
from incdet.report.bars import MOST, Bar, bars, changes, per_class, points, verdict
from incdet.report.palette import looks


def test_changes_go_from_the_greatest_gain_to_the_greatest_loss() -> None:
    moved = {"a": Interval(-0.2, -0.3, -0.1), "b": Interval(0.1, 0.05, 0.2), "c": Interval(0.0, -0.1, 0.1)}
    drawn, height = changes("incdet", moved)
    names = re.findall(r'class="right">(\w)</text>', drawn)
    assert names == ["b", "c", "a"] and f'viewBox="0 0 360 {height:g}"' in drawn
    assert ">\u221220.0</text>" in drawn and ">+10.0</text>" in drawn and ">+0.0</text>" in drawn


def test_only_an_interval_without_zero_is_called_a_gain_or_a_loss() -> None:
    assert verdict(Interval(0.1, 0.05, 0.2)) == "hue-gain" and verdict(Interval(-0.1, -0.2, -0.05)) == "hue-loss"
    assert verdict(Interval(0.1, -0.05, 0.2)) == verdict(Interval(0.1, None, None)) == "hue-muted"


def test_of_many_classes_the_middle_is_left_out_and_said() -> None:
    moved = {f"c{i}": Interval(i / 100, None, None) for i in range(MOST + 7)}
    drawn, _ = changes("incdet", moved)
    assert len(re.findall(r"<g>", drawn)) == MOST and "7 classes in the middle are left out" in drawn
    assert ">c0</text>" in drawn and f">c{MOST + 6}</text>" in drawn and ">c22</text>" not in drawn


def test_bars_are_as_long_as_their_share() -> None:
    drawn, _ = bars("x", [Bar("a", 25.0, "25 %"), Bar("b", 0.0, "0 %")], most=100)
    widths = [float(width) for width in re.findall(r'class="bar[^>]*width="([\d.]+)"', drawn)]
    tracks = [float(width) for width in re.findall(r'class="track"[^>]*width="([\d.]+)"', drawn)]
    assert widths == [tracks[0] / 4, 0]
    assert bars("nothing", [])[1] > 0


def test_long_names_leave_room_for_themselves() -> None:
    drawn, _ = bars("x", [Bar("toothbrush on refrigerator", 1.0, "1"), Bar("motorcycle on a tennis racket", 1.0, "1")])
    names = re.findall(r'<text x="([\d.]+)" [^>]*class="right">([^<]+)</text>', drawn)
    assert [name for _, name in names] == ["toothbrush on refrigerator", "motorcycle on a tennis ra…"]
    assert all(float(x) >= 6 * 26 for x, _ in names)  # letters of 11 units are 6 wide


def test_every_class_has_a_row_and_every_method_a_marker() -> None:
    both = [run("incdet", 0.6, 0.5, 0.4), run("joint", 0.8, steps=(3,))]
    drawn, _ = per_class(both, looks(["incdet", "joint"]))
    for name in ("cat", "dog", "bird", "boat", "step 1", "step 3"):
        assert f">{name}</text>" in drawn
    assert drawn.count('class="ring"') == 1  # of the two classes of step 1 the test set shows one
    assert drawn.count('class="dot') == 6


def test_steps_that_the_test_set_does_not_show_are_left_out() -> None:
    last = run("incdet", 0.6, 0.5, 0.4)
    for step, item in last.steps.items():
        last.add_step(step, {name: score if name == "boat" else None for name, score in item.scores.items()})
    drawn, height = per_class([last], looks(["incdet"]))
    assert ">step 3</text>" in drawn and ">boat</text>" in drawn and ">step 1</text>" not in drawn
    assert height < per_class([run("incdet", 0.6, 0.5, 0.4)], looks(["incdet"]))[1]


def test_points_have_a_sign() -> None:
    assert [points(value) for value in (0.051, -0.051, -0.0001, None)] == ["+5.1", "\u22125.1", "+0.0", "-"]


def test_the_words_behind_a_bar_end_inside_the_chart() -> None:
    drawn, _ = bars("t", [Bar("star on cross", 38.0, "38 % (47 of 12,400)"), Bar("b", 1.0, "1 %")], most=100)
    places = [float(place) for place in re.findall(r'<text x="([\d.]+)" y="[\d.]+">38 %', drawn)]
    assert len(places) == 1 and places[0] + 6.2 * 19 <= 360
