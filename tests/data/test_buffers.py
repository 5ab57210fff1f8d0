"""Memory is used again, but never while somebody can still see it."""

from __future__ import annotations

import pickle

import torch

from incdet.data.buffers import MOST_FREE, BufferPool


def test_what_is_let_go_is_used_again() -> None:
    pool = BufferPool()
    one, two = pool.take(100), pool.take(100)
    address = one.ctypes.data
    assert one.shape == (100,) and one.flags.writeable and two.ctypes.data != address
    del one
    assert pool.take(60).ctypes.data == address


def test_what_a_tensor_looks_at_is_not_given_away() -> None:
    pool = BufferPool()
    part = torch.split(torch.from_numpy(pool.take(100)), [40, 60])[1].view(3, 20)
    part.fill_(7)
    for _ in range(5):
        pool.take(100)[:] = 0
    assert bool((part == 7).all())
    address = part.data_ptr() - 40
    del part
    assert address in {buffer.ctypes.data for buffer in [pool.take(100), pool.take(100)]}


def test_a_pool_stays_small_and_grows_with_its_batches() -> None:
    pool = BufferPool()
    many = [pool.take(10) for _ in range(3 * MOST_FREE)]
    many.clear()
    assert len(pool._free) == MOST_FREE
    for size in range(20, 20 + 2 * MOST_FREE):
        assert pool.take(size).nbytes == size
    assert len(pool._free) <= MOST_FREE and max(buffer.nbytes for buffer in pool._free) >= 20


def test_a_pool_travels_empty() -> None:
    pool = BufferPool()
    pool.take(10)
    assert pickle.loads(pickle.dumps(pool))._free == []
