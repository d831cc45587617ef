"""NumPy: a peer in float32, and in float64 the reference that every library is checked against."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.libraries.library import Library, maker
from benchmarks.workload import turns

try:
    from scipy.special import erf  # what a user of NumPy takes
except ImportError:
    erf = np.vectorize(math.erf, otypes=[float])


class Numpy(Library):
    """Computes in the type of the arrays it gets."""

    def versions(self) -> dict[str, str]:
        return {"numpy": np.__version__}

    def place(self, array: Any) -> Any:
        return array

    def wait(self, result: Any) -> None:
        """Nothing: NumPy returns when it is done."""

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def chain(self, x: Any) -> Any:
        return np.exp(-np.maximum(x * x + 1, 0)) * 0.5 - x

    def tanh_outer(self, a: Any, b: Any) -> Any:
        return np.tanh(np.outer(a, b))

    def sum(self, x: Any) -> Any:
        return x.sum()

    def sum_axis0(self, x: Any) -> Any:
        return x.sum(axis=0)

    def sum_axis1(self, x: Any) -> Any:
        return x.sum(axis=1)

    def square_sum_axis1(self, x: Any) -> Any:
        return (x * x).sum(axis=1)

    def softmax(self, x: Any) -> Any:
        return _softmax(x)

    def logsoftmax(self, x: Any) -> Any:
        shifted = x - x.max(-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))

    def layer_norm(self, x: Any, w: Any, b: Any) -> Any:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b

    def einsum(self, spec: str, *operands: Any) -> Any:
        return np.einsum(spec, *operands, optimize=True)

    def bias_gelu(self, a: Any, b: Any, bias: Any) -> Any:
        x = a @ b + bias
        return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))

    def scores(self, q: Any, k: Any) -> Any:
        return q @ k.swapaxes(-1, -2)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        return _softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5) @ v

    def conv2d(self, x: Any, w: Any) -> Any:
        return np.tensordot(_windows(x, w), w, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)

    def conv2d_gradients(self, x: Any, w: Any, dy: Any) -> Any:
        turned = w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
        dx = self.conv2d(dy, turned)
        dw = np.tensordot(dy, _windows(x, w), ((0, 2, 3), (0, 2, 3)))
        return dx, dw

    @maker
    def spiral(self, points: Any, y: Any, *params: Any) -> Callable[[], Any]:
        network = _Network(params, 0.01)
        return lambda: network.step(points, y)

    @maker
    def classifier(self, images: Any, y: Any, *params: Any) -> Callable[[], Any]:
        network, batches = _Network(params, 0.001), turns(len(images))

        def step() -> Any:
            i = batches()
            return network.step(images[i], y[i])

        return step

    def encoder_layer(self, x: Any, dy: Any, *params: Any) -> Any:
        return _encoder_layer(x, dy, *params)


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _windows(x: Any, w: Any) -> Any:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], (2, 3))


class _Network:
    """A network of one hidden layer, cross-entropy and Adam, written out by hand."""

    def __init__(self, params: Any, learning_rate: float) -> None:
        self.params = [p.copy() for p in params]
        self.state = [(np.zeros_like(p), np.zeros_like(p)) for p in self.params]
        self.learning_rate, self.steps = learning_rate, 0

    def step(self, x: Any, y: Any) -> Any:
        """Train on points `x` (batch, inputs) with one-hot `y`; return the loss before it."""
        w0, b0, w1, b1 = self.params
        before = x @ w0 + b0
        hidden = np.maximum(before, 0)
        out = hidden @ w1 + b1
        shifted = out - out.max(axis=1, keepdims=True)
        exps = np.exp(shifted)
        total = exps.sum(axis=1, keepdims=True)
        loss = -(y * (shifted - np.log(total))).sum(axis=1).mean()
        d_out = (exps / total - y) / len(x)
        d_before = (d_out @ w1.T) * (before > 0)
        self._adam([x.T @ d_before, d_before.sum(0), hidden.T @ d_out, d_out.sum(0)])
        return loss

    def _adam(self, gradients: list[Any]) -> None:
        self.steps += 1
        for p, g, (mean, square) in zip(self.params, gradients, self.state, strict=True):
            mean += 0.1 * (g - mean)
            square += 0.001 * (g * g - square)
            unbiased = np.sqrt(square / (1 - 0.999**self.steps))
            p -= self.learning_rate / (1 - 0.9**self.steps) * mean / (unbiased + 1e-7)


def _norm(x: Any, g: Any, h: Any) -> tuple[Any, Any, Any]:
    """Return layer_norm of the last axis, and what its gradient needs."""
    root = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    unit = (x - x.mean(-1, keepdims=True)) / root
    return unit * g + h, unit, root


def _norm_back(d: Any, unit: Any, root: Any, g: Any) -> tuple[Any, Any, Any]:
    """Return the gradients of layer_norm: of its input, its scale and its shift."""
    du = d * g
    dx = (du - du.mean(-1, keepdims=True) - unit * (du * unit).mean(-1, keepdims=True)) / root
    return dx, (d * unit).sum((0, 1)), d.sum((0, 1))


def _encoder_layer(
    x: Any, dy: Any, wq: Any, wk: Any, wv: Any, wo: Any, w1: Any, b1: Any, w2: Any, b2: Any,
    g1: Any, h1: Any, g2: Any, h2: Any,
) -> Any:  # fmt: skip
    """Return the layer's output, and the gradients of x and of all parameters."""
    batch, tokens, width = x.shape
    heads, flat = 8, (-1, width)
    scale = (width // heads) ** -0.5

    def split(a: Any) -> Any:
        return a.reshape(batch, tokens, heads, -1).transpose(0, 2, 1, 3)

    def merge(a: Any) -> Any:
        return a.transpose(0, 2, 1, 3).reshape(batch, tokens, width)

    n1, unit1, root1 = _norm(x, g1, h1)
    q, k, v = (split(n1 @ w) for w in (wq, wk, wv))
    p = _softmax(q @ k.swapaxes(-1, -2) * scale)
    mixed = merge(p @ v)
    x2 = x + mixed @ wo
    n2, unit2, root2 = _norm(x2, g2, h2)
    hidden = np.maximum(n2 @ w1 + b1, 0)
    out = x2 + hidden @ w2 + b2

    d_hidden = (dy @ w2.T) * (hidden > 0)
    d_n2, dg2, dh2 = _norm_back(d_hidden @ w1.T, unit2, root2, g2)
    d_x2 = dy + d_n2
    d_mixed = split(d_x2 @ wo.T)
    dp = d_mixed @ v.swapaxes(-1, -2)
    ds = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale
    parts = [merge(d) for d in (ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ d_mixed)]
    d_n1, dg1, dh1 = _norm_back(
        sum(d @ w.T for d, w in zip(parts, (wq, wk, wv), strict=True)), unit1, root1, g1
    )
    width_ff = w1.shape[1]
    return (
        out, d_x2 + d_n1, *[n1.reshape(flat).T @ d.reshape(flat) for d in parts],
        mixed.reshape(flat).T @ d_x2.reshape(flat),
        n2.reshape(flat).T @ d_hidden.reshape(-1, width_ff), d_hidden.sum((0, 1)),
        hidden.reshape(-1, width_ff).T @ dy.reshape(flat), dy.sum((0, 1)), dg1, dh1, dg2, dh2,
    )  # fmt: skip
