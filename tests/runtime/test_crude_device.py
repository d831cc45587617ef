"""The README's network on a device of twelve crude operations, in fewer than 60 lines.

Then every operation that can be lowered to the twelve, and its gradient, against NumPy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
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


def test_the_class_is_short() -> None:
    assert len(inspect.getsource(Crude).splitlines()) <= 60


NAN, INF = np.nan, np.inf
EDGES = np.array([-INF, -2.0, -0.0, 0.0, 0.5, 3.0, INF, NAN], np.float32)
OTHER = np.array([1.0, -3.0, NAN, 0.0, INF, 3.0, -INF, 2.0], np.float32)
RNG = np.random.default_rng(2)
M = RNG.uniform(-0.9, 0.9, (3, 4)).astype(np.float32)
N = RNG.uniform(1.1, 2.0, (3, 4)).astype(np.float32)
CUBE = RNG.normal(size=(2, 3, 4)).astype(np.float32)
IMAGE = RNG.normal(size=(2, 2, 6, 5)).astype(np.float32)

EXACT: dict[str, Callable[[Any, Any], Any]] = {
    "maximum": lambda x, y: x.maximum(y),
    "minimum": lambda x, y: x.minimum(y),
    "relu": lambda x, y: x.relu(),
    "sign": lambda x, y: x.sign(),
    "abs": lambda x, y: x.abs(),
    "less": lambda x, y: x < y,
    "less equal": lambda x, y: x <= y,
    "greater": lambda x, y: x > y,
    "greater equal": lambda x, y: x >= y,
    "equal": lambda x, y: x == y,
    "not equal": lambda x, y: x != y,
    "isnan": lambda x, y: x.isnan(),
    "isinf": lambda x, y: x.isinf(),
    "isfinite": lambda x, y: x.isfinite(),
    "where": lambda x, y: sg.where(x > 1, x, y),
    "logic": lambda x, y: ((x > 0) & (y > 0)) | ((x < 0) ^ ~(y < 0)),
    "sum of masks": lambda x, y: (x > 0).cast("float32") + (y > 0).cast("float32"),
    "count": lambda x, y: (x > 0).cast("int64").sum(),
    "max": lambda x, y: x.max(),
    "min": lambda x, y: y.min(),
    "argmax": lambda x, y: x.argmax() + y.argmin(),
    "reshape": lambda x, y: x.reshape(2, 4).permute(1, 0),
    "expand": lambda x, y: x.reshape(8, 1).broadcast_to(8, 3),
    "step": lambda x, y: x[::3],
    "slice": lambda x, y: x[5:],
    "flip": lambda x, y: x.flip(),
    "pad": lambda x, y: x.reshape(2, 4).pad(((1, 2), (0, 3)), -1.5),
    "pad with infinity": lambda x, y: x.pad(2, INF).sum() + y.pad(1, -INF),
    "take": lambda x, y: x.take([7, 0, 6, 3, 5]),
}

SMOOTH: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "exp": (lambda x: x.exp() + x.exp2() + x.expm1(), (M,)),
    "log": (lambda x: x.log() + x.log2() + x.log1p() + x.acosh(), (N,)),
    "roots": (lambda x: x.sqrt() * x.rsqrt() - x.reciprocal(), (N,)),
    "hyperbolic": (lambda x: x.sinh() + x.cosh() * x.tanh() + x.asinh() + x.atanh(), (M,)),
    "arithmetic": (lambda x, y: (x - y) / y + (x * y).neg() + y.pow(x) + x.hypot(y), (M, N)),
    "reductions": (lambda x: x.sum((0, 2)) * x.max(1).sum() - x.mean((1, 2)).sum(), (CUBE,)),
    "softmax": (lambda x: x.softmax() + x.logsoftmax(0), (M,)),
    "layer_norm": (lambda x, w: x.layer_norm((-1,), w, w), (CUBE, N[0])),
    "slice": (lambda x: x[1:, ::-1, 3:0:-2], (CUBE,)),
    "pad": (lambda x: x.pad(((1, 0), (0, 2)), 3.0).square(), (M,)),
    "as_strided": (lambda x: x.as_strided((4, 3, 2), (2, 1, 3), 2).square(), (CUBE,)),
    "as_strided back": (lambda x: x.as_strided((3, 2), (-4, 1), 9).square(), (CUBE,)),
    "take": (lambda x: x.take([2, 0, 2, -1], 1).square(), (M,)),
    "scatter": (lambda x: sg.scatter_add([1, 0, 1], x, 4).square(), (M,)),
    "cumsum": (lambda x: x.cumsum(1) * x, (CUBE,)),
    "einsum": (lambda x, y: sg.einsum("bij,kj->bik", x, y), (CUBE, M)),
    "conv2d": (lambda x: x.conv2d(IMAGE[:, :, :3, :2], 1, 2), (IMAGE,)),
    "maxpool2d": (lambda x: x.maxpool2d((2, 2), 0, 2), (IMAGE,)),
}


def _on(device: Any, function: Callable[..., Any], *arrays: Any) -> list[Any]:
    with sg.device(device):
        leaves = [Tensor(a) for a in arrays]
        result = function(*leaves)
        found = [result.numpy()]
        if result.requires_grad:
            result.sum().backward()
            found += [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]
        return found


@pytest.mark.parametrize("name", EXACT)
def test_nan_and_infinity_are_those_of_numpy(name: str) -> None:
    with sg.no_grad():
        got, want = (_on(d, EXACT[name], EDGES, OTHER)[0] for d in (Crude, "numpy"))
    np.testing.assert_array_equal(got, want)
    assert got.dtype == want.dtype


@pytest.mark.parametrize("name", SMOOTH)
def test_values_and_gradients_are_those_of_numpy(name: str) -> None:
    function, arrays = SMOOTH[name]
    got, want = (_on(d, function, *arrays) for d in (Crude, "numpy"))
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        # float32, by other formulas: x - y loses digits where tanh x = 1 - 2 / (e^2x + 1) does
        np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-6)


def test_float64_constants_are_float64() -> None:
    with sg.device(Crude):
        x = sg.asarray(np.array([0.1, 0.7]))
        assert x.dtype is sg.float64
        np.testing.assert_allclose((x.log2() + 0.3).numpy(), np.log2([0.1, 0.7]) + 0.3, rtol=1e-14)


def test_no_silent_approximation() -> None:
    with sg.device(Crude):
        for make in (
            lambda: Tensor([1.5]).cast("int32"),
            lambda: Tensor([3]) & Tensor([1]),
            lambda: Tensor([1.5]).floor(),
            lambda: sg.random.Generator(0).uniform((2,)),
        ):
            with pytest.raises(sg.UnsupportedOp, match=r"crude:Crude.*use the numpy or an OpenCL"):
                make().numpy()


class Wrapped:
    """Arrays of its own kind, with ways in and out, and bools for comparisons."""

    def array(self, data: Any) -> Any:
        return _Box(np.asarray(data))

    def numpy(self, box: Any) -> Any:
        return box.data

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        function = getattr(np, name) if name in ("equal", "greater_equal") else getattr(Crude, name)

        def call(*args: Any) -> Any:
            return _Box(function(*[a.data if isinstance(a, _Box) else a for a in args]))

        return call


class _Box:
    def __init__(self, data: Any) -> None:
        self.data = data


def test_arrays_may_be_of_any_kind() -> None:
    with sg.device("numpy"):
        want = _train()
    with sg.device(Wrapped()):
        np.testing.assert_allclose(_train(), want, rtol=1e-4)
