"""Elementwise operations: value, dtype, shape and gradient, in every dtype, layout and way."""

from __future__ import annotations

from typing import Any

import conftest
import numpy as np
import pytest
from checking import ALL_TYPES, ATOL, EPS, FLOAT_TYPES, Case, check, tensor
from elementwise_rows import FLOATS, GENTLE, ROWS, pairs, reference, rows_for, second, values
from layouts import KINDS, LAYOUTS, PLAIN, Layout

import simplegrad as sg
from simplegrad import Tensor, dtypes
from simplegrad.dtypes import DType
from simplegrad.runtime.numpy_device import rounded

SKIPPED = "no such type here, or one that is loaded and stored as another is"
WIDE = [dtypes.float32, dtypes.int32]
"""Types that meet all layouts; the others meet the plain ones, where loads differ by type."""


def layouts_of(way: Any, dtype: DType) -> dict[str, Layout]:
    """Return the layouts to try: fewer where each is a kernel an operation, or takes long."""
    if not way.fused:
        return {n: LAYOUTS[n] for n in (KINDS if dtype is dtypes.float32 else ["strided", "empty"])}
    if dtype not in WIDE or way.kernels:
        return {n: LAYOUTS[n] for n in PLAIN}
    return LAYOUTS


FEW = [dtypes.float32, dtypes.float16, dtypes.bfloat16, dtypes.int64, dtypes.bool_]
"""Types that meet the dear ways too: one of each way to load, compute and store."""


def tried(way: Any, dtype: DType) -> bool:
    """Whether to try a type: all of them by fused kernels, and by unfused ones of one driver."""
    if not way.has(dtype):
        return False
    if not way.kernels and (way.fused or way.selector == conftest.OPENCL[-1]):
        return True
    return dtype in FEW


@pytest.mark.parametrize("dtype", ALL_TYPES, ids=str)
def test_value(way: Any, dtype: DType) -> None:
    """All pairs of special and ordinary values."""
    if not tried(way, dtype):
        pytest.skip(SKIPPED)
    cases = []
    for where, layout in layouts_of(way, dtype).items():
        leaves = [layout.leaf(array) for array in pairs(values(dtype))]
        views = [layout.view(tensor(leaf, dtype)) for leaf in leaves]
        powers = layout.view(tensor(second("pow", dtype, leaves[1]), dtype))
        arrays = [layout.of_array(leaf) for leaf in leaves]
        for name, row in rows_for(dtype).items():
            operands = [views[0], powers if name == "pow" else views[1]][: row.arity]
            wanted = [arrays[0], second(name, dtype, arrays[1])][: row.arity]
            want, kind = reference(name, dtype, wanted)
            cases.append(Case(f"{name} {where}", row.tensor(*operands), want, kind, row.signs))
    check(cases)


# Gradients of float64 and float32 cancel: 1 - tanh(x)**2 is good to a few units of the last
# place of 1. Those of 16 bits do too, at each store of an unfused chain.
ROOM = 16


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
def test_gradient(way: Any, dtype: DType) -> None:
    """NaN, inf, kinks and edges of domains; what the derivatives are there is documented."""
    if not tried(way, dtype):
        pytest.skip(SKIPPED)
    cases = []
    seed, numbers = 2.0, rounded(GENTLE if dtype.itemsize == 2 else FLOATS, dtype)
    for where, layout in layouts_of(way, dtype).items():
        if where == "overlapping":
            continue  # a scatter each: the rows of `as_strided` have it
        leaves = [np.asarray(layout.leaf(array)) for array in pairs(numbers)]
        arrays = [layout.of_array(leaf).astype(np.float64) for leaf in leaves]
        for name, row in ROWS.items():
            if row.slopes is None:
                continue
            tensors = [tensor(leaf, dtype, True) for leaf in leaves[: row.arity]]
            row.tensor(*[layout.view(t) for t in tensors]).backward(sg.full(arrays[0].shape, seed))
            with np.errstate(all="ignore"):
                slopes = row.slopes(*arrays[: row.arity])
            for k, (leaf, t, slope) in enumerate(zip(leaves, tensors, slopes, strict=False)):
                cases.append(_gradient_case(f"{name}/{k} {where}", layout, leaf, t, seed * slope))
    check(cases)


def _gradient_case(label: str, layout: Layout, leaf: Any, t: Tensor, parts: Any) -> Case:
    dtype = t.dtype
    with np.errstate(over="ignore"):
        want = rounded(layout.back(leaf, parts), dtype)
    size = layout.back(leaf, 1 + np.abs(np.where(np.isfinite(parts), parts, 0)))
    room = ROOM * EPS[dtype.name]
    return Case(label, t.grad, want, dtype, rtol=room, atol=room * size + ATOL[dtype.name])


def test_limits_are_exact(way: Any) -> None:
    """What multiplies an inf afterwards must not be almost 0."""
    x = tensor([np.inf, -np.inf, 100.0, -100.0], dtypes.float32)
    assert x.tanh().tolist() == [1, -1, 1, -1]
    assert x.erf().tolist() == [1, -1, 1, -1]
    assert x.sigmoid().tolist()[:3] == [1, 0, 1]
    assert x[1::2].exp().tolist()[0] == 0
