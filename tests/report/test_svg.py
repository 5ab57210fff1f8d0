from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incdet.report.svg import Area, clip, drawing, ends, label, number, spread, standalone, ticks


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9).map(sorted), st.floats(0.5, 8))
def test_labels_are_spread_in_order_and_no_further_than_needed(values: list[float], gap: float) -> None:
    places = spread(values, gap)
    assert all(after - before >= gap - 1e-9 for before, after in zip(places, places[1:], strict=False))
    assert sum(places) == pytest.approx(sum(values), abs=1e-6)
    if all(after - before >= gap for before, after in zip(values, values[1:], strict=False)):
        assert places == pytest.approx(values)


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, span: float, count: int) -> None:
    values = ticks(low, low + span, count)
    assert len(values) <= count + 1
    assert all(low - 1e-6 * span <= value <= low + span + 1e-6 * span for value in values)
    assert all(len(f"{value:g}".strip("-")) <= 7 for value in values)


def test_ticks_of_a_percentage_are_those_one_would_write() -> None:
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100] and ticks(-1, 1, 4) == [-1, -0.5, 0, 0.5, 1]


def test_a_value_stands_where_the_axis_says() -> None:
    area = Area(10, 20, 110, 220, (0, 50), (0, 100))
    assert (area.px(0), area.px(25), area.px(50)) == (10, 60, 110)
    assert (area.py(0), area.py(100), area.py(75)) == (220, 20, 70)
    assert Area(10, 20, 110, 220, (3, 3), (0, 0)).px(3) == 10  # nothing to divide by
    assert 'points="10.0,20.0 110.0,220.0"' in area.curve([(0, 900), (50, -900)], "x")  # stays in its area


def test_the_labels_at_line_ends_do_not_lie_on_each_other() -> None:
    area = Area(0, 0, 100, 100, (0, 1), (0, 10))
    made = ElementTree.fromstring(f"<g>{ends(area, [(1.0, 'a', ''), (1.1, 'b', ''), (0.0, 'c', '')])}</g>")
    heights = {part.text: float(part.attrib["y"]) for part in made}
    assert heights["b"] < heights["a"] < heights["c"] <= 104
    assert min(heights["a"] - heights["b"], heights["c"] - heights["a"]) >= 12.9


def test_the_labels_of_lines_that_end_at_the_top_leave_the_words_above_free() -> None:
    area = Area(0, 30, 100, 130, (0, 1), (0, 10))
    made = ElementTree.fromstring(f"<g>{ends(area, [(10.0, word, '') for word in 'abcde'])}</g>")
    heights = sorted(float(part.attrib["y"]) for part in made)
    assert heights[0] == 34 and heights[-1] == 34 + 4 * 13


def test_a_file_of_its_own_is_whole_and_shows_every_panel() -> None:
    panels = [drawing(100, 50, label(0, 10, "<a&b>"), name="one"), drawing(80, 50, name="two")]
    read = ElementTree.fromstring(standalone(panels, [(100, 50), (80, 50)], columns=2))
    assert read.tag == "{http://www.w3.org/2000/svg}svg" and float(read.attrib["width"]) >= 180
    assert "<a&b>" in list(read.itertext()) and "prefers-color-scheme" in "".join(read.itertext())


def test_words_and_numbers_are_cut_to_what_fits() -> None:
    assert (clip("short", 5), clip("longer one", 6)) == ("short", "longe…")
    assert (number(20000), number(-0.5), number(100.0)) == ("20k", "\u22120.5", "100")
