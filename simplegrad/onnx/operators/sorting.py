"""TopK, by ranks: the engine has no sort, so each element counts those that come before it."""

from __future__ import annotations

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.creation import arange
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor


def ranks(x: Tensor, largest: bool) -> Tensor:
    """Return how many elements of the last axis come before each: equal ones in their order.

    NaN counts as the greatest. Takes n² comparisons in one reduction, none of them stored.
    """
    n = x.shape[-1]
    if x.dtype.kind == "b":
        x = x.cast(dtypes.int32)
    own, other = x.expand_dims(-1), x.expand_dims(-2)
    more = other.greater(own) if largest else other.less(own)
    same = other.equal(own)
    if x.dtype.is_float:
        own_nan, other_nan = own.isnan(), other.isnan()
        first, second = (other_nan, own_nan) if largest else (own_nan, other_nan)
        more = more.logical_or(first.logical_and(second.logical_not()))
        same = same.logical_or(own_nan.logical_and(other_nan))
    place = arange(n)
    earlier = same.logical_and(place.less(place.reshape(n, 1)))
    return more.logical_or(earlier).cast(dtypes.int32).sum(-1, dtype=dtypes.int32)


@operator("TopK", since=10)
def top_k(call: Call) -> tuple[Tensor, Tensor]:
    """TopK: the k greatest or smallest along `axis`, in order, and where they stand."""
    x, axis = call.tensor(0), call.integer("axis", -1)
    k = int(call.number(1))
    if not -x.ndim <= axis < x.ndim or not 0 <= k <= x.shape[axis]:
        raise ModelError(f"k = {k} along axis {axis} of shape {x.shape}")
    x = x.moveaxis(axis, -1)
    rank = ranks(x, call.flag("largest", True))
    at = arange(k).cast(dtypes.int32).reshape(k, 1).equal(rank.expand_dims(-2))
    index = where(at, arange(x.shape[-1]), 0).sum(-1)
    values = x.take_along_axis(index, -1)
    return values.moveaxis(-1, axis), index.moveaxis(-1, axis)
