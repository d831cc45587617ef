"""Small host data on devices that work in the host's memory: written where kernels read it.

A copy through the queue costs several times what its bytes do: a command, an event, a thread of the
driver that wakes. Here the host writes into memory of its own, over which the driver has a buffer,
and nothing is enqueued. A block is written again only when all is done that was enqueued before its
last owner let it go, since the queue runs in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from simplegrad.runtime.pool import Pool, size_class

MOST_BYTES = 1 << 20
"""Larger data take longer to copy than to enqueue."""
_OFTEN, _MOST_WAITING = 1 << 20, 4 << 20
"""Bytes after which the device is asked how far it has come, and after which it is waited for."""
_MOST_FREE = 3 * _MOST_WAITING
"""More than can wait at a time, so that it all serves again."""
_ALIGNED = 128
"""Bytes: two cache lines, and the longest vector."""


class Block:
    """Memory of the host with a buffer of the driver's over it; goes back to its inbox."""

    __slots__ = ("__weakref__", "_inbox", "counted", "memory", "nbytes", "raw", "since")

    def __init__(self, inbox: Inbox, nbytes: int) -> None:
        self.memory: Any = None
        self.raw: Any = None
        """An array of bytes, and the driver's buffer over it, put here by the inbox."""
        self.since = -1
        """The commands that were enqueued before it was written; unknown: -1."""
        self.counted = False
        """Whether the pool counts it as in use."""
        self.nbytes, self._inbox = nbytes, inbox

    def __del__(self) -> None:
        try:
            if self.memory is not None:
                self._inbox.take_back(self.memory, self.raw, self.since, self.counted)
        except AttributeError:
            return  # Ctrl-C came before __init__


class Inbox:
    """The blocks of one device, counted in its pool; used under the device's lock.

    `create` makes the driver's buffer over an array of bytes, and raises one of `failures` where it
    cannot. `enqueued` counts the commands so far, `done` those that are known to have ended; `look`
    asks for a later answer, and returns whether it got one, which it waits for if told to.
    """

    def __init__(
        self, pool: Pool, create: Callable[[Any], Any], failures: tuple[type[BaseException], ...],
        enqueued: Callable[[], int], done: Callable[[], int], look: Callable[[bool], bool],
    ) -> None:  # fmt: skip
        self._pool, self._create, self._failures = pool, create, failures
        self._enqueued, self._done, self._look = enqueued, done, look
        self._dead: deque[tuple[int, bool, Any, Any]] = deque()
        """Oldest first: the commands enqueued before a block died, and whether any since it was
        written; its memory, and the driver's buffer."""
        self._free: dict[int, list[tuple[Any, Any]]] = {}
        self._free_bytes = self._written = 0

    def put(self, array: Any, dtype: Any) -> Block | None:
        """Return a block with a copy of an array in a NumPy dtype; None where there is no room."""
        nbytes = array.size * dtype.itemsize
        size = size_class(nbytes)
        self._written += size
        if self._written > _OFTEN and self._look(self._written > _MOST_WAITING):
            self._written = 0
        if self._dead:
            self.sort()
        free = self._free.get(size)
        block = Block(self, size)
        if free:
            block.memory, block.raw = free[-1]
            del free[-1]
            self._free_bytes -= size
        elif not self._make(block):
            return None
        kept = block.memory[:nbytes].view(dtype).reshape(array.shape)
        np.copyto(kept, array, casting="unsafe")
        block.since = self._enqueued()
        self._pool.count_in(block)
        return block

    def _make(self, block: Block) -> bool:
        """Give a block memory; return whether there is room."""
        size = block.nbytes
        if not self._pool.has_room(size):
            return False
        try:
            memory = np.empty(size + _ALIGNED, np.uint8)
            first = -memory.ctypes.data % _ALIGNED
            memory = memory[first : first + size]
            raw = self._create(memory)
        except self._failures:
            return False
        self._pool.hold(block, memory, raw)
        return True

    def take_back(self, memory: Any, raw: Any, since: int, counted: bool) -> None:
        """Take what a dead block had; waits for nothing, since it runs in finalizers."""
        before = self._enqueued()
        self._dead.append((before, before != since, memory, raw))
        if counted:
            self._pool.count_out(memory.nbytes)

    def sort(self, most_free: int = _MOST_FREE) -> None:
        """Let memory be free that no command can read any more; keep so many free bytes."""
        done, dead = self._done(), self._dead
        while dead and (dead[0][0] <= done or not dead[0][1]):
            _, _, memory, raw = dead[0]
            size = memory.nbytes
            own = self._free.setdefault(size, [])
            own += [(memory, raw)]
            self._free_bytes += size
            del dead[0]
        sizes = self._free.items() if self._free_bytes > most_free else ()
        for size, own in sizes:
            while own and self._free_bytes > most_free:
                self._free_bytes -= size
                self._pool.let_go(own)
