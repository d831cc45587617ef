"""A plan: the compiled launches of one graph structure, ready to run again and again.

Kernels are fetched once, and an argument is set only when it differs from the last run's. The
pool hands back the buffers of the run before, so that in a loop few arguments ever change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.compiler.pipeline import Launch, Program
from simplegrad.graph.node import Node
from simplegrad.runtime import profile
from simplegrad.runtime.device import Device
from simplegrad.runtime.pool import Buffer


class _Step:
    """One launch with its kernel object and the arguments set last."""

    __slots__ = ("global_size", "kernel", "last", "launch", "local_size", "release", "slots")

    def __init__(self, launch: Launch, kernel: Any) -> None:
        self.launch, self.kernel = launch, kernel
        self.slots = list(enumerate(launch.slots))
        self.last: list[Any] = [None] * len(launch.slots)
        self.global_size = (launch.source.global_size,)
        self.local_size = (launch.source.local_size,)
        self.release = launch.release


class Plan:
    """The launches of one `Program` on one device."""

    def __init__(self, program: Program, device: Device) -> None:
        self.program, self.device = program, device
        self.steps: list[_Step] = []
        for launch in program.launches:
            binary = device.compile(launch.source.text)
            self.steps.append(_Step(launch, binary.kernel(launch.source.kernel_name)))
        self._leaves = [(i, s.position) for i, s in enumerate(program.slots) if s.role == "leaf"]
        self._scalars = [
            (i, s.position, dtypes.of(s.name)) for i, s in enumerate(program.slots)
            if s.role == "scalar"
        ]  # fmt: skip
        self._fresh = {i: s.nbytes for i, s in enumerate(program.slots) if s.role in _FRESH}

    def run(self, order: Sequence[Node]) -> list[Any]:
        """Enqueue the launches over the leaves of `order`; return a buffer per target."""
        bound: list[Any] = [None] * len(self.program.slots)
        for slot, position in self._leaves:
            bound[slot] = order[position].buffer
        for slot, position, dtype in self._scalars:
            bound[slot] = scalar_argument(order[position].value, dtype)
        device, allocate = self.device, self.device.allocate
        sizes, timed = self._fresh, profile.profiling()
        with device.lock:
            for step in self.steps:
                kernel, last = step.kernel, step.last
                for i, slot in step.slots:
                    value = bound[slot]
                    if value is None:
                        value = bound[slot] = allocate(sizes[slot])
                    raw = value.raw if type(value) is Buffer else value
                    if raw is not last[i]:
                        kernel.set_arg(i, raw)
                        last[i] = raw
                if timed:
                    span = device.launch_timed(kernel, step.global_size, step.local_size)
                    profile.count_launch(device, step.launch, span)
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


_FRESH = ("temp", "out")


def scalar_argument(value: bool | int | float, dtype: dtypes.DType) -> Any:
    """Return a number as the C type that kernels take: the dtype's compute type."""
    if dtype.kind == "b":
        return np.int32(value)
    if dtype.is_float:
        return np.float64(value) if dtype is dtypes.float64 else np.float32(value)
    return np.array(int(value)).astype(dtype.numpy)[()]
