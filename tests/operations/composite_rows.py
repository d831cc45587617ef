"""One row or more per public function made of several operations, with the same in NumPy.

A row reads its operands by name from a set of tensors, and its twin from the arrays of that set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

import simplegrad as sg

RNG = np.random.default_rng(11)
sliding = np.lib.stride_tricks.sliding_window_view


@dataclass(frozen=True)
class Row:
    tensor: Callable[[Any], Any]
    array: Callable[[Any], Any]


@dataclass(frozen=True)
class Each(Row):
    """A row that takes `x` (and `y` of the same shape) of any shape, element by element."""


def ordinary() -> dict[str, Any]:
    """Return the operands: x and y alike, a cube, an image with filters, labels, whole numbers."""
    return {
        "x": RNG.normal(size=(4, 6)) * 2,
        "y": RNG.normal(size=(4, 6)),
        "v": RNG.uniform(0.5, 1.5, 6),
        "cube": RNG.normal(size=(2, 3, 4)),
        "image": RNG.normal(size=(2, 4, 7, 6)),
        "full": RNG.normal(size=(3, 4, 3, 2)),
        "filters": RNG.normal(size=(6, 2, 3, 2)),
        "labels": np.array([5, 0, 2, 2]),
        "whole": RNG.integers(-2, 3, (4, 6)),
    }


erf: Any = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _softmax(x: Any, axis: Any = -1) -> Any:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _logsoftmax(x: Any, axis: int) -> Any:
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def _logsumexp(x: Any, axis: Any = None) -> Any:
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isinf(top), 0, top)
    return np.squeeze(np.log(np.exp(x - top).sum(axis=axis, keepdims=True)) + top, axis)


def _norm(x: Any, axes: Any) -> Any:
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def convolution(
    x: Any, w: Any, padding: int = 0, stride: int = 1, dilation: int = 1, groups: int = 1
) -> Any:
    """Return the convolution of images (n, c, h, w) with filters (o, c / groups, i, j)."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    o, per, *kernel = w.shape
    spans = [dilation * (k - 1) + 1 for k in kernel]
    windows = sliding(x, spans, (2, 3))[:, :, ::stride, ::stride, ::dilation, ::dilation]
    parts = [
        np.einsum("nchwij,ocij->nohw", windows[:, g * per : (g + 1) * per],
                  w[g * (o // groups) : (g + 1) * (o // groups)])
        for g in range(groups)
    ]  # fmt: skip
    return np.concatenate(parts, 1)


def _pooled(x: Any, size: int, padding: int, stride: int, how: Any, fill: float) -> Any:
    widths = [(0, 0), (0, 0), *[(padding, padding)] * (x.ndim - 2)]
    axes = tuple(range(2, x.ndim))
    windows = sliding(np.pad(x, widths, constant_values=fill), [size] * len(axes), axes)
    steps = (slice(None), slice(None), *[slice(None, None, stride)] * len(axes))
    return how(windows[steps], axis=tuple(range(-len(axes), 0)))


def _attention(q: Any, k: Any, v: Any) -> Any:
    return _softmax(q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])) @ v


def _cross_entropy(a: Any) -> Any:
    return -_logsoftmax(a.x, 1)[np.arange(4), a.labels].mean()


ROWS: dict[str, list[Row]] = {
    # Element by element
    "relu": [Each(lambda t: t.x.relu(), lambda a: np.maximum(a.x, 0))],
    "sigmoid": [Each(lambda t: t.x.sigmoid(), lambda a: _sigmoid(a.x))],
    "silu": [Each(lambda t: t.x.silu(), lambda a: a.x * _sigmoid(a.x))],
    "softplus": [Each(lambda t: t.x.softplus(), lambda a: np.logaddexp(0, a.x))],
    "gelu": [Each(lambda t: t.x.gelu(), lambda a: a.x / 2 * (1 + erf(a.x / math.sqrt(2)))),
             Each(lambda t: t.x.gelu("tanh"), lambda a: a.x / 2 * (1 + np.tanh(
                 math.sqrt(2 / math.pi) * (a.x + 0.044715 * a.x**3))))],
    "leaky_relu": [Each(lambda t: t.x.leaky_relu(0.1), lambda a: np.where(a.x > 0, a.x, a.x / 10))],
    "elu": [Each(lambda t: t.x.elu(2.0),
                 lambda a: np.where(a.x > 0, a.x, 2 * np.expm1(np.minimum(a.x, 0))))],
    "square": [Each(lambda t: t.x.square(), lambda a: a.x * a.x)],
    "signbit": [Each(lambda t: t.x.signbit(), lambda a: np.signbit(a.x) & ~np.isnan(a.x))],
    "clip": [Each(lambda t: t.x.clip(-0.5, 1), lambda a: np.clip(a.x, -0.5, 1)),
             Each(lambda t: t.x.clip(max=t.y), lambda a: np.minimum(a.x, a.y))],
    "lerp": [Each(lambda t: t.x.lerp(t.y, 0.25), lambda a: a.x + 0.25 * (a.y - a.x))],
    "logical_and": [Each(lambda t: t.x.logical_and(t.y), lambda a: np.logical_and(a.x, a.y))],
    "logical_or": [Each(lambda t: t.x.logical_or(t.y), lambda a: np.logical_or(a.x, a.y))],
    "logical_xor": [Each(lambda t: t.x.logical_xor(t.y), lambda a: np.logical_xor(a.x, a.y))],
    "logical_not": [Each(lambda t: t.x.logical_not(), lambda a: np.logical_not(a.x))],
    "astype": [Each(lambda t: t.x.isfinite().where(t.x, 0).astype("int32"),
                    lambda a: np.where(np.isfinite(a.x), a.x, 0).astype(np.int32))],
    "fork": [Each(lambda t: t.x.fork() + t.x, lambda a: a.x + a.x)],
    "positive": [Each(lambda t: sg.positive(t.x), lambda a: a.x)],
    "negative": [Each(lambda t: sg.negative(t.x), lambda a: -a.x)],
    "absolute": [Each(lambda t: sg.absolute(t.x), lambda a: np.abs(a.x))],
    "log10": [Each(lambda t: sg.log10(t.x), lambda a: np.log10(a.x))],
    "logaddexp": [Each(lambda t: sg.logaddexp(t.x, t.y), lambda a: np.logaddexp(a.x, a.y))],
    "copysign": [Each(lambda t: sg.copysign(t.y, t.x),
                      lambda a: np.where(np.isnan(a.x), np.abs(a.y), np.copysign(a.y, a.x)))],
    "isin": [Each(lambda t: sg.isin(t.x, [0.0, 1.0, np.inf]),
                  lambda a: np.isin(a.x, [0.0, 1.0, np.inf]))],
    # Reductions
    "mean": [Row(lambda t: t.x.mean(), lambda a: a.x.mean()),
             Row(lambda t: t.cube.mean((0, 2), True), lambda a: a.cube.mean((0, 2), keepdims=True)),
             Row(lambda t: t.whole.mean(1), lambda a: a.whole.mean(1))],
    "var": [Row(lambda t: t.x.var(1), lambda a: a.x.var(1)),
            Row(lambda t: t.x.var(0, correction=1), lambda a: a.x.var(0, ddof=1))],
    "std": [Row(lambda t: t.x.std((0, 1)), lambda a: a.x.std())],
    "any": [Row(lambda t: (t.x > 1).any(1), lambda a: (a.x > 1).any(1)),
            Row(lambda t: t.whole.any(0), lambda a: a.whole.any(0))],
    "all": [Row(lambda t: (t.x > -1).all(1), lambda a: (a.x > -1).all(1))],
    "count_nonzero": [Row(lambda t: t.whole.count_nonzero(1), lambda a: np.sum(a.whole != 0, 1))],
    "logsumexp": [Row(lambda t: t.x.logsumexp(1), lambda a: _logsumexp(a.x, 1)),
                  Row(lambda t: t.x.logsumexp(), lambda a: _logsumexp(a.x))],
    "cumulative_sum": [Row(lambda t: t.y.cumulative_sum(axis=1), lambda a: a.y.cumsum(1))],
    "cumulative_prod": [Row(lambda t: sg.cumulative_prod(t.x, axis=1), lambda a: a.x.cumprod(1))],
    "diff": [Row(lambda t: t.x.diff(), lambda a: np.diff(a.x)),
             Row(lambda t: t.x.diff(2, 0), lambda a: np.diff(a.x, 2, 0))],
    "softmax": [Row(lambda t: t.x.softmax(), lambda a: _softmax(a.x)),
                Row(lambda t: t.x.softmax((0, 1)), lambda a: _softmax(a.x, (0, 1)))],
    "logsoftmax": [Row(lambda t: t.x.logsoftmax(0), lambda a: _logsoftmax(a.x, 0))],
    "layer_norm": [Row(lambda t: t.x.layer_norm(-1, t.v, t.v),
                       lambda a: _norm(a.x, 1) * a.v + a.v)],
    "batch_norm": [Row(lambda t: t.x.batch_norm(t.v, t.v), lambda a: _norm(a.x, 0) * a.v + a.v)],
    # Views
    "T": [Row(lambda t: t.cube.T, lambda a: a.cube.T)],
    "mT": [Row(lambda t: t.cube.mT, lambda a: a.cube.swapaxes(1, 2))],
    "matrix_transpose": [Row(lambda t: t.cube.matrix_transpose(), lambda a: a.cube.swapaxes(1, 2))],
    "transpose": [Row(lambda t: t.cube.transpose(1, 2, 0), lambda a: a.cube.transpose(1, 2, 0))],
    "swapaxes": [Row(lambda t: t.cube.swapaxes(0, 2), lambda a: a.cube.swapaxes(0, 2))],
    "moveaxis": [Row(lambda t: t.cube.moveaxis(0, -1), lambda a: np.moveaxis(a.cube, 0, -1))],
    "expand_dims": [Row(lambda t: t.x.expand_dims(1), lambda a: a.x[:, None])],
    "squeeze": [Row(lambda t: t.x[:1].squeeze(0), lambda a: a.x[0])],
    "flatten": [Row(lambda t: t.cube.flatten(), lambda a: a.cube.ravel())],
    "ravel": [Row(lambda t: t.cube.T.ravel(), lambda a: a.cube.T.ravel())],
    "flip": [Row(lambda t: t.cube.flip(1), lambda a: np.flip(a.cube, 1))],
    "window_view": [Row(lambda t: t.image.window_view((3, 2), 2),
                        lambda a: sliding(a.image, (3, 2), (2, 3))[:, :, ::2, ::2])],
    "split": [Row(lambda t: t.x.split(3, 1)[1], lambda a: np.split(a.x, 3, 1)[1])],
    "tile": [Row(lambda t: t.x.tile(2, 1), lambda a: np.tile(a.x, (2, 1)))],
    "repeat": [Row(lambda t: t.x.repeat(2, 1), lambda a: np.repeat(a.x, 2, 1))],
    "roll": [Row(lambda t: t.x.roll(2, 1), lambda a: np.roll(a.x, 2, 1)),
             Row(lambda t: t.x.roll(-5), lambda a: np.roll(a.x, -5))],
    "diagonal": [Row(lambda t: t.x.diagonal(1), lambda a: a.x.diagonal(1))],
    "tril": [Row(lambda t: sg.tril(t.x, k=1), lambda a: np.where(np.tri(4, 6, 1), a.x, 0))],
    "triu": [Row(lambda t: sg.triu(t.x), lambda a: np.where(np.tri(4, 6, -1), 0, a.x))],
    "trace": [Row(lambda t: t.x.trace(1), lambda a: np.trace(a.x, 1))],
    "diag": [Row(lambda t: sg.diag(t.v, 1), lambda a: np.diag(a.v, 1)),
             Row(lambda t: sg.diag(t.x), lambda a: np.diag(a.x))],
    "copy": [Row(lambda t: t.x.T.copy(), lambda a: a.x.T)],
    "vstack": [Row(lambda t: sg.vstack([t.x, t.v]), lambda a: np.vstack([a.x, a.v]))],
    "hstack": [Row(lambda t: sg.hstack([t.x, t.y]), lambda a: np.hstack([a.x, a.y]))],
    "dstack": [Row(lambda t: sg.dstack([t.x, t.y]), lambda a: np.dstack([a.x, a.y]))],
    "column_stack": [Row(lambda t: sg.column_stack([t.x, t.y[:, 0]]),
                         lambda a: np.column_stack([a.x, a.y[:, 0]]))],
    "atleast_1d": [Row(lambda t: sg.atleast_1d(t.v[0]), lambda a: np.atleast_1d(a.v[0]))],
    "atleast_2d": [Row(lambda t: sg.atleast_2d(t.v), lambda a: np.atleast_2d(a.v))],
    "atleast_3d": [Row(lambda t: sg.atleast_3d(t.x), lambda a: np.atleast_3d(a.x))],
    "kron": [Row(lambda t: sg.kron(t.x[:2], t.y[:2, :3]), lambda a: np.kron(a.x[:2], a.y[:2, :3]))],
    "concat": [Row(lambda t: sg.concat([t.x, t.y[:1], t.x]),
                   lambda a: np.concatenate([a.x, a.y[:1], a.x]))],
    "stack": [Row(lambda t: sg.stack([t.x, t.y], 1), lambda a: np.stack([a.x, a.y], 1))],
    "unstack": [Row(lambda t: sg.unstack(t.x, axis=1)[2], lambda a: a.x[:, 2])],
    "meshgrid": [Row(lambda t: sg.meshgrid(t.x[0], t.v)[1], lambda a: np.meshgrid(a.x[0], a.v)[1])],
    "broadcast_arrays": [Row(lambda t: sg.broadcast_arrays(t.x, t.x[0])[1],
                             lambda a: np.broadcast_arrays(a.x, a.x[0])[1])],
    # Statistics and comparisons
    "rint": [Each(lambda t: t.x.rint(), lambda a: np.rint(a.x))],
    "ptp": [Row(lambda t: sg.ptp(t.x, 1), lambda a: np.ptp(a.x, 1))],
    "average": [Row(lambda t: sg.average(t.x, 1, t.v), lambda a: np.average(a.x, 1, a.v))],
    "median": [Row(lambda t: sg.median(t.x, 1), lambda a: np.median(a.x, 1))],
    "cumprod": [Row(lambda t: t.x.cumprod(1), lambda a: np.cumprod(a.x, 1))],
    "nansum": [Row(lambda t: sg.nansum(t.x, 1), lambda a: np.nansum(a.x, 1))],
    "nanmean": [Row(lambda t: sg.nanmean(t.x), lambda a: np.nanmean(a.x))],
    "nanmax": [Row(lambda t: sg.nanmax(t.x), lambda a: np.nanmax(a.x))],
    "nanmin": [Row(lambda t: sg.nanmin(t.x), lambda a: np.nanmin(a.x))],
    "isclose": [Each(lambda t: sg.isclose(t.x, t.y), lambda a: np.isclose(a.x, a.y))],
    "allclose": [Row(lambda t: sg.asarray(sg.allclose(t.x, t.x)),
                     lambda a: np.asarray(np.allclose(a.x, a.x)))],
    "array_equal": [Row(lambda t: sg.asarray(sg.array_equal(t.x, t.x)),
                        lambda a: np.asarray(np.array_equal(a.x, a.x)))],
    # Gather and scatter
    "take_along_axis": [Row(lambda t: t.x.take_along_axis(t.labels[:, None], 1),
                            lambda a: np.take_along_axis(a.x, a.labels[:, None], 1))],
    "gather": [Row(lambda t: t.x[:, :4].gather(t.labels[None] % 4, 0),
                   lambda a: np.take_along_axis(a.x[:, :4], a.labels[None] % 4, 0))],
    "one_hot": [Row(lambda t: t.labels.one_hot(6), lambda a: np.eye(6)[a.labels])],
    "bincount": [Row(lambda t: t.labels.bincount(t.x[:, 1], length=7),
                     lambda a: np.bincount(a.labels, a.x[:, 1], 7))],
    "searchsorted": [Row(lambda t: sg.searchsorted(sg.arange(4) - 1.5, t.x),
                         lambda a: np.searchsorted(np.arange(4) - 1.5, a.x))],
    "nonzero": [Row(lambda t: t.whole.nonzero()[1], lambda a: np.nonzero(a.whole)[1])],
    # Contraction
    "matmul": [Row(lambda t: t.x @ t.y.T, lambda a: a.x @ a.y.T),
               Row(lambda t: t.cube.matmul(t.x[:, :2]), lambda a: a.cube @ a.x[:, :2])],
    "tensordot": [Row(lambda t: t.cube.tensordot(t.x, 1), lambda a: np.tensordot(a.cube, a.x, 1))],
    "outer": [Row(lambda t: t.x[0].outer(t.v), lambda a: np.outer(a.x[0], a.v))],
    "dot": [Row(lambda t: t.x.dot(t.v), lambda a: a.x @ a.v)],
    "vecdot": [Row(lambda t: t.x.vecdot(t.y), lambda a: (a.x * a.y).sum(1))],
    "inner": [Row(lambda t: t.x.inner(t.y), lambda a: np.inner(a.x, a.y))],
    "scaled_dot_product_attention": [
        Row(lambda t: sg.scaled_dot_product_attention(t.cube, t.cube[:, ::-1], t.cube * 2),
            lambda a: _attention(a.cube, a.cube[:, ::-1], a.cube * 2))],
    # Convolutions, pools and losses
    "conv2d": [Row(lambda t: t.image.conv2d(t.full), lambda a: convolution(a.image, a.full)),
               Row(lambda t: t.image.conv2d(t.filters, 1, 2, 1, 2),
                   lambda a: convolution(a.image, a.filters, 1, 2, 1, 2)),
               Row(lambda t: t.image.conv2d(t.full, 2, 1, 2),
                   lambda a: convolution(a.image, a.full, 2, 1, 2))],
    "conv1d": [Row(lambda t: t.image[:, :, 0].conv1d(t.filters[:, :, 0], groups=2),
                   lambda a: convolution(a.image[:, :, :1], a.filters[:, :, :1],
                                         groups=2)[:, :, 0])],
    "maxpool1d": [Row(lambda t: t.image[:, 0].maxpool1d(3),
                      lambda a: _pooled(a.image[:, 0], 3, 0, 1, np.max, -np.inf))],
    "maxpool2d": [Row(lambda t: t.image.maxpool2d(2, 1, 2),
                      lambda a: _pooled(a.image, 2, 1, 2, np.max, -np.inf))],
    "avgpool1d": [Row(lambda t: t.image[:, 0].avgpool1d(3),
                      lambda a: _pooled(a.image[:, 0], 3, 0, 1, np.mean, 0))],
    "avgpool2d": [Row(lambda t: t.image.avgpool2d(2, 0, 2),
                      lambda a: _pooled(a.image, 2, 0, 2, np.mean, 0))],
    "cross_entropy": [Row(lambda t: t.x.cross_entropy(t.labels), _cross_entropy)],
    "mse_loss": [Row(lambda t: t.x.mse_loss(t.y), lambda a: ((a.x - a.y) ** 2).mean())],
    "dropout": [Row(lambda t: t.x.dropout(0.0), lambda a: a.x)],
}  # fmt: skip


def operands(arrays: dict[str, Any], make: Callable[[Any], Any]) -> SimpleNamespace:
    """Return the operands of a row, each passed through `make`."""
    return SimpleNamespace(**{name: make(array) for name, array in arrays.items()})
