"""Self-test: a template proves itself on a driver before a program relies on it.

The first program that uses a template on a device runs a small filled case of it, and compares
with NumPy. The verdict is kept in the disk cache, by driver and by the case's own source; where it
is bad, generated loops do the template's work on that device, and a warning says so.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simplegrad import ops
from simplegrad.compiler.pipeline import compile_graph
from simplegrad.compiler.program import Program
from simplegrad.compiler.target import Target
from simplegrad.dtypes import DType, float16, float32, int32
from simplegrad.errors import BuildError
from simplegrad.graph import build
from simplegrad.graph.node import Node, Spec, leaf_over, topological
from simplegrad.graph.scan import Step, scan
from simplegrad.runtime import attention_case as attention
from simplegrad.runtime import program_cache
from simplegrad.runtime.opencl import OpenCLDevice
from simplegrad.runtime.plan import Plan

_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Case:
    """A graph that goes to one template, over operands of these shapes, and its NumPy form."""

    shapes: _Shapes
    graph: Callable[[list[Node]], Node]
    numpy: Callable[[list[Any]], Any]
    dtype: DType = float32
    """What the operands are stored as; random numbers are rounded to it."""

    def operands(self, rng: Any, device: OpenCLDevice) -> tuple[list[Any], list[Node]]:
        """Return random operands, as float32 arrays and as leaves on a device."""
        arrays = [rng.standard_normal(s).astype(self.dtype.numpy) for s in self.shapes]
        leaves = [_given(a, self.dtype, device) for a in arrays]
        return [a.astype(np.float32) for a in arrays], leaves


def _given(array: Any, dtype: DType, device: OpenCLDevice) -> Node:
    return leaf_over(device.from_host(array, dtype), Spec.of(array.shape, dtype), device)


def _product(shapes: _Shapes, *subscripts: Sequence[int]) -> _Case:
    """Return relu(einsum): edge tiles, and an epilogue in the store."""

    def graph(srcs: list[Node]) -> Node:
        product = build.einsum(subscripts[:-1], subscripts[-1], *srcs)
        return build.apply(ops.MAXIMUM, product, build.number(0, product))

    def reference(arrays: list[Any]) -> Any:
        operands = [x for pair in zip(arrays, subscripts, strict=False) for x in pair]
        return np.maximum(np.einsum(*operands, subscripts[-1]), 0)

    return _Case(shapes, graph, reference)


def _turned() -> _Case:
    def graph(srcs: list[Node]) -> Node:
        return build.apply(ops.NEG, build.permute(srcs[0], (0, 2, 1)))

    return _Case(((2, 133, 150),), graph, lambda arrays: -arrays[0].transpose(0, 2, 1))


def _scattered() -> _Case:
    """Return places with repeats, some of them outside."""
    places = np.arange(300) * 7 % 90 - 3

    def graph(srcs: list[Node]) -> Node:
        index = _given(places.astype(np.int32), int32, srcs[0].device)
        return build.scatter_add(index, srcs[0], 80)

    def reference(arrays: list[Any]) -> Any:
        total = np.zeros((80, 37), np.float32)
        inside = (places >= 0) & (places < 80)
        np.add.at(total, places[inside], arrays[0][inside])
        return total

    return _Case(((300, 37),), graph, reference)


def _attention() -> _Case:
    """Return o + dq + dk + dv of an attention of n queries and keys, causal, in edge tiles."""
    names = ("o", "dq", "dk", "dv")

    def graph(srcs: list[Node]) -> Node:
        found = attention.graph(*srcs, causal=True)
        first, *others = (found[name] for name in names)
        return functools.reduce(lambda total, x: build.apply(ops.ADD, total, x), others, first)

    def reference(arrays: list[Any]) -> Any:
        found = attention.reference(*arrays, causal=True)
        return sum(found[name] for name in names)

    return _Case(((3, 75, 20),) * 4, graph, reference)


_SQUARE = _product(((75, 130), (130, 90)), (0, 1), (1, 2), (0, 2))


def _halves() -> _Case:
    """Return a product of float16 numbers, widened: the sums are float."""

    def graph(srcs: list[Node]) -> Node:
        a, b = (build.cast(s, float32) for s in srcs)
        return build.einsum(((0, 1), (1, 2)), (0, 2), a, b)

    return _Case(((75, 130), (130, 90)), graph, lambda arrays: arrays[0] @ arrays[1], float16)


def _recurrence() -> _Case:
    """Return c0 = tanh(p0 + x), c1 = c1 p1 + c0 backwards in time; one column and row too many."""
    time, batch, hidden = 3, 5, 21
    program = (("add", 0, 4), ("tanh", 5), ("mul", 3, 1), ("add", 7, 6))
    step = Step(2, 1, 2, 1, program, (6, 8), True)

    def graph(srcs: list[Node]) -> Node:
        matrix, c0, c1, x = srcs
        return scan(step, matrix, [c0, c1], [x])

    def reference(arrays: list[Any]) -> Any:
        matrix, c0, c1, x = arrays
        slots = [np.stack([c0, c1])]
        for t in reversed(range(time)):
            p0, p1 = np.split(c0 @ matrix, 2, 1)
            c0 = np.tanh(p0 + x[t])
            c1 = c1 * p1 + c0
            slots.append(np.stack([c0, c1]))
        return np.stack(slots[::-1], 1)

    state = (batch, hidden)
    return _Case(((hidden, 2 * hidden), state, state, (time, *state)), graph, reference)


CASES = {
    "einsum_cpu tile": _SQUARE,
    "einsum_cpu_skinny dot": _product(((65, 600), (2, 600)), (0, 1), (2, 1), (0, 2)),
    "einsum_cpu_skinny strip": _product(((3, 150), (150, 421)), (0, 1), (1, 2), (0, 2)),
    "einsum_cpu_skinny outer": _product(((133, 3), (210, 3)), (0, 1), (2, 1), (0, 2)),
    "einsum_gpu": _SQUARE,
    "einsum_mma": _halves(),
    "scatter_add": _scattered(),
    "scatter_add_gpu": _scattered(),
    "as_strided cpu": _turned(),
    "as_strided gpu": _turned(),
    "attention_cpu": _attention(),
    "attention_gpu": _attention(),
    "scan_cpu": _recurrence(),
    "scan_gpu": _recurrence(),
}


def distrusted(device: OpenCLDevice, program: Program, target: Target) -> frozenset[str]:
    """Return the templates among a program's that fail on a device; each is tried once."""
    names = {launch.source.origin for launch in program.launches} - {""}
    for name in sorted(names - device.verdicts.keys()):
        # Set before it is tried: the case is a program of the same template.
        device.verdicts[name] = True
        device.verdicts[name] = _passes(device, name, target)
        if not device.verdicts[name]:
            warnings.warn(
                f"simplegrad: the template {name} gives wrong results on {device.name}; generated "
                "loops do its work, slower. Please report it, or update the driver",
                RuntimeWarning,
                stacklevel=2,
            )
    return frozenset(name for name in names if not device.verdicts[name])


def _passes(device: OpenCLDevice, name: str, target: Target) -> bool:
    case = CASES[name]
    rng = np.random.default_rng(0)
    arrays, srcs = case.operands(rng, device)
    root = case.graph(srcs)
    order = topological([root])
    program = compile_graph(order, [root], replace(target, distrusted=frozenset()), True)
    texts = [launch.source.text for launch in program.launches]
    key = program_cache.key_of("selftest", device.identity, *texts)
    known = program_cache.get("probes", key)
    if known is not None:
        return known == b"passed"
    want = case.numpy(arrays)
    try:
        (buffer,) = Plan(program, device).run(order, counted=False)
        got = device.to_host(buffer, float32, root.shape)
        passed = bool(np.allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max())))
    except BuildError:
        passed = False
    program_cache.put("probes", key, b"passed" if passed else b"failed")
    return passed
