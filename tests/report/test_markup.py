from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from incdet.report.markup import Markup, join, tag, text


@given(st.text(), st.text())
def test_whatever_the_text_is_it_comes_back_as_text(content: str, value: str) -> None:
    made = tag("p", content, title=value).encode("utf-8")
    read = ElementTree.fromstring(made)
    assert list(read) == [] and set(read.attrib) == {"title"}
    if content.isprintable() and value.isprintable():
        assert (read.text or "") == content and read.attrib["title"] == value


def test_characters_that_no_page_can_hold_are_replaced() -> None:
    assert text("a\x00b\x1bc\ud800") == "a\ufffdb\ufffdc?"


def test_markup_is_put_in_as_it_is() -> None:
    assert tag("p", Markup("<b>x</b>"), "<b>") == "<p><b>x</b>&lt;b&gt;</p>"
    assert join(["<", Markup("<br>")], between=" & ") == "&lt; &amp; <br>"


def test_attributes_are_written_as_svg_and_html_want_them() -> None:
    made = tag("line", class_="grid", stroke_width=1.0, x1=1 / 3, y1=-0.001, hidden=True, dash=None, open_=False)
    assert made == '<line class="grid" stroke-width="1" x1="0.33" y1="0" hidden></line>'
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert tag("p", name="a") == '<p name="a"></p>'


@pytest.mark.parametrize(("value", "written"), [(3, "3"), (2.5, "2.5"), (1e-9, "0"), (100.0, "100")])
def test_numbers_are_short(value: float, written: str) -> None:
    assert text(value) == written
