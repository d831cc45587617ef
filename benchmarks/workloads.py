"""What is measured: inputs, the computation on tensors, and the same in NumPy.

`traffic` counts the bytes of one read of every input and one write of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplegrad import Adam, Tensor

_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Workload:
    """`make` returns a function to run again and again, and the answer it must give (or None)."""

    name: str
    make: Callable[[], tuple[Callable[[], Any], Any]]
    traffic: int = 0
    flops: int = 0


def _array(*shape: int) -> Any:
    return _RNG.standard_normal(shape).astype(np.float32)


def _fixed(x: Any) -> Tensor:
    return Tensor(x, requires_grad=False)


def _unary(shape: tuple[int, ...], f: Callable[[Tensor], Tensor], g: Callable[[Any], Any]) -> Any:
    def make() -> tuple[Callable[[], Any], Any]:
        x = _array(*shape)
        tensor = _fixed(x)
        return lambda: f(tensor), g(x)

    return make


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _layer_norm(shape: tuple[int, int]) -> Any:
    def make() -> tuple[Callable[[], Any], Any]:
        x, w, b = _array(*shape), _array(shape[1]), _array(shape[1])
        tensors = [_fixed(a) for a in (x, w, b)]
        centred = x - x.mean(-1, keepdims=True)
        want = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b
        return lambda: tensors[0].layer_norm((-1,), tensors[1], tensors[2]), want

    return make


def _product(m: int, k: int, n: int) -> Any:
    def make() -> tuple[Callable[[], Any], Any]:
        a, b = _array(m, k), _array(k, n)
        x, y = _fixed(a), _fixed(b)
        return lambda: x.einsum("ij,jk->ik", y), a @ b

    return make


def _spiral() -> tuple[Callable[[], Any], Any]:
    """An epoch of the README's example, with the loss kept."""
    rng = np.random.default_rng(0)
    labels = np.arange(3).repeat(200)
    t = np.linspace(0, 8 * np.pi, 200).repeat(3) + labels / np.pi + rng.standard_normal(600) * 0.3
    points = np.tile(np.linspace(0, 1, 200), 3) * np.stack([np.sin(t), np.cos(t)])
    w0, b0 = Tensor(rng.standard_normal((2, 1024))), Tensor(rng.standard_normal(1024))
    w1, b1 = Tensor(rng.standard_normal((1024, 3))), Tensor(rng.standard_normal(3))
    optimizer = Adam([w0, b0, w1, b1])
    y = np.eye(3)[labels]

    def epoch() -> Any:
        out = Tensor(points).einsum("ji,jk->ik", w0).add(b0).relu()
        out = out.einsum("ij,jk->ik", w1).add(b1)
        loss = Tensor(y).mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return epoch, None


_BIG = 1 << 24
WORKLOADS = [
    Workload("copy 16M", _unary((_BIG,), lambda x: x * 2.0, lambda x: x * 2), 8 * _BIG),
    Workload(
        "chain 16M",
        _unary(
            (_BIG,),
            lambda x: (-(x * x + 1.0).relu()).exp() * 0.5 - x,
            lambda x: np.exp(-np.maximum(x * x + 1, 0)) * np.float32(0.5) - x,
        ),
        8 * _BIG,
    ),
    Workload("sum 16M", _unary((_BIG,), Tensor.sum, lambda x: x.sum(dtype="f8")), 4 * _BIG),
    Workload(
        "sum axis 0",
        _unary((4096, 4096), lambda x: x.sum(axis=0), lambda x: x.sum(0, dtype="f8")),
        4 * _BIG,
    ),
    Workload(
        "sum axis 1",
        _unary((4096, 4096), lambda x: x.sum(axis=1), lambda x: x.sum(1, dtype="f8")),
        4 * _BIG,
    ),
    Workload("softmax", _unary((4096, 1024), Tensor.softmax, _softmax), 8 << 22),
    Workload(
        "logsoftmax",
        _unary((4096, 1024), Tensor.logsoftmax, lambda x: np.log(_softmax(x))),
        8 << 22,
    ),
    Workload("layer_norm", _layer_norm((4096, 1024)), 8 << 22),
    Workload("softmax odd", _unary((3000, 777), Tensor.softmax, _softmax), 8 * 3000 * 777),
    Workload("layer_norm odd", _layer_norm((3000, 777)), 8 * 3000 * 777),
    Workload("einsum 256", _product(256, 256, 256), flops=2 * 256**3),
    Workload("einsum 1024", _product(1024, 1024, 1024), flops=2 * 1024**3),
    Workload("einsum odd", _product(1000, 333, 777), flops=2 * 1000 * 333 * 777),
    Workload("spiral epoch", _spiral),
]
