"""The scatter template: every dtype, odd shapes, indices outside, epilogues, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings

SHAPES = [(500, 100, 37), (3000, 700, 1), (70, 300, 130), (100, 20, 2000)]  # rows, places, columns


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def family(request: pytest.FixtureRequest) -> Iterator[str]:
    with settings.override(kernels=request.param):
        yield request.param


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64", "int32", "uint8"])
def test_dtypes(cl_device: Any, family: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    slow = family == "gpu" and "pocl" in cl_device.name  # to compile
    for n, extent, columns in SHAPES[:1] if slow else SHAPES:
        x = rng.integers(0, 5, (n, columns)).astype("uint8" if dtype == "uint8" else "int32")
        index = rng.integers(0, extent, n)
        want = np.zeros((extent, columns), x.dtype)
        np.add.at(want, index, x)
        rows = Tensor(x, dtype=dtype, requires_grad=False)
        got = sg.scatter_add(index, rows, extent).numpy()
        np.testing.assert_array_equal(got.astype(np.float64), want.astype(np.float64))


def test_the_template_is_used_and_adds_in_order(one_cl_device: Any, family: str) -> None:
    rows = np.array([1e8, 1.0, -1e8, 1.0] * 2000, np.float32)
    index = np.arange(8000) // 4 % 40
    result = sg.scatter_add(index, Tensor(rows, requires_grad=False), 40)
    stem = "scatter_add_gpu" if family == "gpu" else "scatter_add"
    assert f"kernels/{stem}.cl" in sg.explain(result)
    want = np.zeros(40, np.float32)
    np.add.at(want, index, rows)
    np.testing.assert_array_equal(result.numpy(), want)


@pytest.mark.parametrize("index_dtype", ["uint8", "int16", "int64", "uint64"])
def test_indices_outside_add_nothing(cl_device: Any, index_dtype: str) -> None:
    index = (np.arange(400) % 120).astype(index_dtype)
    if index_dtype == "uint64":
        index[7] = 2**64 - 1
    rows = np.ones((400, 5), np.float32)
    with settings.override(check=False):
        got = sg.scatter_add(Tensor(index), Tensor(rows, requires_grad=False), 100).numpy()
    want = np.bincount(index[index < 100].astype(np.int64), minlength=100)
    np.testing.assert_array_equal(got, np.repeat(want[:, None], 5, 1))


def test_an_epilogue_and_a_computed_index(cl_device: Any) -> None:
    rng = np.random.default_rng(1)
    a, rows = rng.integers(0, 50, 600), rng.standard_normal((600, 33)).astype(np.float32)
    bias = rng.standard_normal((50, 33)).astype(np.float32)
    index = Tensor(a) * 3 + 1
    sent = Tensor(rows, requires_grad=False) * 2.0
    sums = sg.scatter_add(index, sent, 150)[1::3]
    got = (sums + Tensor(bias, requires_grad=False)).relu().numpy()
    want = np.zeros((50, 33), np.float32)
    np.add.at(want, a, rows * 2)
    np.testing.assert_allclose(got, np.maximum(want + bias, 0), rtol=1e-4, atol=1e-4)


def test_gradients_of_a_gather_and_of_an_irregular_view(cl_device: Any) -> None:
    rng = np.random.default_rng(2)
    x = Tensor(rng.standard_normal((3000,)).astype(np.float32))
    seed = rng.standard_normal((40, 40, 40)).astype(np.float32)
    places = np.add.outer(np.add.outer(np.arange(40) * 37, np.arange(40) * 11), np.arange(40) * 3)
    x.as_strided((40, 40, 40), (37, 11, 3)).mul(Tensor(seed, requires_grad=False)).sum().backward()
    want = np.bincount(places.ravel(), seed.ravel().astype(np.float64), minlength=3000)
    np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-4, atol=1e-4)
    table = Tensor(rng.standard_normal((500, 24)).astype(np.float32))
    labels = rng.integers(-500, 500, (30, 40))
    table.take(labels, 0).sum().backward()
    counts = np.bincount(labels.ravel() % 500, minlength=500)
    np.testing.assert_array_equal(table.grad.numpy(), np.repeat(counts[:, None], 24, 1))


def test_a_gather_of_many_rows(cl_device: Any) -> None:
    """More groups than compute units, several turns over the indices, crowded and empty places."""
    rng = np.random.default_rng(3)
    table = Tensor(rng.standard_normal((9_000, 20)).astype(np.float32))
    index = np.where(rng.random(30_000) < 0.3, 77, rng.integers(0, 8_000, 30_000))
    seed = rng.integers(-8, 9, (30_000, 20)).astype(np.float32)
    (table[index] * Tensor(seed, requires_grad=False)).sum().backward()
    want = np.zeros((9_000, 20), np.float32)
    np.add.at(want, index, seed)
    np.testing.assert_array_equal(table.grad.numpy(), want)  # small integers: exact
