"""Elementwise methods and operators: promotion, then one node per operation.

The path for two operands of one shape and dtype makes its node at once; everything else (numbers,
host arrays, broadcasting, mixed dtypes) is brought into that form first.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.arguments import integer
from simplegrad.errors import DTypeError, DTypeNotSupported
from simplegrad.graph import build
from simplegrad.graph.node import Node, make, scalar, user_line
from simplegrad.ops import Op
from simplegrad.tensor.core import (
    Core,
    as_tensor,
    common,
    lift,
    number_node,
    same_device,
    wrap,
)
from simplegrad.tensor.modes import mode
from simplegrad.tensor.naming import named
from simplegrad.tensor.pending import MAX_HELD_BYTES, MAX_PENDING, flush, gather, release
from simplegrad.tensor.stamped import stamped

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor

_OPERANDS = (Core, bool, int, float, np.ndarray, np.generic, list, tuple)
_NAMES = {ops.SHIFT_LEFT: "bitwise_left_shift", ops.SHIFT_RIGHT: "bitwise_right_shift"}
"""Methods that have another name than their operation."""
_BOOL_OPS = {ops.ADD: ops.OR, ops.MUL: ops.AND}


def spread(value: bool | int | float, like: Node, name: str) -> Node:
    """Return a user's number with the shape, dtype and device of `like`, a kernel argument."""
    spec = like.kind.spec
    if spec.dtype.is_float:
        return scalar(float(value), spec, like.device)
    return number_node(name, value, spec.dtype, like.device, spec.shape)


def binary(op: Op, a: Any, b: Any, kinds: str | None = None) -> Tensor:
    """Return ``op(a, b)`` of anything array-like, promoted and broadcast."""
    x, y = common(op.name, kinds or op.kinds, a, b)
    if x.dtype.kind == "b":
        op = _BOOL_OPS.get(op, op)
    inputs = [v._node for v in (a, b) if isinstance(v, Core)]
    return lift(build.apply(op, x, y), *inputs)


def _finish(node: Node, tracks: bool) -> Tensor:
    node.line = user_line()
    if node.depth > MAX_PENDING:
        flush(node, node.srcs)
    elif not node.depth & (node.depth - 1) and not node.kind.spec.shape:
        gather(node)
    if tracks and mode.grad:
        node.tracks = True
    if node.unread > MAX_HELD_BYTES:
        release(node)
    return wrap(node)


@stamped
def _broadcast(a: Any, b: Any, op: Op) -> Tensor:
    """Return ``op(a, b)`` of one dtype on one device, broadcast."""
    return lift(build.apply(op, a._node, b._node), a._node, b._node)


def _unary(op: Op, doc: str) -> Callable[[Any], Tensor]:
    kinds, differentiable = op.kinds, op.differentiable
    rounds = op in (ops.FLOOR, ops.CEIL, ops.ROUND, ops.TRUNC)

    def method(self: Any) -> Tensor:
        x = self._node
        if x.kind.spec.dtype.kind not in kinds:
            if rounds:
                return wrap(x)
            if kinds == "f":
                x = build.cast(x, dtypes.default_float())
        return _finish(make(op, (x,)), differentiable and x.tracks)

    doc += " Integers give the default float dtype." if kinds == "f" else ""
    return named(method, op.name, doc)


def _fast(
    op: Op, reflected: bool, strict: bool, doc: str | None = None
) -> Callable[[Any, Any], Tensor]:
    kinds, differentiable = op.kinds, op.differentiable

    def method(self: Any, other: Any) -> Any:
        x = self._node
        spec = x.kind.spec
        if spec.dtype.kind in kinds:
            if isinstance(other, Core):
                y = other._node
                if y.kind.spec is spec and y.device is x.device:
                    node = make(op, (y, x) if reflected else (x, y))
                    return _finish(node, differentiable and (x.tracks or y.tracks))
                if y.kind.spec.dtype is spec.dtype and y.device is x.device:
                    return _broadcast(other, self, op) if reflected else _broadcast(self, other, op)
            elif (type(other) is float and spec.dtype.is_float) or type(other) is int:
                y = spread(other, x, op.name)
                node = make(op, (y, x) if reflected else (x, y))
                return _finish(node, differentiable and x.tracks)
        if not strict and not isinstance(other, _OPERANDS) and not hasattr(other, "__array__"):
            return NotImplemented
        return binary(op, other, self) if reflected else binary(op, self, other)

    return named(method, _NAMES.get(op, op.name), doc)


