"""Elementwise operations as ONNX nodes: one operator each, or a formula of several.

A formula is called with the writer, the dtype of its operands and their names.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from simplegrad import dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.ops import Op

if TYPE_CHECKING:
    from simplegrad.onnx.writer import Writer

Formula = Callable[..., str]

_BITWISE = (ops.AND, ops.OR, ops.XOR, ops.INVERT, ops.SHIFT_LEFT, ops.SHIFT_RIGHT)
ON_FLOAT32 = (ops.TAN, ops.ASIN, ops.ACOS, ops.ATAN, ops.SINH, ops.COSH, ops.ASINH, ops.ACOSH,
               ops.ATANH, ops.ERF, ops.ATAN2)  # fmt: skip
"""What onnxruntime computes in float32 only."""


def computed_in(op: Op, dtype: DType) -> DType:
    """Return the dtype in which onnxruntime computes an operation: its kernels cover a few."""
    if dtype is dtypes.float64 and op in ON_FLOAT32:
        return dtypes.float32
    if dtype.is_float or dtype in (dtypes.int32, dtypes.int64) or op in _BITWISE:
        return dtype
    if dtype.kind == "b" and op in (ops.EQUAL, ops.NOT_EQUAL, ops.MAXIMUM, ops.MINIMUM):
        return dtype
    return dtypes.int64 if dtype.itemsize >= 4 else dtypes.int32


def _one(op: str) -> Formula:
    return lambda w, dtype, *names: w.op(op, *names)


def _exp2(w: Writer, dtype: DType, x: str) -> str:
    return w.op("Pow", w.constant(2, dtype), x)


def _expm1(w: Writer, dtype: DType, x: str) -> str:
    """Return tanh(x / 2) (exp(x) + 1), which is exact near 0."""
    half = w.op("Tanh", w.op("Mul", x, w.constant(0.5, dtype)))
    return w.op("Mul", half, w.op("Add", w.op("Exp", x), w.constant(1, dtype)))


def _log1p(w: Writer, dtype: DType, x: str) -> str:
    """Return log(u) x / (u - 1) with u = 1 + x, and x where u is 1: Kahan's way."""
    one = w.constant(1, dtype)
    u = w.op("Add", x, one)
    log = w.op("Log", u)
    near = w.op("Div", w.op("Mul", log, x), w.op("Sub", u, one))
    near = w.op("Where", w.op("Equal", u, one), x, near)
    return w.op("Where", w.op("Equal", u, w.constant(math.inf, dtype)), log, near)


def _log2(w: Writer, dtype: DType, x: str) -> str:
    return w.op("Mul", w.op("Log", x), w.constant(1 / math.log(2), dtype))


def _rsqrt(w: Writer, dtype: DType, x: str) -> str:
    return w.op("Reciprocal", w.op("Sqrt", x))


def _trunc(w: Writer, dtype: DType, x: str) -> str:
    return w.op("Mul", w.op("Sign", x), w.op("Floor", w.op("Abs", x)))


def _isfinite(w: Writer, dtype: DType, x: str) -> str:
    return w.op("Less", w.op("Abs", x), w.constant(math.inf, dtype))


def _isinf(w: Writer, dtype: DType, x: str) -> str:
    """Compare with infinity: IsInf takes no half floats before opset 20."""
    return w.op("Equal", w.op("Abs", x), w.constant(math.inf, dtype))


def _not_equal(w: Writer, dtype: DType, a: str, b: str) -> str:
    return w.op("Not", w.op("Equal", a, b))


def _extremum(op: str, of_bools: str) -> Formula:
    return lambda w, dtype, a, b: w.op(of_bools if dtype.kind == "b" else op, a, b)


def _bitwise(op: str) -> Formula:
    return lambda w, dtype, *names: w.op(op if dtype.kind == "b" else f"Bitwise{op}", *names)


def _differ(w: Writer, dtype: DType, rest: str, b: str) -> str:
    """Return whether a remainder is not 0 and has another sign than the divisor."""
    zero = w.constant(0, dtype)
    signs = w.op("Xor", w.op("Less", rest, zero), w.op("Less", b, zero))
    return w.op("And", _not_equal(w, dtype, rest, zero), signs)


def _remainder(w: Writer, dtype: DType, a: str, b: str) -> str:
    if dtype.is_float:
        rest = w.op("Mod", a, b, fmod=1)
        return w.op("Where", _differ(w, dtype, rest, b), w.op("Add", rest, b), rest)
    zero, safe = _safe(w, dtype, b)
    return w.op("Where", zero, w.constant(0, dtype), w.op("Mod", a, safe))


def _safe(w: Writer, dtype: DType, b: str) -> tuple[str, str]:
    """Return where an integer divisor is 0, and the divisor with 1 there."""
    zero = w.op("Equal", b, w.constant(0, dtype))
    return zero, w.op("Where", zero, w.constant(1, dtype), b)


def _floor_divide(w: Writer, dtype: DType, a: str, b: str) -> str:
    if dtype.is_float:
        whole = w.op("Sub", a, _remainder(w, dtype, a, b))
        return w.op("Round", w.op("Div", whole, b))
    zero, safe = _safe(w, dtype, b)
    whole = w.op("Sub", a, w.op("Mod", a, safe))
    return w.op("Where", zero, w.constant(0, dtype), w.op("Div", whole, safe))


