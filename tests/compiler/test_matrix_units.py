"""The template for matrix units, its instruction replaced by the same sums over local memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings

RNG = np.random.default_rng(0)
TEMPLATE = "kernels/einsum_mma.cl"


@pytest.fixture(autouse=True)
def _matrix_units(one_cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(one_cl_device, "limits", replace(one_cl_device.limits, mma="emulated"))
    with settings.override(kernels="gpu"):
        yield


def integers(*shape: int) -> Any:
    return RNG.integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("dtype", "subscripts"),
    [
        ("float16", "ik,kj->ij"),
        ("float16", "ki,jk->ij"),
        ("float16", "bik,bjk->bij"),
        ("bfloat16", "ki,kj->ij"),
    ],
)
def test_layouts_edges_and_an_epilogue(dtype: str, subscripts: str) -> None:
    """Small integers, whose sums are exact in every order."""
    extents = {"b": 2, "i": 83, "j": 51, "k": 77}
    first, second, _ = subscripts.replace("->", ",").split(",")
    a, b = (integers(*[extents[c] for c in term]) for term in (first, second))
    x, y = (Tensor(v, dtype=dtype, requires_grad=False) for v in (a, b))
    bias = integers(51)
    result = (sg.einsum(subscripts, x, y).cast("float32") + Tensor(bias)).relu()
    assert TEMPLATE in sg.explain(result)
    want = Tensor(np.einsum(subscripts, a, b)).cast(dtype).cast("float32").numpy()
    np.testing.assert_array_equal(result.numpy(), np.maximum(want + bias, 0))


def test_sums_are_float_where_half_is_only_storage() -> None:
    a, b = (RNG.standard_normal(s).astype(np.float16) for s in ((64, 700), (700, 40)))
    x, y = (Tensor(v, dtype="float16", requires_grad=False) for v in (a, b))
    got = x.cast("float32") @ y.cast("float32")
    assert TEMPLATE in sg.explain(got)
    want = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-4)


def test_tf32_only_with_fast_math() -> None:
    a, b = (RNG.standard_normal(s).astype(np.float32) for s in ((70, 90), (90, 45)))
    x, y = (Tensor(v, requires_grad=False) for v in (a, b))
    assert TEMPLATE not in sg.explain(x @ y)
    with settings.override(fast_math=True):
        got = x @ y
        assert TEMPLATE in sg.explain(got)
        values = got.numpy()

    def tf32(v: Any) -> Any:
        return ((v.view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32).astype(np.float64)

    np.testing.assert_allclose(values, tf32(a) @ tf32(b), rtol=1e-4, atol=1e-4)


def test_a_long_sum_is_cut(one_cl_device: Any) -> None:
    a, b = integers(32, 5000), integers(5000, 32)
    x, y = (Tensor(v, dtype="bfloat16", requires_grad=False) for v in (a, b))
    got = x.cast("float32") @ y.cast("float32")
    text = sg.explain(got)
    assert TEMPLATE in text and text.startswith("2 launches")
    np.testing.assert_array_equal(got.numpy(), a @ b)


@pytest.mark.parametrize("name", ["computed", "mixed", "small", "read again"])
def test_what_matrix_units_do_not_take(name: str) -> None:
    a, b = integers(60, 60), integers(60, 60)
    x, y = (Tensor(v, dtype="float16", requires_grad=False) for v in (a, b))
    result, want = {
        "computed": lambda: ((x + 1) @ y, (a + 1) @ b),
        "mixed": lambda: (x.cast("float32") @ Tensor(b), a @ b),
        "small": lambda: (x[:8] @ y, a[:8] @ b),
        "read again": lambda: (x @ y + x, a @ b + a),
    }[name]()
    assert TEMPLATE not in sg.explain(result)
    rounded = Tensor(want).cast(str(result.dtype)).numpy()
    np.testing.assert_allclose(result.numpy(), rounded, rtol=2**-9, atol=1)
