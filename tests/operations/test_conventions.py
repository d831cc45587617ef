"""What the rows of the tables leave out: conventions of single operations, and the meta-test."""

from __future__ import annotations

from typing import Any

import elementwise_rows
import numpy as np
import pytest
import shaped_rows
from checking import ALL_TYPES, INT_TYPES, tensor

import simplegrad as sg
from simplegrad import Tensor, dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.graph.scan import Step, scan
from simplegrad.runtime.numpy_device import rounded
from simplegrad.tensor.core import wrap

ELSEWHERE = {
    "random_bits": "test_random_bits",
    "permute_index": "test_permute_index",
    "box_muller": "test_box_muller",
    "scan": "test_scan",
    "buffer": "every test",
    "scalar": "test_numbers_and_constants",
    "const": "test_numbers_and_constants",
    "iota": "test_numbers_and_constants",
}


def test_every_operation_has_a_row() -> None:
    shaped = {row.op for row in shaped_rows.ROWS}
    assert sorted([*elementwise_rows.ROWS, *shaped, *ELSEWHERE]) == sorted(ops.OPS)
    assert all(n in globals() for n in ELSEWHERE.values() if n.startswith("test"))


def test_every_gradient_has_a_formula() -> None:
    """The rows of other kinds have one by their form: `Shaped.gradient`."""
    with_slopes = {n for n, row in elementwise_rows.ROWS.items() if row.slopes is not None}
    elementwise = ops.of_kind(ops.ELEMENTWISE)
    assert with_slopes == {op.name for op in elementwise if op.differentiable}


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


def test_floats_that_do_not_fit_short_integers_wrap(device: Any) -> None:
    """By way of 32 bits, wherever they stand: vectors and the rest of a loop agree."""
    x = tensor(np.array([300.0, -1.0, -129.5, 70_000.9, 2e9]).repeat(19), dtypes.float32)
    for target in (dtypes.uint8, dtypes.int8, dtypes.uint16, dtypes.int16):
        want = np.array([300, -1, -129, 70_000, 2_000_000_000]).astype(target.numpy).repeat(19)
        np.testing.assert_array_equal((x * 1).cast(target).numpy(), want, err_msg=str(target))


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


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_scan(device: Any, fused: bool, dtype: str) -> None:
    """c = p / 2 + x and the product p, of small integers: exact in every format."""
    if dtype == "float64" and device.kind != "numpy" and not device.limits.fp64:
        pytest.skip("this device has no float64")
    step = Step(1, 1, 1, 1, (("const", "0.5"), ("mul", 0, 3), ("add", 4, 2)), (5, 0), True)
    matrix, x = np.array([[0, 2.0], [2, 0]]), np.arange(12.0).reshape(3, 2, 2) % 5
    nodes = [tensor(a, dtypes.of(dtype))._node for a in (matrix, x[0], x)]
    got = wrap(scan(step, nodes[0], nodes[1:2], nodes[2:]))
    c, want = x[0], [[x[0], 0 * x[0]]]
    for t in (2, 1, 0):
        p = c @ matrix
        c = p / 2 + x[t]
        want.insert(0, [c, p])
    assert got.dtype.name == dtype
    np.testing.assert_array_equal(got.numpy().astype(np.float64), np.stack(want, 1))
