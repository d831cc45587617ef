"""Names that users of NumPy expect: value, dtype, shape against NumPy, on every device; gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

RNG = np.random.default_rng(5)
A = RNG.normal(size=(3, 4)).astype(np.float32)
V = np.array([1.5, -2.25, 0.125], np.float32)
CUBE = RNG.normal(size=(2, 3, 4)).astype(np.float32)
HOLES = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan], [-np.inf, 2.0, np.nan]], np.float32)
I = np.array([[15, -25, 149], [50, -150, 7]], np.int32)
W = np.array([0.5, 1.0, 2.5, 0.25], np.float32)
TIES = np.array([0.5, 1.5, -2.5, 0.125, 1234.5678, np.inf, np.nan], np.float32)

SAME: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "concatenate": (lambda xp, a: xp.concatenate([a, a], 1), (A,)),
    "vstack": (lambda xp, v, w: xp.vstack([v, w]), (V, V)),
    "vstack of matrices": (lambda xp, a, w: xp.vstack([a, w]), (A, W)),
    "hstack": (lambda xp, v, w: xp.hstack([v, w]), (V, W)),
    "hstack of matrices": (lambda xp, a: xp.hstack([a, a[:, :1]]), (A,)),
    "dstack": (lambda xp, a: xp.dstack([a, a * 2]), (A,)),
    "dstack of vectors": (lambda xp, v: xp.dstack([v, v]), (V,)),
    "column_stack": (lambda xp, v, a: xp.column_stack([v, a]), (V, A)),
    "atleast_1d": (lambda xp, v: xp.atleast_1d(v.sum()), (V,)),
    "atleast_2d": (lambda xp, v: xp.atleast_2d(v), (V,)),
    "atleast_3d": (lambda xp, v, a: xp.atleast_3d(v, a)[0] + xp.atleast_3d(a[:1, :3])[:, :, 0], (V, A)),
    "diag of a vector": (lambda xp, v: xp.diag(v), (V,)),
    "diag above": (lambda xp, v: xp.diag(v, 2), (V,)),
    "diag below": (lambda xp, v: xp.diag(v, -1), (V,)),
    "diag of a matrix": (lambda xp, a: xp.diag(a, 1), (A,)),
    "diagonal": (lambda xp, a: xp.diagonal(a), (CUBE,)),
    "diagonal of axes": (lambda xp, a: xp.diagonal(a, -1, 2, 1), (CUBE,)),
    "diagonal outside": (lambda xp, a: xp.diagonal(a, 7), (A,)),
    "trace": (lambda xp, a: xp.trace(a, 1), (A,)),
    "trace of axes": (lambda xp, a: xp.trace(a, 0, 1, 2), (CUBE,)),
    "kron": (lambda xp, a, v: xp.kron(a, v), (A, V)),
    "kron of matrices": (lambda xp, a: xp.kron(a[:2], a), (A,)),
    "nansum": (lambda xp, a: xp.nansum(a, axis=1), (HOLES,)),
    "nanmean": (lambda xp, a: xp.nanmean(a, axis=1), (HOLES,)),
    "nanmax": (lambda xp, a: xp.nanmax(a, axis=1), (HOLES,)),
    "nanmin": (lambda xp, a: xp.nanmin(a, axis=0, keepdims=True), (HOLES,)),
    "nanmax of integers": (lambda xp, a: xp.nanmax(a), (I,)),
    "median": (lambda xp, a: xp.median(a), (A,)),
    "median of axes": (lambda xp, a: xp.median(a, (0, 2), keepdims=True), (CUBE,)),
    "median with NaN": (lambda xp, a: xp.median(a, 0), (np.concatenate([A, HOLES[:, [0, 1, 2, 0]]]),)),
    "median of integers": (lambda xp, a: xp.median(a, axis=1), (I,)),
    "ptp": (lambda xp, a: xp.ptp(a, axis=0), (A,)),
    "average": (lambda xp, a: xp.average(a, axis=0), (A,)),
    "average weighted": (lambda xp, a, w: xp.average(a, 1, w), (A, W)),
    "average of all": (lambda xp, a, w: xp.average(a, weights=w), (A, np.abs(A))),
    "round": (lambda xp, a: xp.round(a), (TIES,)),
    "round to 2": (lambda xp, a: xp.round(a, 2), (TIES,)),
    "round to tens": (lambda xp, a: xp.round(a, decimals=-1), (TIES,)),
    "round integers": (lambda xp, a: xp.round(a, -1), (I,)),
    "round integers to hundreds": (lambda xp, a: xp.round(a, -2), (I,)),
    "round integers to 2": (lambda xp, a: xp.round(a, 2), (I,)),
    "rint": (lambda xp, a: xp.rint(a), (TIES,)),
    "diff": (lambda xp, a: xp.diff(a, 2, 0), (A,)),
    "cumprod": (lambda xp, a: xp.cumprod(a, 1), (A,)),
    "cumprod flat": (lambda xp, a: xp.cumprod(a), (A,)),
    "var": (lambda xp, a: xp.var(a, axis=1, ddof=1), (A,)),
    "std": (lambda xp, a: xp.std(a, ddof=2), (A,)),
    "isclose": (lambda xp, a: xp.isclose(a, a + 1e-6), (HOLES,)),
    "isclose with NaN": (lambda xp, a: xp.isclose(a, a, equal_nan=True), (HOLES,)),
    "isclose to infinity": (lambda xp, v: xp.isclose(v, xp.inf), (TIES,)),
    "copy": (lambda xp, a: xp.copy(a), (A,)),
    "ravel": (lambda xp, a: xp.ravel(a), (A,)),
}  # fmt: skip
EXACT = {"round integers", "round integers to hundreds", "round integers to 2"}


@pytest.mark.filterwarnings("ignore:.*(All-NaN|Mean of empty).*:RuntimeWarning")
def test_values_are_those_of_numpy(device: Any) -> None:
    with np.errstate(all="ignore"):
        found = {name: call(sg, *map(Tensor, arrays)) for name, (call, arrays) in SAME.items()}
        sg.realize(*found.values())
        for name, (call, arrays) in SAME.items():
            want, got = np.asarray(call(np, *arrays)), found[name].numpy()
            assert got.shape == want.shape, name
            assert got.dtype == want.dtype or want.dtype == np.float64, name
            np.testing.assert_allclose(got, want, 0 if name in EXACT else 3e-6, 1e-6, err_msg=name)


SMOOTH = [
    "vstack of matrices", "hstack", "dstack", "column_stack", "diag above", "diag below",
    "diag of a matrix", "diagonal of axes", "trace of axes", "kron", "average weighted", "ptp",
    "cumprod", "var", "copy", "median", "median of axes",
]  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_against_central_differences(name: str) -> None:
    call, arrays = SAME[name]
    with sg.device("numpy"):
        doubles = [a.astype(np.float64) for a in arrays]
        leaves = [Tensor(a, "float64") for a in doubles]
        result = call(sg, *leaves)
        seed = np.linspace(0.5, 1.5, result.size).reshape(result.shape)
        result.backward(seed)
        for k, leaf in enumerate(leaves):
            want = np.zeros_like(doubles[k])
            for place in np.ndindex(want.shape):
                sides = []
                for step in (1e-6, -1e-6):
                    moved = [a.copy() for a in doubles]
                    moved[k][place] += step
                    sides.append(float((np.asarray(call(np, *moved)) * seed).sum()))
                want[place] = (sides[0] - sides[1]) / 2e-6
            np.testing.assert_allclose(leaf.grad.numpy(), want, 1e-6, 1e-7)


def test_nan_reductions_leave_no_nan_in_gradients() -> None:
    with sg.device("numpy"):
        x = Tensor(HOLES[:1])
        (sg.nansum(x) + sg.nanmean(x) * 4 + sg.nanmax(x)).backward()
        np.testing.assert_array_equal(x.grad.numpy(), [[3.0, 0.0, 4.0]])


def test_a_long_median_is_counted_in_blocks() -> None:
    with sg.device("numpy"):
        x = RNG.normal(size=(2, 2500)).astype(np.float32).round(1)  # with ties
        np.testing.assert_array_equal(sg.median(x, 1).numpy(), np.median(x, 1))


def test_comparisons_of_whole_arrays() -> None:
    with sg.device("numpy"):
        a, b = Tensor(A), Tensor(A + 1e-7)
        assert sg.allclose(a, b) is True
        assert sg.allclose(a, A + 1) is False
        assert sg.allclose(HOLES, HOLES) is False
        assert sg.allclose(HOLES, HOLES, equal_nan=True) is True
        assert sg.array_equal(a, A) is True
        assert sg.array_equal(a, A[:2]) is False
        assert sg.array_equal(HOLES, HOLES) is False
        assert sg.array_equal(HOLES, HOLES, equal_nan=True) is True


def test_methods_of_arrays() -> None:
    with sg.device("numpy"):
        x = Tensor(A)
        assert x.item(5) == A.item(5)
        assert x.item(-1) == A.item(-1)
        assert x.item(1, 2) == A.item(1, 2)
        assert x.to("numpy").tolist() == A.tolist()
        assert (x.size, x.ndim, x.T.shape) == (A.size, A.ndim, A.T.shape)
        with pytest.raises(sg.IndexOutOfRange, match=r"^item: index 12 is out of range"):
            x.item(12)
        with pytest.raises(sg.ArgumentError, match=r"^std: correction=1 and ddof=2"):
            x.std(correction=1, ddof=2)
        with pytest.raises(sg.ShapeError, match=r"^average: weights of shape \(3,\)"):
            sg.average(x, 1, V)
