"""The list of what is measured.

Tolerances: 1e-6 for a handful of roundings an element, 1e-5 for sums of up to some thousand
products of random sign, 1e-4 for exp of a rounded difference and for sums of 16M numbers of
random sign, whose result is far smaller than what was added up, 1e-3 for a loss after Adam
has divided rounding errors of the gradient by themselves.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks.models import MODELS
from benchmarks.workload import Shape, Workload, normal

_BIG, _SIDE = 1 << 24, 4096


def _floats(*shapes: Shape) -> int:
    """Return the bytes of float32 arrays."""
    return 4 * sum(math.prod(s) for s in shapes)


def _rows(m: int, n: int) -> list[Workload]:
    """Return the operations along rows of (m, n)."""
    two, inputs = _floats((m, n), (m, n)), normal((m, n), (n,), (n,))
    return [
        Workload(f"softmax {m}x{n}", "softmax", normal((m, n)), 1e-5, two, ceiling="copy"),
        Workload(f"logsoftmax {m}x{n}", "logsoftmax", normal((m, n)), 1e-5, two, ceiling="copy"),
        Workload(f"layer_norm {m}x{n}", "layer_norm", inputs, 1e-5, two + 8 * n, ceiling="copy"),
    ]


def _contraction(m: int, k: int, n: int) -> Workload:
    return _einsum(f"einsum {m}x{k}x{n}", "ij,jk->ik", ((m, k), (k, n)), (m, n), 2 * m * k * n)


def _einsum(
    name: str, spec: str, shapes: tuple[Shape, ...], result: Shape, flops: int = 0,
    ceiling: str = "", tolerance: float = 1e-5,
) -> Workload:  # fmt: skip
    traffic = _floats(*shapes, result)
    return Workload(name, "einsum", normal(*shapes), tolerance, traffic, flops, ceiling, spec)


def _slow_einsums() -> list[Workload]:
    """Return the subscripts that users publish as slow, each under its own name."""
    n, io = 32, (512, 512)
    path = ((n, n, n),) * 5
    batch = ((8, 1, 256, 256), (16, 256, 256))
    return [
        # The fewest operations: pairs of the four-operand network at n⁴ and n⁵, then a sum.
        _einsum("einsum ijk,ilm,njm,nlk,abc->", "ijk,ilm,njm,nlk,abc->", path, (), 4 * n**5,
                tolerance=1e-3),
        _einsum("einsum bi,bo,boi->b", "bi,bo,boi->b", ((64, 512), (64, 512), (64, *io)), (64,),
                2 * 64 * 512 * 512 + 2 * 64 * 512, "read"),
        _einsum("einsum ij,ij->", "ij,ij->", ((_SIDE, _SIDE),) * 2, (), 0, "read", 1e-4),
        _einsum("einsum i,j->ij", "i,j->ij", ((_SIDE,), (_SIDE,)), (_SIDE, _SIDE), 0, "copy"),
        _einsum("einsum ...ij,...jk->...ik", "...ij,...jk->...ik", batch, (8, 16, 256, 256),
                2 * 8 * 16 * 256**3),
    ]  # fmt: skip


def _conv2d() -> list[Workload]:
    x, w, y = (16, 32, 64, 64), (64, 32, 3, 3), (16, 64, 64, 64)
    flops, name = 2 * math.prod(y) * 32 * 9, "16x32x64x64 64x3x3"
    return [
        Workload(f"conv2d {name}", "conv2d", normal(x, w), 1e-5, _floats(x, w, y), flops),
        Workload(f"conv2d gradients {name}", "conv2d_gradients", normal(x, w, y), 1e-5,
                 _floats(x, w, y, x, w), 2 * flops),
    ]  # fmt: skip


def _attention() -> list[Workload]:
    q, long = (32, 8, 128, 64), (8, 8, 512, 64)
    return [
        Workload("attention scores 32x8x128x64", "scores", normal(q, q), 1e-5,
                 _floats(q, q, (32, 8, 128, 128)), 2 * 32 * 8 * 128 * 128 * 64),
        Workload("attention 8x8x512x64", "attention", normal(long, long, long), 1e-5,
                 _floats(long, long, long, long), 4 * 8 * 8 * 512 * 512 * 64),
    ]  # fmt: skip


def _spiral() -> list[Any]:
    """Return the README's example: 600 points, their one-hot classes, and a 2-1024-3 network."""
    rng = np.random.default_rng(0)
    labels = np.arange(3).repeat(200)
    noise = rng.standard_normal(600) * 0.3
    t = np.linspace(0, 4 * 2 * np.pi, 200).repeat(3) + labels / np.pi + noise
    points = np.tile(np.linspace(0.0, 1, 200), 3) * np.stack([np.sin(t), np.cos(t)])
    params = [rng.standard_normal(s) for s in ((2, 1024), (1024,), (1024, 3), (3,))]
    return [a.astype(np.float32) for a in (points.T, np.eye(3)[labels], *params)]


