"""Elementwise methods and operators: values, dtypes, promotion, NumPy operands."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

X = np.array([[0.25, 0.5, 0.75], [0.1, 0.9, 0.6]], np.float32)
Y = np.array([2.0, 0.5, 3.0], np.float32)
UNARY = {
    "neg": np.negative, "abs": np.abs, "sign": np.sign, "exp": np.exp, "exp2": np.exp2,
    "expm1": np.expm1, "log": np.log, "log2": np.log2, "log1p": np.log1p, "sqrt": np.sqrt,
    "reciprocal": np.reciprocal, "square": np.square, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh,
    "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh, "atanh": np.arctanh,
    "floor": np.floor, "ceil": np.ceil, "round": np.round, "trunc": np.trunc,
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "signbit": np.signbit,
    "logical_not": np.logical_not,
}  # fmt: skip
BINARY = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide,
    "floor_divide": np.floor_divide, "remainder": np.remainder, "pow": np.power,
    "maximum": np.maximum, "minimum": np.minimum, "atan2": np.arctan2, "hypot": np.hypot,
    "equal": np.equal, "not_equal": np.not_equal, "less": np.less, "less_equal": np.less_equal,
    "greater": np.greater, "greater_equal": np.greater_equal, "logical_and": np.logical_and,
    "logical_or": np.logical_or, "logical_xor": np.logical_xor,
}  # fmt: skip


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    for data in (X, X - 0.5, np.float32(0.5), np.zeros((0, 3), np.float32)):
        with np.errstate(all="ignore"):
            want = UNARY[name](data)
        for got in (getattr(Tensor(data), name)(), getattr(sg, name)(data)):
            assert got.shape == want.shape
            assert got.numpy().dtype == want.dtype
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("name", BINARY)
def test_binary(name: str) -> None:
    for a, b in ((X, Y), (X, X[::-1].copy()), (X, np.float32(2)), (X[:, :1], X[:1])):
        want = BINARY[name](a, b)
        got = getattr(Tensor(a), name)(Tensor(b))
        assert got.numpy().dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)
    np.testing.assert_allclose(
        getattr(sg, name)(2.0, Tensor(X)).numpy(), BINARY[name](np.float32(2), X), rtol=1e-6
    )


@pytest.mark.parametrize("other", [2.0, 2, np.float32(2), np.float64(2), np.int64(2), Y])
@pytest.mark.parametrize(
    "op", ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "lt", "ge", "eq"]
)
def test_operators_both_ways(op: str, other: object) -> None:
    function = getattr(operator, op)
    for got, want in (
        (function(Tensor(X), other), function(X, np.asarray(other, np.float32))),
        (function(other, Tensor(X)), function(np.asarray(other, np.float32), X)),
    ):
        assert isinstance(got, Tensor)
        assert got.numpy().dtype == want.dtype
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_number_operands_are_kernel_arguments() -> None:
    first, second = (Tensor(X).mul(v)._node for v in (2.0, 3.0))
    scalars = [n.srcs[1] for n in (first, second)]
    assert [s.op.name for s in scalars] == ["scalar", "scalar"]
    assert [s.value for s in scalars] == [2.0, 3.0]
    assert first.kind is second.kind
    assert scalars[0].kind is scalars[1].kind


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, -0.5, 2.0, 1.7, 4])
def test_pow_of_a_number(exponent: float) -> None:
    got = Tensor(X).pow(exponent)
    np.testing.assert_allclose(got.numpy(), X**exponent, rtol=1e-6)
    direct = exponent in (0, 1, 2, 3, -1, 0.5, -0.5)
    assert (got._node.op.name != "pow") == direct


def test_integer_pow() -> None:
    x = Tensor([1, 2, 3])
    assert (x**2).tolist() == [1, 4, 9]
    assert (x**2).dtype is sg.int64
    assert (x**0.5).dtype is sg.float32
    assert (2**x).tolist() == [2, 4, 8]
    with pytest.raises(sg.DTypeError, match="to the power -1"):
        x**-1


def test_dtypes() -> None:
    assert Tensor(1.0).dtype is sg.float32
    assert Tensor(X.astype(np.float64)).dtype is sg.float32
    assert sg.asarray(X.astype(np.float64)).dtype is sg.float64
    assert Tensor([1, 2]).dtype is sg.int64
    assert Tensor([True]).dtype is sg.bool
    assert Tensor(np.zeros(2, np.int8)).dtype is sg.int8
    assert (Tensor([1, 2], "int8") + Tensor([1, 2], "uint8")).dtype is sg.int16
    assert (Tensor([1, 2], "int8") + 1).dtype is sg.int8
    assert (Tensor([1, 2], "int8") + 1.5).dtype is sg.float32
    assert (Tensor([1, 2]) / Tensor([1, 2])).dtype is sg.float32
    assert Tensor([1, 2]).exp().dtype is sg.float32
    assert Tensor([1, 2]).floor().dtype is sg.int64
    assert (Tensor([True]) + 1).dtype is sg.int64
    assert (Tensor([True, False]) + Tensor([True, True])).tolist() == [True, True]
    assert sg.result_type(sg.float16, sg.bfloat16) is sg.float32
    assert sg.result_type(Tensor([1.0]), 3) is sg.float32


def test_number_that_does_not_fit() -> None:
    with pytest.raises(sg.DTypeError, match="300 does not fit int8"):
        Tensor([1], "int8") + 300


def test_clip_where() -> None:
    np.testing.assert_array_equal(
        Tensor(X).clip(0.2, 0.6).numpy(), np.clip(X, 0.2, 0.6).astype("f")
    )
    np.testing.assert_array_equal(sg.where(X > 0.5, Tensor(X), 0).numpy(), np.where(X > 0.5, X, 0))
    assert sg.where(True, 1, Tensor([2, 3])).tolist() == [1, 1]
    assert sg.where(Tensor([1, 0]), 1.5, 2).tolist() == [1.5, 2.0]


def test_numpy_takes_tensors() -> None:
    x = Tensor(X)
    assert isinstance(np.exp(x), Tensor)
    assert isinstance(X + x, Tensor)
    assert np.mean(x) == pytest.approx(X.mean())
    assert np.allclose(np.concatenate([x, x]), np.concatenate([X, X]))
    assert (x == X).all()
    out = X.copy()
    out += x
    assert type(out) is np.ndarray
    assert x != None  # noqa: E711


def test_a_ufunc_writes_into_no_tensor() -> None:
    x, out = Tensor([1.0, 2.0]), np.zeros(2)
    with pytest.raises(sg.ArgumentError, match=r"add: out=.*NumPy array"):
        np.add(x, 1, out=x)
    np.add(x, 1, out=out)
    np.testing.assert_array_equal(out, [2, 3])


def test_scalars() -> None:
    assert float(Tensor(2.5)) == 2.5
    assert int(Tensor([3])) == 3
    assert [10, 20, 30][Tensor(1)] == 20
    assert f"{Tensor(math.pi):.2f}" == "3.14"
    assert repr(Tensor([1, 2])) == "Tensor([1, 2], dtype=int64)"
    assert len(Tensor(X)) == 2
    assert [t.tolist() for t in Tensor([[1, 2], [3, 4]])] == [[1, 2], [3, 4]]


def test_source_line() -> None:
    y = Tensor(X).exp()
    assert y._node.line is not None
    assert y._node.line[0].co_filename == __file__


@pytest.mark.parametrize("name", ["erf", "tanh", "exp"])
def test_own_functions_over_their_whole_range(name: str, cl_device: Any) -> None:
    """What CPUs compute by formulas of ours: near zero, at the edges, beyond, and no numbers."""
    x = np.concatenate([np.linspace(-12, 12, 40_001), np.geomspace(1e-30, 1, 2001)])
    x = np.concatenate([x, -x, [np.nan, np.inf, -np.inf, -0.0]]).astype(np.float32)
    exact = {"erf": np.vectorize(math.erf), "tanh": np.tanh, "exp": np.exp}[name]
    got = getattr(Tensor(x), name)().numpy()
    np.testing.assert_allclose(got, exact(x.astype(np.float64)), rtol=6e-7)
    assert np.signbit(got[-1]) == (name != "exp")
    if name != "exp":
        assert np.nanmax(np.abs(got)) == 1
