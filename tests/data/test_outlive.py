from __future__ import annotations

import os
import signal
import sys

import pytest
from torch.utils.data import DataLoader, Dataset

from incdet.data.dataset import start_worker
from incdet.data.outlive import GRACE


class Stubborn(Dataset[int]):
    """Its loader process is told to end at the third item."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __len__(self) -> int:
        return 6

    def __getitem__(self, place: int) -> int:
        if place == 2:
            os.kill(os.getpid(), self.number)
        return place


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_loader_outlives_what_its_run_is_told(number: signal.Signals) -> None:
    loader = DataLoader(Stubborn(number), num_workers=1, worker_init_fn=start_worker, batch_size=None)
    assert [int(item) for item in loader] == list(range(6))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    kept = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)}
    monkeypatch.setattr(signal, "alarm", left.append)
    try:
        start_worker(0)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)
    assert left == [GRACE]
