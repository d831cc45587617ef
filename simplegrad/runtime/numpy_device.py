"""The reference device: every operation of the graph, one by one, in NumPy.

Values are computed in the compute type of their dtype and then rounded to it: float16 and
bfloat16 in float32, bfloat16 being kept as float32 numbers that fit. Integers wrap.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simplegrad import dtypes, ops, settings
from simplegrad.dtypes import DType
from simplegrad.errors import IndexOutOfRange
from simplegrad.graph.node import Node, const_value
from simplegrad.graph.scan import Step
from simplegrad.ops import Op
from simplegrad.runtime.interpret import evaluate

Rule = Callable[[Node, "list[Any]"], Any]


class NumpyDevice:
    """Interprets graphs on the host; its buffers are contiguous NumPy arrays."""

    name = "numpy"
    kind = "numpy"
    runs_kernels = False
    identity = "numpy"

    def __repr__(self) -> str:
        return f"<device {self.name}>"

    def evaluate(self, order: Sequence[Node], targets: Sequence[Node]) -> None:
        """Compute `targets` and the held nodes of a topological order; set their `buffer`."""
        evaluate(order, targets, compute, lambda value: np.array(value, order="C", ndmin=0))

    def from_host(self, array: Any, dtype: DType) -> Any:
        """Return a copy of host data in `dtype`."""
        return rounded(np.array(array, order="C"), dtype)

    def to_host(self, buffer: Any, dtype: DType, shape: tuple[int, ...]) -> Any:
        """Return a copy of a buffer (bfloat16 as float32)."""
        return buffer.copy()

    def share(
        self, buffer: Any, dtype: DType, shape: tuple[int, ...], writable: bool = False
    ) -> Any:
        """Return a view of a buffer; None for bfloat16, which is no type of NumPy's."""
        if dtype is dtypes.bfloat16:
            return None
        view = buffer.view()
        view.flags.writeable = writable
        return view

    def adopt(self, array: Any, dtype: DType) -> Any:
        """Return the array itself if it is contiguous and of `dtype`, else None."""
        return array if is_plain(array, dtype) else None

    def synchronize(self) -> None:
        """Do nothing: everything is done when it is asked for."""

    def memory_stats(self) -> dict[str, int]:
        """Return zeros: NumPy's memory is the host's."""
        return {"in_use_bytes": 0, "held_bytes": 0, "peak_bytes": 0}


def is_plain(array: Any, dtype: DType) -> bool:
    """Whether an array's memory is what a buffer of `dtype` holds: contiguous and aligned."""
    fits = dtype is not dtypes.bfloat16 and array.dtype == dtype.numpy and array.dtype.isnative
    return bool(fits and array.flags.c_contiguous and array.flags.aligned)


def rounded(array: Any, dtype: DType) -> Any:
    """Return an array as `dtype` holds it."""
    if dtype is not dtypes.bfloat16:
        return np.asarray(array, dtype=dtype.numpy)
    array = np.ascontiguousarray(array, np.float32).reshape(np.shape(array))
    bits = array.view(np.uint32)
    even = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(
        0xFFFF0000
    )
    return np.where(np.isnan(array), array, even.view(np.float32))


def compute(node: Node, srcs: list[Any]) -> Any:
    """Return the value of one operation over NumPy operands."""
    rule = _RULES.get(node.op)
    if rule is not None:
        return rule(node, srcs)
    assert node.op.numpy is not None, node
    wide = [s.astype(np.float32) if s.dtype == np.float16 else s for s in srcs]
    return rounded(node.op.numpy(*wide), node.dtype)


def _leaf(node: Node, srcs: list[Any]) -> Any:
    if node.op is ops.IOTA:
        return np.arange(node.arg).astype(node.dtype.numpy)
    value = node.value if node.op is ops.SCALAR else const_value(node)
    if node.dtype.kind in "ui":
        value = np.array(int(value)).astype(node.dtype.numpy)
    return np.broadcast_to(rounded(np.array(value), node.dtype), node.shape)


def _cast(node: Node, srcs: list[Any]) -> Any:
    return rounded(srcs[0].astype(node.dtype.numpy), node.dtype)


def _reduce(node: Node, srcs: list[Any]) -> Any:
    x, axes = srcs[0], node.arg
    assert node.op.numpy is not None
    if node.op in (ops.ARGMAX, ops.ARGMIN):
        kept = [a for a in range(x.ndim) if a not in axes]
        shape = [x.shape[a] for a in kept]
        rows = x.transpose([*kept, *axes]).reshape([*shape, math.prod(x.shape[a] for a in axes)])
        return node.op.numpy(rows, axis=-1).astype(np.int64)
    kind = node.dtype.numpy if node.dtype.kind in "ui" else None
    if x.dtype == np.float16:
        x = x.astype(np.float32)
    if node.op in (ops.SUM, ops.PROD):
        return rounded(node.op.numpy(x, axis=axes, dtype=kind), node.dtype)
    return rounded(node.op.numpy(x, axis=axes), node.dtype)


def _slice(node: Node, srcs: list[Any]) -> Any:
    cut = []
    for start, extent, step in node.arg:
        stop = start + extent * step
        cut.append(slice(start, None if stop < 0 else stop, step) if extent else slice(0, 0))
    return srcs[0][tuple(cut)]


