"""The Python array API standard, 2025.12: every name of it is here, or absent with a reason.

What is here is called as the standard writes it and compared with NumPy, which conforms.
"""

from __future__ import annotations

import math
import operator
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

STANDARD = """
e inf nan pi newaxis
bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128
arange asarray empty empty_like eye from_dlpack full full_like linspace meshgrid ones ones_like
tril triu zeros zeros_like
astype broadcast_arrays broadcast_shapes broadcast_to can_cast finfo iinfo isdtype result_type
abs acos acosh add asin asinh atan atan2 atanh bitwise_and bitwise_left_shift bitwise_invert
bitwise_or bitwise_right_shift bitwise_xor ceil clip conj copysign cos cosh divide equal exp expm1
floor floor_divide greater greater_equal hypot imag isfinite isinf isnan less less_equal log log1p
log2 log10 logaddexp logical_and logical_not logical_or logical_xor maximum minimum multiply
negative nextafter not_equal positive pow real reciprocal remainder round sign signbit sin sinh
square sqrt subtract tan tanh trunc
take take_along_axis
matmul matrix_transpose tensordot vecdot
concat expand_dims flip moveaxis permute_dims repeat reshape roll squeeze stack tile unstack
argmax argmin count_nonzero nonzero searchsorted where
isin unique_all unique_counts unique_inverse unique_values
argsort sort
cumulative_prod cumulative_sum max mean min prod std sum var
all any diff
__array_namespace_info__ __array_api_version__
""".split()  # noqa: SIM905

METHODS = """
dtype device mT ndim shape size T
__abs__ __add__ __and__ __array_namespace__ __bool__ __complex__ __dlpack__ __dlpack_device__
__eq__ __float__ __floordiv__ __ge__ __getitem__ __gt__ __index__ __int__ __invert__ __le__
__lshift__ __lt__ __matmul__ __mod__ __mul__ __ne__ __neg__ __or__ __pos__ __pow__ __rshift__
__setitem__ __sub__ __truediv__ __xor__ to_device
__radd__ __rsub__ __rmul__ __rtruediv__ __rfloordiv__ __rmod__ __rpow__ __rmatmul__ __rand__
__ror__ __rxor__ __rlshift__ __rrshift__ __iadd__
""".split()  # noqa: SIM905

_COMPLEX = (
    "there are no complex dtypes: OpenCL C has no complex type, and no kernel is built on one"
)
_SORTED = "needs a sort on the device, which is not built; a hidden trip to the host is not offered"
ABSENT = {
    "complex64": _COMPLEX,
    "complex128": _COMPLEX,
    "conj": _COMPLEX,
    "imag": _COMPLEX,
    "real": _COMPLEX,
    "nextafter": "needs the bits of a float as an integer, which no operation of the table gives",
    "sort": _SORTED,
    "argsort": _SORTED,
    "unique_all": _SORTED,
    "unique_counts": _SORTED,
    "unique_inverse": _SORTED,
    "unique_values": _SORTED,
}
ABSENT_METHODS = {
    "__iadd__": "tensors never change in place; Python makes x += y of x = x + y, as intended",
}

F = np.array([[-1.5, 0.25, 2.0], [0.5, -0.75, 0.125]], np.float32)
U = np.array([[0.1, 0.9, 0.5], [0.3, 0.7, 0.2]], np.float32)
ROW = np.array([3.0, -1.0, 0.5], np.float32)
I = np.array([[3, -4, 5], [1, 7, -2]], np.int32)
J = np.array([[2, 3, 1], [1, 2, 4]], np.int32)
B = np.array([[True, False, True], [False, False, True]])
HUGE = np.array([1e30, -np.inf, np.inf, 0.0, -0.0, np.nan], np.float32)
SORTED = np.array([-2.0, 0.5, 0.5, 0.5, 3.0, np.nan], np.float32)


class Data:
    """The operands, as arrays of a namespace."""

    def __init__(self, xp: Any) -> None:
        for name in ("F", "U", "ROW", "I", "J", "B", "HUGE", "SORTED"):
            setattr(self, name.lower(), xp.asarray(globals()[name]))


Call = Callable[[Any, Any], Any]


