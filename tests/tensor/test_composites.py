"""Activations, normalisation, convolution, pooling and losses against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6)).astype(np.float32) * 3
EXTREME = np.array([-200.0, -20.0, 0.0, 20.0, 200.0, np.nan], np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": sigmoid,
    "softplus": lambda x: np.logaddexp(0, x),
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str) -> None:
    for x in (X, EXTREME):
        with np.errstate(all="ignore"):
            want = ACTIVATIONS[name](x.astype(np.float64))
        np.testing.assert_allclose(getattr(Tensor(x), name)().numpy(), want, rtol=2e-5, atol=1e-6)


def test_softmax() -> None:
    for axis in (-1, 0, (0, 1)):
        e = np.exp(X.astype(float) - X.max())
        want = e / e.sum(axis, keepdims=True)
        np.testing.assert_allclose(Tensor(X).softmax(axis).numpy(), want, rtol=1e-5)
        np.testing.assert_allclose(
            Tensor(X).logsoftmax(axis).numpy(), np.log(want), rtol=1e-5, atol=1e-6
        )
    assert Tensor([1, 2]).softmax().dtype is sg.float32


def test_norms() -> None:
    w, b = RNG.normal(size=(2, 6)).astype("f")
    far = X - X.mean(1, keepdims=True)
    want = far / np.sqrt(far.var(1, keepdims=True) + 1e-5) * w + b
    np.testing.assert_allclose(Tensor(X).layer_norm(-1, w, b).numpy(), want, rtol=1e-4, atol=1e-5)
    far = X - X.mean(0)
    want = far / np.sqrt(far.var(0) + 1e-5) * w + b
    np.testing.assert_allclose(Tensor(X).batch_norm(w, b).numpy(), want, rtol=1e-4, atol=1e-5)
    got = Tensor(X).batch_norm(w, b, mean=b, var=w * w)
    np.testing.assert_allclose(
        got.numpy(), (X - b) / np.sqrt(w * w + 1e-5) * w + b, rtol=1e-4, atol=1e-4
    )


def conv(
    x: np.ndarray, w: np.ndarray, padding: int, stride: int, dilation: int, groups: int
) -> np.ndarray:
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    n, _c, h, wide = x.shape
    o, per, kh, kw = w.shape
    oh, ow = (
        (h - dilation * (kh - 1) - 1) // stride + 1,
        (wide - dilation * (kw - 1) - 1) // stride + 1,
    )
    out = np.zeros((n, o, oh, ow), np.float32)
    for f in range(o):
        g = f // (o // groups)
        for i in range(kh):
            for j in range(kw):
                part = x[:, g * per : (g + 1) * per, i * dilation :, j * dilation :]
                part = part[
                    :, :, : (oh - 1) * stride + 1 : stride, : (ow - 1) * stride + 1 : stride
                ]
                out[:, f] += (part * w[f, :, i, j][None, :, None, None]).sum(1)
    return out


@pytest.mark.parametrize(
    "setup", [(0, 1, 1, 1), (1, 2, 1, 1), (2, 1, 2, 1), (1, 1, 1, 2), (0, 2, 1, 4)]
)
def test_conv2d(setup: tuple[int, int, int, int]) -> None:
    x = RNG.normal(size=(2, 4, 7, 6)).astype("f")
    w = RNG.normal(size=(8, 4 // setup[3], 3, 2)).astype("f")
    want = conv(x, w, *setup)
    np.testing.assert_allclose(Tensor(x).conv2d(w, *setup).numpy(), want, rtol=1e-4, atol=1e-4)


def test_conv1d_and_same() -> None:
    x, w = RNG.normal(size=(2, 3, 9)).astype("f"), RNG.normal(size=(5, 3, 4)).astype("f")
    want = conv(x[:, :, None], w[:, :, None], 0, 1, 1, 1)[:, :, 0]
    np.testing.assert_allclose(Tensor(x).conv1d(w).numpy(), want, rtol=1e-4, atol=1e-4)
    assert Tensor(x).conv1d(w, padding="same").shape == (2, 5, 9)
    with pytest.raises(sg.ShapeError, match="conv1d"):
        Tensor(x).conv1d(w[:, :2])
    bias = np.arange(5, dtype=np.float32)
    np.testing.assert_allclose(
        Tensor(x).conv1d(w, bias=bias).numpy(), want + bias[:, None], rtol=1e-4, atol=1e-4
    )


def test_pooling() -> None:
    x = RNG.normal(size=(2, 3, 6, 6)).astype("f")
    view = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    np.testing.assert_array_equal(Tensor(x).maxpool2d().numpy(), view.max((-1, -2)))
    np.testing.assert_array_equal(
        Tensor(x).maxpool2d(stride=2).numpy(), view[:, :, ::2, ::2].max((-1, -2))
    )
    np.testing.assert_allclose(
        Tensor(x).avgpool2d().numpy(), view.mean((-1, -2)), rtol=1e-5, atol=1e-6
    )
    assert Tensor(x).maxpool2d(padding=1).shape == (2, 3, 6, 6)
    assert (Tensor(-np.ones((1, 1, 4))).maxpool1d(padding=1).numpy() == -1).all()
    assert Tensor(x[:, :, 0]).avgpool1d(2, stride=2).shape == (2, 3, 3)


def test_losses() -> None:
    labels = np.array([0, 5, 2, 2])
    logs = X - np.log(np.exp(X).sum(1, keepdims=True))
    want = -logs[np.arange(4), labels].mean()
    for target in (labels, Tensor(labels), np.eye(6)[labels]):
        assert float(Tensor(X).cross_entropy(target)) == pytest.approx(want, rel=1e-5)
    assert Tensor(X).cross_entropy(labels, reduction="none").shape == (4,)
    assert float(Tensor(X).mse_loss(X + 2)) == pytest.approx(4, rel=1e-5)
    with pytest.raises(sg.IndexOutOfRange, match="labels 0 … 6"):
        Tensor(X).cross_entropy([0, 1, 2, 6])


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (np.zeros(4), sg.DTypeError),
        (np.zeros(4, bool), sg.DTypeError),
        (np.zeros((4, 6), int), sg.DTypeError),
        (np.zeros(3, int), sg.ShapeError),
        (np.zeros(6), sg.ShapeError),
    ],
)
def test_a_target_that_is_none_says_what_labels_and_probabilities_are(
    target: np.ndarray, kind: type[Exception]
) -> None:
    said = (
        r"^cross_entropy: targets \w+ of shape .* for logits \(4, 6\): labels must be integers of "
        r"shape \(4,\) \(.astype\('int64'\)\), probabilities floats of shape \(4, 6\)"
    )
    for function in (Tensor(X).cross_entropy, lambda target: sg.nn.cross_entropy(X, target)):
        for given in (target, Tensor(target, requires_grad=False)):
            with pytest.raises(kind, match=said):
                function(given)


def test_dropout() -> None:
    x = Tensor(np.ones(10_000))
    y = x.dropout(0.25, generator=sg.random.Generator(1)).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 0.03
    assert (x.dropout(0.5, training=False).numpy() == 1).all()
    assert (x.dropout(1.0).numpy() == 0).all()


def test_fork_shares_the_value() -> None:
    x = Tensor(X)
    assert x.fork()._node is x._node


def test_layer_norm_reads_no_weight() -> None:
    weight = Tensor(np.ones(3, np.float32)) * 2
    Tensor(np.ones((2, 3), np.float32)).layer_norm(weight=weight, bias=weight)
    assert weight._node.buffer is None
