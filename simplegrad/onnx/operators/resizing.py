"""Resize and Upsample: per axis, each result is a weighted sum of a few neighbours.

Which neighbours, and their weights, depends on extents and attributes alone, so both are constants
worked out on the host; the sums are the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.onnx.tensors import checked_shape
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor


def _coordinates(mode: str, out: int, extent: int, scale: float, roi: Any) -> Any:
    """Return where in the input each element of the result lies."""
    x: np.ndarray = np.arange(out, dtype=np.float64)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        return (x + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return np.zeros(out)
    if mode == "half_pixel_symmetric":
        offset = extent / 2 * (1 - out / (scale * extent))
        return offset + (x + 0.5) / scale - 0.5
    if mode == "align_corners":
        width = scale * extent  # not rounded: the scale says where the last element lies
        return x * (extent - 1) / (width - 1) if width != 1 else np.zeros(out)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if out > 1:
            return start * (extent - 1) + x * (end - start) * (extent - 1) / (out - 1)
        return np.full(out, 0.5 * (start + end) * (extent - 1))
    raise ModelError(f"coordinate_transformation_mode {mode!r} is unknown")


def _nearest(mode: str, x: np.ndarray) -> Any:
    if mode == "round_prefer_floor":
        return np.ceil(x - 0.5)
    if mode == "round_prefer_ceil":
        return np.floor(x + 0.5)
    if mode in ("floor", "ceil"):
        return np.floor(x) if mode == "floor" else np.ceil(x)
    raise ModelError(f"nearest_mode {mode!r} is unknown")


def _cubic(a: float) -> Callable[[np.ndarray], Any]:
    """Return Keys' cubic kernel ("Cubic convolution interpolation", 1981)."""

    def weight(distance: np.ndarray) -> Any:
        t = np.abs(distance)
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        far = a * (t**3 - 5 * t**2 + 8 * t - 4)
        return np.where(t <= 1, near, np.where(t < 2, far, 0.0))

    return weight


def _linear(distance: np.ndarray) -> Any:
    return np.maximum(1 - np.abs(distance), 0.0)


class _Resize:
    def __init__(self, call: Call, mode: str) -> None:
        self.mode = mode
        self.transformation = call.string(
            "coordinate_transformation_mode", "half_pixel" if call.op == "Resize" else "asymmetric"
        )
        self.nearest = call.string(
            "nearest_mode", "round_prefer_floor" if call.op == "Resize" else "floor"
        )
        self.exclude = call.flag("exclude_outside")
        self.antialias = call.flag("antialias")
        self.a = call.real("cubic_coeff_a", -0.75)
        self.outside = call.real("extrapolation_value", 0.0)
        if mode not in ("nearest", "linear", "cubic"):
            raise ModelError(f"mode {mode!r} is none of nearest, linear, cubic")

    def along(self, call: Call, x: Tensor, axis: int, out: int, scale: float, roi: Any) -> Tensor:
        """Return `x` resized along one axis."""
        extent = x.shape[axis]
        if out == extent and scale == 1 and self.transformation != "tf_crop_and_resize":
            return x
        if extent == 0:
            raise ModelError(f"axis {axis} of shape {x.shape} is empty")
        at = _coordinates(self.transformation, out, extent, scale, roi)
        if self.mode == "nearest":
            places = np.clip(_nearest(self.nearest, at), 0, extent - 1).astype(np.int64)
            result = x.take(places, axis)
        else:
            result = self._weighted(call, x, axis, at, min(scale, 1.0) if self.antialias else 1.0)
        if self.transformation == "tf_crop_and_resize":
            inside = call.constant((at >= 0) & (at <= extent - 1))
            shape = [out if a == axis else 1 for a in range(x.ndim)]
            result = where(inside.reshape(shape), result, self.outside)
        return result

    def _weighted(self, call: Call, x: Tensor, axis: int, at: np.ndarray, squeeze: float) -> Tensor:
        kernel, support = (_linear, 1) if self.mode == "linear" else (_cubic(self.a), 2)
        reach = math.ceil(support / squeeze)
        first = np.floor(at).astype(np.int64) - reach + 1
        places = first + np.arange(2 * reach)[:, None]
        weights = kernel((at - places) * squeeze)
        extent = x.shape[axis]
        if self.exclude:
            weights = np.where((places >= 0) & (places < extent), weights, 0.0)
        if self.exclude or self.antialias:
            weights = weights / weights.sum(0)
        places = np.clip(places, 0, extent - 1)
        shape = [len(at) if a == axis else 1 for a in range(x.ndim)]
        total: Any = None
        dtype = x.dtype if x.dtype.is_float else None
        for place, weight in zip(places, weights, strict=True):
            if not weight.any():
                continue
            factor = call.constant(weight.astype(np.float32), dtype).reshape(shape)
            part = x.take(place, axis).mul(factor)
            total = part if total is None else total.add(part)
        return total  # type: ignore[no-any-return]


def _target(call: Call, x: Tensor, axes: list[int]) -> tuple[list[int], list[float]]:
    """Return the extents of the result along `axes` and the scales."""
    extents = [x.shape[a] for a in axes]
    if call.has(3) and call.value(3).shape != (0,):
        sizes = call.numbers(3)
        if len(sizes) != len(axes):
            raise ModelError(f"sizes {sizes} for axes {axes}")
        policy = call.string("keep_aspect_ratio_policy", "stretch")
        scales = [n / m for n, m in zip(sizes, extents, strict=True)]
        if policy != "stretch":
            scale = (min if policy == "not_larger" else max)(scales)
            scales = [scale] * len(axes)
            sizes = [math.floor(scale * m + 0.5) for m in extents]
        return sizes, scales
    scales = [float(s) for s in call.host(2).reshape(-1)]
    if len(scales) != len(axes) or min(scales, default=1) <= 0:
        raise ModelError(f"scales {scales} for axes {axes}")
    return [math.floor(s * m) for s, m in zip(scales, extents, strict=True)], scales


@operator("Resize", since=11)
def resize(call: Call) -> Tensor:
    """Resize: nearest, linear or cubic, axis by axis."""
    x = call.tensor(0)
    axes = [a % x.ndim for a in call.integers("axes", list(range(x.ndim)))]
    sizes, scales = _target(call, x, axes)
    checked_shape(sizes, x.dtype)
    setup = _Resize(call, call.string("mode", "nearest"))
    roi = [(0.0, 1.0)] * len(axes)
    if setup.transformation == "tf_crop_and_resize":
        flat = [float(v) for v in call.host(1).reshape(-1)]
        roi = list(zip(flat[: len(axes)], flat[len(axes) :], strict=True))
    dtype = x.dtype
    for axis, size, scale, part in zip(axes, sizes, scales, roi, strict=True):
        x = setup.along(call, x, axis, size, scale, part)
    return x.round().clip(dtype.low, dtype.high).cast(dtype) if not dtype.is_float else x


@operator("Upsample", since=7)
def upsample(call: Call) -> Tensor:
    """Upsample, which became Resize."""
    x = call.tensor(0)
    scales = call.reals("scales") if call.version < 9 else call.host(1).reshape(-1).tolist()
    if len(scales) != x.ndim or min(scales, default=1) <= 0:
        raise ModelError(f"scales {scales} for shape {x.shape}")
    checked_shape([math.floor(s * n) for s, n in zip(scales, x.shape, strict=True)], x.dtype)
    setup = _Resize(call, call.string("mode", "nearest"))
    for axis, scale in enumerate(scales):
        x = setup.along(call, x, axis, math.floor(scale * x.shape[axis]), scale, None)
    return x
