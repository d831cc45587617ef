"""The GPU family of kernels, forced on the OpenCL devices of this machine, against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings

RNG = np.random.default_rng(3)
A = RNG.normal(size=(37, 67)).astype(np.float32)
B = RNG.normal(size=(67, 29)).astype(np.float32)
BIG = RNG.normal(size=(300, 257)).astype(np.float32)
LONG = RNG.normal(size=100_003).astype(np.float32)
IMAGE = RNG.normal(size=(2, 4, 9, 8)).astype(np.float32)
HEADS = RNG.normal(size=(2, 2, 40, 12)).astype(np.float32)
KERNEL = RNG.normal(size=(6, 2, 3, 3)).astype(np.float32)
INDEX = RNG.integers(0, 37, 50)

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "chain": (lambda x: (-(x * x + 1).relu()).exp() * 0.5 - x, (A,)),
    "broadcast": (lambda x, y: x.reshape(37, 67, 1) * y.reshape(1, 67, 29), (A, B)),
    "row reduce": (lambda x: x.sum(1), (BIG,)),
    "column reduce": (lambda x: x.max(0), (BIG,)),
    "full reduce": (lambda x: x.sum(), (LONG,)),
    "full mean and var": (lambda x: x.mean() + x.var(), (LONG,)),
    "argmax": (lambda x: x.argmax(1), (BIG,)),
    "argmin of all": (lambda x: x.argmin(), (LONG,)),
    "softmax": (lambda x: x.softmax(), (BIG,)),
    "softmax of columns": (lambda x: x.softmax(0), (BIG,)),
    "logsoftmax": (lambda x: x.logsoftmax(), (BIG,)),
    "layer_norm": (lambda x, w, b: x.layer_norm((-1,), w, b), (A, B[:, 0], B[:, 1])),
    "matmul": (lambda x, y: x @ y, (A, B)),
    "matmul relu": (lambda x, y: (x @ y + 1).relu().sum(0), (A, B)),
    "matvec": (lambda x, y: x @ y, (A, B[:, 0])),
    "batched": (lambda x: sg.einsum("bcij,bckj->bcik", x, x), (IMAGE,)),
    "attention": (lambda x: sg.scaled_dot_product_attention(x, x[:, :, ::-1], x * 2), (HEADS,)),
    "conv2d": (lambda x, w: x.conv2d(w, 1, 2, 1, 2), (IMAGE, KERNEL)),
    "maxpool2d": (lambda x: x.maxpool2d((3, 3), 1, 2), (IMAGE,)),
    "gather": (lambda x: x[INDEX], (A,)),
    "scatter": (lambda x: sg.scatter_add(INDEX[:37] % 9, x, 9), (A,)),
    "as_strided": (lambda x: x.as_strided((30, 5, 7), (67, 3, 1)).sum(1), (A,)),
    "transpose": (lambda x: x.T + 1, (BIG,)),
    "cumsum": (lambda x: x.cumsum(0), (A,)),
    "pad flip": (lambda x: x.pad(((1, 2), (3, 0)))[::-1, ::2], (A,)),
    "half": (lambda x: (x.cast("float16") * 2).sum(1), (A,)),
    "int": (lambda x: (x * 10).cast("int8").sum(0), (A,)),
}

MAIN = ["chain", "row reduce", "column reduce", "full reduce", "argmax", "softmax", "layer_norm",
        "matmul", "attention", "conv2d", "gather", "cumsum"]  # fmt: skip


@pytest.fixture(autouse=True)
def _gpu_kernels() -> Iterator[None]:
    with settings.override(kernels="gpu"):
        yield


def both(function: Callable[..., Any], arrays: tuple[Any, ...], device: Any) -> list[list[Any]]:
    """Return [value, gradients …] on NumPy and on the device."""
    found = []
    for where in ("numpy", device):
        with sg.device(where):
            leaves = [Tensor(a) for a in arrays]
            result = function(*leaves)
            if result.requires_grad:
                (result * 0.5).sum().backward()
            tensors = [result, *[x.grad for x in leaves if x.grad is not None]]
            sg.realize(*tensors)
            found.append([t.numpy() for t in tensors])
    return found


def assert_close(got: Any, want: Any) -> None:
    assert got.dtype == want.dtype
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    # Sums of 100,000 float32 numbers in trees: 1e-6 of the sum of their sizes; float16 rounds once.
    rtol, scale = (2**-10, 0) if got.dtype == np.float16 else (2e-5, 1e-5)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=scale * max(1, np.abs(want).max()))


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(cl_device: Any, name: str) -> None:
    if "pocl" in cl_device.name and name not in MAIN:
        pytest.skip("PoCL compiles slowly: the main cases will do")
    want, got = both(*CASES[name], cl_device)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w)


def test_the_gpu_family_is_what_ran(one_cl_device: Any) -> None:
    text = sg.explain(Tensor(BIG).sum(1))
    assert "get_local_id" in text or "__local" in text
    with settings.override(kernels="cpu"):
        assert text != sg.explain(Tensor(BIG).sum(1))


@pytest.mark.parametrize("name", ["chain", "row reduce", "softmax", "matmul", "conv2d"])
def test_unfused(one_cl_device: Any, name: str) -> None:
    with sg.fusion(False):
        want, got = both(*CASES[name], one_cl_device)
    for g, w in zip(got, want, strict=True):
        assert_close(g, w)


def test_the_launches_of_the_table(one_cl_device: Any) -> None:
    x = Tensor(BIG)
    for make in (x.softmax, x.logsoftmax, x.layer_norm):
        with sg.Profile() as p:
            make().realize()
        assert p.launches == 1
