"""The pool of buffers: size classes, reuse, trim and retry, the cap, and what the errors say."""

from __future__ import annotations

import dis
import gc
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import settings
from simplegrad.runtime import pool as pools
from simplegrad.runtime.pool import Pool, size_class


class Raw:
    meanwhile: Callable[[], object] | None = None
    """What happens inside the next release, as a garbage collection would."""

    def __init__(self, size: int) -> None:
        self.size, self.released = size, False

    def release(self) -> None:
        assert not self.released
        self.released = True
        if Raw.meanwhile is not None:
            meanwhile, Raw.meanwhile = Raw.meanwhile, None
            meanwhile()


class Driver:
    """Memory of a given size, which fails as a driver does."""

    def __init__(self, room: int) -> None:
        self.room, self.made, self.finished = room, 0, 0
        self.raws: list[Raw] = []

    def create(self, size: int) -> Raw:
        if sum(r.size for r in self.raws if not r.released) + size > self.room:
            raise MemoryError
        self.made += 1
        self.raws.append(Raw(size))
        return self.raws[-1]

    def finish(self) -> None:
        self.finished += 1

    def pool(self, cap: int = 0, largest: int = 0) -> Pool:
        return Pool(self.create, self.finish, (MemoryError,), lambda: cap, largest)

    def held(self) -> int:
        return sum(r.size for r in self.raws if not r.released)


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


def test_the_largest_buffer_is_not_rounded_up() -> None:
    driver = Driver(1 << 30)
    pool = driver.pool(largest=1100)
    assert pool.allocate(1050).nbytes == 1100
    assert pool.allocate(1100).nbytes == 1100
    assert pool.allocate(1000).nbytes == 1024


def test_free_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_ALWAYS_KEPT", 1000)
    monkeypatch.setattr(pools, "_LARGE", 1024)  # none of them waits for an allocation
    driver = Driver(1 << 30)
    pool = driver.pool(cap=80 * 1024)
    buffers = [pool.allocate(1024) for _ in range(70)]
    for i in range(70):
        buffers.pop()
        assert pool.held_bytes - pool.in_use_bytes <= 40 * 1024, i
        assert pool.held_bytes == driver.held()
    assert driver.finished == 2  # memory goes in large pieces, not one wait a buffer
    assert pool.in_use_bytes == 0
    endless = Driver(1 << 30)
    pool = endless.pool(cap=0)
    for _ in range(3):
        del [pool.allocate(1 << 20) for _ in range(50)][:]
    assert endless.made == 50
    assert endless.finished == 0


def test_the_device_is_idle_before_memory_goes() -> None:
    driver = Driver(1 << 30)
    pool = driver.pool()
    pool.allocate(1024)
    driver.finish = lambda: order.append("idle")  # type: ignore[method-assign]
    order: list[str] = []
    pool._finish = driver.finish
    Raw.meanwhile = lambda: order.append("gone")
    pool.trim()
    assert order == ["idle", "gone"]
    pool.trim()
    assert order == ["idle", "gone"]  # nothing to give, nothing to wait for


def test_buffers_that_die_inside_the_pool_are_not_lost() -> None:
    """A garbage collection may run between any two steps of a method."""
    driver = Driver(1 << 20)
    pool = driver.pool()
    dying = [pool.allocate(5000), pool.allocate(1024), pool.allocate(300)]
    pool.allocate(2048)
    Raw.meanwhile = dying.clear
    pool.trim()
    assert not dying
    assert pool.in_use_bytes == 0
    assert pool.held_bytes == driver.held()
    pool.trim()
    assert pool.held_bytes == driver.held() == 0


def test_a_finalizer_waits_for_no_lock() -> None:
    driver = Driver(1 << 20)
    pool = driver.pool()
    buffer = pool.allocate(1024)
    inside, leave = threading.Event(), threading.Event()

    def finish() -> None:
        inside.set()
        assert leave.wait(30)

    pool.allocate(2048)
    pool._finish = finish
    trimming = threading.Thread(target=pool.trim)
    trimming.start()
    assert inside.wait(30)
    freeing = threading.Thread(target=lambda box: box.clear(), args=([buffer],))
    del buffer
    freeing.start()
    freeing.join(10)
    stuck = freeing.is_alive()
    leave.set()
    trimming.join()
    freeing.join()
    assert not stuck
    assert pool.allocate(1024).nbytes == 1024
    assert driver.made == 2


