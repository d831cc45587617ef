"""Functions made of several operations: value, dtype and shape, with NaN and inf, in every way."""

from __future__ import annotations

from collections.abc import Iterator
from types import FunctionType
from typing import Any

import conftest
import elementwise_rows
import numpy as np
import pytest
from checking import Case, check, tensor
from composite_rows import ROWS, Each, operands, ordinary

import simplegrad as sg
from simplegrad import Tensor, dtypes
from simplegrad.runtime.numpy_device import rounded

NOT_OPERATIONS = {
    # What a tensor is, and ways to its value
    "backward", "compute_along", "cpu", "data", "detach", "device", "dtype", "final", "grad", "item", "nbytes",
    "ndim", "numpy", "realize", "requires_grad", "shape", "size", "to", "to_device", "tolist",
    "zero_grad",
}  # fmt: skip
NOT_COMPUTING = {
    # Creation is tested in tests/tensor/test_creation.py
    "arange", "asarray", "empty", "empty_like", "eye", "from_dlpack", "full", "full_like",
    "linspace", "ones", "ones_like", "zeros", "zeros_like",
    # The rest of the namespace: dtypes, devices, settings, transformations, looking inside
    "broadcast_shapes", "cache_stats", "can_cast", "clear_caches", "default_float", "device",
    "explain", "explain_plan", "finfo", "fusion", "grad", "iinfo", "isdtype", "jit", "memory_stats",
    "no_grad", "realize", "result_type", "set_default_float", "symbolic", "synchronize",
    "value_and_grad",
}  # fmt: skip
NUMBERS = np.array([0.0, -0.0, 1.0, -1.0, 2.5, -2.5, 20.0, -20.0, 80.0, np.nan, np.inf, -np.inf])
EACH: dict[str, Any] = {
    "pairs": elementwise_rows.pairs(NUMBERS)[0],
    "0-d": np.array(-2.5),
    "empty": np.zeros((0, 3)),
}
PLACES = {"nan": [np.nan], "inf": [np.inf], "both": [np.inf, -np.inf, np.nan]}


def covered() -> set[Any]:
    """Return the functions that a row calls: those of primitive operations and composites."""
    names = [*ROWS, *elementwise_rows.ROWS, "sum", "prod", "max", "min", "argmax", "argmin",
             "reshape", "permute", "broadcast_to", "flip", "pad", "as_strided", "einsum", "take",
             "cumsum", "where", "scatter_add", "bitwise_invert", "bitwise_left_shift",
             "bitwise_right_shift"]  # fmt: skip
    owners = (Tensor, sg)
    return {identity(getattr(owner, n)) for n in names for owner in owners if hasattr(owner, n)}


def identity(function: Any) -> Any:
    """Return what a function and its aliases have in common, which differ in their names."""
    code = getattr(function, "__code__", None)
    if code is None:
        return function
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return code.co_code, code.co_consts, code.co_names, *map(id, cells)


def test_every_public_method_has_a_row() -> None:
    public = {n for n in dir(Tensor) if not n.startswith("_")} - NOT_OPERATIONS
    known = covered()
    assert {n for n in public if identity(getattr(Tensor, n)) not in known} == set()


def test_every_public_function_has_a_row() -> None:
    """A function of a method's name is that method."""
    public = {n for n in dir(sg) if not n.startswith("_") and n not in NOT_COMPUTING}
    functions = {n for n in public if isinstance(getattr(sg, n), FunctionType)}
    known = covered()
    alone = {n for n in functions if not hasattr(Tensor, n)}
    assert {n for n in alone if identity(getattr(sg, n)) not in known} == set()


def inputs(each: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield sets of operands, by what they try."""
    if each:
        for label, x in EACH.items():
            yield label, {"x": x, "y": x.T if x.size else x}
        return
    yield "ordinary", ordinary()
    for label, numbers in PLACES.items():
        arrays = ordinary()
        for name in ("x", "cube", "image"):
            flat = arrays[name].reshape(-1)
            flat[1 : 4 * len(numbers) : 4] = numbers
        yield label, arrays


def cases() -> dict[str, list[Case]]:
    """Return the cases by what they try: other numbers run the kernels that are there."""
    found: dict[str, list[Case]] = {}
    for name, rows in ROWS.items():
        for i, row in enumerate(rows):
            for label, arrays in inputs(isinstance(row, Each)):
                arrays = {n: rounded(a, dtypes.float32) if a.dtype.kind == "f" else a
                          for n, a in arrays.items()}  # fmt: skip
                wide = operands(arrays, lambda a: a.astype(float) if a.dtype.kind == "f" else a)
                with np.errstate(all="ignore"):
                    want = np.asarray(row.array(wide))
                got = row.tensor(operands(arrays, lambda a: tensor(a, dtypes.of(a.dtype))))
                found.setdefault(label, []).append(_case(f"{name} {i} {label}", got, want))
    return found


def _case(label: str, got: Tensor, want: Any) -> Case:
    kind = dtypes.float32 if want.dtype.kind == "f" else dtypes.of(want.dtype)
    # Sums of a few dozen numbers of size 10: 1e-6 of their size; composites take several steps.
    return Case(label, got, rounded(want, kind), kind, rtol=1e-5, atol=1e-5)


def test_values(way: Any) -> None:
    if not way.fused and way.selector != conftest.OPENCL[0]:
        pytest.skip("unfused, these are the kernels of single operations, which have rows")
    for some in cases().values():
        check(some)
