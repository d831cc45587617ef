"""New arrays, random arrays and dtype functions."""

from __future__ import annotations

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, random


def same(got: Tensor, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert got.numpy().dtype == want.dtype
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


def test_creation() -> None:
    f = np.float32
    same(sg.zeros((2, 3)), np.zeros((2, 3), f))
    same(sg.ones(3, dtype="int8"), np.ones(3, np.int8))
    same(sg.full((2,), 7), np.full(2, 7))
    same(sg.full((2,), 0.5), np.full(2, 0.5, f))
    same(sg.eye(3, 4, k=1), np.eye(3, 4, k=1, dtype=f))
    same(sg.arange(5), np.arange(5))
    same(sg.arange(2, -7, -3), np.arange(2, -7, -3))
    same(sg.arange(0.5, 3, 0.25), np.arange(0.5, 3, 0.25, dtype=f))
    same(sg.linspace(0, 1, 7), np.linspace(0, 1, 7, dtype=f))
    same(sg.linspace(0, 1, 4, endpoint=False), np.linspace(0, 1, 4, endpoint=False, dtype=f))
    same(sg.linspace(3, 3, 1), np.array([3], f))
    x = Tensor(np.ones((2, 2)), "float16")
    same(sg.zeros_like(x), np.zeros((2, 2), np.float16))
    same(sg.full_like(x, 3, dtype="int32"), np.full((2, 2), 3, np.int32))
    for got, want in zip(
        sg.meshgrid([1, 2], [3, 4, 5]), np.meshgrid([1, 2], [3, 4, 5]), strict=True
    ):
        same(got, want)
    with pytest.raises(sg.ShapeError, match="negative"):
        sg.zeros((-1,))


def test_from_data() -> None:
    host = np.ones(3)
    x = Tensor(host)
    host[:] = 0
    assert x.tolist() == [1, 1, 1]
    assert Tensor(Tensor([1, 2]), "float32").tolist() == [1, 2]
    assert sg.asarray(x) is x
    assert Tensor([]).dtype is sg.float32
    assert Tensor(np.float64(2)).shape == ()
    for bad in ("a", [1j], [[1], [1, 2]], object()):
        with pytest.raises(sg.SimplegradError, match="Tensor"):
            Tensor(bad)
    with pytest.raises(sg.DTypeError, match="stack"):
        Tensor([x, x])


def test_random() -> None:
    a, b = random.Generator(7), random.Generator(7)
    first = a.uniform((100, 100))
    np.testing.assert_array_equal(first.numpy(), b.uniform((100, 100)).numpy())
    assert (first.numpy() != a.uniform((100, 100)).numpy()).mean() > 0.99
    assert first.numpy().min() >= 0 and first.numpy().max() < 1
    assert abs(first.numpy().mean() - 0.5) < 0.01
    for dtype in ("float16", "float64", "bfloat16"):
        values = a.uniform(10_000, dtype=dtype).numpy()
        assert values.max() < 1 and abs(values.mean() - 0.5) < 0.02
    n = a.normal(100_000, 3.0, 2.0).numpy()
    assert abs(n.mean() - 3) < 0.05 and abs(n.std() - 2) < 0.05 and np.isfinite(n).all()
    i = a.integers(-3, 4, 10_000).numpy()
    assert set(i) == set(range(-3, 4)) and i.dtype == np.int64
    for size in (0, 1, 2, 5, 1000):
        assert sorted(a.permutation(size).tolist()) == list(range(size))
    assert a.permutation(1000).tolist() != list(range(1000))
    assert sorted(a.permutation(np.arange(9)).tolist()) == list(range(9))
    assert abs(a.bernoulli(0.3, 10_000).numpy().mean() - 0.3) < 0.02
    random.seed(1)
    one = random.uniform(5).tolist()
    random.seed(1)
    assert random.uniform(5).tolist() == one


def test_new_draws_are_the_same_kernel() -> None:
    a = random.Generator(1)
    assert a.uniform(5)._node.kind is a.uniform(5)._node.kind


def test_known_bits() -> None:
    # Philox-2x32-10 of Random123's known answer tests: counters 0, key 0.
    generator = random.Generator(0)
    assert int(sg.Tensor(0, "uint32")) == 0
    node = generator.bits.bits((1,), None)
    assert sg.tensor.core.wrap(node).tolist() == [0xFF1DAE59]


def test_dtype_functions() -> None:
    assert sg.isdtype(sg.int8, "signed integer")
    assert not sg.isdtype(sg.int8, ("bool", "real floating"))
    assert sg.finfo(sg.float32).eps == np.finfo("f").eps
    assert sg.finfo("bfloat16").eps == 2.0**-7
    assert sg.iinfo(sg.uint8).max == 255
    assert sg.can_cast(sg.int8, sg.int16) and not sg.can_cast(sg.float32, sg.int32)
