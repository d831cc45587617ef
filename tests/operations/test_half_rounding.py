"""float16 and bfloat16: computed in float32, rounded where a value is stored.

A fused chain stores its result only, an unfused one every step; NumPy's device computes op by op
too. Inputs are such that float32 holds every step exactly, so both can be asked for bit by bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checking import EPS, tensor

import simplegrad as sg
from simplegrad import Tensor, dtypes
from simplegrad.dtypes import DType
from simplegrad.runtime.numpy_device import rounded

HALVES = [dtypes.float16, dtypes.bfloat16]
RNG = np.random.default_rng(2)


def whole(bits: int, *shape: int) -> Any:
    """Return whole numbers of up to so many bits, either sign."""
    return RNG.integers(1, 2**bits, shape) * RNG.choice([-1, 1], shape)


def bits_of(dtype: DType) -> int:
    return 11 if dtype is dtypes.float16 else 8


def both(x: Any, dtype: DType, steps: list[Any]) -> tuple[Any, Any]:
    """Return the last of some steps rounded once, and rounded after each."""
    once, each = x, x
    for step in steps:
        once = step(once)
        each = rounded(step(each), dtype).astype(np.float64)
    return rounded(once, dtype), rounded(each, dtype)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_fused_chain_rounds_once(way: Any, dtype: DType) -> None:
    bits = bits_of(dtype)
    x, y = whole(bits // 2, 40, 7) / 16, whole(bits // 2, 7) * 1.0
    steps = [lambda v: v * y, lambda v: v + x / 8, lambda v: v * 3.0, lambda v: v - y]
    once, each = both(x, dtype, steps)
    assert (once != each).any()  # else nothing is tested
    result, s, t = tensor(x, dtype), tensor(x, dtype), tensor(y, dtype)
    for step in (lambda v: v * t, lambda v: v + s / 8, lambda v: v * 3.0, lambda v: v - t):
        result = step(result)
    fused = way.fused and way.selector != "numpy"
    np.testing.assert_array_equal(result.numpy(), once if fused else each)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_a_tensor_holds_is_rounded(way: Any, dtype: DType) -> None:
    """Reading a value first does not change it, nor the bits that a second kernel starts from."""
    x = whole(8, 50) * 1.0
    t = tensor(x, dtype)
    middle = t * t
    np.testing.assert_array_equal(middle.numpy(), rounded(x * x, dtype))
    after, each = (middle - t).numpy(), rounded(rounded(x * x, dtype).astype(float) - x, dtype)
    np.testing.assert_array_equal(after, each)
    middle = t * t  # stored by the kernel that goes on with it: that goes on with all its bits
    after = middle - t
    sg.realize(middle, after)
    np.testing.assert_array_equal(middle.numpy(), rounded(x * x, dtype))
    fused = way.fused and way.selector != "numpy"
    np.testing.assert_array_equal(after.numpy(), rounded(x * x - x, dtype) if fused else each)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_sums_and_products_add_up_in_float32(way: Any, dtype: DType) -> None:
    """4,099 ones add up to 4,100 or 4,096; in the type itself they would stop at 2,048 or 256."""
    if way.kernels and dtype is dtypes.float16:
        pytest.skip("GPU kernels add up as for bfloat16; their rows of operations load float16")
    ones = np.ones((3, 4099))
    x, y = whole(4, 9, 300) * 1.0, whole(3, 300, 5) * 1.0
    s, t, u = tensor(ones, dtype), tensor(x, dtype), tensor(y, dtype)
    results = {
        "sum": (s.sum(1), ones.sum(1)),
        "sum of columns": (s.T.sum(0), ones.sum(1)),
        "mean": (s.mean(1), ones.mean(1)),
        "cumsum": (s.cumsum(1), ones.cumsum(1)),
        "matmul": (t @ u, x @ y),
        "einsum": (sg.einsum("ij,ij->j", t, t), (x * x).sum(0)),
        "scatter_add": (sg.scatter_add(np.zeros(4099, int), s.T, 1), ones.sum(1)[None]),
    }
    sg.realize(*[got for got, _ in results.values()])
    for name, (got, want) in results.items():
        assert got.dtype is dtype, name
        np.testing.assert_array_equal(got.numpy(), rounded(want, dtype), err_msg=name)


def test_a_fused_chain_passes_the_range(way: Any) -> None:
    """float32 holds what float16 does not: overflow, and underflow, show only where stored."""
    x = tensor([60000.0, -60000.0, 2.0**-20, 0.5], dtypes.float16)
    got = ((x * 4.0) * 0.25).tolist(), ((x * 2.0**-10) * 2.0**10).tolist()
    if way.fused and way.selector != "numpy":
        assert got == (x.tolist(), x.tolist())
    else:
        inf = float("inf")
        assert got == ([inf, -inf, 2.0**-20, 0.5], [60000.0, -60000.0, 0.0, 0.5])


def test_numbers_are_rounded_first(way: Any) -> None:
    """A Python number is one of the tensor's dtype, like an array that it stands for."""
    for dtype in HALVES:
        x = tensor([3.0], dtype)
        want = rounded(np.array([3 * float(rounded(0.1, dtype))]), dtype)
        np.testing.assert_array_equal((x * 0.1).numpy(), want)
        np.testing.assert_array_equal((x * tensor([0.1], dtype)).numpy(), want)


def chain(x: Any) -> Any:
    """Eight steps, each of which passes on an error no greater than it got."""
    return (((x * 0.5).tanh() + x).sin() * 0.75 - 0.25).abs().exp() * 0.25


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_both_stay_within_the_bound(way: Any, dtype: DType) -> None:
    """Fused: half a unit in the last place, and what float32 adds. Unfused: that at each step.

    So the gradient, through as many steps again.
    """
    if way.kernels:
        pytest.skip("GPU kernels round where the others do, which the tests above show")
    x = rounded(np.linspace(-2, 2, 301), dtype)
    with sg.device("numpy"):
        exact = tensor(x, dtypes.float64, True)
        value = chain(exact)
        value.sum().backward()
        want, slope = value.numpy(), exact.grad.numpy()
    t = tensor(x, dtype, True)
    got = chain(t)
    got.sum().backward()
    sg.realize(got, t.grad)
    once = way.fused and way.selector != "numpy"
    half_ulp = EPS[dtype.name]
    room = (1.01 * half_ulp + 1e-6) * np.abs(want) if once else 8 * half_ulp
    assert (np.abs(got.numpy() - want) <= room).all()
    kink = np.abs(np.sin(np.tanh(x / 2.0) + x) * 0.75 - 0.25) < 16 * half_ulp  # of abs
    assert (np.abs(t.grad.numpy() - slope)[~kink] <= 16 * half_ulp).all()


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_gradients_keep_the_dtype(way: Any, dtype: DType) -> None:
    x = Tensor([1.0, 2.0], dtype=dtype)
    (x.cast("float32") * 3 + x.square().cast("float32")).sum().backward()
    assert x.grad.dtype is dtype
    assert x.grad.tolist() == [5, 7]