def _negative(w: Writer, dtype: DType, x: str) -> str:
    """Return whether the sign bit is set: that of -0.0 shows in its reciprocal."""
    zero = w.constant(0, dtype)
    x = w.op("Where", w.op("Equal", x, zero), w.op("Reciprocal", x), x)
    return w.op("Less", x, zero)


def _atan2(w: Writer, dtype: DType, y: str, x: str) -> str:
    zero = w.constant(0, dtype)
    origin = w.op("And", w.op("Equal", x, zero), w.op("Equal", y, zero))
    angle = w.op("Where", origin, zero, w.op("Atan", w.op("Div", y, x)))
    turns = [w.constant(s * math.pi, dtype) for s in (-1, 1)]
    turn = w.op("Where", _negative(w, dtype, y), *turns)
    return w.op("Add", angle, w.op("Where", _negative(w, dtype, x), turn, zero))


def _hypot(w: Writer, dtype: DType, a: str, b: str) -> str:
    """Return m sqrt(1 + (n / m)²) with m the longer side, which does not overflow."""
    a, b = w.op("Abs", a), w.op("Abs", b)
    long, short = w.op("Max", a, b), w.op("Min", a, b)
    ratio = w.op("Div", short, long)
    root = w.op("Sqrt", w.op("Add", w.op("Mul", ratio, ratio), w.constant(1, dtype)))
    bounded = w.op("Less", w.op("Sub", long, long), w.constant(1, dtype))
    proper = w.op("And", bounded, w.op("Greater", long, w.constant(0, dtype)))
    return w.op("Where", proper, w.op("Mul", long, root), long)


def _shift(left: bool) -> Formula:
    def formula(w: Writer, dtype: DType, a: str, b: str) -> str:
        """Shift as unsigned numbers of 32 or 64 bits; everything falls out at the word's width."""
        width = dtype.itemsize * 8
        word = dtypes.uint64 if width == 64 else dtypes.uint32
        wide = dtypes.int64 if width >= 32 else dtypes.int32
        count = w.cast(b, wide)
        limits = [w.constant(n, wide) for n in (0, width)]
        gone = w.op("Or", w.op("Less", count, limits[0]), w.op("GreaterOrEqual", count, limits[1]))
        count = w.cast(w.op("Where", gone, limits[0], count), word)
        negative = None
        if dtype.kind == "i" and not left:
            negative = w.op("Less", w.cast(a, wide), limits[0])
            signed = w.cast(a, wide)
            a = w.op("Where", negative, w.op("BitwiseNot", signed), signed)
        shifted = w.op("BitShift", w.cast(a, word), count, direction="LEFT" if left else "RIGHT")
        result = w.op("Where", gone, limits[0], w.cast(shifted, wide))
        if negative is not None:
            result = w.op("Where", negative, w.op("BitwiseNot", result), result)
        return w.cast(result, dtype)

    return formula


FORMULAS: dict[Op, Formula] = {
    ops.NEG: _one("Neg"),
    ops.ABS: _one("Abs"),
    ops.SIGN: _one("Sign"),
    ops.EXP: _one("Exp"),
    ops.EXP2: _exp2,
    ops.EXPM1: _expm1,
    ops.LOG: _one("Log"),
    ops.LOG2: _log2,
    ops.LOG1P: _log1p,
    ops.SQRT: _one("Sqrt"),
    ops.RSQRT: _rsqrt,
    ops.RECIPROCAL: _one("Reciprocal"),
    ops.SIN: _one("Sin"),
    ops.COS: _one("Cos"),
    ops.TAN: _one("Tan"),
    ops.ASIN: _one("Asin"),
    ops.ACOS: _one("Acos"),
    ops.ATAN: _one("Atan"),
    ops.SINH: _one("Sinh"),
    ops.COSH: _one("Cosh"),
    ops.TANH: _one("Tanh"),
    ops.ASINH: _one("Asinh"),
    ops.ACOSH: _one("Acosh"),
    ops.ATANH: _one("Atanh"),
    ops.ERF: _one("Erf"),
    ops.FLOOR: _one("Floor"),
    ops.CEIL: _one("Ceil"),
    ops.ROUND: _one("Round"),
    ops.TRUNC: _trunc,
    ops.ISNAN: _one("IsNaN"),
    ops.ISINF: _isinf,
    ops.ISFINITE: _isfinite,
    ops.INVERT: _bitwise("Not"),
    ops.ADD: _one("Add"),
    ops.SUB: _one("Sub"),
    ops.MUL: _one("Mul"),
    ops.DIV: _one("Div"),
    ops.FLOOR_DIVIDE: _floor_divide,
    ops.REMAINDER: _remainder,
    ops.POW: _one("Pow"),
    ops.MAXIMUM: _extremum("Max", "Or"),
    ops.MINIMUM: _extremum("Min", "And"),
    ops.ATAN2: _atan2,
    ops.HYPOT: _hypot,
    ops.EQUAL: _one("Equal"),
    ops.NOT_EQUAL: _not_equal,
    ops.LESS: _one("Less"),
    ops.LESS_EQUAL: _one("LessOrEqual"),
    ops.GREATER: _one("Greater"),
    ops.GREATER_EQUAL: _one("GreaterOrEqual"),
    ops.AND: _bitwise("And"),
    ops.OR: _bitwise("Or"),
    ops.XOR: _bitwise("Xor"),
    ops.SHIFT_LEFT: _shift(True),
    ops.SHIFT_RIGHT: _shift(False),
    ops.WHERE: _one("Where"),
}
