"""The OpenCL device: one context, one in-order queue, a pool, and compiled programs."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import Any, NoReturn

import numpy as np

from simplegrad import dtypes, settings
from simplegrad.compiler.render.assemble import Source
from simplegrad.compiler.target import Winner
from simplegrad.dtypes import DType
from simplegrad.errors import DeviceError, DTypeNotSupported, OutOfMemory
from simplegrad.runtime import inbox, probe
from simplegrad.runtime.device import Device, Limits
from simplegrad.runtime.inbox import Block, Inbox
from simplegrad.runtime.numpy_device import is_plain
from simplegrad.runtime.pool import Buffer, Pool
from simplegrad.runtime.programs import Program, Programs

_MOST_AHEAD = 512
"""Launches between two markers. Drivers keep memory for every launch that waits, so a loop that
reads nothing must not run ahead for ever; at most twice as many wait, or two plans' launches."""
_MAX_STAGED_BYTES = 64 << 20
"""Most bytes of host data that wait for the device to fetch them."""


class _Mapping:
    """A buffer mapped into the host's memory, once for all arrays over it.

    PoCL 3.0 loses its list of mappings when threads map and unmap one buffer at the same time, so
    that is done under the device's lock. A death waits for no lock: whoever has it next unmaps.
    """

    __slots__ = ("__weakref__", "_buffer", "_bytes", "_device", "address")

    def __init__(self, device: OpenCLDevice, buffer: Any) -> None:
        cl, flags = device._cl, device._cl.map_flags
        self._device, self._buffer = device, buffer
        self._bytes, self.address = None, 0
        self._bytes, _ = cl.enqueue_map_buffer(
            device.queue, buffer.raw, flags.READ | flags.WRITE, 0, (buffer.nbytes,), np.uint8,
            is_blocking=False,
        )  # fmt: skip
        self.address = self._bytes.ctypes.data

    def __del__(self) -> None:
        # The buffer lives until it is unmapped: only then may the pool hand it out again.
        self._device._dead_maps.append((self._bytes, self._buffer))
        self._bytes = self._buffer = None
        self._device.unmap(blocking=False)


class _Mapped:
    """What `numpy.asarray` takes to be an array over a mapping, which lives as long."""

    def __init__(
        self, mapping: _Mapping, dtype: DType, shape: tuple[int, ...], writable: bool
    ) -> None:
        self._mapping = mapping
        self.__array_interface__ = {
            "version": 3, "shape": shape, "typestr": dtype.numpy.str,
            "data": (mapping.address, not writable),
        }  # fmt: skip


class _HostBuffer:
    """A buffer over memory that belongs to a NumPy array, which lives as long."""

    __slots__ = ("__weakref__", "_array", "_finish", "_process", "nbytes", "raw")

    def __init__(self, device: OpenCLDevice, array: Any) -> None:
        # Through its address, since the driver asks for memory that may be written.
        self.raw = device._over((ctypes.c_char * array.nbytes).from_address(array.ctypes.data))
        self._array, self.nbytes = array, array.nbytes
        self._finish, self._process = device.queue.finish, os.getpid()

    def __del__(self) -> None:
        # Kernels that still wait read this memory, which its owner may free or write now.
        if self._process == os.getpid():
            self._finish()


