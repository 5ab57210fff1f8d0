from __future__ import annotations

from collections.abc import Iterator

import cv2
import pytest
import torch
from benchmarks.harness import Options
from benchmarks.loader import rows


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_loader_is_measured_against_equal_pixels_and_boxes(threads: None) -> None:
    before = cv2.getNumThreads()
    found = {row.case: row for row in rows(Options(quick=True))}
    assert list(found) == ["decode", "decode, flip", "RAM cache", "device cache"]
    assert all(row.equal and row.suite == "loader" and row.peak_ratio is None for row in found.values())
    assert cv2.getNumThreads() == before