def test_a_finalizer_inside_a_method_of_the_pool_sorts_nothing() -> None:
    """As a garbage collection may run one where a method has read a list and not yet changed it."""
    driver = Driver(16 << 20)
    pool = driver.pool()
    buffer = pool.allocate(2 << 20)
    with pool._lock:
        del buffer
        assert len(pool._dead) == 1
    assert pool.in_use_bytes == 0
    buffer = pool.allocate(2 << 20)
    del buffer
    assert not pool._dead  # it is large: sorted at once
    assert driver.made == 1


def test_a_loan_stays_together_until_others_need_it() -> None:
    driver = Driver(4096)
    pool = driver.pool()
    sizes = [1024, 256, 1024]
    first = pool.borrow(sizes)
    pool.restore()
    assert pool.borrow(sizes) == first
    assert pool.in_use_bytes == 2304
    pool.restore()
    assert pool.in_use_bytes == 0
    other = pool.allocate(1024)
    assert other.raw in first
    again = pool.borrow(sizes)
    assert other.raw not in again
    assert (driver.made, pool.in_use_bytes) == (4, 3328)
    pool.restore()
    del other
    assert pool.borrow([256, 256])[0] is first[1]
    pool.restore()
    gc.collect()
    assert pool.in_use_bytes == 0
    assert pool.trim() == pool.held_bytes + sum(raw.size for raw in driver.raws)


def test_threads() -> None:
    driver = Driver(1 << 30)
    pool = driver.pool()

    def work(seed: int) -> None:
        kept = []
        for i in range(2000):
            kept.append(pool.allocate(256 * (1 + (seed * i) % 40)))
            if len(kept) > 5:
                del kept[i % 5]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    pool.trim()
    assert pool.in_use_bytes == 0
    assert pool.held_bytes == driver.held() == 0


def test_out_of_memory_on_a_device_loses_nothing(one_cl_device: Any) -> None:
    device = one_cl_device
    x = sg.Tensor(np.ones(1000))
    sg.synchronize()
    gc.collect()
    device.pool.trim()  # or the memory of an earlier test is room enough
    cap = device.memory_stats()["in_use_bytes"] + (1 << 20)
    with settings.override(memory_cap=cap):
        y = x.reshape(1000, 1) * x.reshape(1, 1000)
        with pytest.raises(sg.OutOfMemory, match=r"no room for .* bytes; the pool holds .*free"):
            y.realize()
        assert x.sum().item() == 1000
    np.testing.assert_array_equal(y.numpy(), np.ones((1000, 1000)))  # the graph is still whole
    with pytest.raises(MemoryError):
        sg.ones((1 << 40,)).realize()


_LOOKS = {
    code for name, code in dis.opmap.items()
    if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE"))
}  # fmt: skip
"""After these Python runs the handlers of signals."""


class _Interrupt:
    """Raises what Ctrl-C does at the n-th place of the pool's code where Python looks for it."""

    def __init__(self, n: int) -> None:
        self.left, self.before = n, -1

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if frame.f_code.co_filename != pools.__file__ or frame.f_code.co_name == "__del__":
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            before, self.before = self.before, frame.f_code.co_code[frame.f_lasti]
            self.left -= before in _LOOKS
            if not self.left:
                raise KeyboardInterrupt
        return self


def test_ctrl_c_anywhere_loses_no_memory() -> None:
    pool = Driver(1 << 24).pool()
    sizes, tracer = [256, 512, 256], sys.gettrace()
    for n in range(1, 1000):
        interrupt = _Interrupt(n)
        held: Any = None
        try:
            sys.settrace(interrupt)
            held = pool.allocate(1000), pool.allocate_all(sizes)
            for _ in range(2):
                pool.borrow(sizes)
                pool.restore()
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracer)
        del held
        pool.borrow(sizes if n % 3 else ())
        pool.restore()
        assert pool.in_use_bytes == 0
        free = sum(size * len(raws) for size, raws in pool._free.items())
        assert pool.held_bytes == free + sum(size for _, size in pool._lent)
        if n % 2:
            pool.trim()  # the next goes to the driver
            assert not pool._lent
        if interrupt.left > 0:
            break
    assert 50 < n < 999
