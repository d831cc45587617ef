"""The methods of `Tensor` as functions, and the array API's functions on dtypes.

``sg.exp(x)`` is ``x.exp()``, with anything array-like for `x`. Names that the array API spells
otherwise stand beside those of the methods.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.errors import DTypeError
from simplegrad.tensor.core import Core, as_tensor, operand, result_dtype
from simplegrad.tensor.elementwise import binary
from simplegrad.tensor.naming import named
from simplegrad.tensor.tensor import Tensor

_METHODS = """
neg sign abs exp exp2 expm1 log log2 log1p sqrt rsqrt reciprocal square sin cos tan asin acos atan
sinh cosh tanh asinh acosh atanh erf floor ceil round trunc isnan isinf isfinite signbit clip cast
logical_not bitwise_invert lerp sum prod max min mean var std argmax argmin any all logsumexp
cumsum cumulative_sum cumprod cumulative_prod trace copy rint count_nonzero diff reshape flatten
permute permute_dims transpose swapaxes
moveaxis matrix_transpose broadcast_to expand_dims squeeze flip pad as_strided window_view split
tile repeat roll diagonal take take_along_axis gather one_hot bincount nonzero tensordot outer dot
vecdot inner relu gelu sigmoid softplus silu leaky_relu elu softmax logsoftmax log_softmax
layer_norm batch_norm conv1d conv2d maxpool1d maxpool2d avgpool1d avgpool2d dropout cross_entropy
mse_loss logical_and logical_or logical_xor pow astype
""".split()  # noqa: SIM905

_BINARY = """
add subtract multiply divide floor_divide remainder maximum minimum atan2 hypot equal not_equal
less less_equal greater greater_equal bitwise_and bitwise_or bitwise_xor bitwise_left_shift
bitwise_right_shift sub mul div
""".split()  # noqa: SIM905

_ALIASES = {
    "negative": "neg",
    "absolute": "abs",
    "power": "pow",
    "bitwise_not": "bitwise_invert",
    "ravel": "flatten",
}

_OP_OF = {
    "sub": "sub",
    "subtract": "sub",
    "mul": "mul",
    "multiply": "mul",
    "div": "div",
    "divide": "div",
    "bitwise_left_shift": "shift_left",
    "bitwise_right_shift": "shift_right",
}


def _from_method(name: str, alias: str = "") -> Callable[..., Any]:
    method = getattr(Tensor, name)

    def function(x: Any, /, *args: Any, **kwargs: Any) -> Any:
        return method(as_tensor(x), *args, **kwargs)

    result = named(function, alias or name, method.__doc__)
    result.__wrapped__ = method  # type: ignore[attr-defined]  # inspect shows its parameters
    return result


def _from_op(name: str) -> Callable[..., Any]:
    op = ops.OPS[_OP_OF.get(name, name)]
    method = getattr(Tensor, name)

    def function(a: Any, b: Any, /) -> Any:
        return method(a, b) if isinstance(a, Core) else binary(op, a, b)

    return named(function, name, method.__doc__)


FUNCTIONS: dict[str, Callable[..., Any]] = {n: _from_method(n) for n in _METHODS}
FUNCTIONS |= {n: _from_op(n) for n in _BINARY}
FUNCTIONS |= {n: _from_method(m, n) for n, m in _ALIASES.items()}
"""Every function made from a method, by name; `simplegrad` shows them all."""


def pow(a: Any, b: Any, /) -> Tensor:
    """Return `a` to the power of `b`; see `Tensor.pow`."""
    return a.pow(b) if isinstance(a, Tensor) else binary(ops.POW, a, b)


FUNCTIONS |= {"pow": pow, "power": named(pow, "power", pow.__doc__)}
for _function in FUNCTIONS.values():
    _function.__module__ = __name__.split(".", 1)[0]  # where pickle finds them


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """Return the slices along `axis`, each without it."""
    return tuple(as_tensor(x).moveaxis(axis, 0))


def result_type(*values: Any) -> DType:
    """Return the dtype in which arrays, dtypes and Python numbers meet.

    >>> import simplegrad as sg
    >>> sg.result_type(sg.int8, sg.uint8)
    simplegrad.int16
    """
    given = [v for v in values if isinstance(v, (DType, str, type, np.dtype))]
    rest = [v for v in values if not isinstance(v, (DType, str, type, np.dtype))]
    dtype: DType | None = None
    numbers = []
    for value in rest:
        node = operand("result_type", value, None)
        if isinstance(node, (bool, int, float)):
            numbers.append(node)
        else:
            given.append(node.dtype)
    for item in given:
        item = dtypes.of(item)
        dtype = item if dtype is None else dtypes.promote(dtype, item)
    if dtype is None:
        return result_dtype(numbers)
    for number in numbers:
        dtype = dtypes.promote_scalar(dtype, number)
    return dtype


def can_cast(from_: Any, to: Any, /) -> bool:
    """Return whether promotion ever takes one dtype (or array's dtype) to another."""
    from_ = from_.dtype if isinstance(from_, Core) else dtypes.of(from_)
    to = dtypes.of(to)
    try:
        return dtypes.promote(from_, to) is to
    except DTypeError:
        return False


_KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "f",
    "complex floating": "",
    "numeric": "iuf",
}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Return whether a dtype is another one, or of a kind such as ``"integral"``, or one of many.

    >>> import simplegrad as sg
    >>> sg.isdtype(sg.float32, ("integral", "real floating"))
    True
    """
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, str):
        if kind not in _KINDS:
            raise DTypeError(f"isdtype: {kind!r} is not a kind; the kinds are {', '.join(_KINDS)}")
        return dtypes.of(dtype).kind in _KINDS[kind] and bool(_KINDS[kind])
    return dtypes.of(dtype) is dtypes.of(kind)


@dataclass(frozen=True)
class FloatInfo:
    """Limits of a floating dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True)
class IntInfo:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def finfo(dtype: Any, /) -> FloatInfo:
    """Return the limits of a floating dtype, or of an array's."""
    dtype = dtype.dtype if isinstance(dtype, Core) else dtypes.of(dtype)
    if not dtype.is_float:
        raise DTypeError(f"finfo: {dtype} is not floating; use iinfo")
    if dtype is dtypes.bfloat16:
        top = (2 - 2.0**-7) * 2.0**127
        return FloatInfo(16, 2.0**-7, top, -top, 2.0**-126, dtype)
    info: Any = np.finfo(dtype.numpy)
    eps, top, low, normal = map(float, (info.eps, info.max, info.min, info.smallest_normal))
    return FloatInfo(dtype.itemsize * 8, eps, top, low, normal, dtype)


def iinfo(dtype: Any, /) -> IntInfo:
    """Return the limits of an integer dtype, or of an array's."""
    dtype = dtype.dtype if isinstance(dtype, Core) else dtypes.of(dtype)
    if dtype.kind not in "iu":
        raise DTypeError(f"iinfo: {dtype} is not an integer dtype; use finfo")
    return IntInfo(dtype.itemsize * 8, dtype.high, dtype.low, dtype)
