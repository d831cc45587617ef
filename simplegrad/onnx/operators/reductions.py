"""Reductions and running sums."""

from __future__ import annotations

from typing import Any

from simplegrad import dtypes
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.creation import full
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor


def _reduced(call: Call) -> tuple[Tensor, tuple[int, ...], bool]:
    """Return the input, the axes to reduce, and whether they stay as extents of 1."""
    x = call.tensor(0)
    axes = call.axes(1)
    if not axes:
        axes = () if call.flag("noop_with_empty_axes") else range(x.ndim)
    return x, tuple(axes), call.flag("keepdims", True)


@operator("ReduceSum", "ReduceProd", "ReduceMean")
def reduce_sum(call: Call) -> Tensor:
    """ReduceSum, ReduceProd, ReduceMean; the dtype stays."""
    x, axes, keep = _reduced(call)
    if call.op == "ReduceMean":
        return x.mean(axes, keep).cast(x.dtype)
    method = x.sum if call.op == "ReduceSum" else x.prod
    return method(axes, keep, x.dtype)


@operator("ReduceMax", "ReduceMin")
def reduce_extremum(call: Call) -> Tensor:
    """ReduceMax, ReduceMin; of no elements, the least or the greatest number."""
    x, axes, keep = _reduced(call)
    greatest = call.op == "ReduceMax"
    places = {a % x.ndim for a in axes} if x.ndim else set()
    if any(x.shape[a] == 0 for a in places):
        shape = [1 if a in places else n for a, n in enumerate(x.shape) if keep or a not in places]
        fill = x.dtype.low if greatest else x.dtype.high
        return full(tuple(shape), fill, x.dtype, requires_grad=False)
    return x.max(axes, keep) if greatest else x.min(axes, keep)


@operator("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum")
def reduce_norm(call: Call) -> Tensor:
    """ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSum."""
    x, axes, keep = _reduced(call)
    if call.op == "ReduceL1":
        return x.abs().sum(axes, keep, x.dtype)
    if call.op == "ReduceLogSum":
        return x.sum(axes, keep).log().cast(x.dtype)
    squares = x.square().sum(axes, keep, x.dtype)
    return squares.sqrt().cast(x.dtype) if call.op == "ReduceL2" else squares


@operator("ReduceLogSumExp")
def reduce_log_sum_exp(call: Call) -> Tensor:
    """ReduceLogSumExp, without overflow."""
    x, axes, keep = _reduced(call)
    if any(x.shape[a] == 0 for a in axes):
        return x.exp().sum(axes, keep).log()
    return x.logsumexp(axes, keep).cast(x.dtype)


@operator("ArgMax", "ArgMin")
def arg_extremum(call: Call) -> Tensor:
    """ArgMax, ArgMin: the first of several, or the last if asked for."""
    x, axis, keep = call.tensor(0), call.integer("axis", 0), call.flag("keepdims", True)
    last = call.flag("select_last_index")
    x = x.flip(axis) if last else x
    place = x.argmax(axis, keep) if call.op == "ArgMax" else x.argmin(axis, keep)
    return place.neg().add(x.shape[axis] - 1) if last else place


def _shifted(x: Tensor, axis: int, first: Any) -> Tensor:
    """Return `x` moved on by one along an axis: `first` comes in, the last falls out."""
    widths = [(1 if a == axis else 0, 0) for a in range(x.ndim)]
    cut = tuple(slice(0, n) if a == axis else slice(None) for a, n in enumerate(x.shape))
    return x.pad(widths, first)[cut]


@operator("CumSum", "CumProd", since=11)
def cumulative(call: Call) -> Tensor:
    """CumSum, CumProd, from either end, with or without the element itself."""
    x, axis = call.tensor(0), int(call.number(1))
    axis = axis % x.ndim
    backwards = call.flag("reverse")
    x = x.flip(axis) if backwards else x
    if call.op == "CumSum":
        result = x.cumsum(axis, x.dtype)
        result = _shifted(result, axis, 0) if call.flag("exclusive") else result
    else:
        result = _cumprod(x, axis)
        result = _shifted(result, axis, 1) if call.flag("exclusive") else result
    return result.flip(axis) if backwards else result


def _cumprod(x: Tensor, axis: int) -> Tensor:
    """Return running products: of each element and all before it, n² of them in one reduction."""
    n, last = x.shape[axis], x.moveaxis(axis, -1)
    place = Tensor(range(n), dtypes.int32, device=x.device)
    before = place.reshape(n, 1).greater_equal(place)
    products = where(before, last.expand_dims(-2), 1).prod(-1, dtype=x.dtype)
    return products.moveaxis(-1, axis)
