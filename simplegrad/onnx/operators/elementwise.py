"""Operators on each element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import functools
import math
from typing import Any

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.onnx.tensors import dtype_of
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor

_UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh",
    "Atan": "atan", "Atanh": "atanh", "BitwiseNot": "bitwise_invert", "Ceil": "ceil",
    "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor",
    "IsNaN": "isnan", "Log": "log", "Neg": "neg", "Not": "logical_not",
    "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Sigmoid": "sigmoid",
    "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Softplus": "softplus", "Sqrt": "sqrt",
    "Tan": "tan", "Tanh": "tanh",
}  # fmt: skip
_BINARY = {
    "Add": "add", "And": "logical_and", "BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor", "Equal": "equal", "Greater": "greater",
    "GreaterOrEqual": "greater_equal", "Less": "less", "LessOrEqual": "less_equal", "Mul": "mul",
    "Or": "logical_or", "Sub": "sub", "Xor": "logical_xor",
}  # fmt: skip


def _method(name: str) -> Any:
    def rule(call: Call) -> Any:
        return getattr(call.tensor(0), name)()

    return rule


def _method_of_two(name: str) -> Any:
    def rule(call: Call) -> Any:
        return getattr(call.tensor(0), name)(call.tensor(1))

    return rule


for _op, _name in _UNARY.items():
    operator(_op, since=6 if _op not in ("Not", "Softplus") else 1)(_method(_name))
for _op, _name in _BINARY.items():
    operator(_op, since=7)(_method_of_two(_name))


@operator("Identity")
def identity(call: Call) -> Tensor:
    """Identity."""
    return call.tensor(0)


@operator("Div", since=7)
def divide(call: Call) -> Tensor:
    """Div: integers are truncated towards zero."""
    a, b = call.tensor(0), call.tensor(1)
    if a.dtype.is_float:
        return a.div(b)
    quotient = a.floor_divide(b)
    if a.dtype.kind == "u":
        return quotient
    inexact = quotient.mul(b).not_equal(a)
    return quotient.add(inexact.logical_and(a.less(0).not_equal(b.less(0))).cast(a.dtype))


@operator("Mod", since=10)
def modulo(call: Call) -> Tensor:
    """Mod: the divisor's sign, or with fmod=1 the dividend's, as C's fmod."""
    a, b = call.tensor(0), call.tensor(1)
    if not call.flag("fmod"):
        return a.remainder(b)
    if a.dtype.kind == "u":
        return a.remainder(b)
    rest = a.abs().remainder(b.abs())
    return where(a.less(0), rest.neg(), rest)


@operator("Pow", since=7)
def power(call: Call) -> Tensor:
    """Pow: the result has the dtype of the base."""
    a, b = call.tensor(0), call.tensor(1)
    if a.dtype is b.dtype:
        return a.pow(b)
    if a.dtype.is_float:
        return a.pow(b.cast(a.dtype))
    if b.dtype.is_float:
        return a.cast(b.dtype).pow(b).cast(a.dtype)
    return a.pow(b.cast(a.dtype))


@operator("BitShift", since=11)
def bit_shift(call: Call) -> Tensor:
    """BitShift."""
    a, b = call.tensor(0), call.tensor(1)
    direction = call.string("direction")
    if direction not in ("LEFT", "RIGHT"):
        raise ModelError(f"direction is LEFT or RIGHT, not {direction!r}")
    return a.bitwise_left_shift(b) if direction == "LEFT" else a.bitwise_right_shift(b)


@operator("Max", "Min", since=8)
def extremum(call: Call) -> Tensor:
    """Max and Min of any number of tensors."""
    name = "maximum" if call.op == "Max" else "minimum"
    return functools.reduce(lambda a, b: getattr(a, name)(b), call.tensors())


@operator("Sum", "Mean", since=8)
def total(call: Call) -> Tensor:
    """Sum and Mean of any number of tensors."""
    tensors = call.tensors()
    result = functools.reduce(Tensor.add, tensors)
    return result if call.op == "Sum" else result.div(len(tensors))


@operator("Where", since=9)
def choose(call: Call) -> Tensor:
    """Where."""
    return where(call.tensor(0), call.tensor(1), call.tensor(2))


@operator("IsInf", since=10)
def is_infinite(call: Call) -> Tensor:
    """IsInf, of one sign where the other is not asked for."""
    x = call.tensor(0)
    found = x.isinf()
    if not call.flag("detect_negative", True):
        found = found.logical_and(x.greater(0))
    if not call.flag("detect_positive", True):
        found = found.logical_and(x.less(0))
    return found


@operator("Clip", since=6)
def clip(call: Call) -> Tensor:
    """Clip: limits as inputs (opset 11) or attributes."""
    x = call.tensor(0)
    low: Any = call.optional(1)
    high: Any = call.optional(2)
    if call.version < 11:
        low, high = call.real("min", None), call.real("max", None)
    return x.clip(low, high)


# Casts ------------------------------------------------------------------------------------------


@operator("Cast", since=6)
def cast(call: Call) -> Tensor:
    """Cast between the supported types."""
    return call.tensor(0).cast(dtype_of(call.integer("to"), "attribute 'to'"))


@operator("CastLike", since=15)
def cast_like(call: Call) -> Tensor:
    """CastLike."""
    return call.tensor(0).cast(call.value(1).dtype)


