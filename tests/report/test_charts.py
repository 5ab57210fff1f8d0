from __future__ import annotations

import re

import numpy as np
import pytest
from measured import run

from incdet.evaluation.metrics import Matches
from incdet.report.charts import losses, over_steps, precision_recall
from incdet.report.palette import looks


def test_every_method_ends_with_its_name_and_figure() -> None:
    both = [run("finetune", 0.6, 0.3, 0.1), run("incdet", 0.6, 0.5, 0.4), run("joint", 0.8, steps=(3,))]
    chosen = looks([one.method for one in both])
    drawn = over_steps(both, "old", chosen)
    assert drawn is not None
    for words in ("finetune 10.0", "incdet 40.0", "joint 80.0"):
        assert f">{words}</text>" in drawn
    assert drawn.count("<polyline") == 3 and chosen["incdet"].css in drawn
    assert over_steps(both, "new", chosen) is not None and over_steps(both, "all", chosen) is not None


def test_one_point_alone_is_no_chart() -> None:
    begun = run("incdet", 0.6, steps=(1,))
    assert over_steps([begun], "old", looks(["incdet"])) is None


def test_what_a_checkpoint_learned_last_is_not_what_an_extension_teaches() -> None:
    extended = run("incdet", 0.6, 0.5, steps=(2, 3))
    assert over_steps([extended], "new", looks(["incdet"])) is None  # one value, and nothing to compare it with
    drawn = over_steps([extended], "old", looks(["incdet"]))
    assert drawn is not None and ">incdet 50.0</text>" in drawn and ">1</text>" not in drawn


def test_the_curve_of_precision_over_recall_has_the_area_of_the_ap() -> None:
    hits = np.array([True, False, True, True, False])
    one = Matches(np.linspace(0.9, 0.5, 5), hits, np.zeros(5, np.int64), np.array([4]))
    drawn = precision_recall("cat", [(one, "hue-0", None)])
    points = re.search(r'points="([^"]+)"', drawn)
    assert points is not None
    places = [tuple(map(float, pair.split(","))) for pair in points[1].split()]
    left, right, top, bottom = 26, 163, 20, 130
    share = [((x - left) / (right - left), (bottom - y) / (bottom - top)) for x, y in places]
    assert share[1] == pytest.approx((0.25, 1.0), abs=0.01) and share[-2] == pytest.approx((0.75, 0.75), abs=0.01)
    assert share[-1] == pytest.approx((0.75, 0.0), abs=0.01)


def test_losses_are_named_where_they_end() -> None:
    long = "kd_response_of_a_teacher"
    curves = {"loss": [(float(at), 5.0 / at) for at in range(1, 400)], long: [(1.0, 1.0), (399.0, 0.5)]}
    drawn = losses("step 2 train", curves, {"loss": "hue-ink", long: "hue-0"})
    assert ">loss 0.01</text>" in drawn and ">kd_response… 0.50</text>" in drawn
    assert all(len(points.split()) <= 150 for points in re.findall(r'points="([^"]+)"', drawn))
