"""Operators on shapes and positions; most are views, and cost nothing until they are read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simplegrad import dtypes, random
from simplegrad.errors import ModelError
from simplegrad.graph.infer import broadcast_shapes
from simplegrad.onnx.registry import Call, operator
from simplegrad.onnx.tensors import Value, checked_shape, dtype_of
from simplegrad.tensor.creation import arange, eye, full, tril, triu
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import concat


@operator("Shape")
def shape(call: Call) -> np.ndarray:
    """Shape, or a part of it: known on the host."""
    extents = call.value(0).shape
    cut = slice(call.integer("start", 0), call.integer("end", None))
    return np.array(extents[cut], np.int64)


@operator("Size")
def size(call: Call) -> np.ndarray:
    """Size: known on the host."""
    return np.array(math.prod(call.value(0).shape), np.int64)


@operator("Reshape", since=5)
def reshape(call: Call) -> Tensor:
    """Reshape: 0 keeps an extent unless allowzero is set, -1 is worked out."""
    x, new = call.tensor(0), call.numbers(1)
    if not call.flag("allowzero"):
        if any(n == 0 and i >= x.ndim for i, n in enumerate(new)):
            raise ModelError(f"shape {new} keeps an extent that {x.shape} does not have")
        new = [x.shape[i] if n == 0 else n for i, n in enumerate(new)]
    return x.reshape(new)


@operator("Flatten")
def flatten(call: Call) -> Tensor:
    """Flatten to a matrix, cut before `axis`."""
    x, axis = call.tensor(0), call.integer("axis", 1)
    if not -x.ndim <= axis <= x.ndim:
        raise ModelError(f"axis {axis} is out of range for shape {x.shape}")
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(call: Call) -> Tensor:
    """Squeeze."""
    return call.tensor(0).squeeze(call.axes(1))


@operator("Unsqueeze")
def unsqueeze(call: Call) -> Tensor:
    """Unsqueeze."""
    return call.tensor(0).expand_dims(call.axes(1, ...))


@operator("Transpose")
def transpose(call: Call) -> Tensor:
    """Transpose: in the order `perm`, or reversed."""
    x, order = call.tensor(0), call.integers("perm", None)
    return x.transpose() if order is None else x.permute(order)


@operator("Expand", since=8)
def expand(call: Call) -> Tensor:
    """Expand: both shapes broadcast."""
    x = call.tensor(0)
    new = broadcast_shapes("Expand", x.shape, tuple(call.numbers(1)))
    return x.broadcast_to(checked_shape(new, x.dtype))


@operator("Tile", since=6)
def tile(call: Call) -> Tensor:
    """Tile."""
    x, counts = call.tensor(0), call.numbers(1)
    if len(counts) != x.ndim:
        raise ModelError(f"{len(counts)} repeats for shape {x.shape}")
    checked_shape([n * m for n, m in zip(counts, x.shape, strict=True)], x.dtype)
    return x.tile(counts)


@operator("Concat", since=4)
def join(call: Call) -> Tensor:
    """Concat."""
    return concat(call.tensors(), call.integer("axis"))


@operator("Split", since=2)
def split(call: Call) -> tuple[Tensor, ...]:
    """Split: by sizes, or into equal parts of which the last may be smaller."""
    x, axis = call.tensor(0), call.integer("axis", 0)
    sizes = call.numbers(1) if call.has(1) else call.integers("split", None)
    extent = x.shape[axis]
    if sizes is None:
        count = call.integer("num_outputs", call.outputs)
        part = -(-extent // max(count, 1))
        sizes = [max(min(part, extent - i * part), 0) for i in range(count)]
    if sum(sizes) != extent or min(sizes, default=0) < 0 or len(sizes) != call.outputs:
        raise ModelError(f"sizes {sizes} do not split {extent} into {call.outputs} outputs")
    cuts = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return tuple(x.split(cuts, axis))


@operator("Slice", since=10)
def cut(call: Call) -> Tensor:
    """Slice: starts, ends, axes and steps as inputs, clamped to the extents."""
    axes = call.numbers(3) if call.has(3) else None
    steps = call.numbers(4) if call.has(4) else None
    return _cut(call.tensor(0), call.numbers(1), call.numbers(2), axes, steps)


@operator("Slice", until=9)
def cut_by_attributes(call: Call) -> Tensor:
    """Slice as it was before opset 10."""
    return _cut(
        call.tensor(0), call.integers("starts"), call.integers("ends"), call.integers("axes", None)
    )


def _cut(
    x: Tensor, starts: list[int], ends: list[int], axes: Any = None, steps: Any = None
) -> Tensor:
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ModelError(f"starts {starts}, ends {ends}, axes {axes}, steps {steps} do not fit")
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -x.ndim <= axis < x.ndim:
            raise ModelError(f"axis {axis} is out of range for shape {x.shape}")
        index[axis] = slice(start, end, step)
    return x[tuple(index)]


@operator("Pad", since=2)
def pad(call: Call) -> Tensor:
    """Pad with a constant, the edge, a reflection, or the other end; negative widths cut."""
    x = call.tensor(0)
    widths = call.numbers(1) if call.has(1) else call.integers("pads")
    axes = [a % max(x.ndim, 1) for a in call.numbers(3)] if call.has(3) else list(range(x.ndim))
    if len(widths) != 2 * len(axes):
        raise ModelError(f"pads {widths} are not two numbers for each of axes {axes}")
    pairs = [(0, 0)] * x.ndim
    for i, axis in enumerate(axes):
        pairs[axis] = widths[i], widths[i + len(axes)]
    new = [n + b + a for n, (b, a) in zip(x.shape, pairs, strict=True)]
    checked_shape(new, x.dtype)
    mode = call.string("mode", "constant")
    if mode == "constant":
        value = call.number(2) if call.has(2) else call.real("value", 0.0)
        return _pad_constant(x, pairs, value)
    if mode not in ("reflect", "edge", "wrap"):
        raise ModelError(f"mode {mode!r} is none of constant, reflect, edge, wrap")
    for axis, (before, after) in enumerate(pairs):
        if before or after:
            places = np.arange(x.shape[axis])
            places = places[max(-before, 0) : len(places) - max(-after, 0)]
            width = max(before, 0), max(after, 0)
            x = x.take(np.pad(places, width, mode=mode), axis)
    return x


def _pad_constant(x: Tensor, pairs: list[tuple[int, int]], value: Any) -> Tensor:
    cuts = tuple(
        slice(max(-before, 0), n - max(-after, 0))
        for n, (before, after) in zip(x.shape, pairs, strict=True)
    )
    value = value if x.dtype.is_float else x.dtype.numpy.type(value).item()
    return x[cuts].pad([(max(before, 0), max(after, 0)) for before, after in pairs], value)


# New arrays -------------------------------------------------------------------------------------


@operator("Constant")
def constant(call: Call) -> Any:
    """Constant: a tensor, a number or a list of numbers of the file."""
    if call.has_attribute("value"):
        return call.literal("value")
    for name, read, kind in (
        ("value_float", call.real, np.float32),
        ("value_floats", call.reals, np.float32),
        ("value_int", call.integer, np.int64),
        ("value_ints", call.integers, np.int64),
    ):
        if call.has_attribute(name):
            return np.array(read(name), kind)
    raise ModelError("the constant is neither a tensor nor numbers")


@operator("ConstantOfShape", since=9)
def constant_of_shape(call: Call) -> Tensor:
    """ConstantOfShape."""
    value = Value.known(np.zeros(1, np.float32))
    if call.has_attribute("value"):
        value = call.literal("value")
    shape = checked_shape(call.numbers(0), value.dtype)
    if math.prod(value.shape) != 1:
        raise ModelError(f"the value has shape {value.shape}, not one element")
    return full(shape, value.numpy().item(), value.dtype, requires_grad=False)


@operator("Range", since=11)
def count_up(call: Call) -> Tensor:
    """Range: start + i delta, before limit; the three numbers decide a shape."""
    start, limit, delta = (call.number(i) for i in range(3))
    dtype = call.value(0).dtype
    if delta == 0:
        raise ModelError("delta is 0")
    (extent,) = checked_shape([max(math.ceil((limit - start) / delta), 0)], dtype)
    wide = dtypes.int64 if dtype.kind in "iu" else dtype
    return arange(extent).cast(wide).mul(delta).add(start).cast(dtype)


@operator("EyeLike", since=9)
def eye_like(call: Call) -> Tensor:
    """EyeLike."""
    like = call.value(0)
    dtype = dtype_of(call.integer("dtype"), "dtype") if call.has_attribute("dtype") else like.dtype
    rows, columns = like.shape
    return eye(rows, columns, call.integer("k", 0), dtype, requires_grad=False)


@operator("Trilu", since=14)
def triangle(call: Call) -> Tensor:
    """Trilu: the upper or lower triangle of the last two axes."""
    k = int(call.number(1)) if call.has(1) else 0
    return (triu if call.flag("upper", True) else tril)(call.tensor(0), k)


# Blocks -----------------------------------------------------------------------------------------


@operator("DepthToSpace")
def depth_to_space(call: Call) -> Tensor:
    """DepthToSpace: channels become blocks, depth first (DCR) or column first (CRD)."""
    x, b, mode = call.tensor(0), call.integer("blocksize"), call.string("mode", "DCR")
    n, c, h, w = x.shape
    if b < 1 or c % (b * b):
        raise ModelError(f"{c} channels are no blocks of {b} x {b}")
    if mode == "DCR":
        x = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // (b * b), h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(call: Call) -> Tensor:
    """SpaceToDepth: blocks become channels, row and column first (DCR) or channel first (CRD)."""
    x, b = call.tensor(0), call.integer("blocksize")
    n, c, h, w = x.shape
    if b < 1 or h % b or w % b:
        raise ModelError(f"{h} x {w} is no whole number of blocks of {b} x {b}")
    order = (0, 3, 5, 1, 2, 4) if call.string("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    x = x.reshape(n, c, h // b, b, w // b, b).permute(order)
    return x.reshape(n, c * b * b, h // b, w // b)


@operator("OptionalHasElement", since=15)
def has_element(call: Call) -> np.ndarray:
    """OptionalHasElement of a tensor: true where one is given."""
    return np.array(call.has(0))


@operator("OptionalGetElement", since=15)
def get_element(call: Call) -> Tensor:
    """OptionalGetElement of a tensor: the tensor."""
    return call.tensor(0)


@operator("RandomUniformLike", "RandomNormalLike", "RandomUniform", "RandomNormal", "Bernoulli")
def random_numbers(call: Call) -> Tensor:
    """Random numbers of the default generator; the attribute `seed` is ignored."""
    given = None if call.op in ("RandomUniform", "RandomNormal") else call.tensor(0)
    dtype = dtypes.float32 if given is None else given.dtype
    if call.has_attribute("dtype"):
        dtype = dtype_of(call.integer("dtype"), "attribute 'dtype'")
    extents = checked_shape(call.integers("shape") if given is None else given.shape, dtype)
    if call.op == "Bernoulli":
        chance = call.tensor(0).cast(dtypes.float32)
        return random.uniform(extents, requires_grad=False).less(chance).cast(dtype)
    if "Normal" in call.op:
        mean, scale = call.real("mean", 0.0), call.real("scale", 1.0)
        return random.normal(extents, mean, scale, requires_grad=False).cast(dtype)
    low, high = call.real("low", 0.0), call.real("high", 1.0)
    return random.uniform(extents, low, high, requires_grad=False).cast(dtype)
