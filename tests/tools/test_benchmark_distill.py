from __future__ import annotations

from collections.abc import Iterator

import benchmarks
import pytest
import torch
from benchmarks.harness import Options


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_online_and_cached_steps_are_measured_and_equal() -> None:
    rows = list(benchmarks.suite("distill")(Options(quick=True)))
    assert [row.case for row in rows] == ["online", "cached", "cached vs plain"]
    assert all(row.equal and row.ratio > 0 and row.suite == "distill" for row in rows)
    assert all("4 losses" in row.found for row in rows)  # none of the method's terms is missing
