"""What the tuner measures: a plain case of a class of shapes, with NumPy's result.

Operands have the extents and the layout of the class; there is no prologue and no epilogue.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.compiler.tiles import Shape
from simplegrad.graph import build
from simplegrad.graph.node import Node, Spec, leaf_over
from simplegrad.graph.scan import Step, scan
from simplegrad.runtime import attention_case as attention
from simplegrad.runtime.opencl import OpenCLDevice

_MOST_BYTES = 1 << 30
_TIMES = 16
"""Steps of a recurrence."""


@dataclass(frozen=True)
class Case:
    """A graph that meets a class of shapes, and NumPy's results."""

    roots: tuple[Node, ...]
    want: tuple[Any, ...]


def case_of(shape: Shape, device: OpenCLDevice) -> Case | None:
    """Return the case of a class of shapes; None where there is none, or it takes too much."""
    stem = shape.template.split()[0]
    make = _CASES.get(stem)
    if make is None or shape.ctype not in _DTYPES:
        return None
    most = min(_MOST_BYTES, device.limits.max_alloc_bytes)
    return make(shape, device) if 8 * _elements(stem, shape.extents) <= most else None


def _elements(stem: str, extents: tuple[int, ...]) -> int:
    """Return how many numbers operands and result have, and what NumPy makes on the way."""
    if stem.startswith("einsum"):
        batch, m, n, k = extents
        return batch * (2 * m * k + 2 * k * n + m * n)
    if stem.startswith("attention"):
        batch, m, n, d, e = extents
        return batch * (m * (d + e) + n * (d + e) + 5 * m * n)
    if stem.startswith("scan"):
        batch, hidden, multiplied, products, _ = extents
        return hidden * (_TIMES * batch * (multiplied + 1) + hidden * multiplied * products)
    batch, i, j = extents
    return 2 * batch * i * j


def _product(shape: Shape, device: OpenCLDevice) -> Case:
    """Return a matrix product of the extents and the layout of a shape.

    Sums of numbers stored in 16 bits are float, so that they can be compared like others.
    """
    batch, m, n, k = shape.extents
    a_unit, b_unit, along_n = shape.layout
    rng = np.random.default_rng(0)
    a = _operand(rng, shape.ctype, (batch, m, k), {0: None, 1: 2, 2: 1}[a_unit], device)
    b = _operand(rng, shape.ctype, (batch, k, n), {0: None, 1: 1, 2: 2}[b_unit], device)
    subscripts: list[tuple[int, ...]] = [(0, 1, 2), (0, 2, 3), (0, 1, 3) if along_n else (0, 3, 1)]
    if batch == 1:
        a, b = (replace(x, node=build.reshape(x.node, x.node.shape[1:])) for x in (a, b))
        subscripts = [s[1:] for s in subscripts]
    dtype = a.node.dtype if a.node.dtype.itemsize > 2 else dtypes.float32
    factors = [build.cast(x.node, dtype) for x in (a, b)]
    root = build.einsum(subscripts[:2], subscripts[2], *factors)
    want = np.matmul(a.array, b.array)
    want = want if along_n else np.swapaxes(want, 1, 2)
    return Case((root,), (want.reshape(root.shape),))


def _turned(shape: Shape, device: OpenCLDevice) -> Case:
    """Return the copy of a transposed view."""
    batch, i, j = shape.extents
    x = _operand(np.random.default_rng(0), shape.ctype, (batch, j, i), 2, device)
    turned = build.permute(x.node, (0, 2, 1))
    return Case((build.apply(ops.NEG, turned),), (-x.array.transpose(0, 2, 1),))


