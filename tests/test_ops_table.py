"""One row per operation: value, dtype and shape against NumPy, on every device, fused and unfused.

The rows of a dtype are realized together: the suite then compiles a few programs, not thousands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.runtime.numpy_device import rounded

# float32: OpenCL allows 16 ulp for pow and erf, less for the others: 16 * 2**-23 = 1.9e-6.
# float64: 16 ulp likewise, and NumPy's own are good to about 4. The 16-bit types are computed in
# float32 and rounded once, so a result may fall on the other side of a rounding edge: one ulp.
RTOL = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2e-6, "float64": 5e-15}
# Subnormal results may be flushed to zero; float16 ones are rounded to multiples of 2**-24.
ATOL = {"float16": 2**-24, "bfloat16": 1.2e-38, "float32": 1.2e-38, "float64": 2.3e-308}

FLOATS = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -2.5, 1e-3, -3.0, 7.0, 100.0,
     3e4, 0.99, -0.7]
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    tensor: Callable[..., Any]
    numpy: Callable[..., Any]
    exact: bool = False
    """NumPy's algorithm is followed step by step: the reference is computed in the same type."""
    signs: bool = False
    """The sign of a zero result is compared too."""


def _erf(x: Any) -> Any:
    import math

    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _method(name: str, numpy: Callable[..., Any], **more: Any) -> Row:
    return Row(lambda *xs: getattr(xs[0], name)(*xs[1:]), numpy, **more)


