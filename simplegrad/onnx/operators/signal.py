"""Windows and Fourier transforms: sums of products with constant matrices of cosines and sines."""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.onnx.tensors import checked_shape, dtype_of
from simplegrad.tensor.contraction import einsum
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import stack

_COEFFICIENTS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@operator("HannWindow", "HammingWindow", "BlackmanWindow", since=17)
def window(call: Call) -> Tensor:
    """HannWindow, HammingWindow, BlackmanWindow: a0 - a1 cos(2πn/N) + a2 cos(4πn/N)."""
    dtype = dtype_of(call.integer("output_datatype", 1), "attribute 'output_datatype'")
    (n,) = checked_shape([call.number(0)], dtype)
    a0, a1, a2 = _COEFFICIENTS[call.op]
    angle = 2 * np.pi * np.arange(n) / max(n if call.flag("periodic", True) else n - 1, 1)
    return call.constant(a0 - a1 * np.cos(angle) + a2 * np.cos(2 * angle)).cast(dtype)


def _waves(call: Call, n: int, inverse: bool, rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines, (rows, n), of a discrete Fourier transform of n elements."""
    checked_shape([rows, n], like.dtype)
    turns = np.outer(np.arange(rows), np.arange(n)) % n
    angle = (2 if inverse else -2) * np.pi * turns / n
    scale = 1 / n if inverse else 1.0
    return call.constant(np.cos(angle) * scale, like.dtype), call.constant(
        np.sin(angle) * scale, like.dtype
    )


def _transform(call: Call, x: Tensor, n: int, inverse: bool, rows: int, onesided: bool) -> Tensor:
    """Return the transform along the last but one axis of (…, n, 1 or 2)."""
    cos, sin = _waves(call, n, inverse, rows, x)
    real = x[..., 0]
    if x.shape[-1] == 1:
        parts = [einsum("...n,kn->...k", real, m) for m in (cos, sin)]
    else:
        imag = x[..., 1]
        parts = [
            einsum("...n,kn->...k", real, cos).sub(einsum("...n,kn->...k", imag, sin)),
            einsum("...n,kn->...k", real, sin).add(einsum("...n,kn->...k", imag, cos)),
        ]
    return parts[0].expand_dims(-1) if inverse and onesided else stack(parts, -1)


@operator("DFT", since=17)
def dft(call: Call) -> Tensor:
    """DFT of real (…, 1) or complex (…, 2) numbers along one axis."""
    x = call.tensor(0)
    axis = (
        call.integer("axis", 1) if call.version < 20 else int(call.number(2)) if call.has(2) else -2
    )
    inverse, onesided = call.flag("inverse"), call.flag("onesided")
    if x.shape[-1] not in (1, 2) or axis in (x.ndim - 1, -1):
        raise ModelError(f"axis {axis} of shape {x.shape}, which must end in 1 or 2")
    x = x.moveaxis(axis, -2)
    n = int(call.number(1)) if call.has(1) else x.shape[-2]
    if inverse and onesided:
        n = n if call.has(1) else 2 * (x.shape[-2] - 1)
        x = _whole(x, n)
    if n < 1:
        raise ModelError(f"a transform of {n} elements")
    x = x[..., :n, :]
    x = x.pad([(0, 0)] * (x.ndim - 2) + [(0, n - x.shape[-2]), (0, 0)])
    rows = n // 2 + 1 if onesided and not inverse else n
    return _transform(call, x, n, inverse, rows, onesided).moveaxis(-2, axis)


def _whole(x: Tensor, n: int) -> Tensor:
    """Return all n coefficients of a real signal from the first n // 2 + 1 of them."""
    from_end = x[..., 1 : n - n // 2, :].flip(x.ndim - 2)
    mirrored = from_end.mul(Tensor([1.0, -1.0][: x.shape[-1]], x.dtype, False, x.device))
    first = x[..., : n // 2 + 1, :]
    widths: list[Any] = [(0, 0)] * x.ndim
    widths[-2] = 0, mirrored.shape[-2]
    late = list(widths)
    late[-2] = first.shape[-2], 0
    return first.pad(widths).add(mirrored.pad(late))


@operator("STFT", since=17)
def stft(call: Call) -> Tensor:
    """STFT: the transforms of overlapping frames of a signal."""
    x, step = call.tensor(0), int(call.number(1))
    x = x if x.ndim == 3 else x.expand_dims(-1)
    weights = call.optional(2)
    if weights is not None:
        length = weights.shape[0]
    else:
        length = int(call.number(3))
    if step < 1 or not 1 <= length <= x.shape[1]:
        raise ModelError(f"frames of {length} every {step} elements of {x.shape}")
    frames = x.swapaxes(1, 2).window_view((length,), (step,))  # N, parts, frames, length
    frames = frames if weights is None else frames.mul(weights)
    frames = frames.permute(0, 2, 3, 1)
    onesided = call.flag("onesided", True)
    rows = length // 2 + 1 if onesided else length
    return _transform(call, frames, length, False, rows, onesided)


@operator("MelWeightMatrix", since=17)
def mel_weights(call: Call) -> Tensor:
    """MelWeightMatrix: triangles on the mel scale, a constant of five numbers."""
    bands, length, rate, low, high = (call.number(i) for i in range(5))
    dtype = dtype_of(call.integer("output_datatype", 1), "attribute 'output_datatype'")
    rows = int(length) // 2 + 1
    checked_shape([rows, bands], dtype)
    edges = 2595 * np.log10(1 + np.array([low, high], np.float64) / 700)
    points = edges[0] + np.arange(bands + 2) * (edges[1] - edges[0]) / (bands + 2)
    bins = ((int(length) + 1) * (700 * (10 ** (points / 2595) - 1)) // rate).astype(np.int64)
    weights = np.zeros((rows, bands))
    for i in range(bands):
        lower, middle, upper = bins[i : i + 3]
        if middle == lower:
            weights[middle, i] = 1
        else:
            rise = np.arange(lower, middle + 1)
            weights[rise, i] = (rise - lower) / (middle - lower)
        if upper > middle:
            fall = np.arange(middle, upper)
            weights[fall, i] = (upper - fall) / (upper - middle)
    return call.constant(weights.astype(np.float32)).cast(dtype)


@operator("Det", since=11)
def determinant(call: Call) -> Tensor:
    """Det: elimination with the greatest pivot of each column, unrolled."""
    x = call.tensor(0)
    n = x.shape[-1]
    if x.ndim < 2 or x.shape[-2] != n or n > 64:
        raise ModelError(f"shape {x.shape} is no square matrix of at most 64 rows")
    result: Any = None
    for k in range(n):
        m = n - k
        place = x[..., :, 0].abs().argmax(-1)
        hit = place.expand_dims(-1).equal(Tensor(range(m), dtypes.int64, device=x.device))
        pivot_row = hit.expand_dims(-1).where(x, 0).sum(-2)
        first = x[..., 0, :].expand_dims(-2)
        swapped = hit.expand_dims(-1).where(first, x)[..., 1:, :]
        pivot = pivot_row[..., 0]
        factor = pivot if result is None else result.mul(pivot)
        result = place.equal(0).where(factor, factor.neg())
        safe = pivot.equal(0).where(1, pivot).expand_dims(-1).expand_dims(-1)
        row = pivot_row.expand_dims(-2)
        x = swapped.sub(swapped[..., :, :1].div(safe).mul(row))[..., :, 1:]
    return result if result is not None else x.sum((-1, -2)).add(1)
