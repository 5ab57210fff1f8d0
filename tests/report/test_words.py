from __future__ import annotations

from measured import run

from incdet.evaluation.comparison import compare
from incdet.evaluation.metrics import Interval
from incdet.report.words import certain, summary


def test_the_best_method_comes_first_and_the_upper_bound_last() -> None:
    results = [run("finetune", 0.6, 0.3, 0.1), run("incdet", 0.6, 0.5, 0.4), run("joint", 0.8, steps=(3,))]
    compare(results)
    said = summary(results)
    assert said[0].startswith("incdet: the old classes keep 67 % of the AP50 they had when they were first measured")
    assert "(40.0 of 60.0)" in said[0] and "36.4 % short of joint training" in said[0]
    assert said[1].startswith("finetune: ") and said[2].endswith("the upper bound, reaches 73.3.")


def test_a_run_that_was_not_measured_says_so() -> None:
    blind = run("incdet", 0.6, 0.5, 0.4)
    for step in blind.steps:
        blind.add_step(step, dict.fromkeys(blind.steps[step].scores))
    assert summary([blind])[0].startswith("Nothing was measured")


def test_old_classes_that_were_not_measured_are_not_passed_over() -> None:
    last = run("incdet", 0.6, 0.5, 0.4)
    for step, item in last.steps.items():
        last.add_step(step, {name: score if name == "boat" else None for name, score in item.scores.items()})
    said = "incdet: what the old classes lost was not measured, for no test image shows one of them; the new ones reach"
    assert summary([last])[0].startswith(said)


def test_classes_are_named_where_chance_cannot_have_done_it() -> None:
    lost = {f"l{i}": Interval(-0.1 * i, -0.1 * i - 0.05, -0.01) for i in range(1, 6)}
    said = certain({**lost, "same": Interval(0.01, -0.1, 0.1), "up": Interval(0.2, 0.1, 0.3)})
    assert said == (
        "Of 7 old classes: lost 5 (l5 \u221250.0, l4 \u221240.0, l3 \u221230.0, l2 \u221220.0 and 1 more); "
        "gained 1 (up +20.0); 1 within what chance may do."
    )
    assert certain({"a": Interval(0.0, -0.1, 0.1)}) == "Of 1 old class: all within what chance may do."
    assert certain({}) == ""