ROWS: dict[str, Row] = {
    "neg": _method("neg", np.negative, exact=True, signs=True),
    "abs": _method("abs", np.abs, exact=True, signs=True),
    "sign": _method("sign", np.sign, exact=True),
    "exp": _method("exp", np.exp),
    "exp2": _method("exp2", np.exp2),
    "expm1": _method("expm1", np.expm1),
    "log": _method("log", np.log),
    "log2": _method("log2", np.log2),
    "log1p": _method("log1p", np.log1p),
    "sqrt": _method("sqrt", np.sqrt),
    "rsqrt": _method("rsqrt", lambda x: 1 / np.sqrt(x)),
    "reciprocal": _method("reciprocal", lambda x: 1 / x, signs=True),
    "sin": _method("sin", np.sin),
    "cos": _method("cos", np.cos),
    "tan": _method("tan", np.tan),
    "asin": _method("asin", np.arcsin),
    "acos": _method("acos", np.arccos),
    "atan": _method("atan", np.arctan),
    "sinh": _method("sinh", np.sinh),
    "cosh": _method("cosh", np.cosh),
    "tanh": _method("tanh", np.tanh),
    "asinh": _method("asinh", np.arcsinh),
    "acosh": _method("acosh", np.arccosh),
    "atanh": _method("atanh", np.arctanh),
    "erf": _method("erf", _erf),
    "floor": _method("floor", np.floor, signs=True),
    "ceil": _method("ceil", np.ceil, signs=True),
    "round": _method("round", np.rint, signs=True),
    "trunc": _method("trunc", np.trunc, signs=True),
    "isnan": _method("isnan", np.isnan),
    "isinf": _method("isinf", np.isinf),
    "isfinite": _method("isfinite", np.isfinite),
    "invert": _method("bitwise_invert", np.invert, exact=True),
    "cast": Row(lambda x: x.cast("float32"), lambda x: x.astype(np.float32), exact=True),
    "add": Row(lambda a, b: a + b, np.add, exact=True, signs=True),
    "sub": Row(lambda a, b: a - b, np.subtract, exact=True, signs=True),
    "mul": Row(lambda a, b: a * b, np.multiply, exact=True, signs=True),
    "div": Row(lambda a, b: a / b, np.divide, signs=True),
    "floor_divide": Row(lambda a, b: a // b, np.floor_divide, exact=True, signs=True),
    "remainder": Row(lambda a, b: a % b, np.remainder, exact=True, signs=True),
    "pow": _method("pow", np.power),
    "maximum": _method("maximum", np.maximum, exact=True),
    "minimum": _method("minimum", np.minimum, exact=True),
    "atan2": _method("atan2", np.arctan2),
    "hypot": _method("hypot", np.hypot),
    "equal": _method("equal", np.equal, exact=True),
    "not_equal": _method("not_equal", np.not_equal, exact=True),
    "less": _method("less", np.less, exact=True),
    "less_equal": _method("less_equal", np.less_equal, exact=True),
    "greater": _method("greater", np.greater, exact=True),
    "greater_equal": _method("greater_equal", np.greater_equal, exact=True),
    "bitwise_and": _method("bitwise_and", np.bitwise_and, exact=True),
    "bitwise_or": _method("bitwise_or", np.bitwise_or, exact=True),
    "bitwise_xor": _method("bitwise_xor", np.bitwise_xor, exact=True),
    "shift_left": _method("bitwise_left_shift", np.left_shift, exact=True),
    "shift_right": _method("bitwise_right_shift", np.right_shift, exact=True),
    "where": Row(lambda a, b: sg.where(a > b, a, b), lambda a, b: np.where(a > b, a, b), True),
}
SHAPED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (lambda x: x.sum(1), lambda x: x.sum(1)),
    "prod": (lambda x: x.prod(0), lambda x: x.prod(0)),
    "max": (lambda x: x.max(-1, True), lambda x: x.max(-1, keepdims=True)),
    "min": (lambda x: x.min(), lambda x: x.min()),
    "argmax": (lambda x: x.argmax(1), lambda x: x.argmax(1)),
    "argmin": (lambda x: x.argmin(), lambda x: x.argmin()),
    "reshape": (lambda x: x.reshape(3, -1), lambda x: x.reshape(3, -1)),
    "permute": (lambda x: x.permute(1, 0), lambda x: x.T),
    "expand": (lambda x: x[:1].broadcast_to(3, 6), lambda x: np.broadcast_to(x[:1], (3, 6))),
    "slice": (lambda x: x[::-1, 1:6:3], lambda x: x[::-1, 1:6:3]),
    "pad": (lambda x: x.pad(((1, 0), (0, 2))), lambda x: np.pad(x, ((1, 0), (0, 2)))),
    "as_strided": (
        lambda x: x.as_strided((3, 4), (5, 2)),
        lambda x: np.lib.stride_tricks.as_strided(
            x.copy(), (3, 4), (5 * x.itemsize, 2 * x.itemsize)
        ),
    ),
    "einsum": (lambda x: sg.einsum("ij,kj->ik", x, x), lambda x: np.einsum("ij,kj->ik", x, x)),
    "take": (lambda x: x.take([3, 0, -1, 0], 0), lambda x: x.take([3, 0, -1, 0], 0)),
    "scatter_add": (
        lambda x: sg.scatter_add([2, 0, 2, 1], x, 4),
        lambda x: np.stack([x[1], x[3], x[0] + x[2], 0 * x[0]]),
    ),
    "cumsum": (lambda x: x.cumsum(1), lambda x: x.cumsum(1)),
}
ELSEWHERE = {
    "random_bits": "test_random_bits",
    "permute_index": "test_permute_index",
    "box_muller": "test_box_muller",
    "buffer": "every test",
    "scalar": "test_numbers_and_constants",
    "const": "test_numbers_and_constants",
    "iota": "test_numbers_and_constants",
}


def test_every_operation_has_a_row() -> None:
    rows = [*ROWS, *SHAPED, *ELSEWHERE]
    assert sorted(rows) == sorted(ops.OPS)
    assert all(n in globals() for n in ELSEWHERE.values() if n.startswith("test"))


def tensor(array: Any, dtype: DType) -> Tensor:
    return Tensor(array, dtype=dtype, requires_grad=False)


def rows_for(dtype: DType, arity: int) -> dict[str, Row]:
    kept = {n: r for n, r in ROWS.items() if dtype.kind in ops.OPS[n].kinds}
    return {n: r for n, r in kept.items() if (ops.OPS[n].arity > 1 or n == "where") == (arity > 1)}


def reference(row: Row, dtype: DType, arrays: list[Any]) -> Any:
    """Return the value and the dtype expected."""
    arrays = [rounded(a, dtype) for a in arrays]
    if dtype.is_float:
        wide = np.float64 if not row.exact or dtype is dtypes.float64 else np.float32
        arrays = [a.astype(wide) for a in arrays]
    with np.errstate(all="ignore"):
        value = row.numpy(*arrays)
        if row.tensor is ROWS["cast"].tensor:
            return rounded(value, dtypes.float32), dtypes.float32
        if value.dtype == bool:
            return value, dtypes.bool_
        return rounded(value, dtype), dtype


