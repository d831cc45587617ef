"""Gradients of everything that is made of several nodes, by finite differences in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4))
W = RNG.normal(size=(4, 5))
IMAGE = RNG.normal(size=(2, 4, 6, 5))
KERNEL = RNG.normal(size=(4, 2, 3, 2))
LABELS = np.array([[0, 1, 2], [3, 0, 1]])
STEP = 1e-6

ONE: dict[str, Callable[[Any], Any]] = {
    n: (lambda x, n=n: getattr(x, n)())
    for n in [
        "relu",
        "sigmoid",
        "softplus",
        "silu",
        "gelu",
        "leaky_relu",
        "elu",
        "softmax",
        "logsoftmax",
        "square",
        "layer_norm",
        "batch_norm",
        "logsumexp",
        "cumsum",
        "diff",
        "sum",
        "mean",
        "var",
        "std",
        "max",
        "min",
        "flatten",
        "flip",
        "diagonal",
    ]
}
ONE |= {
    "gelu_tanh": lambda x: x.gelu("tanh"),
    "max_axis": lambda x: x.max(1),
    "prod": lambda x: x.prod(0),
    "var_axes": lambda x: x.var((0, 2), correction=1),
    "slice": lambda x: x[:, ::-1, 1:4:2],
    "index_arrays": lambda x: x[[0, 1, 1], [2, 2, 0]],
    "index_one_array": lambda x: x[:, [0, 0, 2]],
    "index_apart": lambda x: x[0, :, [1, 2, 2]],
    "mask": lambda x: x[x > 0],
    "new_axes": lambda x: x[None, ..., 1],
    "take": lambda x: x.take([[0, -1]], 1),
    "take_along_axis": lambda x: x.take_along_axis(LABELS[..., None] % 4),
    "roll": lambda x: x.roll((1, -1), (1, 2)),
    "tile": lambda x: x.tile(2, 1, 1),
    "repeat": lambda x: x.repeat(2, 1),
    "pad": lambda x: x.pad(1, 3.0),
    "transpose": lambda x: x.T.reshape(4, 6),
    "concat": lambda x: sg.concat([x, x * 2, x[:, :1]], 1),
    "stack": lambda x: sg.stack([x, x], 0),
    "split": lambda x: x.split(3, 1)[1],
    "as_strided": lambda x: x.as_strided((3, 2), (2, 1)),
    "window_view": lambda x: x.window_view((2,)),
    "maxpool1d": lambda x: x.maxpool1d(2, 1),
    "avgpool1d": lambda x: x.avgpool1d(2, stride=2),
    "clip": lambda x: x.clip(-0.5, 0.5),
    "pow_2": lambda x: x.pow(2),
    "pow_3": lambda x: x.pow(3),
    "pow_root": lambda x: x.abs().pow(-0.5),
    "pow_any": lambda x: x.abs().pow(1.7),
    "rpow": lambda x: 2.0**x,
    "rsub_rdiv": lambda x: 1.0 - 1.0 / (x * x + 1),
    "diagonal_einsum": lambda x: x[:, :2].einsum("iij->j"),
    "sum_einsum": lambda x: x.einsum("ijk->k"),
    "cross_entropy": lambda x: x.cross_entropy(LABELS),
    "mse": lambda x: x.mse_loss(np.ones((2, 3, 4))),
    "where": lambda x: (x > 0).where(x, 0) + sg.where(x > 1, 2.0, x),
    "scatter_add": lambda x: sg.scatter_add([0, 2], x, 3),
    "bincount": lambda x: Tensor([0, 2, 0]).bincount(x[0, :, 0], length=4),
    "tril": lambda x: sg.tril(x),
    "outer": lambda x: x.outer(x[0]),
    "lerp": lambda x: x.lerp(x * x, 0.3),
}
MANY: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "matmul": (lambda x, w: x @ w, (X, W)),
    "matvec": (lambda x, w: x @ w, (X, W[:, 0])),
    "broadcast": (lambda x, y: x + y * y, (X, X[:1, :, :1])),
    "einsum": (lambda x, w, v: sg.einsum("bij,jk,k->i", x, w, v), (X, W, W[0])),
    "tensordot": (lambda x, w: x.tensordot(w, 1), (X, W)),
    "vecdot": (lambda x, y: x.vecdot(y), (X, X[0])),
    "conv2d": (lambda x, w: x.conv2d(w, 1, 2, 1, 2), (IMAGE, KERNEL)),
    "conv2d_dilated": (lambda x, w: x.conv2d(w, 2, 1, 2, 2), (IMAGE, KERNEL)),
    "maxpool2d": (lambda x: x.maxpool2d(2, 1, 2), (IMAGE,)),
    "layer_norm": (lambda x, w, b: x.layer_norm(-1, w, b), (X, X[0, 0], X[0, 1])),
    "batch_norm": (lambda x, w, b: x.batch_norm(w, b), (X, X[0, :, 0], X[0, :, 1])),
    "probabilities": (lambda x, y: x.cross_entropy(y), (X, X)),
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = sg.default_float()
    sg.set_default_float("float64")
    yield
    sg.set_default_float(before)


def check(function: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> None:
    tensors = [Tensor(a) for a in arrays]
    result = function(*tensors)
    seed = RNG.normal(size=result.shape)
    result.backward(seed)
    for k, array in enumerate(arrays):
        want = np.zeros_like(array)
        for i in np.ndindex(array.shape):
            ends = []
            for step in (STEP, -STEP):
                moved = [a.copy() for a in arrays]
                moved[k][i] += step
                with sg.no_grad():
                    ends.append(function(*map(Tensor, moved)).numpy())
            want[i] = ((ends[0] - ends[1]) / (2 * STEP) * seed).sum()
        # Central differences of values near 1 are good to about 1e-10 / STEP.
        np.testing.assert_allclose(tensors[k].grad.numpy(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ONE)
def test_one_operand(name: str) -> None:
    check(ONE[name], (X,))


@pytest.mark.parametrize("name", MANY)
def test_several_operands(name: str) -> None:
    check(*MANY[name])


def test_activations_at_zero() -> None:
    x = Tensor([0.0])
    x.sigmoid().backward()
    assert x.grad.tolist() == [0.25]
    x.zero_grad()
    x.softplus().backward()
    assert x.grad.tolist() == [0.5]


@pytest.mark.parametrize("name", ["sigmoid", "softplus", "silu", "gelu", "softmax", "logsoftmax"])
def test_gradients_of_extreme_values_are_finite(name: str) -> None:
    x = Tensor([-1000.0, -100.0, 100.0, 1000.0])
    getattr(x, name)().sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
