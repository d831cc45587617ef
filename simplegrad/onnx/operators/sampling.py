"""GridSample: values between the elements of an image, at coordinates that a tensor holds."""

from __future__ import annotations

import itertools
import math
from typing import Any

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor


def _reflected(x: Tensor, low: float, high: float) -> Tensor:
    """Return coordinates folded back into low … high."""
    span = high - low
    if span <= 0:
        return x.mul(0.0).add(low)
    t = x.sub(low).remainder(2 * span)
    return where(t.less_equal(span), t, t.neg().add(2 * span)).add(low)


def taps(x: Tensor, mode: str) -> list[tuple[Tensor, Any]]:
    """Return (index as a float, weight) of the elements that a coordinate is mixed from."""
    if mode == "nearest":
        return [(x.round(), None)]
    base = x.floor()
    t = x.sub(base)
    if mode == "linear":
        return [(base, t.neg().add(1)), (base.add(1), t)]
    a = -0.75
    result: list[tuple[Tensor, Any]] = []
    for offset in (-1, 0, 1, 2):
        d = t.sub(offset).abs()
        if offset in (0, 1):
            weight = d.mul(a + 2).sub(a + 3).mul(d).mul(d).add(1)
        else:
            weight = d.mul(a).sub(5 * a).mul(d).add(8 * a).mul(d).sub(4 * a)
        result.append((base.add(offset), weight))
    return result


def sample(
    x: Tensor, axes: list[list[tuple[Tensor, Any]]], padding: Any, combine: Any = Tensor.add
) -> Tensor:
    """Return sums over the taps of all axes: `x` (N, C, spatial …), taps (N, points …).

    ``padding(index, extent)`` returns an index inside and where it was one, or None for anywhere.
    """
    n, c, *extents = x.shape
    flat = x.reshape(n, c, math.prod(extents))
    points = axes[0][0][0].shape[1:]
    total: Any = None
    for mixed in itertools.product(*axes):
        place: Any = None
        weight: Any = None
        for (index, w), extent, i in zip(mixed, extents, itertools.count(), strict=False):
            index, inside = padding(index, extent)
            step = math.prod(extents[i + 1 :])
            part = index.cast(dtypes.int64).mul(step)
            place = part if place is None else place.add(part)
            if inside is not None:
                w = inside.cast(x.dtype) if w is None else inside.where(w, 0.0)
            if w is not None:
                weight = w if weight is None else weight.mul(w)
        values = flat.take_along_axis(place.reshape(n, 1, -1), -1)
        values = values if weight is None else values.mul(weight.reshape(n, 1, -1).cast(x.dtype))
        total = values if total is None else combine(total, values)
    return total.reshape(n, c, *points)  # type: ignore[no-any-return]


@operator("GridSample", since=16)
def grid_sample(call: Call) -> Tensor:
    """GridSample in any number of spatial axes; coordinates from -1 to 1, the last axis first."""
    x, grid = call.tensor(0), call.tensor(1)
    rank = x.ndim - 2
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(
        call.string("mode", "linear"), call.string("mode", "linear")
    )
    padding = call.string("padding_mode", "zeros")
    corners = call.flag("align_corners")
    if grid.ndim != x.ndim or grid.shape[-1] != rank or grid.shape[0] != x.shape[0]:
        raise ModelError(f"grid {grid.shape} does not fit {x.shape}")
    if mode not in ("linear", "nearest", "cubic") or padding not in (
        "zeros",
        "border",
        "reflection",
    ):
        raise ModelError(f"mode {mode!r}, padding_mode {padding!r}")

    def limits(extent: int) -> tuple[float, float]:
        return (0.0, extent - 1.0) if corners else (-0.5, extent - 0.5)

    def inside(index: Tensor, extent: int) -> tuple[Tensor, Any]:
        if padding == "reflection":
            index = _reflected(index, *limits(extent)).round()
        kept = None
        if padding == "zeros":
            kept = index.greater_equal(0).logical_and(index.less_equal(extent - 1))
        return index.clip(0, extent - 1), kept

    axes = []
    for i, extent in enumerate(x.shape[2:]):
        at = grid[..., rank - 1 - i].add(1)
        at = at.mul((extent - 1) / 2) if corners else at.mul(extent / 2).sub(0.5)
        if mode == "nearest":
            at = at.round()
        if padding == "border":
            at = at.clip(0, extent - 1)
        elif padding == "reflection":
            at = _reflected(at, *limits(extent))
        axes.append(taps(at, mode))
    return sample(x, axes, inside)