def _classifier() -> list[Any]:
    """Return eight batches of 128 random images and classes, and a 784-512-10 network."""
    rng = np.random.default_rng(0)
    images = rng.random((8, 128, 784))
    one_hot = np.eye(10)[rng.integers(0, 10, (8, 128))]
    shapes = ((784, 512), (512,), (512, 10), (10,))
    params = [rng.standard_normal(s) / np.sqrt(s[0]) for s in shapes]
    return [a.astype(np.float32) for a in (images, one_hot, *params)]


def _encoder() -> list[Any]:
    """Return x and its layer's upstream gradient (16, 64, 256), and the layer's parameters.

    Of the matrices for queries, keys, values and output, the two layers of 1024 with their
    biases, and the scale and shift of both layer_norms.
    """
    rng, d, ff = np.random.default_rng(0), 256, 1024
    shapes = (*[(d, d)] * 4, (d, ff), (ff,), (ff, d), (d,), (d,), (d,), (d,), (d,))
    params = [rng.standard_normal(s) / np.sqrt(s[0]) for s in shapes]
    x, dy = rng.standard_normal((2, 16, 64, d))
    return [a.astype(np.float32) for a in (x, dy, *params)]


_ENCODER_FLOPS = 3 * 2 * 16 * 64 * (4 * 256 * 256 + 2 * 256 * 1024 + 2 * 64 * 256)
_SQUARE = normal((_SIDE, _SIDE))
_SQUARE_READ = _floats((_SIDE, _SIDE), (_SIDE,))

WORKLOADS = [
    Workload("chain 16M", "chain", normal((_BIG,)), 1e-6, 8 * _BIG, ceiling="copy"),
    Workload("tanh outer 4096x4096", "tanh_outer", normal((_SIDE,), (_SIDE,)), 1e-5,
             _floats((_SIDE, _SIDE + 2))),
    Workload("sum 16M", "sum", normal((_BIG,)), 1e-4, 4 * _BIG, ceiling="read"),
    Workload("sum axis 0 4096x4096", "sum_axis0", _SQUARE, 1e-5, _SQUARE_READ, ceiling="read"),
    Workload("sum axis 1 4096x4096", "sum_axis1", _SQUARE, 1e-5, _SQUARE_READ, ceiling="read"),
    Workload("sum of squares axis 1 4096x4096", "square_sum_axis1", _SQUARE, 1e-5, _SQUARE_READ,
             ceiling="read"),
    *_rows(4096, 1024),
    *_rows(3000, 777),
    *[_contraction(n, n, n) for n in (256, 512, 1024, 2048)],
    _contraction(1000, 333, 777),
    Workload("einsum bias gelu 1024", "bias_gelu", normal((1024, 1024), (1024, 1024), (1024,)),
             1e-5, 4 * (3 * 1024 * 1024 + 1024), 2 * 1024**3),
    *_slow_einsums(),
    *_attention(),
    *_conv2d(),
    Workload("spiral epoch", "spiral", _spiral, 1e-3),
    Workload("classifier step", "classifier", _classifier, 1e-3),
    Workload("transformer encoder layer", "encoder_layer", _encoder, 1e-4, flops=_ENCODER_FLOPS),
    *MODELS,
]  # fmt: skip
