"""Shapes that vary: what is compiled, how often, and that the results are right."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Adam, Tensor, settings
from simplegrad.compiler import generic
from simplegrad.compiler.ir.kernel import Kernel
from simplegrad.compiler.ir.symbolic import (
    Trace,
    ceil_div,
    common_divisor,
    estimate,
    evaluate,
    function,
    greater,
    less,
    lesser,
    quotient,
    source,
    symbol,
    symbolic,
)
from simplegrad.compiler.templates.template import Holes
from simplegrad.errors import BuildError, VerifyError
from simplegrad.runtime import lookup
from simplegrad.runtime.program_cache import counters

RNG = np.random.default_rng(5)
SIZES = (40, 37, 91, 8, 64, 300, 2)


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    """No structure seen before, and every program that is built is counted."""
    lookup._plans.clear()
    lookup._families.clear()
    with settings.override(cache=False):
        yield


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def places(high: int, n: int) -> Any:
    return RNG.integers(0, high, n)


def gradients(function: Callable[..., Tensor], *arrays: Any) -> list[Tensor]:
    tensors = [Tensor(a) for a in arrays]
    result = function(*tensors)
    (result * result).sum().backward()
    return [result, *[t.grad for t in tensors if t.requires_grad]]


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (sg.einsum("bqd,bkd->bqk", q, k) * 0.2).softmax() @ v


CASES: dict[str, tuple[Callable[[int], tuple[Any, ...]], Callable[..., list[Tensor]]]] = {
    "chain": (lambda n: (floats(n, 7), floats(7)), lambda x, y: [(x * 2 + y).relu() * x]),
    "rows": (lambda n: (floats(n, 33),), lambda x: [x.sum(1), x.argmax(1)]),
    "long rows": (lambda n: (floats(33, n),), lambda x: [x.sum(1), x.argmax(1)]),
    "columns": (lambda n: (floats(n, 300),), lambda x: [x.mean(0), x.max(0)]),
    "all": (lambda n: (floats(n, 300),), lambda x: [x.mean()]),
    "softmax": (lambda n: (floats(20, n),), lambda x: [x.softmax()]),
    "layer_norm": (lambda n: (floats(n, 96),), lambda x: [x.layer_norm()]),
    "matmul m": (lambda n: (floats(n, 64), floats(64, 70)), lambda x, w: [(x @ w).relu()]),
    "matmul n": (lambda n: (floats(64, 65), floats(65, n)), lambda x, w: [(x @ w).relu()]),
    "matmul k": (lambda n: (floats(64, n), floats(n, 70)), lambda x, w: [(x @ w).relu()]),
    "dot": (lambda n: (floats(n, 600), floats(3, 600)), lambda x, w: [x @ w.T]),
    "outer": (lambda n: (floats(n, 3), floats(300, 3)), lambda x, w: [x @ w.T]),
    "strip": (lambda n: (floats(3, 90), floats(90, n * 4)), lambda x, w: [x @ w]),
    "attention": (
        lambda n: tuple(floats(2, n + 16, 32) for _ in range(3)),
        lambda q, k, v: [attention(q, k, v)],
    ),
    "gather": (lambda n: (floats(n, 16), places(2, n)), lambda x, i: [x[i] * 2]),
    "scatter": (
        lambda n: (floats(50, 16), places(50, n)),
        lambda x, i: gradients(lambda t: t[i], x.numpy()),
    ),
    "transpose": (lambda n: (floats(n, 530),), lambda x: [-x.T]),
    "conv2d": (lambda n: (floats(n, 3, 9, 9), floats(4, 3, 3, 3)), lambda x, w: [x.conv2d(w)]),
    "tril": (lambda n: (floats(n, n),), lambda x: [sg.tril(x) * 2]),
    "reshape": (
        lambda n: (floats(3, n, 32),),
        lambda x: [(x.reshape(3, x.shape[1], 4, 8).transpose(0, 2, 1, 3) * 2).softmax()],
    ),
    "pad": (lambda n: (floats(n, 6),), lambda x: [x.pad(((1, 2), (0, 3))) + 1]),
    "two axes": (lambda n: (floats(n // 2 + 1, n, 9),), lambda x: [x.sum(2) * 2]),
}


def run(case: str, arrays: tuple[Any, ...]) -> list[Any]:
    return [t.numpy() for t in CASES[case][1](*[Tensor(a) for a in arrays])]


def families() -> list[generic.Family]:
    return list(lookup._families.values())


def check(case: str) -> None:
    compiled = []
    for n in SIZES:
        arrays = CASES[case][0](n)
        before = counters.compiles
        got = run(case, arrays)
        compiled.append(counters.compiles - before)
        with sg.device("numpy"):
            wanted = run(case, arrays)
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-3, err_msg=f"{case} of {n}")
    assert not any(compiled[2:]), compiled
    assert [f.failures for f in families()] == [0] * len(families())


@pytest.mark.parametrize("case", CASES)
def test_the_third_shape_compiles_nothing(one_cl_device: Any, case: str) -> None:
    check(case)


@pytest.mark.parametrize("case", ["rows", "columns", "softmax", "matmul m", "transpose", "gather"])
def test_the_third_shape_compiles_nothing_on_gpus(one_cl_device: Any, case: str) -> None:
    with settings.override(kernels="gpu"):
        check(case)


@pytest.mark.parametrize("case", ["chain", "softmax", "matmul k", "transpose", "conv2d"])
def test_a_shape_that_is_not_compiled_in_gives_the_same_bits(one_cl_device: Any, case: str) -> None:
    first, second, third = (CASES[case][0](n) for n in (40, 37, 91))
    run(case, first)
    run(case, second)
    got = run(case, third)
    (family,) = families()
    assert len(family.programs) == 1
    lookup._plans.clear()
    lookup._families.clear()
    wanted = run(case, third)
    assert not families()[0].programs
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_hundreds_of_batch_sizes_of_a_training_step(one_cl_device: Any) -> None:
    params = [Tensor(floats(*s) * 0.1) for s in ((20, 32), (32,), (32, 5))]
    optimizer = Adam(params)

    def step(n: int) -> Tensor:
        w, b, v = params
        out = (Tensor(floats(n, 20)) @ w + b).relu() @ v
        loss = out.logsoftmax().sum(axis=1).mean() * -1
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    for n in (64, 64, 50, 50):  # the first step also makes the moments
        step(n).numpy()
    with sg.Profile() as profile:
        for n in range(2, 302):
            assert np.isfinite(step(n).item())
    assert profile.compiles == 0


def test_shapes_in_turns_share_kernels(one_cl_device: Any) -> None:
    x = floats(90, 11)
    for n in (90, 50, 20, 70, 20, 70, 90, 50, 20):
        got = (Tensor(x[:n]) * 2).sum(axis=0).numpy()
        np.testing.assert_allclose(got, x[:n].sum(axis=0) * 2, rtol=1e-5, atol=1e-4)


def test_what_never_varied_is_a_constant(one_cl_device: Any) -> None:
    for n in (30, 40):
        sg.realize(Tensor(floats(n, 78)).exp().sum(axis=1))
    (family,) = families()
    (launch,) = family.programs[0].program.launches
    assert "* 78" in launch.source.text
    assert "<= 78" in launch.source.text
    assert "40" not in launch.source.text.partition("__kernel")[2]


def test_an_axis_that_varies_later_gets_another_program(one_cl_device: Any) -> None:
    for shape in ((30, 77), (40, 77), (40, 50), (31, 51), (90, 12)):
        x = floats(*shape)
        np.testing.assert_allclose(Tensor(x).sum(1).numpy(), x.sum(1), rtol=1e-4, atol=1e-4)
    (family,) = families()
    assert [len(p.bases) for p in family.programs] == [1, 2]


def test_extents_equal_by_chance_are_no_relation(one_cl_device: Any) -> None:
    for m, n in ((30, 30), (40, 40), (50, 60), (60, 50)):
        x, y = floats(m, 8), floats(n, 8)
        got = (Tensor(x).sum(0) + Tensor(y).sum(0)).numpy()
        np.testing.assert_allclose(got, x.sum(0) + y.sum(0), rtol=1e-4, atol=1e-4)


def test_far_longer_than_what_a_program_was_made_for(one_cl_device: Any) -> None:
    for n in (5, 6, 64 * 64 + 1, 200_000):
        x = floats(n)
        np.testing.assert_allclose((Tensor(x) * 2).sum().numpy(), 2 * x.sum(), rtol=1e-3, atol=1)
    (family,) = families()
    assert len(family.programs) == 2


def test_one_is_structure(one_cl_device: Any) -> None:
    for n in (9, 8, 1, 7):
        x = floats(n, 12)
        np.testing.assert_allclose(Tensor(x).softmax(0).numpy().sum(0), np.ones(12), rtol=1e-5)
    assert len(families()) == 2


def test_a_failure_falls_back(one_cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("unforeseen")

    monkeypatch.setattr(generic, "_compiled", fails)
    for n in (9, 8):
        x = floats(n, 12)
        with settings.override(verify=False):
            np.testing.assert_allclose(Tensor(x).sum(0).numpy(), x.sum(0), rtol=1e-5, atol=1e-5)
    with pytest.raises(KeyError):  # tests must see it
        Tensor(floats(7, 12)).sum(0).numpy()


def test_what_the_driver_refuses_falls_back(
    one_cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_all = one_cl_device.compile_all

    def refuses(sources: Any) -> Any:
        if any("size0" in source.text for source in sources):
            raise BuildError("refused")
        return compile_all(sources)

    monkeypatch.setattr(one_cl_device, "compile_all", refuses)
    with settings.override(verify=False):
        for n in (9, 8, 7):
            x = floats(n, 13)
            np.testing.assert_allclose(Tensor(x).sum(0).numpy(), x.sum(0), rtol=1e-5, atol=1e-5)
    assert not families()[0].programs


def test_what_a_template_must_know_is_no_parameter(trace: Trace) -> None:
    holes = Holes(Kernel("k_none", (), (), (), (), ()), {}, 1, "gpu")
    assert "SPLIT_K 2" in holes.program("einsum_gpu", {"SPLIT_K": 2})
    with pytest.raises(VerifyError, match=r"must know SPLIT_K, which is s0"):
        holes.program("einsum_gpu", {"SPLIT_K": symbol(0)})


# The arithmetic of numbers that stand for any -----------------------------------------------------

LIMITS = (50, 30)


@pytest.fixture
def trace() -> Iterator[Trace]:
    with Trace((7, 5), (20, 9), LIMITS) as found:
        yield found


def expressions() -> list[int]:
    a, b = symbol(0), symbol(1)
    basic = [a, b, 3, a * 4, a * b * 6, a * 3 + 5, a * -2 + b, ceil_div(a, 4), a % 5, a - 2]
    return [*basic, lesser(a, b), greater(a, b * 2), a * b - a, (a * 6 + b) // 3, 100 // b]


def values(n: int) -> list[int]:
    points = itertools.product(range(2, LIMITS[0] + 1, 3), range(2, LIMITS[1] + 1, 3))
    return [evaluate(n, p) for p in points]


def test_arithmetic(trace: Trace) -> None:
    for x, y in itertools.product(expressions(), repeat=2):
        pairs = list(zip(values(x), values(y), strict=True))
        assert values(x + y) == [p + q for p, q in pairs]
        assert values(x - y) == [p - q for p, q in pairs]
        assert values(x * y) == [p * q for p, q in pairs]
        assert values(lesser(x, y)) == [min(p) for p in pairs]
        assert values(greater(x, y)) == [max(p) for p in pairs]
        if min(values(y)) > 0:
            assert values(x // y) == [p // q for p, q in pairs]
            assert values(x % y) == [p % q for p, q in pairs]
            assert values(ceil_div(x, y)) == [-(-p // q) for p, q in pairs]
            whole, rest = quotient(x, y)
            assert values(y * whole + rest) == values(x)
    assert not trace.guards


def test_text_gives_the_same_values(trace: Trace) -> None:
    made = function(2, [source(n) for n in expressions()])
    for point in ((2, 2), (50, 30), (13, 17)):
        assert made(*point) == tuple(evaluate(n, point) for n in expressions())


def test_what_is_shown_less_is_less(trace: Trace) -> None:
    shown = 0
    for x, y in itertools.product(expressions(), repeat=2):
        if less(x, y):
            shown += 1
            assert all(p < q for p, q in zip(values(x), values(y), strict=True))
    assert shown > 20
    a, b = symbol(0), symbol(1)
    assert less(a * 5 - 1, a * 5)
    assert less((a - 1) * b + b - 1, a * b)
    assert less(a, 51)
    assert not less(a, 50)


def test_common_divisors_divide(trace: Trace) -> None:
    a, b = symbol(0), symbol(1)
    assert common_divisor(a * b * 6, a * 4) == a * 2
    assert common_divisor((a + 1) * 3, a + 1) == a + 1
    assert common_divisor(a, 7) == 1
    for x, y in itertools.product(expressions(), repeat=2):
        divisor = values(common_divisor(x, y))
        assert not any(p % d for p, d in zip(values(x), divisor, strict=True))
        assert not any(p % d for p, d in zip(values(y), divisor, strict=True))


def test_comparisons_leave_guards(trace: Trace) -> None:
    a, b = symbol(0), symbol(1)
    assert a > b
    assert not a * b > 40
    assert list(trace.guards) == ["(s0 + -1*s1) > 0", "(s0*s1 + -40) <= 0"]
    assert a >= 2
    assert a < 51
    assert a != b + 2  # equal in the example: that is chance
    assert a == b + a - b
    assert len(trace.guards) == 2
    assert list(range(b)) == [0, 1, 2, 3, 4]
    assert list(trace.guards)[-1] == "s1 == 5"
    assert estimate(a * 2) == 40
    assert not symbolic(a - a)


def test_numbers_do_not_leave_their_trace() -> None:
    with pytest.raises(VerifyError, match="left its trace"):
        str(symbol(0))


def test_relations_between_numbers() -> None:
    samples = [(128, 7, 512, 100, 127, 64), (96, 7, 384, 75, 95, 48)]
    found, bases = generic._relations(samples, lines=True)
    s, t, u = symbol(0), symbol(1), symbol(2)
    assert bases == [5, 3, 4]
    assert found == [s * 2, 7, s * 8, t, u, s]
    with pytest.raises(generic._NoFit):
        generic._relations([(5, -3), (5, -4)], lines=True)
    on_a_line = [(a, 2 * a + 3) for a in (4, 7, 9)]
    assert generic._relations(on_a_line, lines=True)[1] == [0]
    assert generic._relations(on_a_line, lines=False)[1] == [0, 1]


def test_an_extent_that_falls_where_another_grows_stays_one(one_cl_device: Any) -> None:
    """By chance keys = 60 - 10 batch: a typical batch of 64 would make tiles of -580 keys."""
    for batch, queries, keys in ((3, 20, 30), (3, 21, 30), (3, 22, 30), (2, 40, 40)):
        q, k, v = floats(batch, queries, 8), floats(batch, keys, 8), floats(batch, keys, 16)
        got = sg.scaled_dot_product_attention(Tensor(q), k, v).numpy()
        scores = np.exp(q @ k.swapaxes(1, 2) / np.sqrt(8))
        want = scores / scores.sum(-1, keepdims=True) @ v
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    samples = [(3, 30), (2, 40), (4, 20)]
    found, _ = generic._relations(samples, lines=True)
    assert generic._typical(samples, found, [[3, 2, 4]]) == [4]
