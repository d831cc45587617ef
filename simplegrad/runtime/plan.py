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


class _Step:
    """One launch with its kernel object and the arguments set last."""

    __slots__ = (
        "buffers", "global_size", "kernel", "last", "launch", "local_size", "numbers", "release",
        "set_number",
    )  # fmt: skip

    def __init__(self, launch: Launch, kernel: Any, scalars: set[int]) -> None:
        self.launch, self.kernel = launch, kernel
        slots = list(enumerate(launch.slots))
        self.buffers = [(i, slot) for i, slot in slots if slot not in scalars]
        self.numbers = [(i, slot) for i, slot in slots if slot in scalars]
        # PyOpenCL's set_arg tries every kind of memory object before a number: 16 us against 0.2.
        self.set_number = getattr(kernel, "_set_arg_buf", kernel.set_arg)
        self.last: list[Any] = [None] * len(slots)
        self.global_size = (launch.source.global_size,)
        self.local_size = (launch.source.local_size,)
        self.release = launch.release


class Plan:
    """The launches of one `Program` on one device."""

    def __init__(self, program: Program, device: Device) -> None:
        self.program, self.device = program, device
        self._leaves = [(i, s.position) for i, s in enumerate(program.slots) if s.role == "leaf"]
        self._scalars = [
            (i, s.position, dtypes.of(s.name)) for i, s in enumerate(program.slots)
            if s.role == "scalar"
        ]  # fmt: skip
        self._numbers: dict[int, tuple[Any, Any]] = {i: (None, None) for i, _, _ in self._scalars}
        self._fresh = {i: s.nbytes for i, s in enumerate(program.slots) if s.role in _FRESH}
        self.steps: list[_Step] = []
        for launch in program.launches:
            kernel = device.compile(launch.source.text).kernel(launch.source.kernel_name)
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
                kernel, last = step.kernel, step.last
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
                        step.set_number(i, number)
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


def scalar_argument(value: bool | int | float, dtype: dtypes.DType) -> Any:
    """Return a number as the C type that kernels take: the dtype's compute type."""
    if dtype.kind == "b":
        return np.int32(value)
    if dtype.is_float:
        with np.errstate(over="ignore"):  # beyond the dtype's range is infinity, without a word
            return np.float64(value) if dtype is dtypes.float64 else np.float32(value)
    return np.array(int(value)).astype(dtype.numpy)[()]
