"""The README's network on a device of twelve crude operations, in fewer than 60 lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Adam, Tensor


class Crude:
    exp, log, add, mul, pow = np.exp, np.log, np.add, np.multiply, np.power
    einsum, argmax = np.einsum, np.argmax

    @staticmethod
    def sum(x: Any, axis: Any) -> Any:
        return np.sum(x, axis)

    @staticmethod
    def max(x: Any, axis: Any) -> Any:
        return np.max(x, axis)

    @staticmethod
    def equal(a: Any, b: Any) -> Any:
        return np.equal(a, b).astype(np.float32)

    @staticmethod
    def greater_equal(a: Any, b: Any) -> Any:
        return np.greater_equal(a, b).astype(np.float32)

    @staticmethod
    def as_strided(x: Any, shape: Any, strides: Any) -> Any:
        x = np.ascontiguousarray(x)
        return np.lib.stride_tricks.as_strided(x, shape, [s * x.itemsize for s in strides])


class Poor:
    exp = np.exp


def _train() -> list[float]:
    rng = np.random.default_rng(0)
    x, labels = rng.standard_normal((2, 30)), np.eye(3)[np.arange(30) % 3]
    w0, b0 = Tensor(rng.standard_normal((2, 16))), Tensor(rng.standard_normal(16))
    w1, b1 = Tensor(rng.standard_normal((16, 3))), Tensor(rng.standard_normal(3))
    optimizer = Adam([w0, b0, w1, b1])
    losses = []
    for _ in range(4):
        out = Tensor(x).einsum("ji,jk->ik", w0).add(b0).relu().einsum("ij,jk->ik", w1).add(b1)
        loss = Tensor(labels).mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    predicted = np.asarray(out.softmax().data.argmax(axis=-1))
    assert predicted.shape == (30,)
    return losses


def test_the_network_runs_on_twelve_operations() -> None:
    with sg.device("numpy"):
        want = _train()
    Tensor.device = Crude
    try:
        np.testing.assert_allclose(_train(), want, rtol=1e-4)
    finally:
        Tensor.device = None


def test_what_is_missing_is_named() -> None:
    with sg.device(Poor), pytest.raises(sg.UnsupportedOp, match=r"Poor.*lacks log, sum, max"):
        Tensor([1.0, 2.0]).sum().item()
    with sg.device(Crude), pytest.raises(sg.UnsupportedOp, match="cannot be made of the twelve"):
        Tensor([1.0, 2.0]).sin().numpy()
