"""Quantised numbers: integers with a scale and a zero point."""

from __future__ import annotations

from typing import Any

from simplegrad import dtypes
from simplegrad.dtypes import DType
from simplegrad.errors import ModelError
from simplegrad.onnx.operators.neural import convolve
from simplegrad.onnx.registry import Call, operator
from simplegrad.onnx.tensors import dtype_of
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor


def _spread(value: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Return a scale or zero point, one for all, per slice or per block, fit to broadcast."""
    if value.size == 1:
        return value.reshape(())
    axis = axis % x.ndim
    if block:
        wide = value.repeat(block, axis)
        return wide[tuple(slice(0, n) for n in x.shape)]
    return value.reshape([-1 if a == axis else 1 for a in range(x.ndim)])


def quantize(x: Tensor, scale: Tensor, zero: Any, dtype: DType) -> Tensor:
    """Return round(x / scale) + zero, ties to even, limited to what `dtype` holds."""
    y = x.div(scale).round()
    y = y if zero is None else y.add(zero.cast(y.dtype))
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        raise ModelError(f"quantised numbers of {dtype}; int8, uint8, int16 and uint16 are known")
    return y.clip(dtype.low, dtype.high).cast(dtype)


@operator("QuantizeLinear", since=10)
def quantize_linear(call: Call) -> Tensor:
    """QuantizeLinear: per tensor, per axis, or per block."""
    x, scale, zero = call.tensor(0), call.tensor(1), call.optional(2)
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    dtype = dtypes.uint8 if zero is None else zero.dtype
    if call.integer("output_dtype", 0):
        dtype = dtype_of(call.integer("output_dtype"), "attribute 'output_dtype'")
    scale = _spread(scale, x, axis, block)
    zero = None if zero is None else _spread(zero, x, axis, block)
    wide = x.cast(dtypes.float32) if x.dtype.itemsize < 4 or not x.dtype.is_float else x
    return quantize(wide, scale.cast(wide.dtype), zero, dtype)


@operator("DequantizeLinear", since=10)
def dequantize_linear(call: Call) -> Tensor:
    """DequantizeLinear: (x - zero) scale."""
    x, scale, zero = call.tensor(0), call.tensor(1), call.optional(2)
    axis, block = call.integer("axis", 1), call.integer("block_size", 0)
    wide = x.cast(dtypes.int32)
    if zero is not None:
        wide = wide.sub(_spread(zero, x, axis, block).cast(dtypes.int32))
    dtype = scale.dtype
    if call.integer("output_dtype", 0):
        dtype = dtype_of(call.integer("output_dtype"), "attribute 'output_dtype'")
    return wide.cast(dtypes.float32).mul(_spread(scale, x, axis, block)).cast(dtype)


@operator("DynamicQuantizeLinear", since=11)
def dynamic_quantize_linear(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """DynamicQuantizeLinear: to uint8, by the least and the greatest element and 0."""
    x = call.tensor(0)
    low, high = x.min().minimum(0), x.max().maximum(0)
    scale = high.sub(low).div(255)
    zero = where(scale.equal(0), 0, low.neg().div(scale)).round().clip(0, 255).cast(dtypes.uint8)
    return quantize(x, where(scale.equal(0), 1, scale), zero, dtypes.uint8), scale, zero


def _less(x: Tensor, zero: Any, axis: int) -> Tensor:
    """Return int32 numbers less their zero point, which may be one per slice of `axis`."""
    wide = x.cast(dtypes.int32)
    if zero is None:
        return wide
    zero = zero.cast(dtypes.int32)
    if zero.size > 1 and zero.ndim == 1:
        zero = zero.reshape([-1 if a == axis % x.ndim else 1 for a in range(x.ndim)])
    return wide.sub(zero if zero.size > 1 else zero.reshape(()))


@operator("MatMulInteger", since=10)
def matmul_integer(call: Call) -> Tensor:
    """MatMulInteger: both factors less their zero points, added up in int32."""
    a = _less(call.tensor(0), call.optional(2), -2)
    return a.matmul(_less(call.tensor(1), call.optional(3), -1))


def _rescaled(sums: Tensor, factor: Tensor, zero: Tensor) -> Tensor:
    y = sums.cast(dtypes.float32).mul(factor).round().add(zero.cast(dtypes.float32))
    return y.clip(zero.dtype.low, zero.dtype.high).cast(zero.dtype)


@operator("QLinearMatMul", since=10)
def quantized_matmul(call: Call) -> Tensor:
    """QLinearMatMul."""
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = call.tensors()
    sums = _less(a, a_zero, -2).matmul(_less(b, b_zero, -1))
    a_scale = a_scale.reshape(-1, 1) if a_scale.size > 1 and a_scale.ndim == 1 else a_scale
    scales = [s.cast(dtypes.float32) for s in (a_scale, b_scale, y_scale)]
    scales = [s if s.size > 1 else s.reshape(()) for s in scales]
    return _rescaled(sums, scales[0].mul(scales[1]).div(scales[2]), y_zero.reshape(-1)[0])


@operator("QLinearConv", since=10)
def quantized_conv(call: Call) -> Tensor:
    """QLinearConv: weights with a scale per tensor or per output channel."""
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (call.tensor(i) for i in range(8))
    sums = convolve(call, _less(x, x_zero, 0), _less(w, w_zero, 0))
    ones = [1] * (x.ndim - 2)
    if call.has(8):
        sums = sums.add(call.tensor(8).reshape(-1, *ones))
    w_scale = w_scale.reshape(-1, *ones) if w_scale.size > 1 else w_scale.reshape(())
    factor = x_scale.reshape(()).mul(w_scale).div(y_scale.reshape(()))
    return _rescaled(sums, factor, y_zero.reshape(()))
