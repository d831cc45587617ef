"""Long sums in two stages: products through the templates' SPLIT_K, columns through loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings

RNG = np.random.default_rng(0)
PRODUCTS = {
    "square": ("ik,kj->ij", (48, 20_000), (20_000, 50)),
    "turned": ("ki,jk->ij", (9_001, 33), (65, 9_001)),
    "batched": ("bik,bkj->bij", (2, 30, 8_000), (2, 8_000, 21)),
    "strip": ("ik,kj->ij", (3, 30_000), (30_000, 70)),
    "dot": ("ik,jk->ij", (6, 60_001), (2, 60_001)),
    "two axes": ("ikl,klj->ij", (31, 300, 50), (300, 50, 40)),
}


@pytest.fixture(params=["cpu", "gpu"])
def family(
    request: pytest.FixtureRequest, cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "gpu":  # small tiles, and so many of them, occupy this machine's few cores
        monkeypatch.setattr(cl_device, "limits", replace(cl_device.limits, compute_units=40))
    with settings.override(kernels=request.param):
        yield request.param


def operands(name: str) -> tuple[str, Any, Any]:
    subscripts, a, b = PRODUCTS[name]
    return subscripts, *(RNG.standard_normal(s).astype(np.float32) for s in (a, b))


@pytest.mark.parametrize("name", PRODUCTS)
def test_long_products_are_cut_and_the_epilogue_comes_second(
    cl_device: Any, family: str, name: str
) -> None:
    if family == "gpu" and name not in ("turned", "batched"):
        pytest.skip("two cases will do")
    subscripts, a, b = operands(name)
    bias = RNG.standard_normal(b.shape[0 if subscripts[3] == "j" else -1]).astype(np.float32)
    bias = bias[: np.einsum(subscripts, a, b).shape[-1]]
    x, y, z = (Tensor(v, requires_grad=False) for v in (a, b, bias))

    def result() -> Tensor:
        return (sg.einsum(subscripts, x, y) * 0.01 + z).tanh()

    text = sg.explain(result())
    first, second = text.split("launch 1:")
    assert "kernels/einsum" in first and "tanh" not in first.split("#define")[-1]
    assert "tanh" in second and "launch 2" not in second
    want = np.tanh(np.einsum(subscripts, a, b, dtype=np.float64, optimize=True) * 0.01 + bias)
    got = [result().numpy() for _ in range(2)]
    np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(got[0], got[1])  # parts are added in a fixed order


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(cl_device: Any, dtype: str) -> None:
    a, b = (RNG.integers(-2, 3, s).astype(np.float32) for s in ((20, 9000), (9000, 24)))
    x, y = (Tensor(v, dtype=dtype, requires_grad=False) for v in (a, b))
    got = sg.einsum("ik,kj->ij", x, y)
    assert sg.explain(got).startswith("2 launches ")
    # Sums of small integers are exact in any order, before one rounding to the dtype.
    exact = Tensor(a @ b, requires_grad=False).cast(dtype).numpy()
    np.testing.assert_array_equal(got.numpy(), exact)


def test_short_sums_and_wide_results_stay_whole(cl_device: Any) -> None:
    for m, k, n in ((64, 500, 64), (600, 4096, 600)):
        x, y = Tensor(np.ones((m, k), np.float32)), Tensor(np.ones((k, n), np.float32))
        assert sg.explain(x @ y).startswith("1 launch ")


@pytest.mark.parametrize("columns", [16, 33])
def test_long_columns_are_cut(cl_device: Any, family: str, columns: int) -> None:
    a = RNG.standard_normal((1_300_000 // columns, columns)).astype(np.float32)
    v = RNG.standard_normal(len(a)).astype(np.float32)
    x, w = Tensor(a, requires_grad=False), Tensor(v, requires_grad=False)
    for result, want in (
        (sg.einsum("k,kn->n", w, x) * 2, v.astype(np.float64) @ a * 2),
        (x.max(0), a.max(0)),
        (x.argmax(0), a.argmax(0)),
    ):
        assert sg.explain(result).startswith("2 launches ")
        np.testing.assert_allclose(result.numpy(), want, rtol=1e-3, atol=0.05)