def _method(op: Op, doc: str) -> Callable[[Any, Any], Tensor]:
    return _fast(op, False, True, doc + " The operands broadcast and promote.")


def _operator(op: Op) -> Callable[[Any, Any], Tensor]:
    return _fast(op, reflected=False, strict=False)


def _reflected(op: Op) -> Callable[[Any, Any], Tensor]:
    return _fast(op, reflected=True, strict=False)


def _logical(op: Op, doc: str) -> Callable[[Any, Any], Tensor]:
    name = op.name.replace("bitwise", "logical")

    def method(self: Any, other: Any) -> Tensor:
        x, y = common(name, ops.WHERE.kinds, self, other)
        x, y = build.cast(x, dtypes.bool_), build.cast(y, dtypes.bool_)
        return lift(build.apply(op, x, y))

    return named(method, name, doc)


def _integer_power(x: Node, exponent: int) -> Node | None:
    """Return ``x**exponent`` for the exponents that are cheaper than a pow, or None."""
    if exponent == 0:
        return build.full(1, x.shape, x.dtype, x.device)
    if exponent == 1:
        return x
    if exponent in (2, 3):
        square = make(ops.MUL, (x, x))
        return square if exponent == 2 else make(ops.MUL, (square, x))
    return None


def _to_multiple(x: Node, step: int) -> Node:
    """Return integers rounded to the nearest multiple of `step`, half of it to the even one."""
    wide = build.cast(x, dtypes.uint64 if x.dtype.kind == "u" else dtypes.int64)
    if step > wide.dtype.high // 4:
        return build.full(0, x.shape, wide.dtype, x.device)
    by, two = build.number(step, wide), build.number(2, wide)
    below = make(ops.FLOOR_DIVIDE, (wide, by))
    twice = make(ops.MUL, (make(ops.SUB, (wide, make(ops.MUL, (below, by)))), two))
    odd = make(ops.EQUAL, (make(ops.REMAINDER, (below, two)), build.number(1, wide)))
    up = make(
        ops.OR,
        (make(ops.GREATER, (twice, by)), make(ops.AND, (make(ops.EQUAL, (twice, by)), odd))),
    )
    return make(ops.MUL, (make(ops.ADD, (below, build.cast(up, wide.dtype))), by))


