"""Functions that make nodes from nodes: broadcasting made explicit, trivial views left out.

The tensor floor adds what users expect on top (promotion, negative axes, error texts); gradient
rules use these functions as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simplegrad import ops
from simplegrad.dtypes import DType
from simplegrad.graph.infer import Shape, broadcast_shapes
from simplegrad.graph.node import Node, Spec, const, leaf, leaf_of, make
from simplegrad.ops import Op


def apply(op: Op, *srcs: Node) -> Node:
    """Return an elementwise operation over operands of one dtype, broadcast to one shape."""
    spec = srcs[0].kind.spec
    for src in srcs:
        if src.kind.spec is not spec and src.kind.spec.shape != spec.shape:
            shape = broadcast_shapes(op.name, *[s.kind.spec.shape for s in srcs])
            return make(op, tuple([broadcast_to(s, shape) for s in srcs]))
    return make(op, srcs)


def number(value: bool | int | float, like: Node) -> Node:
    """Return a constant with the shape, dtype and device of `like`."""
    return const(value, like.kind.spec, like.device)


def full(value: bool | int | float, shape: Shape, dtype: DType, device: Any = None) -> Node:
    """Return a constant of the given shape; it costs no memory until it is read."""
    return const(value, Spec.of(shape, dtype), device)


def iota(extent: int, dtype: DType, device: Any = None) -> Node:
    """Return the numbers 0 … extent-1."""
    return leaf(ops.IOTA, (extent,), dtype, extent, device)


def cast(x: Node, dtype: DType) -> Node:
    """Return `x` in another dtype; floats are truncated towards zero on their way to integers."""
    return x if x.dtype is dtype else make(ops.CAST, (x,), dtype)


def reshape(x: Node, shape: Shape) -> Node:
    """Return `x` with other extents, elements in row-major order."""
    return x if x.shape == shape else make(ops.RESHAPE, (x,), shape)


def permute(x: Node, axes: Sequence[int]) -> Node:
    """Return `x` with its axes in another order."""
    axes = tuple(axes)
    return x if axes == tuple(range(len(axes))) else make(ops.PERMUTE, (x,), axes)


def broadcast_to(x: Node, shape: Shape) -> Node:
    """Return `x` repeated along new leading axes and axes of extent 1."""
    kind = x.kind
    if kind.spec.shape == shape:
        return x
    if (kind.op is ops.SCALAR or kind.op is ops.CONST) and x.buffer is None and not x.tracks:
        repeated = leaf_of(kind.op, Spec.of(shape, kind.spec.dtype), kind.arg, x.device)
        repeated.value = x.value
        return repeated
    return make(ops.EXPAND, (x,), shape)


def slice_(x: Node, starts_extents_steps: Sequence[tuple[int, int, int]]) -> Node:
    """Return every step-th element from a start, per axis; a negative step walks backwards."""
    arg = tuple(starts_extents_steps)
    if all(a == (0, n, 1) for a, n in zip(arg, x.shape, strict=True)):
        return x
    return make(ops.SLICE, (x,), arg)


def flip(x: Node, axes: Sequence[int]) -> Node:
    """Return `x` reversed along some axes."""
    return slice_(
        x,
        [(n - 1, n, -1) if a in axes and n else (0, n, 1) for a, n in enumerate(x.shape)],
    )


def pad(x: Node, widths: Sequence[tuple[int, int, int]], fill: bool | int | float = 0) -> Node:
    """Return `x` with `fill` before, after and between its elements: a triple per axis."""
    arg = tuple(widths)
    return x if not any(map(any, arg)) else make(ops.PAD, (x,), (arg, repr(fill)))


def as_strided(x: Node, shape: Shape, strides: Shape, offset: int = 0) -> Node:
    """Return a window onto the flat elements of `x`; strides and offset in elements."""
    return make(ops.AS_STRIDED, (x,), (tuple(shape), tuple(strides), offset))


def reduce(op: Op, x: Node, axes: Sequence[int], keepdims: bool = False) -> Node:
    """Return a reduction over `axes` (non-negative), which leave the shape unless kept as 1."""
    axes = tuple(sorted(axes))
    if not axes:
        return x
    result = make(op, (x,), axes)
    if keepdims:
        result = reshape(result, tuple(1 if a in axes else n for a, n in enumerate(x.shape)))
    return result


def sum_to(x: Node, shape: Shape) -> Node:
    """Return `x` summed down to `shape`: the transpose of `broadcast_to`."""
    if x.shape == shape:
        return x
    lead = len(x.shape) - len(shape)
    axes = [a for a, n in enumerate(x.shape) if a < lead or (shape[a - lead] == 1 and n != 1)]
    return reshape(reduce(ops.SUM, x, axes), shape)


def einsum(subscripts: Sequence[Sequence[int]], output: Sequence[int], *srcs: Node) -> Node:
    """Return a sum of products over indices; each index is a small int, one per axis."""
    return make(ops.EINSUM, srcs, (*[tuple(s) for s in subscripts], tuple(output)))


def take(x: Node, indices: Node, axis: int) -> Node:
    """Return slices of `x` along `axis`; `indices` (non-negative, any shape) replace that axis."""
    return make(ops.TAKE, (x, indices), axis)


def scatter_add(indices: Node, rows: Node, extent: int) -> Node:
    """Return (extent, …) zeros with ``rows[i]`` added at ``indices[i]``, in the order of i."""
    return make(ops.SCATTER_ADD, (indices, rows), extent)
