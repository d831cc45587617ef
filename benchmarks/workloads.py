"""What is measured: inputs, the computation on tensors, and the same in NumPy.

Tolerances: 1e-6 for a handful of roundings an element, 1e-5 for sums of up to some thousand
products of random sign, 1e-4 for exp of a rounded difference and for sums of 16M numbers of
random sign, whose result is far smaller than what was added up, 1e-3 for a loss after Adam
has divided rounding errors of the gradient by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Case, Workload
from benchmarks.training import classifier, spiral
from simplegrad import Tensor

Shapes = tuple[tuple[int, ...], ...]


def _case(shapes: Shapes, f: Callable[..., Tensor], g: Callable[..., Any]) -> Callable[[], Case]:
    """Return a maker of `f` on tensors, `g` on the same arrays, normally distributed."""

    def make() -> Case:
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(s, np.float32) for s in shapes]
        tensors = [Tensor(a, requires_grad=False) for a in arrays]
        kept: list[Any] = []

        def want() -> Any:
            if not kept:
                kept.append(g(*arrays))
            return kept[0]

        return Case(lambda: f(*tensors), want)

    return make


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _logsoftmax(x: Any) -> Any:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _layer_norm(x: Any, w: Any, b: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b


def _gelu(x: Any) -> Any:
    erf = np.frompyfunc(math.erf, 1, 1)(x * math.sqrt(0.5)).astype(np.float64)
    return 0.5 * x * (1 + erf)


def _conv2d(x: Any, w: Any) -> Any:
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    return np.tensordot(windows, w, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


def _rows(m: int, n: int) -> list[Workload]:
    """Return the operations along rows of (m, n)."""
    two = 8 * m * n
    return [
        Workload(
            f"softmax {m}x{n}", _case(((m, n),), Tensor.softmax, _softmax), 1e-5, two,
            ceiling="copy",
        ),
        Workload(
            f"logsoftmax {m}x{n}", _case(((m, n),), Tensor.logsoftmax, _logsoftmax), 1e-5, two,
            ceiling="copy",
        ),
        Workload(
            f"layer_norm {m}x{n}",
            _case(
                ((m, n), (n,), (n,)), lambda x, w, b: x.layer_norm((-1,), w, b), _layer_norm
            ),
            1e-5, two + 8 * n, ceiling="copy",
        ),
    ]  # fmt: skip


def _contraction(m: int, k: int, n: int) -> Workload:
    return Workload(
        f"einsum {m}x{k}x{n}",
        _case(((m, k), (k, n)), lambda a, b: a.einsum("ij,jk->ik", b), lambda a, b: a @ b),
        1e-5,
        4 * (m * k + k * n + m * n),
        2 * m * k * n,
    )


_BIG, _SIDE = 1 << 24, 4096
_SQUARE = ((_SIDE, _SIDE),)

WORKLOADS = [
    Workload(
        "chain 16M",
        _case(
            ((_BIG,),),
            lambda x: (-(x * x + 1).relu()).exp() * 0.5 - x,
            lambda x: np.exp(-np.maximum(x * x + 1, 0)) * np.float32(0.5) - x,
        ),
        1e-6, 8 * _BIG, ceiling="copy",
    ),
    *_rows(4096, 1024),
    *_rows(3000, 777),
    Workload(
        "sum 16M", _case(((_BIG,),), Tensor.sum, lambda x: x.sum(dtype="f8")), 1e-4, 4 * _BIG,
        ceiling="read",
    ),
    Workload(
        "sum axis 0 4096x4096",
        _case(_SQUARE, lambda x: x.sum(axis=0), lambda x: x.sum(0, dtype="f8")),
        1e-5, 4 * (_SIDE * _SIDE + _SIDE), ceiling="read",
    ),
    Workload(
        "sum axis 1 4096x4096",
        _case(_SQUARE, lambda x: x.sum(axis=1), lambda x: x.sum(1, dtype="f8")),
        1e-5, 4 * (_SIDE * _SIDE + _SIDE), ceiling="read",
    ),
    _contraction(256, 256, 256),
    _contraction(1024, 1024, 1024),
    _contraction(1000, 333, 777),
    Workload(
        "einsum bias gelu 1024",
        _case(
            ((1024, 1024), (1024, 1024), (1024,)),
            lambda a, b, c: a.einsum("ij,jk->ik", b).add(c).gelu(),
            lambda a, b, c: _gelu(a @ b + c),
        ),
        1e-5, 4 * (3 * 1024 * 1024 + 1024), 2 * 1024**3,
    ),
    Workload(
        "conv2d 16x32x64x64 64x3x3",
        _case(((16, 32, 64, 64), (64, 32, 3, 3)), lambda x, w: x.conv2d(w), _conv2d),
        1e-5, 4 * (16 * 32 * 64 * 64 + 64 * 32 * 9 + 16 * 64 * 62 * 62),
        2 * 16 * 64 * 62 * 62 * 32 * 9,
    ),
    Workload("spiral epoch", spiral, 1e-3, beside_numpy=True),
    Workload("classifier step", classifier, 1e-3, beside_numpy=True),
]  # fmt: skip