class OpenCLDevice(Device):
    """One device of one OpenCL driver."""

    def __init__(self, cl: Any, raw: Any, name: str) -> None:
        self._cl, self.raw, self.name = cl, raw, name
        self.kind = "gpu" if raw.type & cl.device_type.GPU else "cpu"
        self.context = cl.Context([raw])
        self.queue = cl.CommandQueue(self.context)
        self._enqueue = cl.enqueue_nd_range_kernel
        self._timed_queue: Any = None
        self.lock = threading.RLock()
        self._maps: weakref.WeakValueDictionary[int, _Mapping] = weakref.WeakValueDictionary()
        """By the buffer's number; a mapping holds its buffer, whose number stays its own."""
        self._dead_maps: deque[tuple[Any, Any]] = deque()
        self._process = os.getpid()
        self.verdicts: dict[str, bool] = {}
        """Whether a template passed its self-test here; see `selftest`."""
        self.tuned: frozenset[Winner] | None = None
        """What tuning found here, None before it was looked for; see `tuner`."""
        self.untunable: set[str] = set()
        """Classes of shapes that could not be measured."""
        parts = (raw.platform.name, raw.platform.version, raw.name, raw.driver_version)
        self.identity = "|".join(str(p).strip() for p in parts)
        self.programs = Programs(cl, self.context, name, self.identity)
        failures = (cl.MemoryError, cl.RuntimeError, cl.LogicError, MemoryError)
        self._staged: deque[tuple[Any, int]] = deque()
        self._staged_bytes = 0
        self._enqueued = self._done = self._marked = 0
        """Commands so far: enqueued, known to have ended, and enqueued before the last marker."""
        self._marker: Any = None
        self.limits = self._limits()
        self.pool = Pool(
            self._create, self.queue.finish, failures, self._cap, self.limits.max_alloc_bytes
        )
        self._inbox = Inbox(
            self.pool, self._over, failures, lambda: self._enqueued, lambda: self._done, self._look
        )
        self.pool.spare = self._spare
        # Kernels may read the host's memory to their end, which is not Python's.
        weakref.finalize(self, _finish, self.queue, self._process)
        if hasattr(os, "register_at_fork"):
            _watch_forks(self)

    def __repr__(self) -> str:
        return f"<device {self.name}: {self.raw.name.strip()}>"

    def _limits(self) -> Limits:
        raw = self.raw
        width = raw.native_vector_width_float or raw.preferred_vector_width_float
        can = probe.capabilities(self._cl, raw, self.context, self.queue, self.identity)
        vector_bytes = probe.vector_bytes(raw)
        return Limits(
            max_parameter_bytes=raw.max_parameter_size,
            max_work_group=raw.max_work_group_size,
            local_bytes=raw.local_mem_size,
            compute_units=raw.max_compute_units,
            max_alloc_bytes=raw.max_mem_alloc_size,
            global_bytes=raw.global_mem_size,
            vector_width=min(max(int(width), 4), vector_bytes // 4) if self.kind == "cpu" else 4,
            vector_bytes=vector_bytes,
            fp64=can.fp64,
            fp16=can.fp16,
            subgroups=can.subgroups,
            prefetch=can.prefetch,
            differences=can.differences,
            host_memory=can.host_memory,
            mma="ptx" if can.mma else "",
        )

    # Memory -------------------------------------------------------------------------------------

    def _create(self, nbytes: int) -> Any:
        return self._cl.Buffer(self.context, self._cl.mem_flags.READ_WRITE, nbytes)

    def _over(self, memory: Any) -> Any:
        """Return the driver's buffer over memory of the host's, which has to live as long."""
        # Kernels only read operands, but Intel's runtime copies long arrays that are READ_ONLY.
        flags = self._cl.mem_flags
        return self._cl.Buffer(self.context, flags.READ_WRITE | flags.USE_HOST_PTR, hostbuf=memory)

    def _cap(self) -> int:
        return settings.current().memory_cap or self.limits.global_bytes

    def allocate(self, nbytes: int) -> Buffer:
        """Return a buffer of at least `nbytes` bytes; raises `OutOfMemory`."""
        return self.pool.allocate(self.size_class(nbytes))

    def size_class(self, nbytes: int) -> int:
        """Return the bytes that a buffer of `nbytes` takes; raises `OutOfMemory` if too many."""
        if nbytes > self.limits.max_alloc_bytes:
            raise OutOfMemory(
                f"allocate: {nbytes:,} bytes in one array, but {self.name} allows "
                f"{self.limits.max_alloc_bytes:,}; split the array"
            )
        return self.pool.size_class(nbytes)

    def allocate_all(self, sizes: Sequence[int]) -> list[Buffer]:
        """Return a buffer for each of some sizes that `size_class` gave; raises `OutOfMemory`."""
        return self.pool.allocate_all(sizes)

    def borrow(self, sizes: Sequence[int]) -> list[Any]:
        """Return memory for the launches of one plan; see `Pool.borrow`."""
        return self.pool.borrow(sizes)

    def restore(self) -> None:
        """Take back what `borrow` gave, once the launches are enqueued."""
        self.pool.restore()

    def from_host(self, array: Any, dtype: DType) -> Buffer | Block:
        """Return a buffer with a copy of a contiguous NumPy array, converted to `dtype`."""
        if dtype is dtypes.float64 and not self.limits.fp64:
            raise DTypeNotSupported(
                f"from_host: {self.name} has no float64; use float32 or another device"
            )
        if self.limits.host_memory and 0 < array.size * dtype.itemsize <= inbox.MOST_BYTES:
            narrow = dtype is dtypes.bfloat16
            with self.lock:
                block = (
                    self._inbox.put(to_storage(array, dtype), np.dtype(np.uint16))
                    if narrow
                    else self._inbox.put(array, dtype.numpy)
                )
            if block is not None:
                return block
        stored = np.atleast_1d(to_storage(array, dtype))
        buffer = self.allocate(stored.nbytes)
        shared = stored is array or np.may_share_memory(stored, array)
        # Where the host copies, once more costs more than to wait.
        waits = (shared and self.limits.host_memory) or stored.nbytes > _MAX_STAGED_BYTES
        if stored.nbytes and not waits:
            self._stage(buffer, stored.copy() if shared else stored)
        elif stored.nbytes:
            self._cl.enqueue_copy(self.queue, buffer.raw, stored, is_blocking=True)
        return buffer

    def _stage(self, buffer: Buffer, private: Any) -> None:
        """Enqueue a copy of host data that nobody else writes, and go on.

        A blocking copy would wait for every kernel before it in the queue. An event keeps its
        data alive and waits for it when it dies, so events are let go only once they are done.
        """
        with self.lock:
            event = self._cl.enqueue_copy(self.queue, buffer.raw, private, is_blocking=False)
            self._staged.append((event, private.nbytes))
            self._staged_bytes += private.nbytes
            done = self._cl.command_execution_status.COMPLETE
            while self._staged:
                oldest, nbytes = self._staged[0]
                if self._staged_bytes > _MAX_STAGED_BYTES:
                    oldest.wait()
                elif oldest.command_execution_status > done:
                    break
                self._staged.popleft()
                self._staged_bytes -= nbytes

    def to_host(self, buffer: Buffer, dtype: DType, shape: tuple[int, ...]) -> Any:
        """Return a NumPy copy of a buffer (bfloat16 as float32), once all work before is done."""
        host = np.empty(shape, np.uint16 if dtype is dtypes.bfloat16 else dtype.numpy)
        if host.nbytes:
            with self.lock:
                before = self._enqueued
                event = self._cl.enqueue_copy(self.queue, host, buffer.raw, is_blocking=False)
            event.wait()
            self._ended(before)
        if dtype is dtypes.bfloat16:
            return np.asarray(host.astype(np.uint32) << 16).view(np.float32)
        return host

    def share(
        self, buffer: Any, dtype: DType, shape: tuple[int, ...], writable: bool = False
    ) -> Any:
        """Return a NumPy array over a buffer's own memory, once all work before is done.

        None where the device has memory of its own, and for bfloat16, which NumPy lacks. The memory
        is mapped as long as the array or a view of it lives.
        """
        if not self.limits.host_memory or dtype is dtypes.bfloat16:
            return None
        if 0 in shape:
            return np.broadcast_to(np.zeros((), dtype.numpy), shape)
        with self.lock:
            self.unmap()
            mapping = self._maps.get(id(buffer))
            if mapping is None:
                mapping = self._maps[id(buffer)] = _Mapping(self, buffer)
        self.synchronize()
        return np.asarray(_Mapped(mapping, dtype, shape, writable))

    def unmap(self, blocking: bool = True) -> None:
        """Unmap what no array is over any more; unless `blocking`, only if no other thread works.

        A forked child leaves everything to its parent.
        """
        if not self._dead_maps or self._process != os.getpid():
            return
        if self.lock.acquire(blocking):
            try:
                while self._dead_maps:
                    mapped, buffer = self._dead_maps.popleft()
                    self._enqueued += 1
                    del mapped  # unmaps
                    del buffer
            finally:
                self.lock.release()

    def adopt(self, array: Any, dtype: DType) -> Any:
        """Return a buffer over the memory of a NumPy array, which nobody may write from now on.

        None where the device has memory of its own, or the array's is not what a buffer holds.
        """
        limits = self.limits
        usable = limits.host_memory and 0 < array.nbytes <= limits.max_alloc_bytes
        known = limits.fp64 or dtype is not dtypes.float64
        if not (usable and known and is_plain(array, dtype)):
            return None
        return _HostBuffer(self, array)

    def memory_stats(self) -> dict[str, int]:
        """Return ``in_use_bytes``, ``held_bytes`` and ``peak_bytes``."""
        self.unmap()
        with self.lock:
            self._inbox.sort()
        pool = self.pool
        return {
            "in_use_bytes": pool.in_use_bytes,
            "held_bytes": pool.held_bytes,
            "peak_bytes": pool.peak_bytes,
        }

    # Programs -----------------------------------------------------------------------------------

    def compile(self, text: str, options: tuple[str, ...] = ()) -> Program:
        """Return a program, from memory, disk or the driver; raises `BuildError`."""
        return self.programs.compile(text, options)

    def compile_all(self, sources: Sequence[Source]) -> list[Program]:
        """Return a program for each source; what has to be built is built together."""
        return self.programs.compile_all(sources)

    # Running ------------------------------------------------------------------------------------

    def launch(
        self, kernel: Any, global_size: tuple[int, ...], local_size: tuple[int, ...] | None
    ) -> None:
        """Enqueue a kernel whose arguments are set."""
        with self.lock:
            self._enqueued += 1
            self._enqueue(self.queue, kernel, global_size, local_size)

    def launch_all(
        self, kernels: Sequence[Any], global_sizes: Sequence[Any], local_sizes: Sequence[Any],
        then: Iterable[Any] = (),
    ) -> None:  # fmt: skip
        """Enqueue several kernels in order, then go through `then`.

        No bytecode runs in between, hence no signal handler: Ctrl-C comes before all or after all.
        """
        if self._enqueued - self._marked > _MOST_AHEAD:
            self._wait_for_the_last_but_one()
        self._enqueued += len(kernels)
        queues = repeat(self.queue)
        enqueued = map(self._enqueue, queues, kernels, global_sizes, local_sizes)
        deque(chain(enqueued, then), maxlen=0)

    def _wait_for_the_last_but_one(self) -> None:
        """Put a marker into the queue, and wait for the one before it: the device is never idle."""
        before, self._marker = self._marker, self._cl.enqueue_marker(self.queue)
        marked, self._marked = self._marked, self._enqueued
        if before is not None:
            before.wait()
            self._ended(marked)

    def _look(self, wait: bool) -> bool:
        """Return whether the last marker is reached, or wait for it; then put in another."""
        if self._marker is not None:
            complete = self._cl.command_execution_status.COMPLETE
            if wait:
                self._marker.wait()
            elif self._marker.command_execution_status > complete:
                return False
            self._ended(self._marked)
        self._marked, self._marker = self._enqueued, self._cl.enqueue_marker(self.queue)
        return True

    def _ended(self, commands: int) -> None:
        """Take note that so many commands, the first ones, have ended."""
        with self.lock:
            self._done = max(self._done, commands)
            self._inbox.sort()

    def _spare(self) -> None:
        """Give the inbox's free memory back."""
        self.synchronize()
        with self.lock:
            self._inbox.sort(0)

    def launch_timed(
        self, kernel: Any, global_size: tuple[int, ...], local_size: tuple[int, ...] | None
    ) -> tuple[int, int]:
        """Run a kernel to its end; return when it began and ended, in the device's nanoseconds."""
        if self._timed_queue is None:
            properties = self._cl.command_queue_properties.PROFILING_ENABLE
            self._timed_queue = self._cl.CommandQueue(self.context, properties=properties)
        self.queue.finish()
        event = self._cl.enqueue_nd_range_kernel(self._timed_queue, kernel, global_size, local_size)
        event.wait()
        return event.profile.start, event.profile.end

    def synchronize(self) -> None:
        """Wait until everything enqueued is done."""
        with self.lock:  # nobody is between counting and enqueuing
            before = self._enqueued
        self.queue.finish()
        self._ended(before)

    def _after_fork(self) -> None:
        """Refuse everything in a forked child, where the driver's threads do not exist.

        Refusals are put over the methods, so that the parent pays nothing for the check.
        """
        self.lock = threading.RLock()
        self.pool.after_fork()
        self.programs.after_fork()
        for name in _REFUSED_AFTER_FORK:
            self.__dict__[name] = self._refuse

    def _refuse(self, *args: Any, **named: Any) -> NoReturn:
        raise DeviceError(
            f"{self.name}: an OpenCL device does not survive a fork; start workers with "
            "multiprocessing.get_context('spawn')"
        )


_REFUSED_AFTER_FORK = (
    "adopt", "allocate", "allocate_all", "borrow", "compile", "compile_all", "from_host", "launch",
    "launch_all", "launch_timed", "share", "synchronize", "to_host",
)  # fmt: skip


def _finish(queue: Any, process: int) -> None:
    if process == os.getpid():
        queue.finish()


def _watch_forks(device: OpenCLDevice) -> None:
    known = weakref.ref(device)

    def in_child() -> None:
        device = known()
        if device is not None:
            device._after_fork()

    os.register_at_fork(after_in_child=in_child)


def to_storage(array: Any, dtype: DType) -> Any:
    """Return host data in the bytes that a buffer of `dtype` holds."""
    if dtype is not dtypes.bfloat16:
        return np.asarray(array, dtype.numpy, order="C")
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)
