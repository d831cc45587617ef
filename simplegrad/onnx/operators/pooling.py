"""Pools: the greatest, the mean, or a norm of each window."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simplegrad.errors import ModelError
from simplegrad.onnx.operators.neural import Windows, padded
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.creation import arange
from simplegrad.tensor.indexing import scatter_add
from simplegrad.tensor.tensor import Tensor


class Pool(Windows):
    """Windows of a pool; with ceil_mode the last ones may hang over the end."""

    def __init__(self, call: Call, x: Tensor) -> None:
        super().__init__(call, x, call.integers("kernel_shape"))
        self.places: list[int] = []
        self.hang: list[tuple[int, int]] = []
        up = call.flag("ceil_mode")
        for i, n in enumerate(self.extents):
            (before, after), stride = self.pads[i], self.strides[i]
            room = n + before + after - self.reach(i) - 1
            out = (-(-room // stride) if up else room // stride) + 1
            if up and (out - 1) * stride >= n + before:
                out -= 1  # a window that would begin in the padding is left out
            self.places.append(out)
            end = (out - 1) * stride + self.reach(i) + 1 - n - before
            self.hang.append((before, max(end, after)))

    def of(self, x: Tensor, value: Any) -> Tensor:
        """Return all windows as (N, C, places …, kernel …), `value` standing in the padding."""
        x = padded(x, self.hang, value)
        windows = x.window_view(self.kernel, self.strides, self.dilations)
        return windows[tuple([slice(None)] * 2 + [slice(0, n) for n in self.places])]

    @property
    def last(self) -> tuple[int, ...]:
        """The axes of a window."""
        return tuple(range(-self.rank, 0))

    def counts(self, padding: bool) -> np.ndarray:
        """Return how many elements each window holds, those of the padding included or not."""
        total: Any = np.ones((), np.int64)
        for i, n in enumerate(self.extents):
            before, after = self.pads[i] if padding else (0, 0)
            starts = np.arange(self.places[i])[:, None] * self.strides[i] - self.pads[i][0]
            at = starts + np.arange(self.kernel[i])[None, :] * self.dilations[i]
            inside = ((at >= -before) & (at < n + after)).sum(-1)
            total = total[..., None] * inside
        return total  # type: ignore[no-any-return]


@operator("AveragePool", since=7)
def average_pool(call: Call) -> Tensor:
    """AveragePool."""
    x = call.tensor(0)
    pool = Pool(call, x)
    counts = pool.counts(call.flag("count_include_pad"))
    return pool.of(x, 0).sum(pool.last, dtype=x.dtype).div(call.constant(counts, x.dtype))


@operator("LpPool", since=2)
def lp_pool(call: Call) -> Tensor:
    """LpPool: the p-norm of each window."""
    x, p = call.tensor(0), call.integer("p", 2)
    pool = Pool(call, x)
    sums = pool.of(x, 0).abs().pow(float(p)).sum(pool.last)
    return sums.pow(1 / p).cast(x.dtype)


@operator("MaxPool")
def max_pool(call: Call) -> Any:
    """MaxPool, and where in the input each maximum stands."""
    x = call.tensor(0)
    pool = Pool(call, x)
    windows = pool.of(x, x.dtype.low)
    values = windows.max(pool.last)
    if call.outputs == 1:
        return values
    place: Tensor = windows.reshape(*values.shape, -1).argmax(-1)
    column_first = call.flag("storage_order")
    index: Any = arange(x.shape[0] * x.shape[1]).mul(math.prod(pool.extents))
    index = index.reshape(*x.shape[:2], *[1] * pool.rank)
    for i, n in enumerate(pool.extents):
        inner = math.prod(pool.kernel[i + 1 :])
        within = place.floor_divide(inner).remainder(pool.kernel[i]).mul(pool.dilations[i])
        start = arange(pool.places[i]).mul(pool.strides[i]).sub(pool.pads[i][0])
        start = start.reshape([-1 if a == i else 1 for a in range(pool.rank)])
        step = math.prod(pool.extents[:i] if column_first else pool.extents[i + 1 :])
        index = index.add(within.add(start).clip(0, n - 1).mul(step))
    return values, index


@operator("MaxUnpool", since=9)
def max_unpool(call: Call) -> Tensor:
    """MaxUnpool: the values put back where they stood, zeros elsewhere."""
    x, places = call.tensor(0), call.tensor(1)
    pool = Windows(call, x, call.integers("kernel_shape"))
    spatial = [
        (n - 1) * s - sum(pads) + k
        for n, s, pads, k in zip(x.shape[2:], pool.strides, pool.pads, pool.kernel, strict=True)
    ]
    shape = [*x.shape[:2], *spatial]
    wanted = call.numbers(2) if call.has(2) else shape
    if len(wanted) != len(shape) or any(n < m for n, m in zip(wanted, shape, strict=True)):
        raise ModelError(f"output_shape {wanted} does not hold {shape}")
    flat = scatter_add(places.flatten(), x.flatten(), math.prod(shape)).reshape(shape)
    # The indices belong to the smaller shape; the rest of the wanted one stays 0.
    return flat.pad([(0, n - m) for n, m in zip(wanted, shape, strict=True)])


@operator("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
def global_pool(call: Call) -> Tensor:
    """GlobalMaxPool, GlobalAveragePool, GlobalLpPool: one window, the whole of a channel."""
    x = call.tensor(0)
    axes = tuple(range(2, x.ndim))
    if call.op == "GlobalMaxPool":
        return x.max(axes, True)
    if call.op == "GlobalAveragePool":
        return x.mean(axes, True)
    p = call.integer("p", 2)
    return x.abs().pow(float(p)).sum(axes, True).pow(1 / p).cast(x.dtype)