def compare(name: str, got: Tensor, want: Any, dtype: DType, signs: bool = False) -> str:
    """Return what is wrong, or nothing."""
    if got.shape != want.shape or got.dtype is not dtype:
        return f"{name}: {got.dtype} {got.shape}, not {dtype} {want.shape}"
    value = got.numpy()
    try:
        if not dtype.is_float:
            np.testing.assert_array_equal(value, want)
        else:
            rtol, atol = RTOL[dtype.name], ATOL[dtype.name]
            np.testing.assert_allclose(
                value.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=atol
            )
            if signs:
                zero = (value == 0) & (want == 0)
                np.testing.assert_array_equal(np.signbit(value)[zero], np.signbit(want)[zero])
    except AssertionError as error:
        return f"{name} ({dtype}): {error}"
    return ""


def check_all(rows: dict[str, Row], dtype: DType, operands: Callable[[Any], tuple[Any, Any]]
              ) -> None:  # fmt: skip
    """Realize all rows together and report every wrong one.

    `operands` turns a row's name into (tensors, arrays).
    """
    results, wanted = {}, {}
    for name, row in rows.items():
        tensors, arrays = operands(name)
        results[name] = row.tensor(*tensors)
        wanted[name] = reference(row, dtype, arrays)
    try:
        sg.realize(*results.values())
    except sg.SimplegradError:
        for name, result in results.items():
            try:
                sg.realize(result)
            except sg.SimplegradError as error:
                raise AssertionError(f"{name} ({dtype}) alone: {error}") from error
        raise
    wrong = [compare(n, r, *wanted[n], rows[n].signs) for n, r in results.items()]
    wrong = [text for text in wrong if text]
    assert not wrong, "\n".join(wrong)


