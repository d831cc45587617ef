"""Scaled dot-product attention, written in the plain operations that the compiler recognises."""

from __future__ import annotations

import math
from typing import Any

from simplegrad import dtypes, ops
from simplegrad.arguments import flag
from simplegrad.errors import DTypeError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.infer import broadcast_shapes
from simplegrad.graph.node import make
from simplegrad.tensor.contraction import einsum
from simplegrad.tensor.core import Core, as_tensor, lift
from simplegrad.tensor.stamped import stamped
from simplegrad.tensor.tensor import Tensor


@stamped
def scaled_dot_product_attention(
    q: Any, k: Any, v: Any, mask: Any = None, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """Return ``softmax(q kᵀ * scale + mask) v`` over the last axes.

    `q` is (..., m, d), `k` (..., n, d) and `v` (..., n, e); the result is (..., m, e); axes before
    these broadcast. `mask` broadcasts to (..., m, n): bool, True where a query sees a key, or
    floats that are added. With `is_causal` query i sees keys 0 … i only. `scale` is 1 / √d unless
    given. A query that sees no key gets NaN. Raises `ShapeError` where shapes do not fit, and
    `DTypeError` for an integer mask.

    On OpenCL devices this is one kernel that never stores the (m, n) scores, and so are its
    gradients; so is the same thing written by hand with `einsum` and `softmax`. Causal ones leave
    out blocks of keys that nobody sees (an inf or NaN among those values then does not show).

    >>> import simplegrad as sg
    >>> x = sg.Tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> sg.scaled_dot_product_attention(x, x, x, is_causal=True)[0]
    Tensor([1., 0.], dtype=float32)
    """
    name = "scaled_dot_product_attention"
    device = next((x._node.device for x in (q, k, v) if isinstance(x, Core)), None)
    q, k, v = (as_tensor(x, device) for x in (q, k, v))
    for x in (q, k, v):
        if x.ndim < 2:
            raise ShapeError(f"{name}: q, k and v need two axes at least, got {x.shape}")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ShapeError(
            f"{name}: q {q.shape}, k {k.shape} and v {v.shape} do not fit: q and k need one last "
            "extent, k and v one before it"
        )
    scale = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else scale
    scores = einsum("...md,...nd->...mn", q, k).mul(scale)
    if mask is not None:
        mask = as_tensor(mask, device)
        if mask.dtype.kind not in "bf":
            raise DTypeError(
                f"{name}: mask is {mask.dtype}; bool (True: seen) or floats are needed"
            )
        broadcast_shapes(f"{name}: scores and mask", scores.shape, mask.shape)
        if mask.dtype.kind == "b":
            scores = _where(mask, scores)
        else:
            scores = scores.add(mask.astype(scores.dtype))
    if flag(f"{name}: is_causal", is_causal):
        m, n = scores.shape[-2:]
        i = build.reshape(build.iota(m, dtypes.int32, scores._node.device), (m, 1))
        j = build.reshape(build.iota(n, dtypes.int32, scores._node.device), (1, n))
        scores = _where(lift(build.apply(ops.GREATER_EQUAL, i, j)), scores)
    return einsum("...mn,...ne->...me", scores.softmax(), v)


def _where(seen: Tensor, scores: Tensor) -> Tensor:
    """Return -inf where a key is not seen: a constant of the program, which kernels know."""
    condition, x = seen._node, scores._node
    shape = scores.shape
    if condition.shape != shape:
        condition = build.broadcast_to(condition, shape)
    node = make(ops.WHERE, (condition, x, build.number(-math.inf, x)))
    return lift(node, x)
