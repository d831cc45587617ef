"""One row per elementwise operation: as a `Tensor` method, as NumPy code, and its derivatives.

The derivatives are NumPy code too, and follow what `simplegrad/autograd/rules.py` states for
points where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import simplegrad as sg
from simplegrad import ops
from simplegrad.dtypes import DType
from simplegrad.runtime.numpy_device import rounded


@dataclass(frozen=True)
class Row:
    tensor: Callable[..., Any]
    numpy: Callable[..., Any]
    slopes: Callable[..., Any] | None = None
    """The derivative to each operand; None where no gradient is defined."""
    exact: bool = False
    """NumPy's algorithm is followed step by step: the reference is computed in the same type."""
    signs: bool = False
    """The sign of a zero result is compared too."""
    arity: int = 1


def _one(name: str, numpy: Any, slope: Callable[[Any], Any] | None = None, **more: Any) -> Row:
    slopes = None if slope is None else lambda x: (slope(x),)
    return Row(lambda x: getattr(x, name)(), numpy, slopes, **more)


def _two(name: str, numpy: Any, slopes: Any = None, **more: Any) -> Row:
    return Row(lambda a, b: getattr(a, name)(b), numpy, slopes, arity=2, **more)


def _rsqrt(x: Any) -> Any:
    return 1 / np.sqrt(x)