def values(dtype: DType) -> Any:
    if dtype.is_float:
        return rounded(FLOATS, dtype)
    if dtype.kind == "b":
        return np.array([True, False])
    numbers = [0, 1, 2, 3, 7, dtype.high, dtype.high - 1, dtype.high // 3, dtype.low]
    if dtype.kind == "i":
        numbers += [-1, -2, -7, dtype.low + 1, dtype.low // 3]
    return np.array(numbers, dtype.numpy)


FLOAT_TYPES = [dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16]
INT_TYPES = [d for d in dtypes.ALL if d.kind in "ui"]
ALL_TYPES = [*FLOAT_TYPES, *INT_TYPES, dtypes.bool_]


def _skip(device: Any, dtype: DType, fused: bool) -> None:
    if dtype is dtypes.float64 and device.name != "numpy" and not device.limits.fp64:
        pytest.skip("this device has no float64")
    if not fused and device.name == "numpy":
        pytest.skip("the NumPy device never fuses")
    if not fused and "pocl" in device.name and dtype is not dtypes.float32:
        pytest.skip("unfused is a kernel an operation: half a second each on PoCL")


@pytest.mark.parametrize("dtype", ALL_TYPES, ids=str)
def test_one_operand(device: Any, fused: bool, dtype: DType) -> None:
    _skip(device, dtype, fused)
    x = values(dtype)
    t = tensor(x, dtype)
    check_all(rows_for(dtype, 1), dtype, lambda _: ((t,), (x,)))


@pytest.mark.parametrize("dtype", ALL_TYPES, ids=str)
def test_two_operands_all_pairs(device: Any, fused: bool, dtype: DType) -> None:
    """All pairs of the values, by broadcasting a column against a row."""
    _skip(device, dtype, fused)
    x = values(dtype)
    # A base is not raised to a negative integer here: NumPy refuses, test_integer_powers has it.
    small = np.abs(x) % dtype.numpy.type(20) if dtype.kind == "i" else x
    small = np.where(small < 0, 0, small).astype(x.dtype)
    column, row, powers = (tensor(a, dtype) for a in (x[:, None], x[None], small[None]))

    def operands(name: str) -> Any:
        if name == "pow":
            return (column, powers), (x[:, None], small[None])
        return (column, row), (x[:, None], x[None])

    check_all(rows_for(dtype, 2), dtype, operands)


LAYOUTS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "contiguous": (lambda x: x, lambda x: x),
    "empty": (lambda x: x[:0], lambda x: x[:0]),
    "zero-dimensional": (lambda x: x[2, 1], lambda x: x[2, 1]),
    "broadcast": (
        lambda x: x[:, :1].broadcast_to(6, 5),
        lambda x: np.broadcast_to(x[:, :1], (6, 5)),
    ),
    "step": (lambda x: x[::2], lambda x: x[::2]),
    "transposed": (lambda x: x.T, lambda x: x.T),
    "flipped": (lambda x: x.flip(), lambda x: x[::-1, ::-1]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.int32], ids=str)
def test_layouts(device: Any, dtype: DType, layout: str) -> None:
    if "pocl" in device.name and layout in ("contiguous", "flipped"):
        pytest.skip("PoCL compiles slowly: contiguous is tested above, steps of -1 by Intel's")
    of_tensor, of_array = LAYOUTS[layout]
    a = np.linspace(0.1, 0.9, 30).reshape(6, 5)
    b = a[::-1] + 0.3
    if dtype is dtypes.int32:
        a, b = (100 * a).astype(np.int32), (10 * b).astype(np.int32)
    a, b = a.astype(dtype.numpy), b.astype(dtype.numpy)
    s, t = tensor(a, dtype), tensor(b, dtype)
    rows = rows_for(dtype, 1) | rows_for(dtype, 2)

    def operands(name: str) -> Any:
        two = name in rows_for(dtype, 2)
        return (
            (of_tensor(s), of_tensor(t))[: 1 + two],
            (np.asarray(of_array(a)), np.asarray(of_array(b)))[: 1 + two],
        )

    check_all(rows, dtype, operands)


@pytest.mark.parametrize("layout", [n for n in LAYOUTS if n not in ("empty", "zero-dimensional")])
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float16, dtypes.int8], ids=str)
def test_shaped(device: Any, fused: bool, dtype: DType, layout: str) -> None:
    """Reductions, views, contraction, gather and scatter; the values are whole, so exact."""
    _skip(device, dtype, fused)
    if not fused and layout != "transposed":
        pytest.skip("unfused, a view is a copy before: one layout will do")
    if "pocl" in device.name and dtype is dtypes.float16:
        pytest.skip("PoCL compiles slowly: the layouts of 16-bit floats are tested elsewhere")
    x = np.random.default_rng(1).integers(-3, 4, (6, 6) if layout != "step" else (8, 6))
    x[x == 0] = 1
    of_tensor, of_array = LAYOUTS[layout]
    if layout == "broadcast":
        of_tensor = lambda x: x[:, :1].broadcast_to(6, 6)  # noqa: E731
        of_array = lambda x: np.broadcast_to(x[:, :1], (6, 6))  # noqa: E731
    array = of_array(x.astype(dtype.numpy))[:4]
    view = of_tensor(tensor(x, dtype))[:4]
    results, wanted = {}, {}
    for name, (of_t, of_n) in SHAPED.items():
        results[name] = of_t(view)
        wide = array.astype(np.float32) if dtype.is_float else array
        kind = results[name].dtype
        wanted[name] = np.asarray(of_n(wide)).astype(kind.numpy)
        if name in ("sum", "prod", "cumsum") and dtype.kind == "i":
            assert kind is dtypes.int64
        elif name.startswith("arg"):
            assert kind is dtypes.int64
        else:
            assert kind is dtype, name
    sg.realize(*results.values())
    for name, result in results.items():
        assert result.shape == wanted[name].shape, name
        np.testing.assert_array_equal(result.numpy(), wanted[name], err_msg=name)


REDUCE_INPUTS = {
    "values": np.array([[1.0, 5.0, -2.0], [7.0, 7.0, -9.0]]),
    "nan": np.array([[1.0, np.nan, 3.0], [np.nan, 0.0, np.nan]]),
    "inf": np.array([[np.inf, 1.0, -np.inf], [-np.inf, -np.inf, -np.inf]]),
    "one": np.array([[4.0]]),
}
REDUCTIONS = ["sum", "prod", "max", "min", "argmax", "argmin", "any", "all", "mean", "var"]


