"""Jitter is a value: one table and one blend, equal to the formula within a grey level."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from incdet.data.photometric import GREY, STILL, Jitter, apply_jitter, draw_jitter

PLANES = np.random.default_rng(0).integers(0, 256, (3, 16, 24), dtype=np.uint8)
DRAWS = [draw_jitter(np.random.default_rng(seed)) for seed in range(2000)]


def jittered(jitter: Jitter, planes: NDArray[np.uint8] = PLANES) -> NDArray[np.uint8]:
    done: NDArray[np.uint8] = planes.copy()
    apply_jitter(done, jitter)
    return done


def test_standing_still_changes_nothing() -> None:
    assert np.array_equal(jittered(STILL), PLANES)


def test_the_table_gives_every_level_its_new_value() -> None:
    table = np.arange(255, -1, -1, dtype=np.uint8)
    assert np.array_equal(jittered(Jitter(table)), 255 - PLANES)


def test_a_line_is_its_table() -> None:
    # Every level, at places that vector and remainder loops of OpenCV work on.
    planes = np.arange(3 * 7 * 111).astype(np.uint8).reshape(3, 7, 111)
    lines = [jitter for jitter in DRAWS if jitter.line is not None]
    assert 600 < len(lines) < 900
    gaps = [
        np.abs(
            jittered(Jitter(jitter.table, 1, jitter.line), planes).astype(int) - jittered(Jitter(jitter.table), planes)
        ).max()
        for jitter in lines
    ]
    assert max(gaps) <= 1 and np.mean(gaps) < 0.05  # a level that lies halfway may go either way


@pytest.mark.parametrize("saturation", [0.6, 0.93, 1.4])
def test_saturation_blends_with_grey(saturation: float) -> None:
    grey = np.tensordot(GREY, PLANES, axes=1)
    expected = np.clip(saturation * PLANES + (1 - saturation) * grey, 0, 255)
    assert np.abs(jittered(Jitter(None, saturation)) - expected).max() < 1


def test_grey_stays_grey() -> None:
    grey = np.stack([PLANES[0]] * 3)
    assert np.array_equal(jittered(Jitter(None, 1.3), grey), grey)


def test_tables_rise_and_stay_within_their_ranges() -> None:
    for jitter in DRAWS:
        if jitter.table is not None:
            assert jitter.table.shape == (256,) and jitter.table.dtype == np.uint8
            assert (np.diff(jitter.table.astype(int)) >= 0).all()
            # Darkest: (0.8 x - 51) to the power of 1.25; brightest: (1.2 x + 51) to the power of 0.8.
            assert 13 <= jitter.table[128] <= 212
        assert 0.6 <= jitter.saturation <= 1.4


def test_each_change_comes_as_often_as_it_should() -> None:
    # Brightness or gamma: 1 - 1/2 * 3/4; five standard deviations of 2,000 draws are 0.054.
    assert np.mean([jitter.table is not None for jitter in DRAWS]) == pytest.approx(0.625, abs=0.054)
    assert np.mean([jitter.saturation != 1 for jitter in DRAWS]) == pytest.approx(0.25, abs=0.048)
    middle = [jitter.table[128] for jitter in DRAWS if jitter.table is not None]
    assert min(middle) < 85 and max(middle) > 175 and len(set(middle)) > 80


def test_the_same_generator_gives_the_same_jitter() -> None:
    one, two = (draw_jitter(np.random.default_rng(3)) for _ in range(2))
    assert one.saturation == two.saturation
    assert (one.table is None) == (two.table is None) and np.array_equal(one.table, two.table)  # type: ignore[arg-type]
