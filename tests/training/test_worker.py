from __future__ import annotations

import threading

import pytest

from incdet.training.worker import Worker


def test_jobs_run_one_after_another_in_their_order_beside_the_main_thread() -> None:
    gate, done = threading.Event(), list[int]()

    def job(number: int) -> None:
        assert gate.wait(20) and threading.current_thread() is not threading.main_thread()
        done.append(number)

    with Worker() as background:
        for number in range(5):
            background.submit(lambda number=number: job(number))  # type: ignore[misc]
        assert done == []
        gate.set()
        background.wait()
        assert done == [0, 1, 2, 3, 4]
        background.wait()
        background.submit(lambda: done.append(5))
    assert done == [0, 1, 2, 3, 4, 5]


def test_a_failure_surfaces_with_its_own_message_and_stops_what_follows() -> None:
    gate, done = threading.Event(), list[str]()

    def fail() -> None:
        assert gate.wait(20)
        raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"), Worker() as background:
        background.submit(fail)
        background.submit(lambda: done.append("later"))
        gate.set()
        background.wait()
    with pytest.raises(ValueError, match="the disk is full"), Worker() as background:
        background.submit(fail)
    with Worker() as background:
        background.submit(fail)
        with pytest.raises(ValueError, match="the disk is full"):
            while True:  # until it has failed
                background.submit(lambda: None)
        background.submit(lambda: done.append("much later"))
    assert done == []


def test_an_interrupted_block_ends_its_jobs_and_raises_its_own_exception() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), Worker() as background:
        background.submit(lambda: threading.Event().wait(0.1))
        background.submit(lambda: done.append("saved"))
        raise KeyboardInterrupt
    assert done == ["saved"]
    with pytest.raises(KeyboardInterrupt), Worker() as background:
        background.submit(lambda: done.index("never"))
        raise KeyboardInterrupt