@pytest.mark.parametrize("label", REDUCE_INPUTS)
def test_reductions(device: Any, fused: bool, label: str) -> None:
    _skip(device, dtypes.float32, fused)
    pairs, x = [], REDUCE_INPUTS[label]
    t = tensor(x, dtypes.float32)
    for name in REDUCTIONS:
        for axis in (None, 0, 1):
            with np.errstate(all="ignore"):
                want = getattr(x, name)(axis=axis)
            pairs.append((f"{name} {label} {axis}", getattr(t, name)(axis), want))
    sg.realize(*[t for _, t, _ in pairs])
    for label, got, want in pairs:
        # Six whole numbers: only the division of mean and var rounds.
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-6, err_msg=label)
        assert got.shape == np.shape(want), label


def test_reductions_of_nothing(device: Any) -> None:
    x = tensor(np.zeros((0, 3)), dtypes.float32)
    assert x.sum().item() == 0
    assert x.prod().item() == 1
    assert x.sum(0).tolist() == [0, 0, 0]
    assert x.sum(1).shape == (0,)
    assert x.any().item() is False
    assert x.all().item() is True
    assert x.cumsum(0).shape == (0, 3)
    assert sg.einsum("ij,ij->", x, x).item() == 0
    for name in ("max", "min", "argmax"):
        with pytest.raises(sg.ShapeError):
            getattr(x, name)(0)


@pytest.mark.parametrize("shape", [(1000,), (3, 1025), (1025, 3), (7, 33, 65)], ids=str)
def test_reductions_of_odd_sizes(cl_device: Any, fused: bool, shape: tuple[int, ...]) -> None:
    """Sizes that no strip, vector or work-group divides."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    t = tensor(x, dtypes.float32)
    axes = [None, *range(len(shape))]
    got = [(getattr(t, n)(a), n, a) for n in ("sum", "max", "argmax", "mean") for a in axes]
    sg.realize(*[g for g, *_ in got])
    for result, name, axis in got:
        want = getattr(x.astype(np.float64), name)(axis=axis)
        # Sums of 15,000 normal numbers in float32, added in strips: about 1e-6 of their size.
        np.testing.assert_allclose(
            result.numpy(), want, rtol=1e-5, atol=2e-4 if name == "sum" else 1e-6,
            err_msg=f"{name} {axis}",
        )  # fmt: skip


@pytest.mark.parametrize("dtype", INT_TYPES, ids=str)
def test_integers_wrap(device: Any, dtype: DType) -> None:
    high = tensor([dtype.high] * 5, dtype)
    one = tensor([1] * 5, dtype)
    same = [high + one, high * high, one - high - one - one, (high + one).neg(), high.pow(3)]
    x = np.full(5, dtype.high, dtype.numpy)
    with np.errstate(all="ignore"):
        wanted = [x + x.dtype.type(1), x * x, 1 - x - 1 - 1, -(x + x.dtype.type(1)), x**3]
    sg.realize(*same)
    for got, want in zip(same, wanted, strict=True):
        assert got.dtype is dtype
        np.testing.assert_array_equal(got.numpy(), want.astype(dtype.numpy))


@pytest.mark.parametrize("dtype", [d for d in INT_TYPES if d.kind == "i"], ids=str)
def test_integer_powers_below_zero(device: Any, dtype: DType) -> None:
    base = tensor([-2, -1, -1, 0, 1, 2], dtype)
    power = tensor([-1, -3, -2, -1, -5, -7], dtype)
    assert base.pow(power).tolist() == [0, -1, 1, 0, 1, 0]


def test_division_conventions(device: Any) -> None:
    """The result of // is rounded down and % has the divisor's sign, whatever the signs."""
    for dtype in (dtypes.int32, dtypes.float32):
        a, b = tensor([7, -7, 7, -7], dtype), tensor([2, 2, -2, -2], dtype)
        assert (a // b).tolist() == [3, -4, -4, 3]
        assert (a % b).tolist() == [1, 1, -1, -1]
    zero = tensor([0, 0], dtypes.int32)
    assert (tensor([5, -5], dtypes.int32) // zero).tolist() == [0, 0]
    assert (tensor([5, -5], dtypes.int32) % zero).tolist() == [0, 0]
    quotient = tensor([1, 2], dtypes.int32) / tensor([2, 0], dtypes.int32)
    assert quotient.dtype is dtypes.float32
    assert quotient.tolist() == [0.5, float("inf")]


@pytest.mark.parametrize("target", ALL_TYPES, ids=str)
def test_casts(device: Any, target: DType) -> None:
    """Every pair of dtypes, with values that both can hold (C leaves the others undefined)."""
    results = []
    for source in ALL_TYPES:
        if dtypes.float64 in (source, target) and device.name != "numpy":
            if not device.limits.fp64:
                continue
        low = 0 if "u" in (source.kind, target.kind) else -3
        x = np.array([low, 0, 1, 2.75 if source.is_float else 2, 100])
        if source.kind == "b":
            x = x != 0
        want = rounded(rounded(x.astype(source.numpy), source).astype(target.numpy), target)
        results.append((source, tensor(x, source).cast(target), want))
    sg.realize(*[r for _, r, _ in results])
    for source, got, want in results:
        assert got.dtype is target
        np.testing.assert_array_equal(got.numpy(), want, err_msg=f"{source} to {target}")


def test_casts_to_half_round_to_nearest_even(device: Any) -> None:
    x = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, 2**-25, 1.5 * 2**-24, np.nan])
    t = tensor(x, dtypes.float32)
    half, brain = t.cast("float16").numpy(), t.cast("bfloat16").numpy()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(half, x.astype(np.float32).astype(np.float16))
    np.testing.assert_array_equal(brain, rounded(x, dtypes.bfloat16))


