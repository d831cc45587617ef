"""Device memory by size class: what is freed is handed out again, without asking the driver.

Sizes are rounded up to one of four classes per octave, so at most a quarter is lost; from 64 KiB
on to one of sixteen, so at most a sixteenth, and there free memory of up to an eighth more serves
before the driver is asked: arrays of varying lengths find some. One in-order queue makes reuse
safe at once: whatever still reads the old content was enqueued earlier.

A buffer may die anywhere: in another thread, or by a garbage collection in the middle of a method
of its own pool. Its death therefore waits for no lock: it lands in a queue, which whoever holds
the pool's lock empties. Free lists are never removed once made, so that a collection between two
steps of a method finds and leaves every list in its place.

Python runs the handlers of signals, Ctrl-C among them, after calls and where loops turn. What
leaves one list and enters another does so without a call in between, so that nothing is lost.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from simplegrad.errors import OutOfMemory

_SMALLEST = 256
_COARSE = 64 << 10
"""Bytes up to which an octave has four classes."""
_LARGE, _MANY = 1 << 20, 64
"""Bytes of a dead buffer, and a number of them, that are not left for the next allocation."""
_ALWAYS_KEPT = 64 << 20
"""Bytes of free memory that are never given back unasked."""


class Buffer:
    """Memory on a device; returns to its pool when nothing refers to it any more."""

    __slots__ = ("__weakref__", "nbytes", "pool", "raw")

    def __init__(self, nbytes: int, pool: Pool) -> None:
        self.raw: Any = None
        """The driver's memory, put here by the pool."""
        self.nbytes, self.pool = nbytes, pool

    def __del__(self) -> None:
        try:
            if self.raw is not None:
                self.pool._put_back(self.raw, self.nbytes)
        except AttributeError:
            return  # Ctrl-C came before __init__