@operator("BitCast", since=26)
def bit_cast(call: Call) -> Tensor:
    """BitCast between integers of one size, which is a cast; the engine has no other."""
    x, dtype = call.tensor(0), dtype_of(call.integer("to"), "attribute 'to'")
    if x.dtype is not dtype and (x.dtype.kind not in "iu" or dtype.kind not in "iu"):
        raise ModelError(f"bits of {x.dtype} cannot be read as {dtype}; integers only")
    if x.dtype.itemsize != dtype.itemsize:
        raise ModelError(f"{x.dtype} and {dtype} differ in size")
    return x.cast(dtype)


# Activations ------------------------------------------------------------------------------------


@operator("LeakyRelu", since=6)
def leaky_relu(call: Call) -> Tensor:
    """LeakyRelu."""
    return call.tensor(0).leaky_relu(call.real("alpha", 0.01))


@operator("PRelu", since=7)
def prelu(call: Call) -> Tensor:
    """PRelu: the slope broadcasts to the input."""
    x = call.tensor(0)
    return where(x.less(0), x.mul(call.tensor(1)), x)


@operator("Elu", since=6)
def elu(call: Call) -> Tensor:
    """Elu."""
    return call.tensor(0).elu(call.real("alpha", 1.0))


@operator("Celu", since=12)
def celu(call: Call) -> Tensor:
    """Celu: max(0, x) + min(0, alpha (exp(x / alpha) - 1))."""
    x, alpha = call.tensor(0), call.real("alpha", 1.0)
    return x.maximum(0).add(x.minimum(0).div(alpha).expm1().mul(alpha))


@operator("Selu", since=6)
def selu(call: Call) -> Tensor:
    """Selu."""
    x = call.tensor(0)
    alpha = call.real("alpha", 1.6732631921768188)
    gamma = call.real("gamma", 1.0507010221481323)
    return where(x.greater(0), x, x.minimum(0).expm1().mul(alpha)).mul(gamma)


@operator("HardSigmoid", since=6)
def hard_sigmoid(call: Call) -> Tensor:
    """HardSigmoid."""
    x = call.tensor(0).mul(call.real("alpha", 0.2)).add(call.real("beta", 0.5))
    return x.clip(0, 1)


@operator("HardSwish", since=14)
def hard_swish(call: Call) -> Tensor:
    """HardSwish: x clip(x / 6 + 1 / 2, 0, 1)."""
    x = call.tensor(0)
    return x.mul(x.mul(1 / 6).add(0.5).clip(0, 1))


@operator("Mish", since=18)
def mish(call: Call) -> Tensor:
    """Mish: x tanh(softplus(x))."""
    x = call.tensor(0)
    return x.mul(x.softplus().tanh())


@operator("Swish", since=24)
def swish(call: Call) -> Tensor:
    """Swish: x sigmoid(alpha x)."""
    x = call.tensor(0)
    return x.mul(x.mul(call.real("alpha", 1.0)).sigmoid())


@operator("Gelu", since=20)
def gelu(call: Call) -> Tensor:
    """Gelu."""
    return call.tensor(0).gelu(call.string("approximate", "none"))


@operator("Softsign")
def softsign(call: Call) -> Tensor:
    """Softsign: x / (1 + |x|)."""
    x = call.tensor(0)
    return x.div(x.abs().add(1))


@operator("ThresholdedRelu", since=10)
def thresholded_relu(call: Call) -> Tensor:
    """ThresholdedRelu."""
    x = call.tensor(0)
    return where(x.greater(call.real("alpha", 1.0)), x, 0)


@operator("Shrink", since=9)
def shrink(call: Call) -> Tensor:
    """Shrink: towards zero by bias outside of -lambd … lambd, else 0."""
    x, bias, reach = call.tensor(0), call.real("bias", 0.0), call.real("lambd", 0.5)
    wide = x if x.dtype.is_float else x.cast(dtypes.float32)
    inner = where(wide.greater(reach), wide.sub(bias), 0)
    return where(wide.less(-reach), wide.add(bias), inner).cast(x.dtype)


@operator("Softmax", "LogSoftmax", since=13)
def softmax(call: Call) -> Tensor:
    """Softmax and LogSoftmax along one axis."""
    x, axis = call.tensor(0), call.integer("axis", -1)
    return x.softmax(axis) if call.op == "Softmax" else x.logsoftmax(axis)


@operator("Softmax", "LogSoftmax", until=12)
def softmax_of_rows(call: Call) -> Tensor:
    """Softmax as it was before opset 13: over all axes from `axis` on."""
    x, axis = call.tensor(0), call.integer("axis", 1) % max(call.tensor(0).ndim, 1)
    flat = x.reshape(math.prod(x.shape[:axis]), -1)
    flat = flat.softmax(-1) if call.op == "Softmax" else flat.logsoftmax(-1)
    return flat.reshape(x.shape)


@operator("Hardmax")
def hardmax(call: Call) -> Tensor:
    """Hardmax: one at the first greatest element along `axis`, else 0."""
    x = call.tensor(0)
    axis = call.integer("axis", -1 if call.version >= 13 else 1) % x.ndim
    if call.version >= 13:
        return x.argmax(axis).one_hot(x.shape[axis], x.dtype).moveaxis(-1, axis)
    flat = x.reshape(math.prod(x.shape[:axis]), -1)
    return flat.argmax(-1).one_hot(flat.shape[-1], x.dtype).reshape(x.shape)