def test_random_bits(device: Any) -> None:
    # Random123's kat_vectors: philox2x32-10 of counter 0 0 and key 0 begins with ff1dae59.
    assert int(ops.RANDOM_BITS.numpy(0, 0, 0)) == 0xFF1DAE59
    got = sg.random.Generator(7).uniform((1000,), device=device).numpy()
    want = sg.random.Generator(7).uniform((1000,), device="numpy").numpy()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_box_muller(device: Any, dtype: str) -> None:
    """Bit for bit the same numbers, and the transform's to a few units in the last place."""
    for scale in ({}, {"mean": 3.0, "std": 0.7}):
        got, want = (
            sg.random.Generator(5).normal((5003,), dtype=dtype, device=d, **scale).numpy()
            for d in (device, "numpy")
        )
        np.testing.assert_array_equal(got, want)
    if dtype in ("float32", "float64"):
        u = np.array([2.0**-24, 0.25, 0.5, np.sqrt(0.5), 0.75, 1 - 2.0**-24, 1.0] * 40, dtype)
        v = np.linspace(0, 1, u.size, endpoint=False).astype(dtype)
        wide, angle = u.astype(np.longdouble), 2 * np.pi * v.astype(np.longdouble)
        exact = np.sqrt(-2 * np.log(wide)) * np.cos(angle)
        eps = np.finfo(dtype).eps
        value = ops.BOX_MULLER.numpy(u, v)
        np.testing.assert_allclose(value, exact.astype(np.float64), rtol=0, atol=16 * eps)


@pytest.mark.parametrize("size", [1, 2, 5, 16, 17, 1000])
def test_permute_index(device: Any, size: int) -> None:
    got = sg.random.Generator(3).permutation(size, device=device).numpy()
    assert sorted(got) == list(range(size))
    want = sg.random.Generator(3).permutation(size, device="numpy").numpy()
    np.testing.assert_array_equal(got, want)


def test_numbers_and_constants(device: Any) -> None:
    x = tensor([1, 2, 3], dtypes.float32)
    assert (x * 0.1).dtype is dtypes.float32
    np.testing.assert_array_equal((x * 0.1).numpy(), np.float32([1, 2, 3]) * np.float32(0.1))
    assert x.relu().tolist() == [1, 2, 3]
    assert sg.arange(4).tolist() == [0, 1, 2, 3]
    assert Tensor(3.5).item() == 3.5
    assert Tensor(2**62).item() == 2**62
    assert (tensor([1], dtypes.uint64) + (2**64 - 2)).item() == 2**64 - 1
    assert (tensor([0], dtypes.int64) + (-(2**63))).item() == -(2**63)
