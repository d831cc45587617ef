"""Normalisations."""

from __future__ import annotations

from typing import Any

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.onnx.operators.neural import per_channel
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.tensor import Tensor


@operator("BatchNormalization", since=9)
def batch_norm(call: Call) -> Any:
    """BatchNormalization: with the running averages, or in training mode the batch's own."""
    x = call.tensor(0)
    scale, bias, mean, var = (call.tensor(i).cast(x.dtype) for i in range(1, 5))
    eps = call.real("epsilon", 1e-5)
    if not call.flag("training_mode"):
        return x.batch_norm(scale, bias, mean, var, 1, eps)
    momentum = call.real("momentum", 0.9)
    axes = tuple(a for a in range(x.ndim) if a != 1)
    now = x.mean(axes), x.var(axes)
    y = x.batch_norm(scale, bias, *now, 1, eps)
    kept = [
        old.mul(momentum).add(new.mul(1 - momentum))
        for old, new in zip((mean, var), now, strict=True)
    ]
    return (y, *kept)


@operator("InstanceNormalization", since=6)
def instance_norm(call: Call) -> Tensor:
    """InstanceNormalization: over the spatial axes."""
    x, scale, bias = call.tensor(0), call.tensor(1), call.tensor(2)
    y = x.layer_norm(tuple(range(2, x.ndim)), eps=call.real("epsilon", 1e-5))
    return y.mul(per_channel(scale, x.ndim)).add(per_channel(bias, x.ndim))


@operator("GroupNormalization", since=21)
def group_norm(call: Call) -> Tensor:
    """GroupNormalization: over groups of channels; scale and bias per channel."""
    return _group_norm(call, grouped=False)


@operator("GroupNormalization", since=18, until=20)
def group_norm_by_group(call: Call) -> Tensor:
    """GroupNormalization as it was before opset 21: scale and bias per group."""
    return _group_norm(call, grouped=True)


def _group_norm(call: Call, grouped: bool) -> Tensor:
    x, scale, bias = call.tensor(0), call.tensor(1), call.tensor(2)
    groups = call.integer("num_groups")
    n, channels = x.shape[:2]
    if groups < 1 or channels % groups:
        raise ModelError(f"{channels} channels do not divide into {groups} groups")
    inner = x.reshape(n, groups, -1).layer_norm(-1, eps=call.real("epsilon", 1e-5))
    if grouped:
        inner = inner.mul(scale.reshape(-1, 1)).add(bias.reshape(-1, 1))
        return inner.reshape(x.shape)
    y = inner.reshape(x.shape)
    return y.mul(per_channel(scale, x.ndim)).add(per_channel(bias, x.ndim))


@operator("LayerNormalization", since=17)
def layer_norm(call: Call) -> Any:
    """LayerNormalization over the axes from `axis` on, in float32 for half floats."""
    x, axis = call.tensor(0), call.integer("axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x.cast(dtypes.float32) if x.dtype.itemsize == 2 else x
    mean = wide.mean(axes, True)
    far = wide.sub(mean)
    scale = far.square().mean(axes, True).add(call.real("epsilon", 1e-5)).rsqrt()
    y = far.mul(scale).cast(x.dtype).mul(call.tensor(1))
    y = y.add(call.tensor(2)) if call.has(2) else y
    return y if call.outputs == 1 else (y, mean, scale)


@operator("RMSNormalization", since=23)
def rms_norm(call: Call) -> Tensor:
    """RMSNormalization over the axes from `axis` on."""
    x, axis = call.tensor(0), call.integer("axis", -1)
    axes = tuple(range(axis % x.ndim, x.ndim))
    wide = x.cast(dtypes.float32) if x.dtype.itemsize == 2 else x
    scale = wide.square().mean(axes, True).add(call.real("epsilon", 1e-5)).rsqrt()
    weight = call.tensor(1)
    return wide.mul(scale).cast(x.dtype).mul(weight).cast(weight.dtype)


@operator("LRN")
def local_response_norm(call: Call) -> Tensor:
    """LRN: over `size` neighbouring channels."""
    x, size = call.tensor(0), call.integer("size")
    if not 1 <= size <= 2 * x.shape[1] + 1:
        raise ModelError(f"size {size} for {x.shape[1]} channels")
    before, after = (size - 1) // 2, size // 2
    squares = x.square().pad([(before, after) if a == 1 else (0, 0) for a in range(x.ndim)])
    channels = x.shape[1]
    sums: Any = squares[:, :channels]
    for i in range(1, size):
        sums = sums.add(squares[:, i : i + channels])
    alpha, beta, bias = call.real("alpha", 1e-4), call.real("beta", 0.75), call.real("bias", 1.0)
    return x.div(sums.mul(alpha / size).add(bias).pow(beta))


@operator("LpNormalization")
def lp_norm(call: Call) -> Tensor:
    """LpNormalization: x over its 1- or 2-norm along `axis`; 0 stays where the norm is 0."""
    x, axis, p = call.tensor(0), call.integer("axis", -1), call.integer("p", 2)
    norm = x.abs().sum(axis, True) if p == 1 else x.square().sum(axis, True).sqrt()
    zero = norm.equal(0)
    return zero.where(0, x.div(zero.where(1, norm)))
