"""A plan: the compiled launches of one graph structure, ready to run again and again.

Kernels are fetched once, and an argument is set only when it differs from the last run's. The
pool hands back the buffers of the run before, so that in a loop few arguments ever change.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.compiler.pipeline import Launch, Program
from simplegrad.graph.node import Node
from simplegrad.runtime import profile
from simplegrad.runtime.device import Device


class _Kernel:
    """A kernel object and the arguments set last; plans of other shapes may share it."""

    __slots__ = ("last", "raw", "set_number", "sizes")

    def __init__(self, raw: Any, count: int) -> None:
        self.raw = raw
        self.last: list[Any] = [None] * count
        # PyOpenCL's set_arg tries every kind of memory object before a number: 16 us against 0.2.
        self.set_number = getattr(raw, "_set_arg_buf", raw.set_arg)
        self.sizes: tuple[Any, ...] = ()


class _Step:
    """One launch with its kernel."""

    __slots__ = (
        "buffers", "global_size", "kernel", "launch", "local_size", "numbers", "release", "sizes",
    )  # fmt: skip

    def __init__(self, launch: Launch, kernel: _Kernel, scalars: set[int]) -> None:
        self.launch, self.kernel = launch, kernel
        slots = list(enumerate(launch.slots))
        self.buffers = [(i, slot) for i, slot in slots if slot not in scalars]
        self.numbers = [(i, slot) for i, slot in slots if slot in scalars]
        self.sizes = tuple([_SIZES[ctype](n) for n, ctype in launch.source.numbers])
        self.global_size = (launch.source.global_size,)
        self.local_size = (launch.source.local_size,)
        self.release = launch.release

    def set_sizes(self) -> None:
        """Set the arguments that differ from shape to shape; they follow all others."""
        for i, size in enumerate(self.sizes, len(self.launch.slots)):
            self.kernel.set_number(i, size)
        self.kernel.sizes = self.sizes


class Plan:
    """The launches of one `Program` on one device; `like` is a plan of it for other shapes."""

    def __init__(self, program: Program, device: Device, like: Plan | None = None) -> None:
        self.program, self.device = program, device
        self._leaves = [(i, s.position) for i, s in enumerate(program.slots) if s.role == "leaf"]
        self._scalars = [
            (i, s.position, dtypes.of(s.name)) for i, s in enumerate(program.slots)
            if s.role == "scalar"
        ]  # fmt: skip
        self._numbers: dict[int, tuple[Any, Any]] = {i: (None, None) for i, _, _ in self._scalars}
        self._fresh = {i: s.nbytes for i, s in enumerate(program.slots) if s.role in _FRESH}
        self.steps: list[_Step] = []
        for i, launch in enumerate(program.launches):
            if like is not None:
                kernel = like.steps[i].kernel
            else:
                source = launch.source
                raw = device.compile(source.text).kernel(source.kernel_name)
                kernel = _Kernel(raw, len(launch.slots))
            self.steps.append(_Step(launch, kernel, set(self._numbers)))

    def run(self, order: Sequence[Node], counted: bool = True) -> list[Any]:
        """Enqueue the launches over the leaves of `order`; return a buffer per target.

        Open profiles see them unless `counted` is false.
        """
        bound: list[Any] = [None] * len(self.program.slots)
        for slot, position in self._leaves:
            bound[slot] = order[position].buffer
        device, allocate = self.device, self.device.allocate
        sizes, timed = self._fresh, counted and profile.profiling()
        with device.lock:
            self._bind_numbers(order, bound)
            for step in self.steps:
                kernel, last = step.kernel.raw, step.kernel.last
                if step.sizes is not step.kernel.sizes:
                    step.set_sizes()
                for i, slot in step.buffers:
                    buffer = bound[slot]
                    if buffer is None:
                        buffer = bound[slot] = allocate(sizes[slot])
                    if buffer.raw is not last[i]:
                        kernel.set_arg(i, buffer.raw)
                        last[i] = buffer.raw
                for i, slot in step.numbers:
                    number = bound[slot]
                    if number is not last[i]:
                        step.kernel.set_number(i, number)
                        last[i] = number
                if timed:
                    began = perf_counter_ns()
                    span = device.launch_timed(kernel, step.global_size, step.local_size)
                    profile.count_launch(device, step.launch, span, began)
                else:
                    device.launch(kernel, step.global_size, step.local_size)
                for slot in step.release:
                    bound[slot] = None
        results = []
        for slot in self.program.results:
            if bound[slot] is None:
                bound[slot] = allocate(sizes[slot])
            results.append(bound[slot])
        return results

    def seconds(self) -> float:
        """Run the launches again with the arguments of the last `run`; return their device time.

        For measuring: nobody may have freed what that run returned.
        """
        total = 0
        with self.device.lock:
            for step in self.steps:
                begin, end = self.device.launch_timed(
                    step.kernel, step.global_size, step.local_size
                )
                total += end - begin
        return total * 1e-9

    def _bind_numbers(self, order: Sequence[Node], bound: list[Any]) -> None:
        """Convert the numbers that differ from the last run's; the others stay the same object."""
        numbers = self._numbers
        for slot, position, dtype in self._scalars:
            value = order[position].value
            before, number = numbers[slot]
            # 0.0 equals -0.0, and False 0: such pairs must not be taken for each other.
            if value is not before and not (value == before != 0 and type(value) is type(before)):
                number = scalar_argument(value, dtype)
                numbers[slot] = (value, number)
            bound[slot] = number


_FRESH = ("temp", "out")
_SIZES = {"int": np.int32, "long": np.int64}


def scalar_argument(value: bool | int | float, dtype: dtypes.DType) -> Any:
    """Return a number as the C type that kernels take: the dtype's compute type."""
    if dtype.kind == "b":
        return np.int32(value)
    if dtype.is_float:
        with np.errstate(over="ignore"):  # beyond the dtype's range is infinity, without a word
            return np.float64(value) if dtype is dtypes.float64 else np.float32(value)
    return np.array(int(value)).astype(dtype.numpy)[()]
