"""Reductions over any axes, and cumulative sums."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from simplegrad import dtypes, ops
from simplegrad.arguments import flag, integer, real
from simplegrad.dtypes import DType
from simplegrad.errors import ArgumentError, DTypeError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.infer import Shape
from simplegrad.graph.node import Node, make
from simplegrad.ops import Op
from simplegrad.tensor.core import lift
from simplegrad.tensor.modes import no_grad
from simplegrad.tensor.shapes import normalize_axes, normalize_axis
from simplegrad.tensor.stamped import stamped
from simplegrad.tensor.views import Views, concat

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor


def _summed(dtype: DType, given: Any) -> DType:
    """Return the dtype of a sum: small integers widen to 64 bits, as the array API has it."""
    if given is not None:
        return dtypes.of(given)
    if dtype.is_float:
        return dtype
    return dtypes.uint64 if dtype.kind == "u" else dtypes.int64


def _flag(name: str, keepdims: Any) -> bool:
    return flag(f"{name}: keepdims", keepdims)


def _kept(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    return tuple(1 if a in axes else n for a, n in enumerate(shape) if keepdims or a not in axes)


class Reductions(Views):
    """Reductions; `axis` is None for all axes, an integer or a tuple."""

    __slots__ = ()

    def _reduce(self, op: Op, x: Node, axis: Any, keepdims: bool) -> Tensor:
        axes = normalize_axes(op.name, axis, self.ndim)
        return lift(build.reduce(op, x, axes, _flag(op.name, keepdims)), self._node)

    @stamped
    def sum(self, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """Return the sum; bools and integers add up in 64 bits unless `dtype` says otherwise.

        >>> import simplegrad as sg
        >>> sg.arange(6).reshape(2, 3).sum(axis=1)
        Tensor([ 3, 12], dtype=int64)
        """
        x = build.cast(self._node, _summed(self.dtype, dtype))
        return self._reduce(ops.SUM, x, axis, keepdims)

    @stamped
    def prod(self, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
        """Return the product; bools and integers multiply in 64 bits, as with `sum`."""
        x = build.cast(self._node, _summed(self.dtype, dtype))
        return self._reduce(ops.PROD, x, axis, keepdims)

    @stamped
    def max(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return the greatest element; NaN wins. An axis of extent 0 is an error."""
        return self._reduce(ops.MAX, self._node, axis, keepdims)

    @stamped
    def min(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return the smallest element; NaN wins. An axis of extent 0 is an error."""
        return self._reduce(ops.MIN, self._node, axis, keepdims)

    @stamped
    def mean(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return the mean as a float; half floats are averaged in float32."""
        axes = normalize_axes("mean", axis, self.ndim)
        mean = _mean(self._node, self._wide(), axes, _flag("mean", keepdims))
        return lift(build.cast(mean, self._float()), self._node)

    @stamped
    def var(
        self,
        axis: Any = None,
        keepdims: bool = False,
        correction: int | float = 0,
        ddof: int | float | None = None,
    ) -> Tensor:
        """Return the mean squared distance from the mean, over n - `correction`.

        `ddof` is NumPy's name of `correction`.
        """
        axes, keepdims = normalize_axes("var", axis, self.ndim), _flag("var", keepdims)
        if ddof is not None and correction:
            raise ArgumentError(
                f"var: correction={correction} and ddof={ddof} are two names of one number; "
                "give one"
            )
        correction = real("var: correction", correction if ddof is None else ddof)
        x, wide = self._node, self._wide()
        x = build.cast(x, wide) if x.dtype.is_float else _near_zero(x, wide, axes)
        far = build.apply(ops.SUB, x, _mean(x, wide, axes, True))
        mean = _mean(make(ops.MUL, (far, far)), wide, axes, keepdims, correction)
        return lift(build.cast(mean, self._float()), self._node)

    def std(
        self,
        axis: Any = None,
        keepdims: bool = False,
        correction: int | float = 0,
        ddof: int | float | None = None,
    ) -> Tensor:
        """Return the square root of `var`."""
        return self.var(axis, keepdims, correction, ddof).sqrt()

    def _float(self) -> DType:
        return self.dtype if self.dtype.is_float else dtypes.default_float()

    def _wide(self) -> DType:
        dtype = self._float()
        return dtypes.float32 if dtype.itemsize == 2 else dtype

    @stamped
    def argmax(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return the int64 index of the first greatest element; NaN counts as the greatest."""
        return self._arg(ops.ARGMAX, axis, keepdims)

    @stamped
    def argmin(self, axis: int | None = None, keepdims: bool = False) -> Tensor:
        """Return the int64 index of the first smallest element; NaN counts as the smallest."""
        return self._arg(ops.ARGMIN, axis, keepdims)

    def _arg(self, op: Op, axis: int | None, keepdims: bool) -> Tensor:
        keepdims = _flag(op.name, keepdims)
        if axis is None:
            flat = build.reshape(self._node, (self.size,))
            node = build.reshape(make(op, (flat,), (0,)), (1,) * self.ndim if keepdims else ())
            return lift(node, self._node)
        return self._reduce(op, self._node, normalize_axis(op.name, axis, self.ndim), keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return whether one element is true (not 0); of none, False."""
        return self._truth("any", ops.MAX, False, axis, keepdims)

    def all(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return whether all elements are true (not 0); of none, True."""
        return self._truth("all", ops.MIN, True, axis, keepdims)

    def __contains__(self, value: Any) -> bool:
        """Return whether an element equals `value`, which broadcasts as in NumPy; computed now."""
        return bool(self.equal(value).any())

    def _truth(self, name: str, op: Op, empty: bool, axis: Any, keepdims: bool) -> Tensor:
        axes, keepdims = normalize_axes(name, axis, self.ndim), _flag(name, keepdims)
        x = build.cast(self._node, dtypes.bool_)
        if any(self.shape[a] == 0 for a in axes):
            shape = _kept(self.shape, axes, keepdims)
            return lift(build.full(empty, shape, dtypes.bool_, x.device), self._node)
        return lift(build.reduce(op, x, axes, keepdims), self._node)

    def count_nonzero(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return how many elements are not 0, as int64."""
        return self.cast(dtypes.bool_).sum(axis, keepdims)

    def logsumexp(self, axis: Any = None, keepdims: bool = False) -> Tensor:
        """Return log(sum(exp(x))) without overflow."""
        x: Any = self.cast(self._float())
        keepdims = _flag("logsumexp", keepdims)
        if not x.size:
            return x.exp().sum(axis, keepdims).log()  # type: ignore[no-any-return]
        with no_grad():  # the shift cancels out, so its gradient is zero
            top = x.max(axis, True)
            top = (top.isinf()).where(0.0, top)
        total = x.sub(top).exp().sum(axis, True).log().add(top)
        if keepdims:
            return total  # type: ignore[no-any-return]
        axes = normalize_axes("logsumexp", axis, self.ndim)
        return total.reshape(_kept(self.shape, axes, False))  # type: ignore[no-any-return]

    def cumsum(
        self, axis: int | None = None, dtype: Any = None, include_initial: bool = False
    ) -> Tensor:
        """Return running sums along `axis`; None: of the flat array. Integers as with `sum`.

        `include_initial` puts a 0 in front.
        """
        if axis is None:
            return self.flatten().cumsum(0, dtype, include_initial)
        axis = normalize_axis("cumsum", axis, self.ndim)
        include_initial = flag("cumsum: include_initial", include_initial)
        x = build.cast(self._node, _summed(self.dtype, dtype))
        if x.dtype.kind == "b":
            raise DTypeError("cumsum: bools do not add up; leave dtype out for int64")
        if include_initial:
            widths = [(1 if a == axis else 0, 0, 0) for a in range(self.ndim)]
            x = build.pad(x, widths)
        return lift(make(ops.CUMSUM, (x,), axis), self._node)

    def cumulative_sum(
        self, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
    ) -> Tensor:
        """Return running sums; the array API's name of `cumsum`."""
        if axis is None and self.ndim != 1:
            raise ShapeError(f"cumulative_sum: shape {self.shape} needs an axis")
        return self.cumsum(0 if axis is None else axis, dtype, include_initial)

    def cumprod(
        self, axis: int | None = None, dtype: Any = None, include_initial: bool = False
    ) -> Tensor:
        """Return running products along `axis`; None: of the flat array.

        Integers multiply in 64 bits unless `dtype` says more; `include_initial` puts a 1 in front.
        """
        if axis is None:
            return self.flatten().cumprod(0, dtype, include_initial)
        axis = normalize_axis("cumprod", axis, self.ndim)
        include_initial = flag("cumprod: include_initial", include_initial)
        x = build.cast(self._node, _summed(self.dtype, dtype))
        if x.dtype.kind == "b":
            raise DTypeError("cumprod: bools do not multiply; leave dtype out for int64")
        order = [*[a for a in range(self.ndim) if a != axis], axis]
        rows = build.permute(x, order)
        if include_initial:
            rows = build.pad(rows, [(0, 0, 0)] * (self.ndim - 1) + [(1, 0, 0)], 1)
        back = [order.index(a) for a in range(self.ndim)]
        return lift(build.permute(_running_products(rows), back), self._node)

    def cumulative_prod(
        self, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
    ) -> Tensor:
        """Return running products; the array API's name of `cumprod`."""
        if axis is None and self.ndim != 1:
            raise ShapeError(f"cumulative_prod: shape {self.shape} needs an axis")
        return self.cumprod(0 if axis is None else axis, dtype, include_initial)

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        """Return the sum along a diagonal of two axes; see `diagonal`."""
        return self.diagonal(offset, axis1, axis2).sum(-1)

    def diff(self, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Tensor:
        """Return the differences of neighbours along `axis`, taken `n` times.

        `prepend` and `append` are joined to the array first.
        """
        axis = normalize_axis("diff", axis, self.ndim)
        n = integer("diff: n", n, 0)
        parts = [part for part in (prepend, self, append) if part is not None]
        result = self if len(parts) == 1 else concat(parts, axis)
        x = result._node
        for _ in range(min(n, x.shape[axis])):  # then nothing is left
            extent, whole = x.shape[axis], [(0, m, 1) for m in x.shape]
            late, early = list(whole), list(whole)
            late[axis] = (min(1, extent), max(extent - 1, 0), 1)
            early[axis] = (0, max(extent - 1, 0), 1)
            x = make(ops.SUB, (build.slice_(x, late), build.slice_(x, early)))
        return lift(x, result._node)


def _mean(
    x: Node, wide: DType, axes: tuple[int, ...], keepdims: bool, correction: int | float = 0
) -> Node:
    """Return the sum of x over its count less `correction`, in `wide`; integers add up exactly."""
    if x.dtype.is_float:
        total = build.reduce(ops.SUM, build.cast(x, wide), axes, keepdims)
    elif x.dtype.itemsize < 8:
        total = build.cast(build.reduce(ops.SUM, _int64(x), axes, keepdims), wide)
    else:
        high, low = (build.reduce(ops.SUM, half, axes, keepdims) for half in _halves(x))
        carry, low = _halves(low)
        total = _joined(build.apply(ops.ADD, high, carry), low, wide)
    count = max(prod(x.shape[axis] for axis in axes) - correction, 0)
    return build.apply(ops.DIV, total, build.number(count, total))


def _near_zero(x: Node, wide: DType, axes: tuple[int, ...]) -> Node:
    """Return the integers x less the integer next to their mean, which `wide` holds well."""
    count = prod(x.shape[axis] for axis in axes)
    if not count:
        return build.cast(x, wide)
    if x.dtype.itemsize < 8:
        x = _int64(x)
        total = build.reduce(ops.SUM, x, axes, True)
        near = build.apply(ops.FLOOR_DIVIDE, total, build.number(count, total))
        return build.cast(build.apply(ops.SUB, x, near), wide)
    halves = _halves(x)
    high, low = (build.reduce(ops.SUM, half, axes, True) for half in halves)
    n = build.number(count, high)
    rest = build.apply(ops.REMAINDER, high, n)
    low = build.apply(ops.ADD, build.apply(ops.SHIFT_LEFT, rest, build.number(32, rest)), low)
    near_halves = (build.apply(ops.FLOOR_DIVIDE, part, n) for part in (high, low))
    far = [build.apply(ops.SUB, *pair) for pair in zip(halves, near_halves, strict=True)]
    return _joined(far[0], far[1], wide)


def _int64(x: Node) -> Node:
    return build.cast(x, dtypes.int64)


def _halves(x: Node) -> tuple[Node, Node]:
    """Return int64 h and l with x = 2^32 h + l and l within ±2^31: their sums do not wrap."""

    def shifted(op: Op, value: Node, places: int) -> Node:
        return build.apply(op, value, build.number(places, value))

    above = shifted(ops.SHIFT_RIGHT, x, 31)
    odd = build.apply(ops.AND, above, build.number(1, above))
    high = build.apply(ops.ADD, shifted(ops.SHIFT_RIGHT, x, 32), odd)
    low = build.apply(ops.SUB, x, shifted(ops.SHIFT_LEFT, high, 32))
    return _int64(high), _int64(low)


def _joined(high: Node, low: Node, wide: DType) -> Node:
    """Return 2^32 high + low in `wide`."""
    high = build.cast(high, wide)
    scaled = build.apply(ops.MUL, high, build.number(2.0**32, high))
    return build.apply(ops.ADD, scaled, build.cast(low, wide))


_SCAN_BLOCK = 16


def _running_products(rows: Node) -> Node:
    """Return products of prefixes of the last axis: inside blocks, times those of the blocks."""
    *lead, n = rows.shape
    if n > _SCAN_BLOCK:
        blocks = -(-n // _SCAN_BLOCK)
        none = [(0, 0, 0)] * len(lead)
        padded = build.pad(rows, [*none, (0, blocks * _SCAN_BLOCK - n, 0)], 1)
        inner = _running_products(build.reshape(padded, (*lead, blocks, _SCAN_BLOCK)))
        whole = [(0, m, 1) for m in (*lead, blocks)]
        totals = build.slice_(inner, [*whole, (_SCAN_BLOCK - 1, 1, 1)])
        before = _running_products(build.reshape(totals, (*lead, blocks)))
        before = build.pad(before, [*none, (1, 0, 0)], 1)
        before = build.slice_(before, whole)
        both = build.apply(ops.MUL, inner, build.reshape(before, (*lead, blocks, 1)))
        both = build.reshape(both, (*lead, blocks * _SCAN_BLOCK))
        return build.slice_(both, [(0, m, 1) for m in rows.shape])
    i, j = (build.iota(n, dtypes.int32, rows.device) for _ in range(2))
    seen = build.apply(ops.GREATER_EQUAL, build.reshape(i, (n, 1)), build.reshape(j, (1, n)))
    spread = build.broadcast_to(build.reshape(rows, (*lead, 1, n)), (*lead, n, n))
    seen = build.broadcast_to(seen, spread.shape)
    masked = build.apply(ops.WHERE, seen, spread, build.number(1, spread))
    return build.reduce(ops.PROD, masked, [len(lead) + 1])
