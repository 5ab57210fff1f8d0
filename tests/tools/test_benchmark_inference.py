from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from benchmarks.harness import Options
from benchmarks.inference import _partners, rows


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_both_networks_find_the_same(threads: None) -> None:
    found = {row.case: row for row in rows(Options(quick=True))}
    assert list(found) == ["B=1", "B=8"]
    for row in found.values():
        assert row.equal and row.suite == "inference" and "images/s" in row.found
        assert " 0 detections" not in row.found


def test_partners_share_label_score_and_box() -> None:
    boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0], [50.0, 50.0, 90.0, 90.0]])
    one = [{"boxes": boxes, "scores": torch.tensor([0.9, 0.5]), "labels": torch.tensor([1, 2])}]
    assert _partners(one, one) == 1.0
    for key, value in (("labels", torch.tensor([1, 3])), ("scores", torch.tensor([0.9, 0.502]))):
        assert _partners(one, [{**one[0], key: value}]) == 0.5
    assert _partners(one, [{**one[0], "boxes": boxes + torch.tensor([[0.0], [1.0]])}]) == 0.5
    fewer = [{key: value[:1] for key, value in one[0].items()}]
    assert _partners(one, fewer) == pytest.approx(2 / 3)
    none = [{key: value[:0] for key, value in one[0].items()}]
    assert _partners(none, none) == 0.0  # nothing was compared
