"""Device memory by size class: what is freed is handed out again, without asking the driver.

Sizes are rounded up to one of four classes per octave, so at most a quarter is lost. One in-order
queue makes reuse safe at once: whatever still reads the old content was enqueued earlier.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

from simplegrad.errors import OutOfMemory

_SMALLEST = 256


class Buffer:
    """Memory on a device; returns to its pool when nothing refers to it any more."""

    __slots__ = ("__weakref__", "nbytes", "pool", "raw")

    def __init__(self, raw: Any, nbytes: int, pool: Pool) -> None:
        self.raw, self.nbytes, self.pool = raw, nbytes, pool

    def __del__(self) -> None:
        self.pool._put_back(self.raw, self.nbytes)


class Pool:
    """The buffers of one device; sizes in bytes."""

    def __init__(
        self,
        create: Callable[[int], Any],
        finish: Callable[[], None],
        failures: tuple[type[BaseException], ...],
        cap: Callable[[], int],
    ) -> None:
        self._create, self._finish, self._failures, self._cap = create, finish, failures, cap
        self._free: dict[int, list[Any]] = {}
        self._lock = threading.RLock()  # re-entrant: collection may run a __del__ inside
        self.held_bytes = self.in_use_bytes = self.peak_bytes = 0

    def allocate(self, nbytes: int) -> Buffer:
        """Return a buffer of at least `nbytes`; raises `OutOfMemory` after trim and retry."""
        size = size_class(nbytes)
        with self._lock:
            free = self._free.get(size)
            raw = free.pop() if free else None
            if raw is None:
                raw = self._new(size)
            self.in_use_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.in_use_bytes)
        return Buffer(raw, size, self)

    def _new(self, size: int) -> Any:
        cap = self._cap()
        if cap and self.held_bytes + size > cap:
            self.trim()
        if not cap or self.held_bytes + size <= cap:
            try:
                return self._created(size)
            except self._failures:
                gc.collect()
                self.trim()
            try:
                return self._created(size)
            except self._failures as error:
                raise self._full(size) from error
        raise self._full(size)

    def _created(self, size: int) -> Any:
        raw = self._create(size)
        self.held_bytes += size
        return raw

    def _full(self, size: int) -> OutOfMemory:
        free = self.held_bytes - self.in_use_bytes
        return OutOfMemory(
            f"allocate: no room for {size:,} bytes; the pool holds {self.held_bytes:,} bytes, "
            f"{free:,} of them free, cap {self._cap():,} (0: none); delete tensors, work in "
            "smaller batches, or raise SIMPLEGRAD_MEMORY_CAP"
        )

    def _put_back(self, raw: Any, size: int) -> None:
        with self._lock:
            self._free.setdefault(size, []).append(raw)
            self.in_use_bytes -= size

    def trim(self) -> int:
        """Give all free memory back to the driver; return how many bytes that was."""
        with self._lock:
            self._finish()
            freed = sum(size * len(raws) for size, raws in self._free.items())
            for raws in self._free.values():
                for raw in raws:
                    raw.release()
            self._free.clear()
            self.held_bytes -= freed
            return freed


def size_class(nbytes: int) -> int:
    """Return the class of a size: the next of four steps between powers of two.

    >>> size_class(1000), size_class(1025)
    (1024, 1280)
    """
    if nbytes <= _SMALLEST:
        return _SMALLEST
    step = 1 << ((nbytes - 1).bit_length() - 3)
    return -(-nbytes // step) * step
