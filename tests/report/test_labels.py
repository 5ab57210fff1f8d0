from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from incdet.report.labels import Labels

side = st.floats(0, 80)


@given(st.lists(st.tuples(side, side), min_size=1, max_size=6))
def test_labels_stay_in_the_picture(corners: list[tuple[float, float]]) -> None:
    labels = Labels((0, 0, 100, 100))
    for x, y in corners:
        left, top = labels.place([x, y, x + 20, y + 20], 30, 10)
        assert 0 <= left <= 70 and 0 <= top <= 90


def test_a_label_goes_where_no_other_stands() -> None:
    labels = Labels((0, 0, 200, 200))
    box = [50.0, 50.0, 150.0, 150.0]
    spots = [labels.place(box, 40, 10) for _ in range(6)]
    assert spots[0] == (50, 40) and len(set(spots)) == 6
    assert labels.place(box, 40, 10) == spots[0]  # no corner is left


def test_a_label_wider_than_the_picture_starts_at_its_edge() -> None:
    assert Labels((0, 0, 20, 20)).place([5, 5, 10, 10], 50, 10) == (0, 0)
