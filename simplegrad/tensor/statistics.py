"""NumPy's statistics and comparisons of whole arrays, made of reductions."""

from __future__ import annotations

import math
from typing import Any

from simplegrad import dtypes, ops
from simplegrad.arguments import flag, real
from simplegrad.errors import ShapeError
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.elementwise import binary, where
from simplegrad.tensor.modes import no_grad
from simplegrad.tensor.shapes import normalize_axes
from simplegrad.tensor.tensor import Tensor


def isclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Return whether ``|a - b| <= atol + rtol * |b|``, elementwise; equal infinities are close."""
    rtol, atol = real("isclose: rtol", rtol, 0), real("isclose: atol", atol, 0)
    equal_nan = flag("isclose: equal_nan", equal_nan)
    a = as_tensor(a, getattr(b, "device", None))
    b = as_tensor(b, a.device)
    far = binary(ops.SUB, a, b, "f").abs()
    # With an infinite b the limit is infinite as well: only what is finite counts.
    near = far.less_equal(b.abs().mul(float(rtol)).add(float(atol))).logical_and(b.isfinite())
    close = near.logical_or(binary(ops.EQUAL, a, b))
    return close.logical_or(a.isnan().logical_and(b.isnan())) if equal_nan else close


def allclose(
    a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Return whether all elements are close, as `isclose` has it; computed now.

    >>> import simplegrad as sg
    >>> sg.allclose([1.0, 2.0], [1.0, 2.00001])
    True
    """
    return bool(isclose(a, b, rtol, atol, equal_nan).all())


def array_equal(a: Any, b: Any, equal_nan: bool = False) -> bool:
    """Return whether two arrays have one shape and equal elements; computed now."""
    equal_nan = flag("array_equal: equal_nan", equal_nan)
    a = as_tensor(a, getattr(b, "device", None))
    b = as_tensor(b, a.device)
    if a.shape != b.shape:
        return False
    same = binary(ops.EQUAL, a, b)
    if equal_nan:
        same = same.logical_or(a.isnan().logical_and(b.isnan()))
    return bool(same.all())


def _without_nan(x: Any, instead: float) -> tuple[Tensor, Tensor | None]:
    """Return an array with NaN replaced, and where NaN was; integers have none."""
    x = as_tensor(x)
    if not x.dtype.is_float:
        return x, None
    missing = x.isnan()
    return where(missing, instead, x), missing


def nansum(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
    """Return the sum of what is not NaN; of nothing, 0."""
    return _without_nan(x, 0.0)[0].sum(axis, keepdims, dtype)


def nanmean(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the mean of what is not NaN; of nothing, NaN."""
    values, missing = _without_nan(x, 0.0)
    if missing is None:
        return values.mean(axis, keepdims)
    count = missing.logical_not().sum(axis, keepdims).cast(values.dtype)
    return values.sum(axis, keepdims).div(count)


def nanmax(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the greatest element that is not NaN; of nothing but NaN, NaN.

    >>> import simplegrad as sg
    >>> sg.nanmax([1.0, sg.nan, 3.0])
    Tensor(3., dtype=float32)
    """
    values, missing = _without_nan(x, -math.inf)
    top = values.max(axis, keepdims)
    return top if missing is None else where(missing.all(axis, keepdims), math.nan, top)


def nanmin(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the smallest element that is not NaN; of nothing but NaN, NaN."""
    values, missing = _without_nan(x, math.inf)
    least = values.min(axis, keepdims)
    return least if missing is None else where(missing.all(axis, keepdims), math.nan, least)


_BLOCK = 1024


def median(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the middle element, or the mean of the two in the middle, as a float; NaN wins.

    There is no sort: each element counts those below it, n² comparisons in time n² and memory n.
    The gradient goes to the elements in the middle, equal ones sharing it.

    >>> import simplegrad as sg
    >>> sg.median([3.0, 1.0, 2.0, 10.0])
    Tensor(2.5, dtype=float32)
    """
    given = as_tensor(x)
    axes, keepdims = normalize_axes("median", axis, given.ndim), flag("median: keepdims", keepdims)
    kept = [a for a in range(given.ndim) if a not in axes]
    rows = given.permute([*kept, *axes]) if given.ndim else given
    lead = tuple([given.shape[a] for a in kept])
    n = math.prod([given.shape[a] for a in axes])
    if not n:
        raise ShapeError(f"median: shape {given.shape} has no elements along axis {axis}")
    rows = rows.reshape(*lead, n)
    if not rows.dtype.is_float:
        rows = rows.cast(dtypes.default_float())
    with no_grad():
        parts = [rows[..., i : i + _BLOCK].expand_dims(-2) for i in range(0, n, _BLOCK)]
        below: Any = 0
        for part in parts:
            below = part.less(rows.expand_dims(-1)).sum(-1).add(below)
        missing = rows.isnan().any(-1)
    # The greatest of those with at most k elements below them is number k.
    low, high = (
        where(below.less_equal(k), rows, -math.inf).max(-1) for k in ((n - 1) // 2, n // 2)
    )
    middle = low if n % 2 else low.add(high).mul(0.5)
    result = where(missing, math.nan, middle)
    return result.expand_dims(axes) if keepdims else result


def ptp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the greatest less the smallest element ("peak to peak")."""
    given = as_tensor(x)
    return given.max(axis, keepdims).sub(given.min(axis, keepdims))


def average(x: Any, axis: Any = None, weights: Any = None, keepdims: bool = False) -> Tensor:
    """Return the mean, weighted if `weights` are given: of the array's shape, or one per place
    along `axis`.

    >>> import simplegrad as sg
    >>> sg.average([1.0, 2.0], weights=[3.0, 1.0])
    Tensor(1.25, dtype=float32)
    """
    given = as_tensor(x)
    axes = normalize_axes("average", axis, given.ndim)
    if weights is None:
        return given.mean(axes, keepdims)
    share = as_tensor(weights, given.device)
    if share.shape != given.shape:
        if len(axes) != 1 or share.shape != (given.shape[axes[0]],):
            raise ShapeError(
                f"average: weights of shape {share.shape} for an array of shape {given.shape} and "
                f"axis {axis}; give one for each element, or one for each place along one axis"
            )
        share = share.reshape([-1 if a == axes[0] else 1 for a in range(given.ndim)])
        share = share.broadcast_to(given.shape)
    total = share.sum(axes, keepdims)
    return given.mul(share).sum(axes, keepdims).div(total)