class Elementwise(Core):
    """Operations on each element."""

    __slots__ = ()

    neg = _unary(ops.NEG, "Return the negative of each element.")
    sign = _unary(ops.SIGN, "Return -1, 0 or 1 for each element; NaN stays NaN. No gradient.")
    abs = _unary(ops.ABS, "Return the absolute value of each element; its gradient at 0 is 0.")
    exp = _unary(ops.EXP, "Return e to the power of each element.")
    exp2 = _unary(ops.EXP2, "Return 2 to the power of each element.")
    expm1 = _unary(ops.EXPM1, "Return exp(x) - 1, exact near 0.")
    log = _unary(ops.LOG, "Return the natural logarithm.")
    log2 = _unary(ops.LOG2, "Return the logarithm to base 2.")
    log1p = _unary(ops.LOG1P, "Return log(1 + x), exact near 0.")
    sqrt = _unary(ops.SQRT, "Return the square root; NaN below 0.")
    rsqrt = _unary(ops.RSQRT, "Return 1 / sqrt(x).")
    reciprocal = _unary(ops.RECIPROCAL, "Return 1 / x.")
    sin = _unary(ops.SIN, "Return the sine of radians.")
    cos = _unary(ops.COS, "Return the cosine of radians.")
    tan = _unary(ops.TAN, "Return the tangent of radians.")
    asin = _unary(ops.ASIN, "Return the inverse sine.")
    acos = _unary(ops.ACOS, "Return the inverse cosine.")
    atan = _unary(ops.ATAN, "Return the inverse tangent.")
    sinh = _unary(ops.SINH, "Return the hyperbolic sine.")
    cosh = _unary(ops.COSH, "Return the hyperbolic cosine.")
    tanh = _unary(ops.TANH, "Return the hyperbolic tangent.")
    asinh = _unary(ops.ASINH, "Return the inverse hyperbolic sine.")
    acosh = _unary(ops.ACOSH, "Return the inverse hyperbolic cosine.")
    atanh = _unary(ops.ATANH, "Return the inverse hyperbolic tangent.")
    erf = _unary(ops.ERF, "Return the error function.")
    floor = _unary(ops.FLOOR, "Round down. Integers stay; no gradient.")
    ceil = _unary(ops.CEIL, "Round up. Integers stay; no gradient.")
    rint = named(_unary(ops.ROUND, ""), "rint", "Round to the nearest, ties to even.")
    trunc = _unary(ops.TRUNC, "Round towards zero. Integers stay; no gradient.")
    isnan = _unary(ops.ISNAN, "Return whether each element is NaN.")
    isinf = _unary(ops.ISINF, "Return whether each element is infinite.")
    isfinite = _unary(ops.ISFINITE, "Return whether each element is neither NaN nor infinite.")

    add = _method(ops.ADD, "Return the sum; of bools, the logical or.")
    sub = _method(ops.SUB, "Return the difference.")
    subtract = named(sub, "subtract", sub.__doc__)
    mul = _method(ops.MUL, "Return the product; of bools, the logical and.")
    multiply = named(mul, "multiply", mul.__doc__)
    div = _method(ops.DIV, "Return the quotient as floats.")
    divide = named(div, "divide", div.__doc__)
    floor_divide = _method(ops.FLOOR_DIVIDE, "Return the quotient rounded down. No gradient.")
    remainder = _method(ops.REMAINDER, "Return the remainder, with the sign of the divisor.")
    maximum = _method(ops.MAXIMUM, "Return the greater element; NaN wins.")
    minimum = _method(ops.MINIMUM, "Return the smaller element; NaN wins.")
    atan2 = _method(ops.ATAN2, "Return the angle of the point (other, self).")
    hypot = _method(ops.HYPOT, "Return sqrt(self**2 + other**2) without overflow.")
    equal = _method(ops.EQUAL, "Return whether elements are equal.")
    not_equal = _method(ops.NOT_EQUAL, "Return whether elements differ.")
    less = _method(ops.LESS, "Return self < other.")
    less_equal = _method(ops.LESS_EQUAL, "Return self <= other.")
    greater = _method(ops.GREATER, "Return self > other.")
    greater_equal = _method(ops.GREATER_EQUAL, "Return self >= other.")
    bitwise_and = _method(ops.AND, "Return the bitwise and of integers or bools.")
    bitwise_or = _method(ops.OR, "Return the bitwise or of integers or bools.")
    bitwise_xor = _method(ops.XOR, "Return the bitwise exclusive or of integers or bools.")
    bitwise_left_shift = _method(ops.SHIFT_LEFT, "Return integers shifted to the left.")
    bitwise_right_shift = _method(ops.SHIFT_RIGHT, "Return integers shifted to the right.")
    logical_and = _logical(ops.AND, "Return whether both are true (not 0).")
    logical_or = _logical(ops.OR, "Return whether one is true (not 0).")
    logical_xor = _logical(ops.XOR, "Return whether exactly one is true (not 0).")

    __add__, __radd__ = _operator(ops.ADD), _reflected(ops.ADD)
    __sub__, __rsub__ = _operator(ops.SUB), _reflected(ops.SUB)
    __mul__, __rmul__ = _operator(ops.MUL), _reflected(ops.MUL)
    __truediv__, __rtruediv__ = _operator(ops.DIV), _reflected(ops.DIV)
    __floordiv__, __rfloordiv__ = _operator(ops.FLOOR_DIVIDE), _reflected(ops.FLOOR_DIVIDE)
    __mod__, __rmod__ = _operator(ops.REMAINDER), _reflected(ops.REMAINDER)
    __and__, __rand__ = _operator(ops.AND), _reflected(ops.AND)
    __or__, __ror__ = _operator(ops.OR), _reflected(ops.OR)
    __xor__, __rxor__ = _operator(ops.XOR), _reflected(ops.XOR)
    __lshift__, __rlshift__ = _operator(ops.SHIFT_LEFT), _reflected(ops.SHIFT_LEFT)
    __rshift__, __rrshift__ = _operator(ops.SHIFT_RIGHT), _reflected(ops.SHIFT_RIGHT)
    __eq__, __ne__ = _operator(ops.EQUAL), _operator(ops.NOT_EQUAL)  # type: ignore[assignment]
    __lt__, __le__ = _operator(ops.LESS), _operator(ops.LESS_EQUAL)
    __gt__, __ge__ = _operator(ops.GREATER), _operator(ops.GREATER_EQUAL)
    __hash__ = object.__hash__
    __neg__, __abs__ = neg, abs

    def _ufunc(self, name: str, inputs: tuple[Any, ...]) -> Tensor:
        op = ops.OPS.get(name)
        if op is not None and op.arity == 2:
            return binary(op, *inputs)
        first = as_tensor(inputs[0], self._node.device)
        return getattr(first, name)(*inputs[1:])  # type: ignore[no-any-return]

    def round(self, decimals: int = 0) -> Tensor:
        """Round to a number of decimals, ties to even, as NumPy does: ``rint(x * 10**d) / 10**d``.

        Negative `decimals` round to tens, hundreds, …; integers stay integers. No gradient.
        """
        decimals = integer("round: decimals", decimals, -300, 300)
        x = self._node
        if not decimals or (decimals > 0 and not x.dtype.is_float):
            return self.rint()
        if not x.dtype.is_float:
            return lift(build.cast(_to_multiple(x, 10**-decimals), x.dtype))
        scale = build.number(10.0 ** builtins.abs(decimals), x)
        there, back = (ops.MUL, ops.DIV) if decimals > 0 else (ops.DIV, ops.MUL)
        whole = make(ops.ROUND, (make(there, (x, scale)),))
        return lift(make(back, (whole, scale)))

    __round__ = round

    def __pos__(self) -> Tensor:
        return wrap(self._node)

    def bitwise_invert(self) -> Tensor:
        """Return the bitwise complement of integers, the logical one of bools."""
        x = self._node
        if x.dtype.kind == "b":
            return self.logical_not()
        return lift(make(ops.INVERT, (x,)), x)

    bitwise_not = __invert__ = bitwise_invert

    def logical_not(self) -> Tensor:
        """Return whether each element is false (0)."""
        x = build.cast(self._node, dtypes.bool_)
        return lift(build.apply(ops.EQUAL, x, build.number(False, x)))

    def signbit(self) -> Tensor:
        """Return whether the sign bit is set, that of -0.0 included."""
        x = self._node
        zero = build.number(0, x)
        below = build.apply(ops.LESS, x, zero)
        if not x.dtype.is_float:
            return lift(below)
        # Only -0.0 has a reciprocal below zero without being below zero itself.
        return lift(
            build.apply(ops.OR, below, build.apply(ops.LESS, make(ops.RECIPROCAL, (x,)), zero))
        )

    def square(self) -> Tensor:
        """Return each element times itself."""
        return self.mul(self)

    def pow(self, other: Any) -> Tensor:
        """Return each element to the power of `other`; the operands broadcast and promote.

        Exponents given as the Python numbers 0, 1, 2, 3, -1, 0.5 and -0.5 become products, roots
        and reciprocals. Integers take no negative Python exponent.
        """
        x = self._node
        if type(other) in (int, float) and (x.dtype.is_float or x.dtype.kind in "ui"):
            if type(other) is int and other < 0 and not x.dtype.is_float:
                raise DTypeError(
                    f"pow: {x.dtype} to the power {other} is no integer; "
                    "cast with .astype(simplegrad.float32) first"
                )
            if type(other) is float and not x.dtype.is_float:
                x = build.cast(x, dtypes.promote_scalar(x.dtype, other))
            node = _integer_power(x, int(other)) if other in (0, 1, 2, 3) else None
            if node is None and other in (-1, 0.5, -0.5):
                root = {-1: ops.RECIPROCAL, 0.5: ops.SQRT, -0.5: ops.RSQRT}
                node = make(root[other], (x,))
            if node is not None:
                return lift(node, self._node)
        return binary(ops.POW, self, other)

    power = named(pow, "power", pow.__doc__)

    def __pow__(self, other: Any) -> Tensor:
        return self.pow(other) if isinstance(other, _OPERANDS) else NotImplemented

    def __rpow__(self, other: Any) -> Tensor:
        return binary(ops.POW, other, self) if isinstance(other, _OPERANDS) else NotImplemented

    def clip(self, min: Any = None, max: Any = None) -> Tensor:
        """Return the elements limited to ``min … max``; either may be None; NaN stays.

        >>> from simplegrad import Tensor
        >>> Tensor([-1.0, 0.5, 2.0]).clip(0, 1)
        Tensor([0. , 0.5, 1. ], dtype=float32)
        """
        result: Any = self
        if min is not None:
            result = result.maximum(min)
        if max is not None:
            result = result.minimum(max)
        return result if result is not self else wrap(self._node)

    def cast(self, dtype: Any) -> Tensor:
        """Return the elements in another dtype; floats lose their fraction towards integers."""
        dtype = dtypes.of(dtype)
        limits = getattr(self._node.device, "limits", None)
        if dtype is dtypes.float64 and limits is not None and not limits.fp64:
            raise DTypeNotSupported(
                f"cast: {self._node.device.name} has no float64; use float32 or another device"
            )
        return lift(build.cast(self._node, dtype), self._node)

    def astype(self, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Tensor:
        """Return the elements in another dtype, as `cast`; nothing is ever changed in place."""
        result = self.cast(dtype)
        return result if device is None else result.to_device(device)

    def where(self, a: Any, b: Any) -> Tensor:
        """Return `a` where this tensor is true, else `b`; all three broadcast.

        >>> from simplegrad import Tensor
        >>> x = Tensor([-1.0, 2.0])
        >>> (x > 0).where(x, 0.0)
        Tensor([0., 2.], dtype=float32)
        """
        return where(self, a, b)

    def lerp(self, other: Any, weight: Any) -> Tensor:
        """Return ``self + weight * (other - self)``."""
        return self.add(binary(ops.MUL, weight, binary(ops.SUB, other, self)))


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Return `a` where `condition` is true (not 0), else `b`; all three broadcast.

    Gradients flow to the chosen side only.
    """
    same_device("where", [v._node for v in (condition, a, b) if isinstance(v, Core)])
    (cond,) = common("where", ops.WHERE.kinds, condition)
    x, y = common("where", ops.WHERE.kinds, a, b)
    cond = build.cast(cond, dtypes.bool_)
    inputs = [v._node for v in (condition, a, b) if isinstance(v, Core)]
    return lift(build.apply(ops.WHERE, cond, x, y), *inputs)
