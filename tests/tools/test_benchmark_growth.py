from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from benchmarks.growth import CLASSES, INCREMENTS, TOTAL, rows
from benchmarks.harness import Options


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_growth_is_measured_against_equal_steps(threads: None) -> None:
    found = {row.case: row for row in rows(Options(quick=True))}
    assert list(found) == [*(f"K={count}" for count in CLASSES), *(f"increments={count}" for count in INCREMENTS)]
    assert all(row.equal and row.suite == "growth" for row in found.values())
    peaks = {case: row.peak_ratio for case, row in found.items()}
    # Counted, not timed: with many classes the loss's temporaries decide, and torchvision holds several of that size.
    assert peaks["K=1203"] is not None and peaks["K=1203"] < 0.5
    assert peaks["increments=1"] == 1.0


def test_the_increments_divide_the_classes() -> None:
    assert all(TOTAL % count == 0 for count in INCREMENTS)