class Pool:
    """The buffers of one device; sizes in bytes.

    `create` asks the driver for memory and raises one of `failures` where there is none; `finish`
    waits until the device is idle. `cap` returns the most bytes to hold (0: no bound); half of it
    is the most that stays here free. `largest` is the driver's largest buffer (0: no bound).
    """

    def __init__(
        self,
        create: Callable[[int], Any],
        finish: Callable[[], None],
        failures: tuple[type[BaseException], ...],
        cap: Callable[[], int],
        largest: int = 0,
    ) -> None:
        self._create, self._finish, self._failures, self._cap = create, finish, failures, cap
        self._largest = largest
        self._free: dict[int, list[Any]] = {}
        self._dead: deque[tuple[Any, int]] = deque()
        """Memory and its bytes; None: memory that lived elsewhere."""
        self._lent: list[tuple[Any, int]] = []
        """What `borrow` gave: it stays together, for the next one, until others need it."""
        self._out = False
        """Whether `restore` has not taken it back."""
        self._loan: tuple[Sequence[int] | None, int] = (None, 0)
        """The sizes that it was given for, and its bytes, once it is whole."""
        self._lock = threading.RLock()
        self.held_bytes = self._used = self.peak_bytes = 0
        self.spare: Callable[[], None] = lambda: None
        """Lets go of free memory that lives elsewhere, before `OutOfMemory`."""

    @property
    def in_use_bytes(self) -> int:
        """Bytes of buffers that live."""
        with self._lock:
            self._settle()
            return self._used

    def allocate(self, nbytes: int) -> Buffer:
        """Return a buffer of at least `nbytes`; raises `OutOfMemory` after trim and retry."""
        return self._take_or_trim(self.size_class(nbytes))

    def size_class(self, nbytes: int) -> int:
        """Return the bytes that a buffer of `nbytes` takes: its class, or the driver's largest."""
        size = size_class(nbytes)
        return self._largest if size > self._largest >= nbytes else size

    def allocate_all(self, sizes: Sequence[int]) -> list[Buffer]:
        """Return a buffer for each of some sizes that `size_class` gave, as `allocate` does."""
        buffers: list[Buffer] = []
        with self._lock:
            if self._dead:
                self._settle()
            free = self._free
            for size in sizes:
                raws = free.get(size)
                if not raws:
                    if self._lent:
                        self._scatter()
                        raws = free.get(size)
                    if not raws:
                        break
                buffer = Buffer(size, self)
                buffer.raw = raws[-1]
                del raws[-1]
                self._used += size
                buffers += [buffer]
            if self._used > self.peak_bytes:
                self.peak_bytes = self._used
        return [*buffers, *[self.allocate(size) for size in sizes[len(buffers) :]]]

    def borrow(self, sizes: Sequence[int]) -> list[Any]:
        """Return memory for a moment, as the driver's own objects, one loan at a time.

        It is lent until `restore`. The same `sizes` (one object) get the same as before, if nobody
        needed it in between. Raises `OutOfMemory` as `allocate` does.
        """
        lent = self._lent
        with self._lock:
            if self._out:  # to a run that Ctrl-C ended
                self.restore()
            if self._loan[0] is sizes:
                self._used += self._loan[1]
                self._out = True
            else:
                self._lend(sizes)
            if self._used > self.peak_bytes:
                self.peak_bytes = self._used
        for size in sizes[len(lent) :]:
            buffer = self._take_or_trim(size)
            lent += [(buffer.raw, buffer.nbytes)]
            buffer.raw = None
        if self._loan[0] is not sizes:
            self._loan = (sizes, sum([size for _, size in lent]))
        return [raw for raw, _ in lent]

    def _lend(self, sizes: Sequence[int]) -> None:
        """Lend what there is of some sizes, up to the first that is missing; the lock is held."""
        self._settle()
        self._scatter()
        lent, free = self._lent, self._free
        self._loan, self._out = (None, 0), True
        for size in sizes:
            own = free.get(size)
            if not own:
                break
            lent += [(own[-1], size)]
            del own[-1]
            self._used += size

    def restore(self) -> None:
        """Take back what `borrow` gave."""
        with self._lock:
            if self._out:
                whole = self._loan[0] is not None
                nbytes = self._loan[1] if whole else sum([size for _, size in self._lent])
                self._used -= nbytes
                self._out = False
            self._bound()

    def _scatter(self) -> None:
        """Sort the last loan into the free lists, unless it is out; the lock is held."""
        lent = self._lent
        if lent and not self._out:
            self._loan = (None, 0)
            while lent:  # the next loan gets the same, in the same order
                own = self._free.setdefault(lent[-1][1], [])
                own += [lent[-1][0]]
                del lent[-1]

    # Memory that lives elsewhere (`runtime.inbox`) --------------------------------------------

    def has_room(self, nbytes: int) -> bool:
        """Return whether the cap leaves room for so many bytes more."""
        cap = self._cap()
        return not cap or self.held_bytes + nbytes <= cap

    def hold(self, block: Any, memory: Any, raw: Any) -> None:
        """Give a block memory that lives elsewhere, and count it as held."""
        with self._lock:
            block.memory, block.raw = memory, raw
            self.held_bytes += block.nbytes

    def let_go(self, free: list[tuple[Any, Any]]) -> None:
        """Drop the last of some memory that `hold` counted, and the driver's buffer over it."""
        with self._lock:
            memory, raw = free[-1]
            nbytes = memory.nbytes
            del free[-1]
            self.held_bytes -= nbytes
        raw.release()  # a plan that read it last still names it

    def count_in(self, block: Any) -> None:
        """Count held memory that lives elsewhere as in use."""
        with self._lock:
            if self._dead:
                self._settle()
            self._used += block.nbytes
            block.counted = True
            if self._used > self.peak_bytes:
                self.peak_bytes = self._used

    def count_out(self, nbytes: int) -> None:
        """Count memory that `count_in` was told of no more; waits for nothing."""
        self._dead.append((None, nbytes))

    # Taking and giving back -------------------------------------------------------------------

    def _take_or_trim(self, size: int) -> Buffer:
        try:
            return self._take(size)
        except OutOfMemory:
            gc.collect()  # outside the lock: it runs finalizers, which may wait for other locks
            self.spare()
            self.trim()
            return self._take(size)

    def _take(self, size: int) -> Buffer:
        """Return a buffer of `size` bytes or somewhat more."""
        buffer = Buffer(0, self)  # owns its memory before the lock opens, where Ctrl-C may come
        with self._lock:
            if self._dead:
                self._settle()
            self._scatter()
            free = self._free.get(size)
            if not free and size > _COARSE:
                for larger in _larger(size):
                    if free := self._free.get(larger):
                        size = larger
                        break
            if free:
                buffer.raw = free[-1]
                del free[-1]
            else:
                buffer.raw = self._new(size)
                self.held_bytes += size
            buffer.nbytes = size
            self._used += size
            if self._used > self.peak_bytes:
                self.peak_bytes = self._used
        return buffer

    def _new(self, size: int) -> Any:
        cap = self._cap()
        if cap and self.held_bytes + size > cap:
            self._shed(0)
            if self.held_bytes + size > cap:
                raise self._full(size)
        try:
            return self._create(size)
        except self._failures as error:
            raise self._full(size) from error

    def _full(self, size: int) -> OutOfMemory:
        free = self.held_bytes - self._used
        return OutOfMemory(
            f"allocate: no room for {size:,} bytes; the pool holds {self.held_bytes:,} bytes, "
            f"{free:,} of them free, cap {self._cap():,} (0: none); delete tensors, work in "
            "smaller batches, or raise SIMPLEGRAD_MEMORY_CAP"
        )

    def _put_back(self, raw: Any, size: int) -> None:
        """Take the memory of a dead buffer; waits for nothing, since it runs in finalizers."""
        self._dead.append((raw, size))
        much = size >= _LARGE or len(self._dead) > _MANY  # else whoever allocates next sorts it in
        # This may be a garbage collection in the middle of a method of ours, which has the lock. A
        # lock that is not reentrant would tell, but hang where a signal's handler allocates; that
        # this one can tell (`threading.Condition` asks it, too), typeshed does not know.
        inside = self._lock._is_owned()  # type: ignore[attr-defined]
        if much and not inside and self._lock.acquire(blocking=False):
            try:
                self._settle()
                self._bound()
            finally:
                self._lock.release()

    def _bound(self) -> None:
        """Give memory back where more than half the cap is free; the lock is held."""
        free = self.held_bytes - self._used
        if free > _ALWAYS_KEPT and not sys.is_finalizing():
            most = self._cap() // 2
            if 0 < most < free:
                self._shed(most // 2)  # well below, so that the next few cost nothing

    def _settle(self) -> None:
        """Sort the memory of dead buffers into the free lists; the lock is held."""
        while self._dead:
            raw, size = self._dead[0]
            if raw is not None:
                own = self._free.setdefault(size, [])
                own += [raw]
            self._used -= size
            del self._dead[0]

    def trim(self) -> int:
        """Give all free memory back to the driver; return how many bytes that was."""
        with self._lock:
            self._settle()
            return self._shed(0)

    def _shed(self, keep: int) -> int:
        """Give memory back, the largest pieces first, until `keep` free bytes are left."""
        self._scatter()
        freed = 0
        excess = self.held_bytes - self._used - keep
        if excess > 0:
            self._finish()  # PoCL takes memory away from kernels that still wait
        for size in sorted(self._free, reverse=True):
            raws = self._free[size]
            while raws and freed < excess:
                raw = raws[-1]
                del raws[-1]
                self.held_bytes -= size
                freed += size
                raw.release()
        return freed

    def after_fork(self) -> None:
        """Make a forked child's copy harmless: another thread's lock would never open there."""
        self._lock = threading.RLock()


def size_class(nbytes: int) -> int:
    """Return the class of a size: the next of four or sixteen steps between powers of two.

    >>> size_class(1000), size_class(1025), size_class(1_000_000)
    (1024, 1280, 1015808)
    """
    if nbytes <= _SMALLEST:
        return _SMALLEST
    step = 1 << ((nbytes - 1).bit_length() - (3 if nbytes <= _COARSE else 5))
    return -(-nbytes // step) * step


@functools.lru_cache(4096)
def _larger(size: int) -> tuple[int, ...]:
    """Return the classes above one that are at most an eighth larger."""
    found = []
    larger = size_class(size + 1)
    while larger <= size + size // 8:
        found.append(larger)
        larger = size_class(larger + 1)
    return tuple(found)
