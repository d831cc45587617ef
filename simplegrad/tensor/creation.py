"""New arrays. Float arrays track gradients unless `requires_grad` is False."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.arguments import flag, integer, real, shown
from simplegrad.dtypes import DType
from simplegrad.errors import ArgumentError, DTypeError, ExchangeError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.infer import broadcast_shapes
from simplegrad.graph.node import Node
from simplegrad.tensor.core import (
    Number,
    as_tensor,
    become_leaf,
    find_device,
    host_node,
    lift,
    number_node,
    wrap,
)
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.exchange import adopted
from simplegrad.tensor.shapes import extents_of
from simplegrad.tensor.tensor import Tensor


def _dtype(dtype: Any, default: DType | None = None) -> DType:
    if isinstance(dtype, int):
        raise ShapeError(f"dtype: {dtype} is an extent; the shape is one argument, such as (2, 3)")
    return (default or dtypes.default_float()) if dtype is None else dtypes.of(dtype)


def _leaf(node: Node, requires_grad: bool | None) -> Tensor:
    return become_leaf(wrap(node), requires_grad)  # type: ignore[no-any-return]


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    return extents_of(name, shape)


def asarray(
    obj: Any,
    dtype: Any = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """Return data as a tensor with its dtype kept, float64 included; a tensor stays itself.

    Python floats take the default float dtype. Host data is copied, unless ``copy=False``: then the
    tensor stands on the memory of a NumPy array, which must not be written any more, and where only
    a copy can be made `ExchangeError` (a `ValueError`) is raised.
    """
    copy = None if copy is None else flag("asarray: copy", copy)
    if isinstance(obj, Tensor):
        same = dtype is None or dtypes.of(dtype) is obj.dtype
        if same and device is None and not copy:
            return obj
        if copy is False:
            raise ExchangeError(
                f"asarray: {obj.dtype} on {obj.device.name} becomes {dtype or obj.dtype} on "
                f"{find_device(device).name} in a copy only; leave out copy=False"
            )
        return Tensor(obj, dtype, requires_grad, device)
    if copy is False:
        node = adopted("asarray", obj, None if dtype is None else dtypes.of(dtype), device)
        return _leaf(node, requires_grad)
    keep = hasattr(obj, "dtype")
    given = None if dtype is None else dtypes.of(dtype)
    node = host_node("asarray", obj, device, given, keep)
    return _leaf(node, requires_grad)


def zeros(
    shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool | None = None
) -> Tensor:
    """Return an array of zeros, by default of the default float dtype.

    >>> import simplegrad as sg
    >>> sg.zeros((2, 2))
    Tensor([[0., 0.],
            [0., 0.]], dtype=float32)
    """
    node = build.full(0, _shape("zeros", shape), _dtype(dtype), find_device(device))
    return _leaf(node, requires_grad)


def ones(
    shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool | None = None
) -> Tensor:
    """Return an array of ones, by default of the default float dtype."""
    node = build.full(1, _shape("ones", shape), _dtype(dtype), find_device(device))
    return _leaf(node, requires_grad)


def empty(
    shape: Any, dtype: Any = None, device: Any = None, requires_grad: bool | None = None
) -> Tensor:
    """Return an array of zeros: uninitialised memory is never handed out."""
    return zeros(shape, dtype, device, requires_grad)


def full(
    shape: Any,
    fill_value: bool | int | float,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """Return an array of one number; a new number compiles nothing."""
    if isinstance(fill_value, Tensor):
        result = fill_value.broadcast_to(_shape("full", shape))
        return result if dtype is None else result.cast(dtype)
    if isinstance(fill_value, np.generic):
        fill_value = fill_value.item()
    if not isinstance(fill_value, Number):
        raise DTypeError(f"full: the value must be a number, not {shown(fill_value)}")
    number = number_node(
        "full", fill_value, _dtype(dtype, dtypes.of(type(fill_value))), find_device(device)
    )
    return _leaf(build.broadcast_to(number, _shape("full", shape)), requires_grad)


def zeros_like(x: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return zeros with the shape, dtype and device of `x`."""
    return _like(zeros, x, (), dtype, options)


