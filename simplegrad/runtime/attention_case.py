"""An attention and its gradients as a graph, and by NumPy: what proves and measures templates."""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad import ops
from simplegrad.dtypes import int32
from simplegrad.graph import build
from simplegrad.graph.node import Node


def graph(q: Node, k: Node, v: Node, g: Node, *, causal: bool) -> dict[str, Node]:
    """Return the result o, and what a gradient g of it gives for the operands: dq, dk, dv.

    Queries are (batch, m, d), keys (batch, n, d), values (batch, n, e), o and g (batch, m, e).
    Written as the gradient rules write it, so that it is recognised.
    """
    of_q, of_k, of_t, of_o, of_v = (0, 1, 3), (0, 2, 3), (0, 1, 2), (0, 1, 4), (0, 2, 4)
    x = build.einsum((of_q, of_k), of_t, q, k)
    m, n = x.shape[1:]
    seen = None
    if causal:
        i, j = (build.reshape(build.iota(s[0] * s[1], int32), s) for s in ((m, 1), (1, n)))
        seen = build.broadcast_to(build.apply(ops.GREATER_EQUAL, i, j), x.shape)
    t = x if seen is None else build.apply(ops.WHERE, seen, x, build.number(-np.inf, x))
    e = build.apply(ops.EXP, build.apply(ops.SUB, t, _row(build.reduce(ops.MAX, t, [2]), n)))
    scale = build.apply(ops.RECIPROCAL, build.reduce(ops.SUM, e, [2], True))
    wide = build.broadcast_to(scale, x.shape)
    p = build.apply(ops.MUL, e, wide)
    dp = build.einsum((of_o, of_v), of_t, g, v)
    inner = build.reduce(ops.SUM, build.apply(ops.MUL, dp, e), [2], True)
    square = build.apply(ops.NEG, build.apply(ops.MUL, scale, scale))
    row = build.broadcast_to(build.apply(ops.MUL, inner, square), x.shape)
    dt = build.apply(ops.MUL, build.apply(ops.ADD, build.apply(ops.MUL, dp, wide), row), e)
    ds = dt if seen is None else build.apply(ops.WHERE, seen, dt, build.number(0, e))
    return {
        "o": build.einsum((of_t, of_v), of_o, p, v), "dq": build.einsum((of_t, of_k), of_q, ds, k),
        "dk": build.einsum((of_t, of_q), of_k, ds, q), "dv": build.einsum((of_t, of_o), of_v, p, g),
    }  # fmt: skip


def _row(x: Node, n: int) -> Node:
    return build.broadcast_to(build.reshape(x, (*x.shape, 1)), (*x.shape, n))


def reference(q: Any, k: Any, v: Any, g: Any, *, causal: bool) -> dict[str, Any]:
    """Return the same by NumPy."""
    t = q @ k.swapaxes(1, 2)
    t = np.where(np.tri(*t.shape[1:]) > 0, t, -np.inf) if causal else t
    p = np.exp(t - t.max(2, keepdims=True))
    p /= p.sum(2, keepdims=True)
    dp = g @ v.swapaxes(1, 2)
    ds = p * (dp - (p * dp).sum(2, keepdims=True))
    return {
        "o": p @ v, "dq": ds @ k, "dk": ds.swapaxes(1, 2) @ q, "dv": p.swapaxes(1, 2) @ g,
    }  # fmt: skip