def _elementwise() -> dict[str, Call]:
    calls: dict[str, Call] = {}
    for (
        name
    ) in """abs acos asin atan atanh ceil cos cosh exp expm1 floor isfinite isinf isnan negative
                   positive round sign signbit sin sinh square tan tanh trunc asinh log1p reciprocal
                   sqrt log log2 log10""".split():  # noqa: SIM905
        calls[name] = lambda xp, d, n=name: getattr(xp, n)(d.u)
    calls["acosh"] = lambda xp, d: xp.acosh(d.u + 1)
    for (
        name
    ) in """add subtract multiply divide maximum minimum equal not_equal less less_equal greater
                   greater_equal hypot atan2 copysign logaddexp remainder floor_divide""".split():  # noqa: SIM905
        calls[name] = lambda xp, d, n=name: getattr(xp, n)(d.f, d.row)
    for name in "bitwise_and bitwise_or bitwise_xor".split():  # noqa: SIM905
        calls[name] = lambda xp, d, n=name: getattr(xp, n)(d.i, d.j)
    for name in "logical_and logical_or logical_xor".split():  # noqa: SIM905
        calls[name] = lambda xp, d, n=name: getattr(xp, n)(d.b, ~d.b)
    return calls


CALLS: dict[str, Call] = _elementwise() | {
    "arange": lambda xp, d: [xp.arange(5), xp.arange(1, 7, 2, dtype=xp.int16), xp.arange(5, 1, step=-2)],
    "asarray": lambda xp, d: [xp.asarray([1, 2], dtype=xp.float64), xp.asarray(d.f, copy=True)],
    "empty": lambda xp, d: xp.empty((2, 3), dtype=xp.int8) * 0,
    "empty_like": lambda xp, d: xp.zeros_like(xp.empty_like(d.i, dtype=xp.float32)),
    "eye": lambda xp, d: [xp.eye(3, dtype=xp.int8), xp.eye(2, 4, k=-1, dtype=xp.float64)],
    "from_dlpack": lambda xp, d: [xp.from_dlpack(F), xp.from_dlpack(F, copy=True)],
    "full": lambda xp, d: [xp.full((2,), 7), xp.full(3, True), xp.full((), 2.5, dtype=xp.float32)],
    "full_like": lambda xp, d: xp.full_like(d.i, 3, dtype=xp.uint8),
    "linspace": lambda xp, d: [
        xp.linspace(0, 1, 5, dtype=xp.float64), xp.linspace(1, 2, num=4, endpoint=False, dtype=xp.float32)
    ],
    "meshgrid": lambda xp, d: [
        *xp.meshgrid(d.row, d.i[0, :]), *xp.meshgrid(d.row, d.i[0, :2], indexing="ij")
    ],
    "ones": lambda xp, d: xp.ones((2, 0, 1), dtype=xp.int64),
    "ones_like": lambda xp, d: xp.ones_like(d.b),
    "tril": lambda xp, d: [xp.tril(d.f), xp.tril(d.i, k=1)],
    "triu": lambda xp, d: [xp.triu(d.f), xp.triu(d.i, k=-1)],
    "zeros": lambda xp, d: xp.zeros(3, dtype=xp.bool),
    "zeros_like": lambda xp, d: xp.zeros_like(d.f, dtype=xp.uint16),
    "astype": lambda xp, d: [xp.astype(d.f, xp.int32), xp.astype(d.b, xp.float64, copy=False)],
    "broadcast_arrays": lambda xp, d: xp.broadcast_arrays(d.f, d.row),
    "broadcast_shapes": lambda xp, d: list(xp.broadcast_shapes((3, 1), (1, 4), (2, 1, 1))),
    "broadcast_to": lambda xp, d: xp.broadcast_to(d.row, (2, 3)),
    "can_cast": lambda xp, d: [
        xp.can_cast(xp.int8, xp.int16), xp.can_cast(d.f, xp.float64), xp.can_cast(xp.int64, xp.int8)
    ],
    "finfo": lambda xp, d: [
        [float(v) for v in (f.bits, f.eps, f.max, f.min, f.smallest_normal)]
        for f in (xp.finfo(xp.float32), xp.finfo(xp.float64))
    ],
    "iinfo": lambda xp, d: [[f.bits, f.max, f.min] for f in (xp.iinfo(xp.uint8), xp.iinfo(xp.int32))],
    "isdtype": lambda xp, d: [
        xp.isdtype(xp.float32, "real floating"), xp.isdtype(xp.int8, ("bool", "unsigned integer")),
        xp.isdtype(xp.bool, xp.bool), xp.isdtype(xp.float64, "complex floating"),
    ],
    "result_type": lambda xp, d: [
        str(np.dtype(t.name)) for t in (
            xp.result_type(xp.int8, xp.uint8), xp.result_type(d.f, xp.float64), xp.result_type(d.i, 3)
        )
    ],
    "bitwise_left_shift": lambda xp, d: xp.bitwise_left_shift(d.i, d.j),
    "bitwise_right_shift": lambda xp, d: xp.bitwise_right_shift(d.i, d.j),
    "bitwise_invert": lambda xp, d: [xp.bitwise_invert(d.i), xp.bitwise_invert(d.b)],
    "clip": lambda xp, d: [xp.clip(d.f, -1, 1), xp.clip(d.i, min=0), xp.clip(d.f, max=d.row)],
    "logical_not": lambda xp, d: xp.logical_not(d.b),
    "pow": lambda xp, d: [xp.pow(d.u, d.row), xp.pow(d.i, d.j), xp.pow(d.f, 2), xp.pow(2.0, d.f)],
    "take": lambda xp, d: xp.take(d.f, xp.asarray([2, 0]), axis=1),
    "take_along_axis": lambda xp, d: xp.take_along_axis(d.f, xp.asarray([[2, 0], [1, 1]]), axis=1),
    "matmul": lambda xp, d: [xp.matmul(d.f, d.row), d.i @ d.j.T],
    "matrix_transpose": lambda xp, d: xp.matrix_transpose(d.f),
    "tensordot": lambda xp, d: [xp.tensordot(d.f, d.u.T, axes=1), xp.tensordot(d.f, d.u, axes=((0,), (0,)))],
    "vecdot": lambda xp, d: [xp.vecdot(d.f, d.u), xp.vecdot(d.f, d.u, axis=-1)],
    "concat": lambda xp, d: [xp.concat([d.f, d.u]), xp.concat([d.f, d.u], axis=None), xp.concat((d.i, d.j), axis=1)],
    "expand_dims": lambda xp, d: xp.expand_dims(d.f, axis=-2),
    "flip": lambda xp, d: [xp.flip(d.f), xp.flip(d.f, axis=1)],
    "moveaxis": lambda xp, d: xp.moveaxis(d.f, 0, -1),
    "permute_dims": lambda xp, d: xp.permute_dims(d.f, (1, 0)),
    "repeat": lambda xp, d: [xp.repeat(d.row, 2), xp.repeat(d.f, xp.asarray([1, 0, 2]), axis=1)],
    "reshape": lambda xp, d: [xp.reshape(d.f, (3, -1)), xp.reshape(d.f, (6,), copy=True)],
    "roll": lambda xp, d: [xp.roll(d.f, 1), xp.roll(d.f, (1, -1), axis=(0, 1))],
    "squeeze": lambda xp, d: xp.squeeze(d.f[None, :, :], axis=0),
    "stack": lambda xp, d: xp.stack([d.f, d.u], axis=1),
    "tile": lambda xp, d: xp.tile(d.row, (2, 2)),
    "unstack": lambda xp, d: list(xp.unstack(d.f, axis=1)),
    "argmax": lambda xp, d: [xp.argmax(d.f), xp.argmax(d.f, axis=1, keepdims=True)],
    "argmin": lambda xp, d: [xp.argmin(d.f), xp.argmin(d.f, axis=0)],
    "count_nonzero": lambda xp, d: [xp.count_nonzero(d.b), xp.count_nonzero(d.i, axis=0, keepdims=True)],
    "nonzero": lambda xp, d: list(xp.nonzero(d.b)),
    "searchsorted": lambda xp, d: [
        xp.searchsorted(d.sorted, d.f), xp.searchsorted(d.sorted, d.sorted, side="right"),
        xp.searchsorted(d.sorted, d.sorted), xp.searchsorted(d.row, d.u, sorter=xp.asarray([1, 2, 0])),
    ],
    "where": lambda xp, d: [xp.where(d.b, d.f, d.u), xp.where(d.b, d.f, 1.0)],
    "isin": lambda xp, d: [xp.isin(d.i, d.j), xp.isin(d.i, d.j, invert=True), xp.isin(d.i, 7)],
    "cumulative_prod": lambda xp, d: [
        xp.cumulative_prod(d.row), xp.cumulative_prod(d.i, axis=1, include_initial=True),
        xp.cumulative_prod(xp.linspace(0.9, 1.1, 300, dtype=xp.float64)),
        xp.cumulative_prod(d.i, axis=0, dtype=xp.float64),
    ],
    "cumulative_sum": lambda xp, d: [
        xp.cumulative_sum(d.row), xp.cumulative_sum(d.i, axis=1, include_initial=True)
    ],
    "max": lambda xp, d: [xp.max(d.f), xp.max(d.i, axis=(0, 1), keepdims=True)],
    "mean": lambda xp, d: [xp.mean(d.f), xp.mean(d.f, axis=0, keepdims=True)],
    "min": lambda xp, d: [xp.min(d.f), xp.min(d.i, axis=1)],
    "prod": lambda xp, d: [xp.prod(d.f), xp.prod(d.i, axis=0, dtype=xp.int32)],
    "std": lambda xp, d: [xp.std(d.f), xp.std(d.f, axis=1, correction=1.0)],
    "sum": lambda xp, d: [xp.sum(d.f), xp.sum(d.i, axis=1), xp.sum(d.i, axis=0, dtype=xp.float64)],
    "var": lambda xp, d: [xp.var(d.f), xp.var(d.f, axis=0, correction=1)],
    "all": lambda xp, d: [xp.all(d.b), xp.all(d.i, axis=1, keepdims=True)],
    "any": lambda xp, d: [xp.any(d.b), xp.any(d.b, axis=(0,))],
    "diff": lambda xp, d: [
        xp.diff(d.row), xp.diff(d.f, axis=0), xp.diff(d.f, n=2),
        xp.diff(d.f, prepend=d.u[:, :1], append=d.u),
    ],
}  # fmt: skip

