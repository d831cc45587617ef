"""Reductions and cumulative sums against NumPy."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

A = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
NAMES = ["sum", "prod", "max", "min", "mean", "var", "std", "any", "all"]


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (2, 1), ()])
@pytest.mark.parametrize("name", NAMES)
def test_reduction(name: str, axis: Any, keepdims: bool) -> None:
    want = getattr(np, name)(A, axis=axis, keepdims=keepdims)
    got = getattr(Tensor(A), name)(axis, keepdims)
    assert got.shape == want.shape
    assert got.numpy().dtype == want.dtype
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [None, 0, -1])
@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_arg(name: str, axis: int | None) -> None:
    for keepdims in (False, True):
        want = getattr(np, name)(A, axis=axis, keepdims=keepdims)
        got = getattr(Tensor(A), name)(axis, keepdims)
        assert got.dtype is sg.int64
        np.testing.assert_array_equal(got.numpy(), want)


def test_dtypes() -> None:
    assert Tensor([True, True]).sum().item() == 2
    assert Tensor([1, 2], "int8").sum().dtype is sg.int64
    assert Tensor([1, 2], "uint8").sum().dtype is sg.uint64
    assert Tensor([1, 2], "uint8").prod(dtype="int32").dtype is sg.int32
    assert Tensor([1, 2]).mean().dtype is sg.float32
    assert Tensor([1, 2]).mean().item() == 1.5
    assert Tensor([60000.0] * 4, "float16").mean().item() == 60000.0
    assert Tensor([1.0], "float16").var().dtype is sg.float16


def test_empty() -> None:
    x = Tensor(np.zeros((0, 3), np.float32))
    assert x.sum().item() == 0
    assert x.prod(0).tolist() == [1, 1, 1]
    assert x.any(0).tolist() == [False] * 3
    assert x.all().item() is True
    with pytest.raises(sg.ShapeError, match="max: axis of extent 0"):
        x.max()


def test_logsumexp() -> None:
    x = np.array([[1000.0, 1000.0], [-np.inf, 0.0], [-np.inf, -np.inf]], np.float32)
    got = Tensor(x).logsumexp(1)
    np.testing.assert_allclose(got.numpy(), [1000 + np.log(2), 0, -np.inf], rtol=1e-6)
    assert Tensor(A).logsumexp().shape == ()
    assert Tensor(A).logsumexp((0, 1), keepdims=True).shape == (1, 1, 4)


def test_cumsum() -> None:
    np.testing.assert_allclose(Tensor(A).cumsum(1).numpy(), np.cumsum(A, 1), rtol=1e-5)
    np.testing.assert_allclose(Tensor(A).cumsum().numpy(), np.cumsum(A), rtol=1e-4, atol=1e-6)
    assert Tensor([1, 2]).cumsum(0, include_initial=True).tolist() == [0, 1, 3]
    assert Tensor([True, True], sg.bool).cumsum().tolist() == [1, 2]
    np.testing.assert_array_equal(Tensor(A).diff(axis=1).numpy(), np.diff(A, axis=1))


@pytest.mark.parametrize("name", [*NAMES, "argmax", "logsumexp", "cumsum"])
def test_axis_errors(name: str) -> None:
    with pytest.raises(sg.ShapeError, match="axis 3 is out of range"):
        getattr(Tensor(A), name)(3)
    if name not in ("argmax", "cumsum"):
        with pytest.raises(sg.ShapeError, match="twice"):
            getattr(Tensor(A), name)((0, -3))


@pytest.mark.parametrize(
    "numbers",
    [
        np.array([2**62] * 4),
        np.array([2**63 - 1, -(2**63)]),
        np.array([-1, -1, -(2**31), 2**31, 5]),
        np.array([2**64 - 1, 2**64 - 3], np.uint64),
        np.array([2**31 - 1, 2**31 - 2], np.int32),
        np.array([[200, 250], [255, 255]], np.uint8),
        np.array([True, False, True]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("device")
def test_means_of_integers_are_exact(numbers: Any) -> None:
    exact = [Fraction(int(x)) for x in numbers.ravel()]
    mean = sum(exact) / len(exact)
    var = sum((x - mean) ** 2 for x in exact) / len(exact)
    x = sg.asarray(numbers)
    np.testing.assert_allclose(x.mean().numpy(), float(mean), rtol=2e-7)
    np.testing.assert_allclose(x.var().numpy(), float(var), rtol=1e-6)


@pytest.mark.usefixtures("device")
def test_long_sums_round_like_pairwise_ones() -> None:
    """A lane that added a millionth part of equal numbers one by one would be off by 1e-4."""
    numbers = np.full(1 << 22, 0.1, np.float32)
    total = sg.asarray(numbers).sum().numpy()
    np.testing.assert_allclose(total, numbers.sum(dtype=np.float64), rtol=4e-6)


def test_in_compares_elements_as_numpy_does() -> None:
    a = np.asarray([[1.0, 3.0], [2.0, 5.0]])
    for value in (3.0, 4, True, np.asarray([2.0, 5.0]), [9.0, 3.0], float("nan")):
        assert (value in Tensor(a)) is bool(value in a)
    assert 1 not in Tensor(np.zeros((0, 2)))
    assert 2 in Tensor(2)
    with pytest.raises(
        sg.ShapeError, match=r"^contains: shapes \(2, 2\) and \(3,\) do not broadcast"
    ):
        [1.0, 2.0, 3.0] in Tensor(a)  # noqa: B015
