"""The template for views that read along one axis and write along another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings

RNG = np.random.default_rng(3)
X = RNG.standard_normal((150, 130)).astype(np.float32)
Y = RNG.standard_normal((130, 150)).astype(np.float32)
Z = RNG.standard_normal((20, 9, 11, 24)).astype(np.float32)
CASES = {
    "copy": (lambda x, y, z: x.T * 2.0, lambda x, y, z: x.T * np.float32(2)),
    "beside": (lambda x, y, z: x.T + y, lambda x, y, z: x.T + y),
    "two views": (
        lambda x, y, z: x.T[:, :140] - x[10:].T,
        lambda x, y, z: x.T[:, :140] - x[10:].T,
    ),
    "prologue": (lambda x, y, z: x.T.abs() - y, lambda x, y, z: np.abs(x.T) - y),
    "permuted": (
        lambda x, y, z: z.permute((3, 1, 2, 0)) * 1.5,
        lambda x, y, z: z.transpose(3, 1, 2, 0) * np.float32(1.5),
    ),
    "sliced": (lambda x, y, z: x[3:, ::-1].T * 2.0, lambda x, y, z: x[3:, ::-1].T * np.float32(2)),
}


@pytest.mark.parametrize("family", ["cpu", "gpu"])
@pytest.mark.parametrize("case", CASES)
def test_values(cl_device: Any, case: str, family: str) -> None:
    ours, numpy = CASES[case]
    with settings.override(kernels=family), sg.device(cl_device):
        result = ours(*[Tensor(a, requires_grad=False) for a in (X, Y, Z)])
        if case != "sliced":
            assert "as_strided.cl" in str(sg.explain(result))
        np.testing.assert_allclose(result.numpy(), numpy(X, Y, Z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_a_gathered_batch(cl_device: Any, family: str) -> None:
    rows = np.array([3, 7, 1, 0, 19])
    with settings.override(kernels=family), sg.device(cl_device):
        z = Tensor(Z.reshape(20, 99, 24), requires_grad=False).take(Tensor(rows), 0)
        got = z.permute((0, 2, 1)).repeat(8, 0) + 1.0
        want = Z.reshape(20, 99, 24)[rows].transpose(0, 2, 1).repeat(8, 0) + 1
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "int64", "bool"])
def test_dtypes(cl_device: Any, dtype: str) -> None:
    with sg.device(cl_device):
        x = Tensor(X > 0).astype(dtype) if dtype == "bool" else Tensor(X * 10).astype(dtype)
        sg.realize(x)
        got = x.T.astype("float32" if dtype != "int64" else "int64") + 1
        want = x.numpy().T.astype(got.numpy().dtype) + 1
        np.testing.assert_array_equal(got.numpy(), want)