def _share(wins: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Return what two operands get: all if one wins or is NaN, half if they are equal."""

    def part(a: Any, b: Any) -> Any:
        return np.where(wins(a, b) | np.isnan(a), 1.0, np.where(a == b, 0.5, 0.0))

    return lambda a, b: (part(a, b), part(b, a))


def _pow_slopes(a: Any, b: Any) -> Any:
    base = np.where(b == 0, 0.0, b * np.power(a, b - 1))
    return base, np.where(a <= 0, 0.0, np.power(a, b) * np.log(a))


def _atan2_slopes(a: Any, b: Any) -> Any:
    return b / (b * b + a * a), -a / (b * b + a * a)


erf: Any = np.vectorize(math.erf, otypes=[np.float64])
_SLOPE_OF_ERF = 2 / math.sqrt(math.pi)
_EXACT: dict[str, Any] = {"exact": True}
_SIGNS: dict[str, Any] = {"exact": True, "signs": True}

ROWS: dict[str, Row] = {
    "neg": _one("neg", np.negative, lambda x: -np.ones_like(x), **_SIGNS),
    "abs": _one("abs", np.abs, np.sign, **_SIGNS),
    "sign": _one("sign", np.sign, **_EXACT),
    "exp": _one("exp", np.exp, np.exp),
    "exp2": _one("exp2", np.exp2, lambda x: np.exp2(x) * math.log(2)),
    "expm1": _one("expm1", np.expm1, np.exp),
    "log": _one("log", np.log, lambda x: 1 / x),
    "log2": _one("log2", np.log2, lambda x: 1 / (x * math.log(2))),
    "log1p": _one("log1p", np.log1p, lambda x: 1 / (x + 1)),
    "sqrt": _one("sqrt", np.sqrt, lambda x: 1 / (2 * np.sqrt(x))),
    "rsqrt": _one("rsqrt", _rsqrt, lambda x: -_rsqrt(x) / x / 2),
    "reciprocal": _one("reciprocal", lambda x: 1 / x, lambda x: -1 / (x * x), signs=True),
    "sin": _one("sin", np.sin, np.cos),
    "cos": _one("cos", np.cos, lambda x: -np.sin(x)),
    "tan": _one("tan", np.tan, lambda x: 1 + np.tan(x) ** 2),
    "asin": _one("asin", np.arcsin, lambda x: _rsqrt(1 - x * x)),
    "acos": _one("acos", np.arccos, lambda x: -_rsqrt(1 - x * x)),
    "atan": _one("atan", np.arctan, lambda x: 1 / (1 + x * x)),
    "sinh": _one("sinh", np.sinh, np.cosh),
    "cosh": _one("cosh", np.cosh, np.sinh),
    "tanh": _one("tanh", np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "asinh": _one("asinh", np.arcsinh, lambda x: _rsqrt(x * x + 1)),
    "acosh": _one("acosh", np.arccosh, lambda x: _rsqrt(x * x - 1)),
    "atanh": _one("atanh", np.arctanh, lambda x: 1 / (1 - x * x)),
    "erf": _one("erf", erf, lambda x: _SLOPE_OF_ERF * np.exp(-x * x)),
    "floor": _one("floor", np.floor, signs=True),
    "ceil": _one("ceil", np.ceil, signs=True),
    "round": _one("round", np.rint, signs=True),
    "trunc": _one("trunc", np.trunc, signs=True),
    "isnan": _one("isnan", np.isnan),
    "isinf": _one("isinf", np.isinf),
    "isfinite": _one("isfinite", np.isfinite),
    "invert": _one("bitwise_invert", np.invert, **_EXACT),
    "cast": Row(
        lambda x: x.cast("float32"),
        lambda x: x.astype(np.float32),
        lambda x: (np.ones_like(x),),
        **_EXACT,
    ),
    "add": _two("__add__", np.add, lambda a, b: (np.ones_like(a), np.ones_like(b)), **_SIGNS),
    "sub": _two("__sub__", np.subtract, lambda a, b: (np.ones_like(a), -np.ones_like(b)), **_SIGNS),
    "mul": _two("__mul__", np.multiply, lambda a, b: (b, a), **_SIGNS),
    "div": _two("__truediv__", np.divide, lambda a, b: (1 / b, -(a / b) / b), signs=True),
    "floor_divide": _two("__floordiv__", np.floor_divide, **_SIGNS),
    "remainder": _two(
        "__mod__", np.remainder, lambda a, b: (np.ones_like(a), -np.floor_divide(a, b)), **_SIGNS
    ),
    "pow": _two("pow", np.power, _pow_slopes),
    "maximum": _two("maximum", np.maximum, _share(np.greater), **_EXACT),
    "minimum": _two("minimum", np.minimum, _share(np.less), **_EXACT),
    "atan2": _two("atan2", np.arctan2, _atan2_slopes),
    "hypot": _two("hypot", np.hypot, lambda a, b: (a / np.hypot(a, b), b / np.hypot(a, b))),
    "equal": _two("equal", np.equal, **_EXACT),
    "not_equal": _two("not_equal", np.not_equal, **_EXACT),
    "less": _two("less", np.less, **_EXACT),
    "less_equal": _two("less_equal", np.less_equal, **_EXACT),
    "greater": _two("greater", np.greater, **_EXACT),
    "greater_equal": _two("greater_equal", np.greater_equal, **_EXACT),
    "bitwise_and": _two("bitwise_and", np.bitwise_and, **_EXACT),
    "bitwise_or": _two("bitwise_or", np.bitwise_or, **_EXACT),
    "bitwise_xor": _two("bitwise_xor", np.bitwise_xor, **_EXACT),
    "shift_left": _two("bitwise_left_shift", np.left_shift, **_EXACT),
    "shift_right": _two("bitwise_right_shift", np.right_shift, **_EXACT),
    "where": Row(
        lambda a, b: sg.where(a > b, a, b),
        lambda a, b: np.where(a > b, a, b),
        lambda a, b: (np.where(a > b, 1.0, 0.0), np.where(a > b, 0.0, 1.0)),
        exact=True,
        arity=2,
    ),
}

FLOATS = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 1e-3, -3.0, 7.0, 100.0,
     3e4, 0.99, -0.7]
)  # fmt: skip
GENTLE = np.array([x for x in FLOATS if abs(x) not in (1e-3, 100.0, 3e4)])
"""Those whose squares and neighbours have a place in 16 bits."""


def rows_for(dtype: DType) -> dict[str, Row]:
    """Return the rows that take operands of a dtype."""
    return {n: r for n, r in ROWS.items() if dtype.kind in ops.OPS[n].kinds}


def values(dtype: DType) -> Any:
    """Return numbers to try: special ones, edges of the range, and ordinary ones."""
    if dtype.is_float:
        return rounded(FLOATS, dtype)
    if dtype.kind == "b":
        return np.array([True, False])
    numbers = [0, 1, 2, 3, 7, dtype.high, dtype.high - 1, dtype.high // 3, dtype.low]
    if dtype.kind == "i":
        numbers += [-1, -2, -7, dtype.low + 1, dtype.low // 3]
    return np.array(numbers, dtype.numpy)


def pairs(x: Any) -> tuple[Any, Any]:
    """Return two square arrays that hold all pairs of some values."""
    return np.repeat(x[:, None], len(x), 1), np.repeat(x[None], len(x), 0)


def second(name: str, dtype: DType, array: Any) -> Any:
    """Return what an operation takes as its second operand instead of any values.

    NumPy raises no integer to a negative power; `test_integer_powers_below_zero` does.
    """
    if name == "pow" and dtype.kind == "i":
        return np.maximum(np.abs(array) % dtype.numpy.type(20), 0)
    return array


def reference(name: str, dtype: DType, arrays: list[Any]) -> tuple[Any, DType]:
    """Return the value and the dtype expected."""
    row = ROWS[name]
    if dtype.is_float:
        wide = np.float64 if not row.exact or dtype is sg.float64 else np.float32
        arrays = [a.astype(wide) for a in arrays]
    with np.errstate(all="ignore"):
        value = row.numpy(*arrays)
        if name == "cast":
            return rounded(value, sg.float32), sg.float32
        if np.asarray(value).dtype == bool:
            return value, sg.bool
        return rounded(value, dtype), dtype