def _pad(node: Node, srcs: list[Any]) -> Any:
    widths, text = node.arg
    fill = ast.literal_eval(text) if text[-1].isdigit() or text[0] in "TF" else float(text)
    if node.dtype.kind in "ui":
        fill = np.array(int(fill)).astype(node.dtype.numpy)
    result = np.full(node.shape, fill, srcs[0].dtype)
    if srcs[0].size:
        place = tuple(
            slice(before, before + (n - 1) * (between + 1) + 1, between + 1)
            for (before, _, between), n in zip(widths, srcs[0].shape, strict=True)
        )
        result[place] = srcs[0]
    return result


def _as_strided(node: Node, srcs: list[Any]) -> Any:
    shape, strides, offset = node.arg
    flat = np.ascontiguousarray(srcs[0]).reshape(-1)
    steps = [s * flat.itemsize for s in strides]
    if 0 in shape:
        return np.zeros(shape, flat.dtype)
    return np.lib.stride_tricks.as_strided(flat[offset:], shape, steps)


def _einsum(node: Node, srcs: list[Any]) -> Any:
    operands: list[Any] = []
    for x, subscript in zip(srcs, node.arg[:-1], strict=True):
        operands += [x.astype(np.float32) if x.dtype == np.float16 else x, list(subscript)]
    return rounded(np.einsum(*operands, list(node.arg[-1]), optimize=True), node.dtype)


def _whole(indices: Any) -> Any:
    """Return indices as int64; greater ones become the greatest."""
    if indices.dtype == np.uint64:
        indices = np.minimum(indices, np.uint64(dtypes.int64.high))
    return indices.astype(np.int64)


def _take(node: Node, srcs: list[Any]) -> Any:
    x, indices = srcs[0], _whole(srcs[1])
    n = x.shape[node.arg]
    if settings.current().check and indices.size and not (0 <= indices.min() <= indices.max() < n):
        raise IndexOutOfRange(
            f"take: indices {indices.min()} … {indices.max()} on an axis of {n} ({node.where})"
        )
    return np.take(x, np.clip(indices, 0, max(n - 1, 0)), axis=node.arg)


def _scatter_add(node: Node, srcs: list[Any]) -> Any:
    indices, rows = _whole(srcs[0]), srcs[1]
    wide = rows.astype(np.float32) if rows.dtype == np.float16 else rows
    inside = (indices >= 0) & (indices < node.arg)
    if settings.current().check and not inside.all():
        raise IndexOutOfRange(f"scatter_add: an index is outside 0 … {node.arg - 1} ({node.where})")
    result = np.zeros(node.shape, wide.dtype)
    np.add.at(result, indices[inside], wide[inside])
    return rounded(result, node.dtype)


def _cumsum(node: Node, srcs: list[Any]) -> Any:
    x = srcs[0].astype(np.float32) if srcs[0].dtype == np.float16 else srcs[0]
    return rounded(np.cumsum(x, axis=node.arg, dtype=x.dtype), node.dtype)


def _scan(node: Node, srcs: list[Any]) -> Any:
    """Step by step, every operation of the program rounded as if it stood alone."""
    step: Step = node.arg
    matrix, *rest = [s.astype(np.float32) if s.dtype == np.float16 else s for s in srcs]
    states, inputs = rest[: step.carried], rest[step.carried :]
    result = np.zeros(node.shape, matrix.dtype)
    times = node.shape[1] - 1

    def number(text: str) -> Any:
        return rounded(np.array(float(text)), node.dtype)

    def apply(op: Op, *operands: Any) -> Any:
        assert op.numpy is not None
        wide = [x.astype(np.float32) if x.dtype == np.float16 else x for x in operands]
        return rounded(op.numpy(*wide), op.result or node.dtype)

    result[: step.carried, times if step.reverse else 0] = states
    for t in reversed(range(times)) if step.reverse else range(times):
        product = np.concatenate(states[: step.multiplied], -1) @ matrix
        products = np.split(rounded(product, node.dtype), step.products, -1)
        values = step.values([*products, *states, *[x[t] for x in inputs]], apply, number)
        for f, v in enumerate(step.results):
            result[f, t if step.reverse else t + 1] = values[v]
        states = [values[v] for v in step.results[: step.carried]]
    return rounded(result, node.dtype)


def _power(node: Node, srcs: list[Any]) -> Any:
    """A negative power of an integer is truncated towards zero."""
    a, b = (s.astype(np.float32) if s.dtype == np.float16 else s for s in srcs)
    if a.dtype.kind != "i":
        return rounded(np.power(a, b), node.dtype)
    below = np.where(np.abs(a) == 1, np.where(b % 2 == 0, np.abs(a), a), 0)
    return rounded(np.where(b < 0, below, np.power(a, np.maximum(b, 0))), node.dtype)


_RULES: dict[Op, Rule] = {
    ops.SCALAR: _leaf,
    ops.CONST: _leaf,
    ops.IOTA: _leaf,
    ops.CAST: _cast,
    ops.POW: _power,
    ops.RESHAPE: lambda node, srcs: srcs[0].reshape(node.shape),
    ops.PERMUTE: lambda node, srcs: srcs[0].transpose(node.arg),
    ops.EXPAND: lambda node, srcs: np.broadcast_to(srcs[0], node.shape),
    ops.SLICE: _slice,
    ops.PAD: _pad,
    ops.AS_STRIDED: _as_strided,
    ops.EINSUM: _einsum,
    ops.TAKE: _take,
    ops.SCATTER_ADD: _scatter_add,
    ops.CUMSUM: _cumsum,
    ops.CONCAT: lambda node, srcs: np.concatenate(srcs, node.arg),
    ops.SCAN: _scan,
} | dict.fromkeys(ops.of_kind(ops.REDUCE), _reduce)
