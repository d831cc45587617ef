"""Two training loops, and the same steps in plain NumPy to check them against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.case import Case
from simplegrad import Adam, Tensor

HOST = np.float32


class NumpyNetwork:
    """A network of one hidden layer, cross-entropy and Adam, written out by hand."""

    def __init__(self, params: list[Any], learning_rate: float) -> None:
        self.params = [p.astype(HOST) for p in params]
        self.state = [(np.zeros_like(p), np.zeros_like(p)) for p in self.params]
        self.learning_rate, self.steps = learning_rate, 0

    def step(self, x: Any, y: Any) -> Any:
        """Train on points `x` (batch, inputs) with one-hot `y`; return the loss before it."""
        x, y = x.astype(HOST), y.astype(HOST)
        w0, b0, w1, b1 = self.params
        before = x @ w0 + b0
        hidden = np.maximum(before, 0)
        out = hidden @ w1 + b1
        shifted = out - out.max(axis=1, keepdims=True)
        exps = np.exp(shifted)
        total = exps.sum(axis=1, keepdims=True)
        loss = -(y * (shifted - np.log(total))).sum(axis=1).mean()
        d_out = (exps / total - y) / HOST(len(x))
        d_before = (d_out @ w1.T) * (before > 0)
        self._adam([x.T @ d_before, d_before.sum(0), hidden.T @ d_out, d_out.sum(0)])
        return loss

    def _adam(self, gradients: list[Any]) -> None:
        self.steps += 1
        for p, g, (mean, square) in zip(self.params, gradients, self.state, strict=True):
            mean += HOST(0.1) * (g - mean)
            square += HOST(0.001) * (g * g - square)
            unbiased = np.sqrt(square / HOST(1 - 0.999**self.steps))
            rate = HOST(self.learning_rate / (1 - 0.9**self.steps))
            p -= rate * mean / (unbiased + HOST(1e-7))


def spiral() -> Case:
    """One epoch of the README's example: 600 points, 2-1024-3, everything in one batch."""
    rng = np.random.default_rng(0)
    labels = np.arange(3).repeat(200)
    noise = rng.standard_normal(600) * 0.3
    t = np.linspace(0, 4 * 2 * np.pi, 200).repeat(3) + labels / np.pi + noise
    points = np.tile(np.linspace(0.0, 1, 200), 3) * np.stack([np.sin(t), np.cos(t)])
    y = np.eye(3)[labels]
    params = [rng.standard_normal(s) for s in ((2, 1024), (1024,), (1024, 3), (3,))]
    twin = NumpyNetwork(params, 0.01)
    w0, b0, w1, b1 = tensors = [Tensor(p) for p in params]
    optimizer = Adam(tensors)

    def epoch() -> Tensor:
        out = Tensor(points).einsum("ji,jk->ik", w0).add(b0).relu()
        out = out.einsum("ij,jk->ik", w1).add(b1)
        return _stepped(out, Tensor(y), optimizer)

    return Case(epoch, lambda: twin.step(points.T, y))


def classifier() -> Case:
    """One step of a 784-512-10 network, eight batches of 128 random images in turn."""
    rng = np.random.default_rng(0)
    images = rng.random((8, 128, 784), HOST)
    one_hot = np.eye(10, dtype=HOST)[rng.integers(0, 10, (8, 128))]
    shapes = ((784, 512), (512,), (512, 10), (10,))
    params = [rng.standard_normal(s) / np.sqrt(s[0]) for s in shapes]
    twin = NumpyNetwork(params, 0.001)
    w0, b0, w1, b1 = tensors = [Tensor(p) for p in params]
    optimizer = Adam(tensors, learning_rate=0.001)
    turns = _counter(8), _counter(8)

    def step() -> Tensor:
        batch = turns[0]()
        hidden = Tensor(images[batch]).matmul(w0).add(b0).relu()
        return _stepped(hidden.matmul(w1).add(b1), Tensor(one_hot[batch]), optimizer)

    def want() -> Any:
        batch = turns[1]()
        return twin.step(images[batch], one_hot[batch])

    return Case(step, want)


def _stepped(out: Tensor, y: Tensor, optimizer: Adam) -> Tensor:
    loss = y.mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def _counter(n: int) -> Callable[[], int]:
    count = -1

    def turn() -> int:
        nonlocal count
        count = (count + 1) % n
        return count

    return turn
