"""The OpenCL device: one context, one in-order queue, a pool, and compiled programs."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from simplegrad import dtypes, settings
from simplegrad.dtypes import DType
from simplegrad.errors import BuildError, DeviceError, DTypeNotSupported, OutOfMemory
from simplegrad.runtime import program_cache
from simplegrad.runtime.device import Device, Limits
from simplegrad.runtime.pool import Buffer, Pool

_MAX_PROGRAMS = 4096


class Program:
    """A built program; every call of `kernel` gives a new kernel object, with its own arguments."""

    def __init__(self, cl: Any, raw: Any) -> None:
        self._cl, self._raw = cl, raw

    def kernel(self, name: str) -> Any:
        """Return a new kernel object; ``set_arg(i, buffer.raw or NumPy scalar)`` binds it."""
        return self._cl.Kernel(self._raw, name)


class OpenCLDevice(Device):
    """One device of one OpenCL driver."""

    def __init__(self, cl: Any, raw: Any, name: str) -> None:
        self._cl, self.raw, self.name = cl, raw, name
        self.kind = "gpu" if raw.type & cl.device_type.GPU else "cpu"
        self.context = cl.Context([raw])
        self.queue = cl.CommandQueue(self.context)
        self._timed_queue: Any = None
        self.lock = threading.RLock()
        parts = (raw.platform.name, raw.platform.version, raw.name, raw.driver_version)
        self.identity = "|".join(str(p).strip() for p in parts)
        self._pid = os.getpid()
        self._programs: OrderedDict[tuple[str, tuple[str, ...]], Program] = OrderedDict()
        self._own_cache = raw.platform.name == "Portable Computing Language"
        failures = (cl.MemoryError, cl.RuntimeError, cl.LogicError, MemoryError)
        self.pool = Pool(
            self._create, self._finish, failures, lambda: settings.current().memory_cap
        )
        self.limits = self._limits()

    def _limits(self) -> Limits:
        raw = self.raw
        width = raw.native_vector_width_float or raw.preferred_vector_width_float
        fp64 = "cl_khr_fp64" in raw.extensions and self._works("double")
        return Limits(
            max_parameter_bytes=raw.max_parameter_size,
            max_work_group=raw.max_work_group_size,
            local_bytes=raw.local_mem_size,
            compute_units=raw.max_compute_units,
            max_alloc_bytes=raw.max_mem_alloc_size,
            global_bytes=raw.global_mem_size,
            vector_width=max(int(width), 4) if self.kind == "cpu" else 4,
            fp64=fp64,
        )

    def _works(self, ctype: str) -> bool:
        """Compile and run a one-line kernel of a type; remembered in the cache."""
        key = program_cache.key_of("probe", self.identity, ctype)
        known = program_cache.get("probes", key)
        if known is not None:
            return known == b"1"
        source = (
            f"__kernel void probe(__global float *y) {{ volatile {ctype} x = ({ctype})y[0];"
            f" y[0] = (float)(x * x + ({ctype})1); }}"
        )
        try:
            with self._quiet():
                program = self._cl.Program(self.context, source).build(cache_dir=False)
            memory = np.full(1, 3.0, np.float32)
            flags = self._cl.mem_flags.READ_WRITE | self._cl.mem_flags.COPY_HOST_PTR
            buffer = self._cl.Buffer(self.context, flags, hostbuf=memory)
            kernel = self._cl.Kernel(program, "probe")
            kernel.set_args(buffer)
            self._cl.enqueue_nd_range_kernel(self.queue, kernel, (1,), None)
            self._cl.enqueue_copy(self.queue, memory, buffer)
            works = bool(memory[0] == 10.0)
        except self._cl.Error:
            works = False
        program_cache.put("probes", key, b"1" if works else b"0")
        return works

    # Memory -------------------------------------------------------------------------------------

    def _create(self, nbytes: int) -> Any:
        self._check_process()
        raw = self._cl.Buffer(self.context, self._cl.mem_flags.READ_WRITE, nbytes)
        return raw

    def _finish(self) -> None:
        self.queue.finish()

    def allocate(self, nbytes: int) -> Buffer:
        """Return a buffer of at least `nbytes` bytes; raises `OutOfMemory`."""
        if nbytes > self.limits.max_alloc_bytes:
            raise OutOfMemory(
                f"allocate: {nbytes:,} bytes in one array, but {self.name} allows "
                f"{self.limits.max_alloc_bytes:,}; split the array"
            )
        return self.pool.allocate(nbytes)

    def from_host(self, array: Any, dtype: DType) -> Buffer:
        """Return a buffer with a copy of a contiguous NumPy array, converted to `dtype`."""
        if dtype is dtypes.float64 and not self.limits.fp64:
            raise DTypeNotSupported(
                f"from_host: {self.name} has no float64; use float32 or another device"
            )
        array = np.atleast_1d(to_storage(array, dtype))
        buffer = self.allocate(array.nbytes)
        if array.nbytes:
            with self.lock:
                self._cl.enqueue_copy(self.queue, buffer.raw, array, is_blocking=True)
        return buffer

    def to_host(self, buffer: Buffer, dtype: DType, shape: tuple[int, ...]) -> Any:
        """Return a NumPy copy of a buffer (bfloat16 as float32), once all work before is done."""
        host = np.empty(shape, np.uint16 if dtype is dtypes.bfloat16 else dtype.numpy)
        if host.nbytes:
            self._check_process()
            self._cl.enqueue_copy(self.queue, host, buffer.raw, is_blocking=True)
        if dtype is dtypes.bfloat16:
            return (host.astype(np.uint32) << 16).view(np.float32)
        return host

    def memory_stats(self) -> dict[str, int]:
        """Return ``in_use_bytes``, ``held_bytes`` and ``peak_bytes``."""
        pool = self.pool
        return {
            "in_use_bytes": pool.in_use_bytes,
            "held_bytes": pool.held_bytes,
            "peak_bytes": pool.peak_bytes,
        }

    # Programs -----------------------------------------------------------------------------------

    def compile(self, source: str, options: tuple[str, ...] = ()) -> Program:
        """Return a program, from memory, disk or the driver; raises `BuildError`."""
        self._check_process()
        if settings.current().fast_math:
            options = (*options, "-cl-fast-relaxed-math")
        with self.lock:
            program = self._programs.get((source, options))
            if program is None:
                raw = self._from_disk(source, options) or self._build(source, options)
                program = self._programs[(source, options)] = Program(self._cl, raw)
                if len(self._programs) > _MAX_PROGRAMS:
                    self._programs.popitem(last=False)
        return program

    def _from_disk(self, source: str, options: tuple[str, ...]) -> Any:
        if self._own_cache:  # PoCL keeps its own, and compiles twice when asked for binaries
            return None
        key = program_cache.key_of(source, *options, self.identity)
        binary = program_cache.get("programs", key)
        if binary is None:
            return None
        try:
            program = self._cl.Program(self.context, [self.raw], [binary])
            with self._quiet():
                program.build(options=list(options))
        except self._cl.Error:
            program_cache.drop("programs", key)
            return None
        program_cache.counters.disk_hits += 1
        return program

    def _build(self, source: str, options: tuple[str, ...]) -> Any:
        program_cache.counters.compiles += 1
        program = self._cl.Program(self.context, source)
        try:
            with self._quiet():
                program = program.build(options=list(options), cache_dir=False)
        except self._cl.Error as error:
            raise BuildError(_build_message(self.name, source, str(error))) from error
        if not self._own_cache:
            key = program_cache.key_of(source, *options, self.identity)
            binary = program.get_info(self._cl.program_info.BINARIES)[0]
            program_cache.put("programs", key, binary)
        return program

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Leave out build logs that hold no error: they are the driver's small talk."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self._cl.CompilerWarning)
            yield

    # Running ------------------------------------------------------------------------------------

    def launch(
        self, kernel: Any, global_size: tuple[int, ...], local_size: tuple[int, ...] | None
    ) -> None:
        """Enqueue a kernel whose arguments are set."""
        self._cl.enqueue_nd_range_kernel(self.queue, kernel, global_size, local_size)

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
        self._check_process()
        self.queue.finish()

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise DeviceError(
                f"{self.name}: an OpenCL device does not survive a fork; start workers with "
                "multiprocessing.get_context('spawn')"
            )


def to_storage(array: Any, dtype: DType) -> Any:
    """Return host data in the bytes that a buffer of `dtype` holds."""
    if dtype is not dtypes.bfloat16:
        return np.asarray(array, dtype.numpy, order="C")
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to nearest, ties to even
    return np.where(np.isnan(array), 0x7FC0, rounded).astype(np.uint16)


def _build_message(name: str, source: str, log: str) -> str:
    numbered = "\n".join(f"{i:4} {line}" for i, line in enumerate(source.splitlines(), 1))
    return f"compile: {name} refused a kernel; please report it\n{numbered}\n{log}"