def ones_like(x: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return ones with the shape, dtype and device of `x`."""
    return _like(ones, x, (), dtype, options)


def empty_like(x: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return zeros with the shape, dtype and device of `x`."""
    return _like(zeros, x, (), dtype, options)


def full_like(x: Any, fill_value: Any, dtype: Any = None, **options: Any) -> Tensor:
    """Return one number with the shape, dtype and device of `x`."""
    return _like(full, x, (fill_value,), dtype, options)


def _like(make: Any, x: Any, args: tuple[Any, ...], dtype: Any, options: dict[str, Any]) -> Tensor:
    x = as_tensor(x)
    options = {"device": x.device, **{k: v for k, v in options.items() if v is not None}}
    dtype = x.dtype if dtype is None else dtype
    return make(x.shape, *args, dtype=dtype, **options)  # type: ignore[no-any-return]


def _iota(extent: int, device: Any) -> Node:
    return build.iota(extent, dtypes.int64, device)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    k: int = 0,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """Return a matrix with ones on the `k`-th diagonal and zeros elsewhere."""
    shape = _shape("eye", (n_rows, n_rows if n_cols is None else n_cols))
    k = integer("eye: k", k)
    device = find_device(device)
    rows, columns = _iota(shape[0], device), _iota(shape[1], device)
    rows = build.reshape(build.apply(ops.ADD, rows, build.number(k, rows)), (shape[0], 1))
    hit = build.apply(ops.EQUAL, rows, columns)
    return _leaf(build.cast(hit, _dtype(dtype)), requires_grad)


def _bound(name: str, value: Any) -> Any:
    """Return an end of a range as a number: Python's, NumPy's, or that of a tensor, read now."""
    one = isinstance(value, (Tensor, np.ndarray)) and value.size == 1
    value = value.item() if one else value
    if real(f"{name}: a bound or step", value) in (math.inf, -math.inf):
        raise ArgumentError(f"{name}: {value} is no end of a range; give finite numbers")
    return value


def arange(
    start: Any,
    stop: Any = None,
    step: Any = 1,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """Return the numbers from `start` (0 if only one is given) to before `stop`.

    >>> import simplegrad as sg
    >>> sg.arange(2, 8, 3)
    Tensor([2, 5], dtype=int64)
    """
    start, stop = (0, start) if stop is None else (start, stop)
    start, stop, step = (_bound("arange", v) for v in (start, stop, step))
    if any(abs(v) >= 2**63 for v in (start, stop, step)):
        raise ArgumentError(f"arange: {start} … {stop} by {step} does not fit 64 bits")
    if step == 0:
        raise ShapeError("arange: the step must not be 0; it is what two neighbours differ by")
    whole = all(isinstance(v, (int, np.integer)) for v in (start, stop, step))
    extent = len(range(start, stop, step)) if whole else math.ceil((stop - start) / step)
    dtype = _dtype(dtype, dtypes.default_int if whole else None)
    if dtype.kind == "b":
        raise DTypeError("arange: bool counts nothing; use an integer dtype")
    device = find_device(device)
    inner = dtypes.int64 if whole else dtypes.float64 if dtype.itemsize == 8 else dtypes.float32
    node = build.cast(_iota(max(extent, 0), device), inner)
    if step != 1:
        node = build.apply(ops.MUL, node, number_node("arange", step, inner, device))
    if start != 0:
        node = build.apply(ops.ADD, node, number_node("arange", start, inner, device))
    return _leaf(build.cast(node, dtype), requires_grad)


def linspace(
    start: int | float,
    stop: int | float,
    num: int = 50,
    endpoint: bool = True,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """Return `num` evenly spaced floats from `start` to `stop`, which is hit exactly."""
    dtype = _dtype(dtype)
    device = find_device(device)
    start, stop = (_bound("linspace", v) for v in (start, stop))
    extent, endpoint = integer("linspace: num", num, 0), flag("linspace: endpoint", endpoint)
    inner = dtypes.float64 if dtype.itemsize == 8 else dtypes.float32
    parts = max(extent - 1 if endpoint else extent, 1)
    index = _iota(extent, device)
    numbers = [number_node("linspace", v, inner, device) for v in (start, (stop - start) / parts)]
    node = build.apply(ops.MUL, build.cast(index, inner), numbers[1])
    node = build.apply(ops.ADD, node, numbers[0])
    if endpoint and extent > 1:
        last = build.apply(ops.EQUAL, index, build.number(extent - 1, index))
        end = number_node("linspace", stop, inner, device)
        node = build.apply(ops.WHERE, last, build.broadcast_to(end, (extent,)), node)
    return _leaf(build.cast(node, dtype), requires_grad)


def meshgrid(*arrays: Any, indexing: str = "xy") -> list[Tensor]:
    """Return coordinate arrays of vectors; ``"xy"`` puts the second vector first, as NumPy."""
    tensors = [as_tensor(a) for a in arrays]
    if any(t.ndim > 1 for t in tensors) or indexing not in ("xy", "ij"):
        raise ShapeError("meshgrid: takes vectors, and indexing 'xy' or 'ij'")
    order = list(range(len(tensors)))
    if indexing == "xy" and len(order) > 1:
        order[:2] = [1, 0]
    shape = [0] * len(order)
    for tensor, axis in zip(tensors, order, strict=True):
        shape[axis] = tensor.size
    return [
        t.reshape([t.size if a == axis else 1 for a in range(len(order))]).broadcast_to(shape)
        for t, axis in zip(tensors, order, strict=True)
    ]


def broadcast_arrays(*arrays: Any) -> list[Tensor]:
    """Return arrays broadcast to their common shape."""
    tensors = [as_tensor(a) for a in arrays]
    shape = broadcast_shapes("broadcast_arrays", *[t.shape for t in tensors])
    return [t.broadcast_to(shape) for t in tensors]


def tril(x: Any, k: int = 0) -> Tensor:
    """Return `x` with zeros above the `k`-th diagonal of its last two axes."""
    return _triangle("tril", x, k, ops.GREATER_EQUAL)


def triu(x: Any, k: int = 0) -> Tensor:
    """Return `x` with zeros below the `k`-th diagonal of its last two axes."""
    return _triangle("triu", x, k, ops.LESS_EQUAL)


def _triangle(name: str, x: Any, k: int, op: ops.Op) -> Tensor:
    x, k = as_tensor(x), integer(f"{name}: k", k)
    if x.ndim < 2:
        raise ShapeError(f"{name}: shape {x.shape} has no last two axes")
    rows, columns = _iota(x.shape[-2], x.device), _iota(x.shape[-1], x.device)
    rows = build.reshape(build.apply(ops.ADD, rows, build.number(k, rows)), (x.shape[-2], 1))
    inside = build.broadcast_to(build.apply(op, rows, columns), x.shape)
    return where(lift(inside), x, zeros_like(x, requires_grad=False))
