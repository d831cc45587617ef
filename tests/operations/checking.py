"""How results are compared: many cases realized together, each wrong one named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import simplegrad as sg
from simplegrad import Tensor, dtypes
from simplegrad.dtypes import DType

# float32: OpenCL allows 16 ulp for pow and erf, less for the others: 16 * 2**-23 = 1.9e-6.
# float64: 16 ulp likewise, and NumPy's own are good to about 4. The 16-bit types are computed in
# float32 and rounded once, so a result may fall on the other side of a rounding edge: one ulp.
RTOL = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2e-6, "float64": 5e-15}
# Subnormal results may be flushed to zero; float16 ones are rounded to multiples of 2**-24.
ATOL = {"float16": 2**-24, "bfloat16": 1.2e-38, "float32": 1.2e-38, "float64": 2.3e-308}
EPS = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 2**-24, "float64": 2**-53}
"""Half a unit in the last place of 1."""

FLOAT_TYPES = [dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16]
INT_TYPES = [d for d in dtypes.ALL if d.kind in "ui"]
ALL_TYPES = [*FLOAT_TYPES, *INT_TYPES, dtypes.bool_]


def tensor(array: Any, dtype: DType, requires_grad: bool = False) -> Tensor:
    """Return a leaf that tracks no gradient unless told to."""
    return Tensor(array, dtype=dtype, requires_grad=requires_grad)


@dataclass
class Case:
    """A result and what it should be."""

    label: str
    got: Tensor
    want: Any
    dtype: DType
    signs: bool = False
    """The sign of a zero is compared too."""
    rtol: float | None = None
    atol: Any = None
    """A number, or an array of the result's shape; None: those of the dtype."""

    def fault(self) -> str:
        """Return what is wrong, or nothing."""
        name, got, want = f"{self.label} ({self.dtype})", self.got, np.asarray(self.want)
        if got.shape != want.shape or got.dtype is not self.dtype:
            return f"{name}: {got.dtype} {got.shape}, not {self.dtype} {want.shape}"
        value = got.numpy()
        try:
            if not self.dtype.is_float:
                np.testing.assert_array_equal(value, want)
                return ""
            rtol = RTOL[self.dtype.name] if self.rtol is None else self.rtol
            atol = ATOL[self.dtype.name] if self.atol is None else self.atol
            _close(value.astype(np.float64), want.astype(np.float64), rtol, atol)
            if self.signs:
                zero = (value == 0) & (want == 0)
                np.testing.assert_array_equal(np.signbit(value)[zero], np.signbit(want)[zero])
        except AssertionError as error:
            return f"{name}: {error}"
        return ""


def _close(value: Any, want: Any, rtol: float, atol: Any) -> None:
    """As NumPy's `assert_allclose`, with an `atol` that may differ from element to element."""
    with np.errstate(all="ignore"):
        room = np.broadcast_to(np.nan_to_num(np.asarray(atol, np.float64)), want.shape)
        near = np.abs(value - want) <= room + rtol * np.abs(want)
    same = (value == want) | (np.isnan(value) & np.isnan(want)) | (near & np.isfinite(want))
    if not same.all():
        places = np.argwhere(~same)[:5]
        found = [f"{tuple(map(int, p))}: {value[tuple(p)]!r}, not {want[tuple(p)]!r}"
                 for p in places]  # fmt: skip
        raise AssertionError(f"{(~same).sum()} of {same.size} differ, at " + "; ".join(found))


def check(cases: Sequence[Case]) -> None:
    """Realize all results together and report every wrong one."""
    assert cases
    try:
        sg.realize(*[case.got for case in cases])
    except sg.SimplegradError:
        for case in cases:
            try:
                sg.realize(case.got)
            except sg.SimplegradError as error:
                raise AssertionError(f"{case.label} ({case.dtype}) alone: {error}") from error
        raise
    wrong = [text for text in (case.fault() for case in cases) if text]
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:40])
