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
_ALIGNED = 64
"""Bytes: a cache line, and the longest vector."""


class Block:
    """Memory of the host with a buffer of the driver's over it; goes back to its inbox."""

    __slots__ = ("__weakref__", "_inbox", "_memory", "_since", "nbytes", "raw")

    def __init__(self, inbox: Inbox, memory: Any, raw: Any) -> None:
        self._inbox, self._memory, self.raw, self.nbytes = inbox, memory, raw, memory.nbytes
        self._since = inbox.enqueued()

    def __del__(self) -> None:
        self._inbox.take_back(self._memory, self.raw, self._since)


class Inbox:
    """The blocks of one device, counted in its pool as held and in use while they live.

    `create` makes the driver's buffer over an array of bytes. `enqueued` counts the commands so
    far, `done` those that are known to have ended; `look` asks for a later answer, and returns
    whether it got one, which it waits for if told to.
    """

    def __init__(
        self, pool: Pool, create: Callable[[Any], Any], enqueued: Callable[[], int],
        done: Callable[[], int], look: Callable[[bool], bool],
    ) -> None:  # fmt: skip
        self._pool, self._create = pool, create
        self.enqueued, self._done, self._look = enqueued, done, look
        self._dead: deque[tuple[int, bool, Any, Any]] = deque()
        """Oldest first: the commands enqueued before a block died, and whether any since it was
        written; its memory, and the driver's buffer."""
        self._free: dict[int, list[tuple[Any, Any]]] = {}
        self._free_bytes = self._written = 0

    def put(self, array: Any, dtype: Any) -> Block:
        """Return a block with a copy of an array in a NumPy dtype; one caller at a time."""
        nbytes = array.size * dtype.itemsize
        size = size_class(nbytes)
        self._written += size
        if self._written > _OFTEN and self._look(self._written > _MOST_WAITING):
            self._written = 0
        if self._dead:
            self._sort()
        free = self._free.get(size)
        if free:
            memory, raw = free.pop()
            self._free_bytes -= size
        else:
            memory = _aligned(size)
            raw = self._create(memory)
        np.copyto(memory[:nbytes].view(dtype).reshape(array.shape), array, casting="unsafe")
        self._pool.count_in(size)
        return Block(self, memory, raw)

    def take_back(self, memory: Any, raw: Any, since: int) -> None:
        """Take what a dead block held; waits for nothing, since it runs in finalizers."""
        before = self.enqueued()
        self._dead.append((before, before != since, memory, raw))
        self._pool.count_out(memory.nbytes)

    def _sort(self) -> None:
        """Let memory be free that no command can read any more."""
        done, dead = self._done(), self._dead
        while dead and (dead[0][0] <= done or not dead[0][1]):
            _, _, memory, raw = dead.popleft()
            if self._free_bytes < _MOST_FREE:
                self._free.setdefault(memory.nbytes, []).append((memory, raw))
                self._free_bytes += memory.nbytes


def _aligned(nbytes: int) -> Any:
    memory = np.empty(nbytes + _ALIGNED, np.uint8)
    first = -memory.ctypes.data % _ALIGNED
    return memory[first : first + nbytes]
