from __future__ import annotations

import pytest

from incdet.report.palette import HUES, PAPER, class_colour, class_colours, looks


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("side", [0, 1])
def test_every_line_stands_out_from_the_paper(side: int) -> None:
    for colours in (*HUES, PAPER["mark"], PAPER["gain"], PAPER["loss"]):
        assert contrast(colours[side], PAPER["paper"][side]) >= 3.0  # WCAG 2.1, 1.4.11
    for name in ("ink", "muted"):
        for paper in ("paper", "card"):
            assert contrast(PAPER[name][side], PAPER[paper][side]) >= 4.5  # 1.4.3


def test_no_two_methods_look_alike_and_a_named_one_keeps_its_look() -> None:
    methods = ["finetune", "eeil", "incdet", "pseudo", "lwf", "masked", "joint", *(f"mine {i}" for i in range(12))]
    chosen = looks(methods)
    assert len(set(chosen.values())) == len(methods)
    assert looks(["x", "incdet"])["incdet"] == chosen["incdet"]


def test_a_class_keeps_its_colour_when_others_join() -> None:
    few, many = class_colours(["cat", "dog"]), class_colours(["cat", "dog", *(str(i) for i in range(78))])
    assert few.items() <= many.items() and len(set(many.values())) == 80


def test_white_letters_can_be_read_on_every_class_colour() -> None:
    assert all(contrast(class_colour(column), "#ffffff") >= 3.4 for column in range(8))
    assert all(contrast(class_colour(column), "#ffffff") >= 4.4 for column in range(8, 400))