def _attention(shape: Shape, device: OpenCLDevice) -> Case:
    """Return an attention's result, with the gradients that its stage computes."""
    batch, columns, rows, d, e = shape.extents
    (stage,) = shape.layout
    m, n = (rows, columns) if stage == 2 else (columns, rows)
    rng = np.random.default_rng(0)
    own = [
        _operand(rng, shape.ctype, extents, 2, device)
        for extents in ((batch, m, d), (batch, n, d), (batch, n, e), (batch, m, e))
    ]
    names = (("o",), ("o", "dq"), ("o", "dk", "dv"))[stage]
    found = attention.graph(*[x.node for x in own], causal=False)
    want = attention.reference(*[x.array for x in own], causal=False)
    return Case(tuple([found[name] for name in names]), tuple([want[name] for name in names]))


def _recurrence(shape: Shape, device: OpenCLDevice) -> Case:
    """Return c = tanh(c / 2 + x + the sum of the products), of every multiplied state c."""
    batch, hidden, multiplied, products, _ = shape.extents
    x = products + multiplied
    half, total = x + 1, x
    program: list[tuple[Any, ...]] = [("const", "0.5")]

    def add(*instruction: Any) -> int:
        program.append(instruction)
        return x + len(program)

    for product in range(products):
        total = add("add", total, product)
    states = [add("mul", products + c, half) for c in range(multiplied)]
    results = tuple([add("tanh", add("add", state, total)) for state in states])
    step = Step(products, multiplied, multiplied, 1, tuple(program), results)
    rng = np.random.default_rng(0)
    sizes = [(multiplied * hidden, products * hidden), *[(batch, hidden)] * multiplied]
    own = [_operand(rng, shape.ctype, s, 1, device) for s in (*sizes, (_TIMES, batch, hidden))]
    matrix, *starts, inputs = [o.array for o in own]
    slots = [np.stack(starts)]
    for t in range(_TIMES):
        product = np.concatenate(list(slots[-1]), 1) @ matrix
        sums = product.reshape(batch, products, hidden).sum(1) + inputs[t]
        slots.append(np.tanh(slots[-1] / 2 + sums))
    nodes = [o.node for o in own]
    root = scan(step, nodes[0], nodes[1:-1], nodes[-1:])
    return Case((root,), (np.stack(slots, 1),))


_CASES = {
    "attention_cpu": _attention,
    "attention_gpu": _attention,
    "einsum_cpu": _product,
    "einsum_cpu_skinny": _product,
    "einsum_gpu": _product,
    "einsum_mma": _product,
    "as_strided": _turned,
    "scan_cpu": _recurrence,
    "scan_gpu": _recurrence,
}
"""By the template's file: how a class of its shapes is measured."""


_DTYPES = {
    "float": dtypes.float32, "double": dtypes.float64,
    "half": dtypes.float16, "bfloat16": dtypes.bfloat16,
}  # fmt: skip
"""What a C type computed with is measured on; tf32 would miss NumPy's numbers by its rounding."""


@dataclass(frozen=True)
class _Operand:
    node: Node
    array: Any


_APART = 3
"""Elements from one to the next where none are neighbours: steps of 2 are read in vectors."""


def _operand(
    rng: Any, ctype: str, extents: tuple[int, ...], unit: int | None, device: OpenCLDevice
) -> _Operand:
    """Return random numbers that are contiguous along axis `unit`; None: along no axis."""
    dtype = _DTYPES[ctype]
    last = len(extents) - 1
    order = tuple(range(last + 1))
    if unit is not None and unit != last:
        order = (*[a for a in order if a != unit], unit)
    stored = tuple(extents[a] for a in order) + ((_APART,) if unit is None else ())
    array = rng.random(stored, np.float32) - np.float32(0.5)
    if dtype.itemsize == 2:
        array = np.round(array * 16) / 16  # exact in every format
    array = array.astype(np.float64 if dtype is dtypes.float64 else np.float32)
    node = leaf_over(device.from_host(array, dtype), Spec.of(stored, dtype), device)
    if unit is None:
        node = build.slice_(node, [*((0, n, 1) for n in extents), (0, 1, 1)])
        return _Operand(build.reshape(node, extents), array[..., 0])
    back = tuple(order.index(a) for a in range(last + 1))
    return _Operand(build.permute(node, back), array.transpose(back))
