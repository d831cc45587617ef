"""Operators of object detectors: RoiAlign, DeformConv, NonMaxSuppression."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.onnx.operators.neural import Windows, per_channel
from simplegrad.onnx.operators.sampling import sample, taps
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.contraction import einsum
from simplegrad.tensor.creation import arange
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import concat, stack


def _anywhere(index: Tensor, extent: int) -> tuple[Tensor, Any]:
    return index.clip(0, extent - 1), None


def _zeros(index: Tensor, extent: int) -> tuple[Tensor, Any]:
    inside = index.greater_equal(0).logical_and(index.less_equal(extent - 1))
    return index.clip(0, extent - 1), inside


@operator("RoiAlign", since=10)
def roi_align(call: Call) -> Tensor:
    """RoiAlign: bins of regions, each from a grid of samples between the elements.

    Without a sampling_ratio the grid depends on each region's size, so the regions are read back.
    """
    x, rois, batch = call.tensor(0), call.tensor(1), call.index(2)
    extents = call.integer("output_height", 1), call.integer("output_width", 1)
    default = "half_pixel" if call.version >= 16 else "output_half_pixel"
    half = call.string("coordinate_transformation_mode", default) == "half_pixel"
    ratio, scale = call.integer("sampling_ratio", 0), call.real("spatial_scale", 1.0)
    mode = call.string("mode", "avg")
    if mode not in ("avg", "max") or min(extents) < 1 or rois.ndim != 2 or rois.shape[1] != 4:
        raise ModelError(f"mode {mode!r}, output of {extents}, regions of shape {rois.shape}")
    images = x.take(batch, 0)
    corners = rois.mul(scale).sub(0.5 if half else 0.0)
    starts, sizes = corners[:, :2], corners[:, 2:].sub(corners[:, :2])
    sizes = sizes if half else sizes.maximum(1.0)
    if ratio > 0:
        return _aligned(images, starts, sizes, extents, (ratio, ratio), mode)
    grids = np.ceil(sizes.numpy() / np.array(extents[::-1], np.float32)).astype(int)
    parts = [
        _aligned(images[r : r + 1], starts[r : r + 1], sizes[r : r + 1], extents,
                 (max(int(grid[1]), 1), max(int(grid[0]), 1)), mode)
        for r, grid in enumerate(grids)
    ]  # fmt: skip
    return concat(parts)


def _aligned(
    images: Tensor,
    starts: Tensor,
    sizes: Tensor,
    extents: tuple[int, int],
    grid: tuple[int, int],
    mode: str,
) -> Tensor:
    """Return regions (R, C, height, width) from their own images (R, C, h, w)."""
    count, channels = images.shape[:2]
    axes = []
    outside: Any = None
    for axis, (bins, samples) in enumerate(zip(extents, grid, strict=True)):
        n = images.shape[2 + axis]
        at = arange(bins * samples).cast(images.dtype).add(0.5).div(bins * samples)
        at = at.mul(sizes[:, 1 - axis : 2 - axis]).add(starts[:, 1 - axis : 2 - axis])
        at = at.expand_dims(2 if axis == 0 else 1)
        out = at.less(-1.0).logical_or(at.greater(float(n)))
        outside = out if outside is None else outside.logical_or(out)
        wide = [count, extents[0] * grid[0], extents[1] * grid[1]]
        axes.append(taps(at.clip(0.0, n - 1.0).broadcast_to(wide), "linear"))
    combine = Tensor.add if mode == "avg" else Tensor.maximum
    values = where(outside.expand_dims(1), 0.0, sample(images, axes, _anywhere, combine))
    (height, width), (rows, columns) = extents, grid
    values = values.reshape(count, channels, height, rows, width, columns)
    return values.mean((3, 5)) if mode == "avg" else values.max((3, 5))


@operator("DeformConv", since=19)
def deform_conv(call: Call) -> Tensor:
    """DeformConv: a convolution whose kernel elements are moved by offsets, in two axes."""
    x, w, offset = call.tensor(0), call.tensor(1), call.tensor(2)
    groups, parts = call.integer("group", 1), call.integer("offset_group", 1)
    if x.ndim != 4 or min(groups, parts) < 1:
        raise ModelError(f"input {x.shape} in {groups} groups and {parts} offset groups")
    windows = Windows(call, x, call.integers("kernel_shape", list(w.shape[2:])))
    n, channels = x.shape[:2]
    kernel = math.prod(windows.kernel)
    out = offset.shape[2:]
    moved = offset.reshape(n * parts, kernel, 2, *out)
    axes = []
    for i, (stride, dilation) in enumerate(zip(windows.strides, windows.dilations, strict=True)):
        within = np.indices(windows.kernel)[i].reshape(kernel, 1, 1) * dilation
        start = np.arange(out[i]).reshape((-1, 1) if i == 0 else (1, -1)) * stride
        at = call.constant(within + start - windows.pads[i][0], x.dtype)
        axes.append(taps(moved[:, :, i].add(at), "linear"))
    values = sample(x.reshape(n * parts, channels // parts, *x.shape[2:]), axes, _zeros)
    if call.has(4):
        values = values.mul(call.tensor(4).reshape(n * parts, 1, kernel, *out))
    values = values.reshape(n, groups, channels // groups, kernel, *out)
    weights = w.reshape(groups, w.shape[0] // groups, w.shape[1], kernel)
    result = einsum("ngckyx,gfck->ngfyx", values, weights).reshape(n, w.shape[0], *out)
    return result.add(per_channel(call.tensor(3), 4)) if call.has(3) else result


@operator("NonMaxSuppression", since=10)
def non_max_suppression(call: Call) -> Tensor:
    """NonMaxSuppression: (batch, class, box) of the best boxes that do not overlap better ones.

    Each round takes the best box left per batch and class; how many were found is read back.
    """
    boxes, scores = call.tensor(0), call.tensor(1)
    most = int(call.number(2)) if call.has(2) else 0
    limit = float(call.number(3)) if call.has(3) else 0.0
    batches, classes, count = scores.shape
    rounds = min(most, count)
    if not rounds or not batches or not classes:
        return call.constant(np.zeros((0, 3), np.int64))
    over = _overlaps(boxes, call.flag("center_point_box")).greater(limit)
    flat = over.reshape(batches * count, count)
    live = scores.isfinite()
    if call.has(4):
        live = live.logical_and(scores.greater(call.tensor(4).reshape(())))
    lead = arange(batches).mul(count).reshape(batches, 1)
    picks, found = [], []
    for _ in range(rounds):
        best = where(live, scores, -math.inf).argmax(-1)
        found.append(live.any(-1))
        picks.append(best)
        gone = flat.take(lead.add(best), 0).logical_or(best.expand_dims(-1).equal(arange(count)))
        live = live.logical_and(gone.logical_not())
    places = np.stack(np.nonzero(stack(found, -1).numpy()), -1)
    chosen = stack(picks, -1).flatten()
    steps = np.array([classes * rounds, rounds, 1])
    box = chosen.take((places * steps).sum(-1), 0)
    return concat([call.constant(places[:, :2].astype(np.int64)), box.reshape(-1, 1)], 1)


def _overlaps(boxes: Tensor, by_center: bool) -> Tensor:
    """Return the intersection over the union of all pairs, (batch, n, n)."""
    if by_center:
        middle, half = boxes[..., :2], boxes[..., 2:].div(2)
        low, high = middle.sub(half), middle.add(half)
    else:
        one, other = boxes[..., :2], boxes[..., 2:]
        low, high = one.minimum(other), one.maximum(other)
    area = high.sub(low).prod(-1)
    inner_low = low.expand_dims(2).maximum(low.expand_dims(1))
    inner_high = high.expand_dims(2).minimum(high.expand_dims(1))
    inner = inner_high.sub(inner_low).maximum(0).prod(-1)
    union = area.expand_dims(2).add(area.expand_dims(1)).sub(inner)
    return where(union.greater(0), inner.div(union), 0.0).cast(dtypes.float32)
