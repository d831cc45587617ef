"""Reductions, views, contraction, gather and scatter: value, dtype, shape and gradient."""

from __future__ import annotations

from typing import Any

import conftest
import numpy as np
import pytest
from checking import Case, check, tensor
from layouts import LAYOUTS
from shaped_rows import ROWS, ZERO_DIMENSIONAL, Shaped

import simplegrad as sg
from simplegrad import dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.runtime.numpy_device import rounded

# Values are 1 and 2 with either sign, so that sums and products of a few are exact in 8 bits.
WHOLE = np.array([[1, 2, -1, 1, -2, 1], [2, 2, 1, -2, 2, -1], [-1, 1, 1, 2, 1, 1],
                  [1, -2, 2, 1, 1, 2], [-2, -2, 1, -1, 1, 1], [1, 1, -1, 1, 2, -2]])  # fmt: skip
NAN, INF = np.nan, np.inf
SPECIAL: dict[str, Any] = {
    "nan": np.where(np.eye(6, k=1) == 1, NAN, WHOLE),
    "inf": np.where(np.eye(6, k=1) == 1, -INF, np.where(np.eye(6, k=-2) == 1, INF, WHOLE)),
    "mixed": np.where(np.eye(6) == 1, NAN, np.where(np.eye(6, k=1) == 1, INF, -INF)),
    "zeros": np.where(np.eye(6, k=1) == 1, 0, WHOLE),
}
EMPTY = {"no rows": np.zeros((0, 6)), "no columns": np.zeros((6, 0))}
TRIED = {dtype: ["strided"] for dtype in dtypes.ALL}
TRIED[dtypes.float32] = ["contiguous", "transposed", "strided", "broadcast"]
TRIED[dtypes.int8] = ["transposed", "overlapping"]
GPU = [dtypes.float32, dtypes.bfloat16, dtypes.int8]
UNFUSED = {dtypes.float32: ["strided", "broadcast"], dtypes.bfloat16: ["strided"],
           dtypes.int8: ["transposed"], dtypes.bool_: ["strided"]}  # fmt: skip
"""Each row is kernels of its own there; the rows of special values are contiguous."""


def layouts_of(way: Any, dtype: DType) -> list[str]:
    if not way.has(dtype) or (way.kernels and dtype not in GPU):
        return []
    if way.kernels:
        return ["strided"]
    if way.selector != "numpy" and not way.fused:
        found = UNFUSED.get(dtype, [])
        return found if way.selector == conftest.OPENCL[0] else found[:1]
    return TRIED[dtype]


def result_dtype(op: str, dtype: DType) -> DType:
    if op in ("argmax", "argmin"):
        return dtypes.int64
    if op in ("sum", "prod", "cumsum") and not dtype.is_float:
        return dtypes.uint64 if dtype.kind == "u" else dtypes.int64
    return dtype


def takes(row: Shaped, dtype: DType) -> bool:
    return dtype.kind in ops.OPS[row.op].kinds or row.op in ("sum", "prod", "cumsum")


def cases_of(row: Shaped, label: str, leaf: Any, view: Any, array: Any, back: Any, dtype: DType
             ) -> list[Case]:  # fmt: skip
    """Return the value of a row on a view of a leaf, and the leaf's gradient."""
    x = tensor(leaf, dtype, dtype.is_float)
    result, kind = row.tensor(view(x)), result_dtype(row.op, dtype)
    wide = array.astype(np.float64 if dtype.is_float else dtype.numpy)
    with np.errstate(all="ignore"):
        want = rounded(row.of_array(wide).astype(kind.numpy), kind)
    cases = [Case(label, result, want, kind)]
    if dtype.is_float and ops.OPS[row.op].differentiable:
        g = 1.0 + np.arange(result.size).reshape(result.shape) % 3
        result.backward(tensor(g, dtype))
        with np.errstate(all="ignore"):
            slope = back(np.asarray(row.gradient(wide, g), np.float64))
        cases.append(Case(f"gradient of {label}", x.grad, rounded(slope, dtype), dtype))
    return cases


def base(dtype: DType) -> Any:
    whole = np.abs(WHOLE) if dtype.kind == "u" else WHOLE == 1 if dtype.kind == "b" else WHOLE
    return rounded(whole, dtype)


def refused(row: Shaped, x: Any) -> bool:
    """Whether NumPy takes no such input."""
    try:
        with np.errstate(all="ignore"):
            row.of_array(x)
    except (ValueError, IndexError):
        return True
    return False


@pytest.mark.parametrize("dtype", TRIED, ids=str)
def test_layouts(way: Any, dtype: DType) -> None:
    names = layouts_of(way, dtype)
    if not names:
        pytest.skip("no float64 here, or loaded as another type that is tested this way")
    cases = []
    for where in names:
        layout = LAYOUTS[where]
        leaf = layout.leaf(base(dtype))
        array = layout.of_array(leaf)
        for i, row in enumerate(r for r in ROWS if takes(r, dtype)):
            cases += cases_of(row, f"{row.op} {i} {where}", leaf, layout.view, array,
                              lambda g, at=layout, leaf=leaf: at.back(leaf, g), dtype)  # fmt: skip
    check(cases)


def test_special_values(way: Any) -> None:
    for label, x in SPECIAL.items():
        cases = []
        for i, row in enumerate(ROWS):
            if row.shapes and not refused(row, x):
                cases += cases_of(row, f"{row.op} {i} {label}", x, lambda t: t, x, lambda g: g,
                                  dtypes.float32)  # fmt: skip
        check(cases)  # by label: other numbers run the kernels that are there


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.int8, dtypes.bfloat16], ids=str)
def test_no_elements_and_no_axes(way: Any, dtype: DType) -> None:
    """What NumPy refuses, such as the greatest of none, is an error of ours."""
    cases = []
    inputs = [(ROWS, label, x) for label, x in EMPTY.items()]
    inputs += [(ZERO_DIMENSIONAL, "0-d", np.array(2.0))]
    if dtype.is_float:
        inputs += [(ZERO_DIMENSIONAL, "0-d nan", np.array(NAN))]
    for rows, label, x in inputs:
        x = rounded(x, dtype)
        for i, row in enumerate(r for r in rows if r.shapes and takes(r, dtype)):
            name = f"{row.op} {i} {label}"
            if not refused(row, x):
                cases += cases_of(row, name, x, lambda t: t, x, lambda g: g, dtype)
                continue
            try:
                row.tensor(tensor(x, dtype))
            except sg.SimplegradError:
                continue
            pytest.fail(f"{name}: NumPy refuses, and nothing is raised")
    check(cases)