CONSTANTS = ("e", "inf", "nan", "pi", "newaxis")
DTYPES = """
bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64
""".split()  # noqa: SIM905


@pytest.fixture(params=["numpy", "opencl"])
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The reference and the best OpenCL device: drivers are compared by the tests of operations."""
    try:
        with sg.device(request.param) as found:
            yield found
    except sg.DriverNotFound:
        pytest.skip("no OpenCL device here; pip install '.[cpu]'")


def _flat(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def test_every_name_is_here_or_has_a_reason() -> None:
    missing = {n for n in STANDARD if not hasattr(sg, n)}
    assert missing == set(ABSENT)
    assert {n for n in METHODS if not hasattr(Tensor, n)} == set(ABSENT_METHODS)
    assert all(len(reason) > 20 for reason in [*ABSENT.values(), *ABSENT_METHODS.values()])
    called = {*CALLS, *CONSTANTS, *DTYPES, *ABSENT}
    assert called == {n for n in STANDARD if not n.startswith("__")}


def test_the_list_is_the_standards() -> None:
    strict = pytest.importorskip("array_api_strict", reason="the reference implementation")
    ours = {"Device", "ArrayAPIStrictFlags", "fft", "linalg"}
    names = {n for n in strict.__all__ if n not in ours and not n.endswith("_flags")}
    assert {n for n in names if not n.startswith("_")} == {
        n for n in STANDARD if not n.startswith("_")
    }
    assert strict.__array_api_version__ == sg.__array_api_version__


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str, device: Any) -> None:
    call = CALLS[name]
    got, want = _flat(call(sg, Data(sg))), _flat(call(np, Data(np)))
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        assert isinstance(one, Tensor) == isinstance(other, (np.ndarray, np.generic)), (one, other)
        if not isinstance(one, Tensor):
            assert one == other
            continue
        host = one.numpy()
        assert host.shape == other.shape
        assert host.dtype == other.dtype, (host.dtype, other.dtype)
        np.testing.assert_allclose(host, other, rtol=3e-6, atol=1e-6)


def test_edges_of_the_new_functions(device: Any) -> None:
    huge = sg.asarray(HUGE)
    with np.errstate(all="ignore"):
        for a, b in ((HUGE, HUGE), (HUGE, HUGE[::-1].copy()), (HUGE, np.float32(0))):
            got = sg.logaddexp(sg.asarray(a), sg.asarray(b)).numpy()
            np.testing.assert_allclose(got, np.logaddexp(a, b), rtol=1e-6)
            got = sg.copysign(sg.asarray(a), sg.asarray(b)).numpy()[:-1]
            np.testing.assert_array_equal(np.signbit(got), np.signbit(np.copysign(a, b))[:-1])
    np.testing.assert_array_equal(sg.log10(sg.asarray([0.0, -1.0])).numpy(), [-np.inf, np.nan])
    assert sg.searchsorted(sg.zeros(0), huge).tolist() == [0] * 6
    assert sg.searchsorted(sg.asarray([1]), 5).item() == 1
    assert sg.isin(huge, sg.zeros(0)).tolist() == [False] * 6
    for bad in (
        lambda: sg.searchsorted(F, 1.0),
        lambda: sg.searchsorted(ROW, 1.0, side="middle"),
        lambda: sg.cumulative_prod(F),
        lambda: sg.broadcast_shapes((2,), (3,)),
    ):
        with pytest.raises(sg.ShapeError):
            bad()


def test_gradients_of_the_new_functions(device: Any) -> None:
    for fn in (
        lambda x: sg.cumulative_prod(x, axis=0).sum(),
        lambda x: sg.logaddexp(x, x * 2 - 0.3).sum(),
        lambda x: sg.copysign(x, sg.asarray([-1.0, 1.0, -1.0])).sum(),
        lambda x: sg.log10(x).sum(),
    ):
        with sg.device("numpy"):
            x = np.array([0.5, 1.25, 2.0])
            step = 1e-5
            want = [
                float(fn(sg.asarray(x + d)) - fn(sg.asarray(x - d))) / (2 * step)
                for d in np.eye(3) * step
            ]
        leaf = Tensor(x)
        fn(leaf).backward()
        np.testing.assert_allclose(leaf.grad.numpy(), want, rtol=1e-4)
    zero = Tensor([2.0, 0.0, 3.0])
    sg.cumulative_prod(zero).sum().backward()
    assert zero.grad.tolist() == [1.0, 8.0, 0.0]


def test_constants_and_dtypes() -> None:
    assert (sg.e, sg.pi, sg.inf, sg.newaxis) == (math.e, math.pi, math.inf, None)
    assert math.isnan(sg.nan)
    for name in DTYPES:
        assert sg.zeros(1, dtype=getattr(sg, name)).dtype is getattr(sg, name)


def test_promotion_is_the_standards() -> None:
    """Within a kind, and mixed signed and unsigned; what the standard leaves open may be anything."""
    numbers = [n for n in DTYPES if n != "bool"]
    for a in numbers:
        for b in numbers:
            if ("float" in a) != ("float" in b) or ({"uint64"} < {a, b} and "u" not in min(a, b)):
                continue
            want = np.result_type(np.dtype(a), np.dtype(b)).name
            if "float" in a or "float" not in want:
                assert sg.result_type(getattr(sg, a), getattr(sg, b)).name == want, (a, b)


def test_operators() -> None:
    with sg.device("numpy"):
        ours, theirs = Data(sg), Data(np)
        for op in (
            operator.add, operator.sub, operator.mul, operator.truediv, operator.lt, operator.ge,
            operator.eq, operator.ne, operator.floordiv, operator.mod,
        ):  # fmt: skip
            for b in (2.0, "row"):
                got = op(ours.f, ours.row if b == "row" else b)
                want = op(theirs.f, theirs.row if b == "row" else b)
                np.testing.assert_allclose(got.numpy(), want, rtol=1e-6)
                assert got.numpy().dtype == want.dtype


def test_namespace(device: Any) -> None:
    x = sg.ones(3)
    assert x.__array_namespace__() is sg
    info = sg.__array_namespace_info__()
    assert info.default_device() is device
    assert "numpy" in info.devices()
    assert info.default_dtypes()["integral"] is sg.int64
    assert list(info.dtypes(kind="signed integer")) == ["int8", "int16", "int32", "int64"]
    assert set(info.dtypes()) == set(DTYPES)
    assert set(info.dtypes(kind=("bool", "real floating"))) == {"bool", "float32", "float64"}
    assert info.capabilities()["boolean indexing"] is True
    assert sg.ones(2, device=info.default_device()).device is device


def test_functions_travel_to_other_processes() -> None:
    functions = [f for n in sg.__all__ if n != "devices" and callable(f := getattr(sg, n))]
    assert all(pickle.loads(pickle.dumps(f)) is f for f in functions)
