"""Operators that read and write at indices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.graph.infer import Shape
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.creation import arange
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.indexing import scatter_add
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import stack


@operator("Gather")
def gather(call: Call) -> Tensor:
    """Gather: slices along `axis` at indices of any shape; negative ones count from the end."""
    return call.tensor(0).take(call.index(1), call.integer("axis", 0))


@operator("GatherElements", since=11)
def gather_elements(call: Call) -> Tensor:
    """GatherElements: along `axis`, each element at its own index."""
    x, axis = call.tensor(0), call.integer("axis", 0)
    extents = call.value(1).shape
    if len(extents) != x.ndim or not -x.ndim <= axis < x.ndim:
        raise ModelError(f"indices of shape {extents} along axis {axis} of {x.shape}")
    cut = [slice(None) if a == axis % x.ndim else slice(0, n) for a, n in enumerate(extents)]
    return x[tuple(cut)].take_along_axis(call.index(1), axis)


def linear(indices: Tensor, extents: Shape) -> Tensor:
    """Return positions in the flat array of `extents` for index tuples along the last axis."""
    total: Any = None
    step = math.prod(extents)
    for i, extent in enumerate(extents):
        step //= max(extent, 1)
        index = indices[..., i].cast(dtypes.int64)
        index = where(index.less(0), index.add(extent), index).mul(step)
        total = index if total is None else total.add(index)
    return total if total is not None else indices.sum(-1).cast(dtypes.int64)


@operator("GatherND", since=11)
def gather_nd(call: Call) -> Tensor:
    """GatherND: slices at index tuples, within each batch."""
    x, indices, batch = call.tensor(0), call.tensor(1), call.integer("batch_dims", 0)
    depth = indices.shape[-1]
    if not 0 <= batch <= min(x.ndim, indices.ndim - 1) or batch + depth > x.ndim:
        raise ModelError(f"indices {indices.shape}, batch_dims {batch}, do not fit {x.shape}")
    lead, inner, rest = x.shape[:batch], x.shape[batch : batch + depth], x.shape[batch + depth :]
    batches, block = math.prod(lead), math.prod(inner)
    places = linear(indices, inner).reshape(batches, -1)
    places = places.add(arange(batches).reshape(batches, 1).mul(block))
    rows = x.reshape(batches * block, *rest).take(places, 0)
    return rows.reshape(*indices.shape[:-1], *rest)


# Writing ----------------------------------------------------------------------------------------


def scatter(x: Tensor, places: Tensor, rows: Tensor, reduction: str) -> Tensor:
    """Return `x` (n, …) with `rows` (m, …) written, added, … at `places` (m,).

    Of several rows for one place without a reduction the sum is taken: ONNX leaves that open.
    """
    dtype, count = x.dtype, x.shape[0]
    if dtype.kind == "b":
        return scatter(x.cast(dtypes.int32), places, rows.cast(dtypes.int32), reduction).cast(dtype)
    if not x.size or not rows.size:
        return x
    if reduction == "add":
        return x.add(scatter_add(places, rows, count))
    if reduction == "none":
        hits = scatter_add(places, places.mul(0).add(1), count).greater(0)
        hits = hits.reshape(count, *[1] * (x.ndim - 1))
        return where(hits, scatter_add(places, rows, count), x)
    if reduction not in ("mul", "max", "min"):
        raise ModelError(f"reduction {reduction!r} is none of none, add, mul, max, min")
    hits = arange(count).reshape(count, 1).equal(places).reshape(count, -1, *[1] * (x.ndim - 1))
    if reduction == "mul":
        return x.mul(where(hits, rows, 1).prod(1, dtype=dtype))
    if reduction == "max":
        return x.maximum(where(hits, rows, dtype.low).max(1))
    return x.minimum(where(hits, rows, dtype.high).min(1))


@operator("ScatterElements", "Scatter", since=9)
def scatter_elements(call: Call) -> Tensor:
    """ScatterElements: writes along `axis`, each element at its own index."""
    x, indices, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    axis, reduction = call.integer("axis", 0), call.string("reduction", "none")
    if indices.shape != updates.shape or indices.ndim != x.ndim:
        raise ModelError(f"indices {indices.shape}, updates {updates.shape} for {x.shape}")
    axis = axis % max(x.ndim, 1)
    if not indices.size:
        return x
    total: Any = None
    for a, extent in enumerate(x.shape):
        if a == axis:
            index = indices.cast(dtypes.int64)
            index = where(index.less(0), index.add(extent), index)
        else:
            shape = [indices.shape[a] if b == a else 1 for b in range(x.ndim)]
            index = arange(indices.shape[a]).reshape(shape)
        index = index.mul(math.prod(x.shape[a + 1 :]))
        total = index if total is None else total.add(index)
    places = total.broadcast_to(indices.shape).flatten()
    return scatter(x.flatten(), places, updates.flatten(), reduction).reshape(x.shape)


@operator("ScatterND", since=11)
def scatter_nd(call: Call) -> Tensor:
    """ScatterND: writes slices at index tuples."""
    x, indices, updates = call.tensor(0), call.tensor(1), call.tensor(2)
    depth = indices.shape[-1]
    rest = x.shape[depth:]
    if depth > x.ndim or updates.shape != indices.shape[:-1] + rest:
        raise ModelError(f"indices {indices.shape}, updates {updates.shape} for {x.shape}")
    places = linear(indices, x.shape[:depth]).flatten()
    flat = x.reshape(math.prod(x.shape[:depth]), *rest)
    rows = updates.reshape(places.size, *rest)
    return scatter(flat, places, rows, call.string("reduction", "none")).reshape(x.shape)


@operator("TensorScatter", since=24)
def tensor_scatter(call: Call) -> Tensor:
    """TensorScatter: writes a stretch into a cache, per batch at its own place."""
    x, update, axis = call.tensor(0), call.tensor(1), call.integer("axis", -2)
    axis = axis % x.ndim
    n, room, length = x.shape[0], x.shape[axis], update.shape[axis]
    start = call.tensor(2) if call.has(2) else call.constant(np.zeros(n, np.int64))
    place = arange(room).sub(start.cast(dtypes.int64).reshape(n, 1))
    if call.string("mode", "linear") == "circular":
        place = place.remainder(room)
    inside = place.greater_equal(0).logical_and(place.less(length))
    shape = [n if a == 0 else room if a == axis else 1 for a in range(x.ndim)]
    inside, place = inside.reshape(shape), place.clip(0, length - 1).reshape(shape)
    spread = [room if a == axis else m for a, m in enumerate(x.shape)]
    return where(inside, update.take_along_axis(place.broadcast_to(spread), axis), x)


@operator("OneHot", since=9)
def one_hot(call: Call) -> Tensor:
    """OneHot: values[1] at the index along a new axis, values[0] elsewhere."""
    indices, depth, values = call.tensor(0), int(call.number(1)), call.tensor(2)
    axis = call.integer("axis", -1)
    index = indices.cast(dtypes.int64)
    index = where(index.less(0), index.add(depth), index)
    hits = index.expand_dims(-1).equal(arange(depth)).moveaxis(-1, axis)
    return where(hits, values[1], values[0])


@operator("ReverseSequence", since=10)
def reverse_sequence(call: Call) -> Tensor:
    """ReverseSequence: the first elements of each batch in reverse."""
    x, lengths = call.tensor(0), call.tensor(1).cast(dtypes.int64)
    batch, time = call.integer("batch_axis", 1), call.integer("time_axis", 0)
    shape = [n if a in (batch, time) else 1 for a, n in enumerate(x.shape)]
    step = arange(x.shape[time]).reshape([n if a == time else 1 for a, n in enumerate(x.shape)])
    ends = lengths.reshape([n if a == batch else 1 for a, n in enumerate(x.shape)])
    place = where(step.less(ends), ends.sub(1).sub(step), step).broadcast_to(shape)
    return x.take_along_axis(place.broadcast_to(x.shape), time)


# Results whose shape depends on values: those are computed now and read back --------------------


@operator("Compress", since=9)
def compress(call: Call) -> Tensor:
    """Compress: the slices along `axis` at which the condition is true."""
    x, axis = call.tensor(0), call.integer("axis", None)
    x, axis = (x.flatten(), 0) if axis is None else (x, axis)
    (places,) = np.nonzero(call.host(1))
    return x.take(places, axis)


@operator("NonZero", since=9)
def nonzero(call: Call) -> Tensor:
    """NonZero: the indices of elements that are not 0, an axis per row."""
    return stack(call.tensor(0).nonzero())


@operator("Unique", since=11)
def unique(call: Call) -> tuple[Tensor, ...]:
    """Unique: the different elements or slices, where each first stood, which it is, how often.

    Elements are compared with each other, n² of them; only which are first is read back.
    """
    x, axis = call.tensor(0), call.integer("axis", None)
    rows = x.flatten().reshape(-1, 1) if axis is None else x.moveaxis(axis, 0)
    shape, rows = rows.shape, rows.reshape(rows.shape[0], -1)
    count = rows.shape[0]
    place = arange(count)
    same = rows.expand_dims(1).equal(rows.expand_dims(0)).all(-1)
    earlier = same.logical_and(place.less(place.reshape(count, 1)))
    firsts = np.nonzero(earlier.any(-1).logical_not().numpy())[0]
    found = rows.take(firsts, 0)
    if call.flag("sorted", True):
        a, b = found.expand_dims(1), found.expand_dims(0)
        different = a.not_equal(b)
        first = different.cast(dtypes.int32).argmax(-1, keepdims=True)
        wide = a.sub(a).cast(a.dtype).add(b) if a.dtype.kind != "b" else b.logical_or(a.less(a))
        less = wide.less(a).take_along_axis(first, -1).squeeze(-1)
        rank = less.sum(-1)
        order = rank.equal(arange(len(firsts)).reshape(-1, 1)).cast(dtypes.int32).argmax(-1)
        found = found.take(order, 0)
    else:
        order = arange(len(firsts))
    hits = found.expand_dims(1).equal(rows.expand_dims(0)).all(-1)
    values = found.reshape(-1, *shape[1:])
    values = values.flatten() if axis is None else values.moveaxis(0, axis)
    index = call.constant(firsts.astype(np.int64)).take(order, 0)
    return values, index, hits.cast(dtypes.int32).argmax(0), hits.sum(-1)


@operator("Col2Im", since=18)
def column_to_image(call: Call) -> Tensor:
    """Col2Im: blocks (N, C x block, positions) added up in an image."""
    x, extents, block = call.tensor(0), call.numbers(1), call.numbers(2)
    rank = len(extents)
    dilations, strides = (
        call.integers("dilations", [1] * rank),
        call.integers("strides", [1] * rank),
    )
    pads = call.integers("pads", [0] * 2 * rank)
    wide = [n + pads[i] + pads[i + rank] for i, n in enumerate(extents)]
    axes = []
    for n, k, s, d in zip(wide, block, strides, dilations, strict=True):
        out = (n - d * (k - 1) - 1) // s + 1
        axes.append(np.arange(k)[:, None] * d + np.arange(out)[None, :] * s)
    flat: Any = np.zeros((1,) * 2 * rank, np.int64)
    for i, places in enumerate(axes):
        shape = [1] * 2 * rank
        shape[i], shape[i + rank] = places.shape
        flat = flat + places.reshape(shape) * math.prod(wide[i + 1 :])
    channels = x.shape[1] // math.prod(block)
    rows = x.reshape(x.shape[0] * channels, -1).transpose()
    sums = scatter_add(flat.reshape(-1), rows, math.prod(wide)).transpose()
    cut = [slice(pads[i], pads[i] + n) for i, n in enumerate(extents)]
    index = slice(None), slice(None), *cut
    return sums.reshape(x.shape[0], channels, *wide)[index]
