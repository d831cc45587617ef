"""The pool of buffers: size classes, reuse, trim and retry, the cap, and what the errors say."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import settings
from simplegrad.runtime.pool import Pool, size_class


class Raw:
    def __init__(self, size: int) -> None:
        self.size, self.released = size, False

    def release(self) -> None:
        self.released = True


class Driver:
    """Memory of a given size, which fails as a driver does."""

    def __init__(self, room: int) -> None:
        self.room, self.made = room, 0
        self.raws: list[Raw] = []

    def create(self, size: int) -> Raw:
        if sum(r.size for r in self.raws if not r.released) + size > self.room:
            raise MemoryError
        self.made += 1
        self.raws.append(Raw(size))
        return self.raws[-1]

    def pool(self, cap: int = 0) -> Pool:
        return Pool(self.create, lambda: None, (MemoryError,), lambda: cap)


def test_size_classes() -> None:
    previous = 0
    for n in range(1, 5000):
        size = size_class(n)
        assert size >= n
        assert size >= previous
        assert n <= 256 or size <= 1.25 * n
        previous = size
    assert len({size_class(n) for n in range(1025, 2049)}) == 4


def test_freed_memory_is_handed_out_again() -> None:
    driver = Driver(1 << 20)
    pool = driver.pool()
    first = pool.allocate(1000)
    raw = first.raw
    del first
    gc.collect()
    assert pool.in_use_bytes == 0
    assert pool.held_bytes == 1024
    assert pool.allocate(1010).raw is raw
    assert driver.made == 1
    assert pool.peak_bytes == 1024


def test_trim_gives_back_what_is_free() -> None:
    driver = Driver(1 << 20)
    pool = driver.pool()
    kept, gone = pool.allocate(1024), pool.allocate(2048)
    del gone
    gc.collect()
    assert pool.trim() == 2048
    assert pool.held_bytes == pool.in_use_bytes == kept.nbytes
    assert [r.released for r in driver.raws] == [False, True]


def test_a_full_driver_is_tried_again_after_a_trim() -> None:
    driver = Driver(4096)
    pool = driver.pool()
    small = pool.allocate(2048)
    del small
    gc.collect()
    large = pool.allocate(4096)
    assert large.nbytes == 4096
    with pytest.raises(sg.OutOfMemory, match=r"512 bytes; the pool holds 4,096 bytes, 0 of them"):
        pool.allocate(512)


def test_the_cap_holds() -> None:
    pool = Driver(1 << 30).pool(cap=4096)
    held = pool.allocate(3000)
    with pytest.raises(sg.OutOfMemory, match=r"cap 4,096.*SIMPLEGRAD_MEMORY_CAP"):
        pool.allocate(3000)
    del held
    gc.collect()
    assert pool.allocate(4000).nbytes == 4096


def test_out_of_memory_on_a_device_loses_nothing(one_cl_device: Any) -> None:
    device = one_cl_device
    x = sg.Tensor(np.ones(1000))
    sg.synchronize()
    gc.collect()
    cap = device.memory_stats()["in_use_bytes"] + (1 << 20)
    with settings.override(memory_cap=cap):
        y = x.reshape(1000, 1) * x.reshape(1, 1000)
        with pytest.raises(sg.OutOfMemory, match=r"no room for .* bytes; the pool holds .*free"):
            y.realize()
        assert x.sum().item() == 1000
    np.testing.assert_array_equal(y.numpy(), np.ones((1000, 1000)))  # the graph is still whole
    with pytest.raises(MemoryError):
        sg.ones((1 << 40,)).realize()
