"""Attention as one kernel: recognised, right, linear in memory, and left alone where it must be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import conftest
import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings
from simplegrad.runtime import program_cache

RNG = np.random.default_rng(0)
FORWARD, BACKWARD = "k_attention_out", {"k_attention_dq", "k_attention_dk_dv"}


def operands(*shapes: tuple[int, ...], dtype: str = "float32") -> list[Tensor]:
    found = [Tensor(RNG.standard_normal(s).astype(np.float32)).astype(dtype) for s in shapes]
    return [Tensor(x.numpy(), dtype=dtype) for x in found]


def attention(q: Any, k: Any, v: Any, change: Callable[[Any], Any] = lambda s: s) -> Any:
    """The plain form that users write; `change` is what stands between scores and softmax."""
    scores = q.einsum("bhmd,bhnd->bhmn", k) * (1 / math.sqrt(q.shape[-1]))
    return change(scores).softmax().einsum("bhmn,bhne->bhme", v)


def exact(q: Any, k: Any, v: Any, change: Callable[[Any], Any] = lambda s: s) -> Any:
    """NumPy's answer in float64."""
    q, k, v = (x.numpy().astype(np.float64) for x in (q, k, v))
    scores = change(np.einsum("bhmd,bhnd->bhmn", q, k) / math.sqrt(q.shape[-1]))
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return np.einsum("bhmn,bhne->bhme", weights / weights.sum(-1, keepdims=True), v)


def run(build: Callable[..., Any], leaves: list[Tensor], weight: Any) -> tuple[list[Any], set[str]]:
    """Return the result and the leaves' gradients, and the names of the kernels."""
    for leaf in leaves:
        leaf.grad = None
    with sg.Profile() as profile:
        out = build(*leaves)
        (out * Tensor(weight, requires_grad=False)).sum().backward()
        results = [out, *[x.grad for x in leaves if x.grad is not None]]
        sg.realize(*results)
    return [x.numpy().astype(np.float64) for x in results], set(profile.kernels)


def plain(build: Callable[..., Any], leaves: list[Tensor], weight: Any) -> list[Any]:
    """The same on the NumPy device, op by op."""
    with sg.device("numpy"):
        return run(build, [Tensor(x.numpy(), dtype=x.dtype) for x in leaves], weight)[0]


def compare(got: list[Any], want: list[Any], rtol: float = 2e-5) -> None:
    assert len(got) == len(want)
    for mine, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=rtol * np.abs(theirs).max())


def check(leaves: list[Tensor], change: Callable[[Any], Any], rtol: float = 2e-5) -> Any:
    """Compare the fused run with NumPy's; return the fused result."""
    q, _, v = leaves
    weight = RNG.standard_normal((*q.shape[:-1], v.shape[-1])).astype(np.float32)
    got, names = run(lambda q, k, v: attention(q, k, v, change), leaves, weight)
    assert {"k_attention_out_top_total"} | BACKWARD <= names
    compare(got, plain(lambda q, k, v: attention(q, k, v, change), leaves, weight), rtol)
    return got[0]


@pytest.mark.parametrize(
    "sizes",  # m, n, d, e
    [(33, 100, 8, 64), (129, 7, 20, 80), (8, 129, 64, 20)],
    ids=str,
)
def test_sizes_forward_and_backward(cl_device: Any, sizes: tuple[int, ...]) -> None:
    if cl_device.name != conftest.OPENCL[0] and sizes != (129, 7, 20, 80):
        pytest.skip("one case shows that this driver compiles the template right")
    m, n, d, e = sizes
    leaves = operands((2, 3, m, d), (2, 3, n, d), (2, 3, n, e))
    compare([check(leaves, lambda s: s)], [exact(*leaves)])


@pytest.mark.parametrize(
    "sizes", [(1, 1, 8, 8), (64, 1, 8, 8), (64, 64, 1, 1), (1, 129, 64, 20)], ids=str
)
def test_single_queries_keys_and_widths(one_cl_device: Any, sizes: tuple[int, ...]) -> None:
    """The plain path: axes of one element are gone from a product, and few queries gain nothing."""
    m, n, d, e = sizes
    leaves = operands((2, 3, m, d), (2, 3, n, d), (2, 3, n, e))
    compare([attention(*leaves).numpy()], [exact(*leaves)])


@pytest.mark.parametrize("sizes", [(33, 70, 12, 20)], ids=str)
def test_gpu_kernels(cl_device: Any, sizes: tuple[int, ...]) -> None:
    m, n, d, e = sizes
    leaves = operands((2, 3, m, d), (2, 3, n, d), (2, 3, n, e))
    mask = RNG.random((m, n)) < 0.9
    mask[:, 0] = True
    with settings.override(kernels="gpu"):
        got = check(leaves, lambda s: _masked(s, mask))
        compare([got], [exact(*leaves, lambda s: _masked(s, mask))])
        assert "attention_gpu.cl" in sg.explain(attention(*leaves))


CAUSAL = np.tri(70, 90, dtype=bool)
PADDED = (np.arange(90) < np.array([[90], [41]]))[:, None, None, :]
BIAS = RNG.standard_normal((3, 70, 90)).astype(np.float32)
CHANGES: dict[str, Callable[[Any], Any]] = {
    "masks": lambda s: _masked(_masked(s, CAUSAL), PADDED),
    "bias": lambda s: s + (Tensor(BIAS, requires_grad=False) if isinstance(s, Tensor) else BIAS),
    "soft cap": lambda s: (s / 3).tanh() * 3 if isinstance(s, Tensor) else np.tanh(s / 3) * 3,
}


def _masked(s: Any, mask: Any) -> Any:
    if isinstance(s, Tensor):
        return Tensor(mask).where(s, -math.inf)
    return np.where(mask, s, -np.inf)


@pytest.mark.parametrize("change", CHANGES)
def test_what_stands_between_scores_and_softmax(one_cl_device: Any, change: str) -> None:
    leaves = operands((2, 3, 70, 20), (2, 3, 90, 20), (2, 3, 90, 12))
    compare([check(leaves, CHANGES[change])], [exact(*leaves, CHANGES[change])])


def test_rows_that_see_nothing_but_large_numbers(one_cl_device: Any) -> None:
    """Masked by a finite number, such a row weighs all keys alike, in its gradients too."""
    leaves = operands((1, 2, 40, 8), (1, 2, 50, 8), (1, 2, 50, 8))
    mask = np.ones((40, 50), bool)
    mask[7], mask[20:, 30:] = False, False
    shift = np.where(mask, 0, -1e9).astype(np.float32)
    check(leaves, lambda s: s + shift)


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_half_storage(one_cl_device: Any, dtype: str, rtol: float) -> None:
    leaves = operands((1, 2, 70, 16), (1, 2, 50, 16), (1, 2, 50, 24), dtype=dtype)
    check(leaves, lambda s: s, rtol)
    compare([attention(*leaves).numpy()], [exact(*leaves)], rtol)


def test_softmax_in_float32_of_half_operands(one_cl_device: Any) -> None:
    leaves = operands((2, 2, 70, 16), (2, 2, 50, 16), (2, 2, 50, 24), dtype="float16")

    def build(q: Any, k: Any, v: Any) -> Any:
        scores = q.einsum("bhmd,bhnd->bhmn", k).astype("float32") * 0.25
        return scores.softmax().astype("float16").einsum("bhmn,bhne->bhme", v)

    weight = np.ones((2, 2, 70, 24), np.float16)
    got, names = run(build, leaves, weight)
    assert {"k_attention_out_top_total"} | BACKWARD <= names
    compare(got, plain(build, leaves, weight), 4e-3)


def test_float64(one_cl_device: Any) -> None:
    leaves = [Tensor(RNG.standard_normal((2, 2, 50, 20)), dtype="float64") for _ in range(3)]
    compare([check(leaves, lambda s: s, 1e-12)], [exact(*leaves)], 1e-12)


def test_heads_split_by_views(one_cl_device: Any) -> None:
    """Operands are read where they are; the result goes through views as well."""
    x, w = operands((2, 40, 3 * 4 * 8), (32, 16))

    def build(x: Any, w: Any) -> Any:
        q, k, v = sg.unstack(x.reshape(2, 40, 3, 4, 8).permute(2, 0, 3, 1, 4))
        scores = (q @ k.swapaxes(-1, -2)) * 0.3
        return (scores.softmax() @ v).swapaxes(1, 2).reshape(2, 40, 32) @ w

    weight = RNG.standard_normal((2, 40, 16)).astype(np.float32)
    got, names = run(build, [x, w], weight)
    assert {"k_attention_out_top_total"} | BACKWARD <= names
    compare(got, plain(build, [x, w], weight))


def test_keys_shared_by_heads_and_three_axes(one_cl_device: Any) -> None:
    for terms in (
        ("bhmd,bnd->bhmn", "bhmn,bne->bhme", (2, 4, 30, 8), (2, 50, 8), (2, 50, 12)),
        ("md,nd->nm", "nm,ne->em", (60, 20), (90, 20), (90, 12)),
        ("xymd,xynd->mxyn", "mxyn,ynex->exym", (3, 2, 30, 8), (3, 2, 50, 8), (2, 50, 9, 3)),
    ):
        first, second, *shapes = terms
        leaves = operands(*shapes)
        axis = first.partition("->")[2].index("n")

        def build(
            q: Any, k: Any, v: Any, first: str = first, second: str = second, axis: int = axis
        ) -> Any:
            return q.einsum(first, k).softmax(axis).einsum(second, v)

        weight = RNG.standard_normal(build(*leaves).shape).astype(np.float32)
        got, names = run(build, leaves, weight)
        assert {"k_attention_out_top_total"} | BACKWARD <= names, terms
        compare(got, plain(build, leaves, weight))


def test_axes_that_not_all_operands_have(one_cl_device: Any) -> None:
    """A kernel where each result belongs to one b, else the plain path; right in any case."""
    for first, second, forward, backward, *shapes in (
        # one set of keys, values of each row: experts and their gates; the same of more queries
        ("bd,nd->bn", "bn,bne->be", False, False, (40, 16), (30, 16), (40, 30, 24)),
        ("bmd,nd->bmn", "bmn,bne->bme", True, False, (5, 12, 16), (30, 16), (5, 30, 24)),
        # one set of queries, of values, of both
        ("md,hnd->hmn", "hmn,hne->hme", True, False, (40, 16), (3, 30, 16), (3, 30, 24)),
        ("hmd,hnd->hmn", "hmn,ne->hme", True, False, (3, 40, 16), (3, 30, 16), (30, 24)),
        ("md,hnd->hmn", "hmn,ne->hme", True, False, (40, 16), (3, 30, 16), (30, 24)),
    ):
        leaves = operands(*shapes)

        def build(q: Any, k: Any, v: Any, first: str = first, second: str = second) -> Any:
            return q.einsum(first, k).softmax().einsum(second, v)

        with sg.no_grad(), sg.Profile() as profile:
            weight = np.ones_like(build(*leaves).numpy())
        assert (FORWARD in profile.kernels) == forward, first
        got, names = run(build, leaves, weight)
        assert (names >= BACKWARD) == backward, first
        compare(got, plain(build, leaves, weight))


def test_unfused_stores_the_scores(one_cl_device: Any) -> None:
    leaves = operands((2, 3, 70, 8), (2, 3, 90, 8), (2, 3, 90, 8))
    ones = np.ones((2, 3, 70, 8), np.float32)

    def build(q: Any, k: Any, v: Any) -> Any:
        return attention(q, k, v, CHANGES["masks"])

    with sg.fusion(False):
        got, names = run(build, leaves, ones)
    assert not any("attention" in name for name in names)
    compare(got, plain(build, leaves, ones))


def test_quotient_instead_of_softmax(one_cl_device: Any) -> None:
    q, k, v = operands((2, 3, 40, 8), (2, 3, 50, 8), (2, 3, 50, 8))
    with sg.no_grad(), sg.Profile() as profile:
        scores = q.einsum("bhmd,bhnd->bhmn", k)
        e = (scores - scores.max(-1, True)).exp()
        out = (e / e.sum(-1, True)).einsum("bhmn,bhne->bhme", v)
        del scores, e
        out = out.numpy()
    assert FORWARD in profile.kernels
    compare([out], [exact(q * math.sqrt(8), k, v)])


def test_nan_and_infinity(cl_device: Any) -> None:
    """As the plain path: a row without keys is NaN, and so is one with a score of NaN or inf."""
    q, k, v = operands((1, 2, 50, 8), (1, 2, 60, 8), (1, 2, 60, 8))
    bias = np.zeros((50, 60), np.float32)
    bias[:, :55] = -np.inf
    bias[3], bias[4, 58], bias[5, 2] = -np.inf, np.nan, np.inf
    shift = Tensor(bias, requires_grad=False)
    got = attention(q, k, v, lambda s: s + shift).numpy()
    want = exact(q, k, v, lambda s: s + bias)
    assert np.isnan(want[0, 0]).all(-1).nonzero()[0].tolist() == [3, 4, 5]
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_large_scores_stay_exact(one_cl_device: Any) -> None:
    q, k, v = operands((1, 2, 64, 8), (1, 2, 64, 8), (1, 2, 64, 8))
    grown = q * 100.0
    compare([attention(grown, k, v).numpy()], [exact(grown, k, v)], 1e-3)


def test_memory_grows_with_the_length(one_cl_device: Any) -> None:
    def extra(n: int) -> int:
        leaves = operands((1, 2, n, 16), (1, 2, n, 16), (1, 2, n, 16))
        sg.realize(*leaves)
        before = sg.memory_stats()["in_use_bytes"]
        with sg.Profile() as profile:
            out = sg.scaled_dot_product_attention(*leaves, is_causal=True)
            out.sum().backward()
            sg.realize(out, *[x.grad for x in leaves])
        return profile.peak_bytes - before

    small, large = extra(256), extra(1024)
    assert large <= 4.5 * small
    assert large < 2 * 1024 * 1024 * 4 / 2


def test_backward_after_the_result_was_read(one_cl_device: Any) -> None:
    """The sums are computed again, still without the scores."""
    leaves = operands((2, 3, 70, 20), (2, 3, 90, 20), (2, 3, 90, 12))
    out = attention(*leaves)
    out.numpy()
    out.sum().backward()
    with sg.Profile() as profile:
        sg.realize(*[x.grad for x in leaves])
    assert {"k_attention_out_top_total"} | BACKWARD <= set(profile.kernels)
    got = [x.grad.numpy() for x in leaves]
    compare(got, plain(attention, leaves, np.ones(out.shape, np.float32))[1:])


def test_one_gradient_alone(one_cl_device: Any) -> None:
    leaves = operands((2, 2, 40, 16), (2, 2, 50, 16), (2, 2, 50, 16))
    ones = np.ones((2, 2, 40, 16), np.float32)
    want = plain(lambda q, k, v: attention(q, k, v).square(), leaves, ones)[1:]
    for which, kernel in enumerate(("k_attention_dq", "k_attention_dk", "k_attention_dv")):
        inputs = [x if i == which else x.detach() for i, x in enumerate(leaves)]
        attention(*inputs).square().sum().backward()
        with sg.Profile() as profile:
            got = leaves[which].grad.numpy()
        # Of the values alone nothing leads to the product with the gradient: the plain path.
        assert (kernel in profile.kernels) == (which < 2)
        compare([got], [want[which]])


def test_scores_that_somebody_holds_are_stored(one_cl_device: Any) -> None:
    q, k, v = operands((2, 3, 40, 8), (2, 3, 50, 8), (2, 3, 50, 8))
    scores = q.einsum("bhmd,bhnd->bhmn", k)
    weights = scores.softmax()
    with sg.Profile() as profile:
        out = weights.einsum("bhmn,bhne->bhme", v).numpy()
    assert not any("attention" in name for name in profile.kernels)
    assert weights._node.buffer is not None
    compare([out], [exact(q * math.sqrt(8), k, v)])


def test_a_learned_bias_gets_its_gradient(one_cl_device: Any) -> None:
    leaves = operands((2, 3, 40, 8), (2, 3, 50, 8), (2, 3, 50, 8), (3, 40, 50))
    weight = RNG.standard_normal((2, 3, 40, 8)).astype(np.float32)

    def build(q: Any, k: Any, v: Any, bias: Any) -> Any:
        return attention(q, k, v, lambda s: s + bias)

    got, _ = run(build, leaves, weight)
    compare(got, plain(build, leaves, weight))


def test_second_derivatives(one_cl_device: Any) -> None:
    leaves = operands((1, 2, 30, 8), (1, 2, 40, 8), (1, 2, 40, 8))

    def penalty(q: Any, k: Any, v: Any) -> Any:
        gradient = sg.grad(lambda x: attention(x, k, v).square().sum())
        return sg.grad(lambda x: gradient(x).square().sum())(q).numpy()

    got = penalty(*leaves)
    with sg.device("numpy"):
        compare([got], [penalty(*[Tensor(x.numpy()) for x in leaves])])


def test_finite_differences(one_cl_device: Any) -> None:
    leaves = operands((1, 2, 30, 16), (1, 2, 40, 16), (1, 2, 40, 16))
    weight = RNG.standard_normal((1, 2, 30, 16))
    got, _ = run(attention, leaves, weight.astype(np.float32))
    for number, gradient in enumerate(got[1:]):
        step = RNG.standard_normal(leaves[number].shape)
        ends = []
        for sign in (1, -1):
            moved: list[Any] = [Tensor(x.numpy(), dtype="float64") for x in leaves]
            moved[number] = moved[number] + sign * 1e-5 * step
            ends.append((exact(*moved) * weight).sum())
        slope = (ends[0] - ends[1]) / 2e-5
        assert float((gradient * step).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-3)


def test_equal_runs_give_equal_bits(one_cl_device: Any) -> None:
    leaves = operands((2, 2, 100, 20), (2, 2, 130, 20), (2, 2, 130, 20))
    weight = RNG.standard_normal((2, 2, 100, 20)).astype(np.float32)
    first, second = (run(attention, leaves, weight)[0] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_layers_on_layers(one_cl_device: Any) -> None:
    """Attentions whose operands come of attentions, and one read twice."""
    x, w = operands((2, 3, 40, 16), (16, 16))

    def build(x: Any, w: Any) -> Any:
        a = attention(x, x, x)
        b = attention(a @ w, a, x)
        return b + a

    weight = RNG.standard_normal((2, 3, 40, 16)).astype(np.float32)
    got, names = run(build, [x, w], weight)
    assert {"k_attention_out_top_total"} | BACKWARD <= names
    compare(got, plain(build, [x, w], weight))


# The function -------------------------------------------------------------------------------------


def test_function_against_numpy(device: Any) -> None:
    q, k, v = operands((2, 3, 20, 8), (2, 3, 30, 8), (2, 3, 30, 8))
    mask = RNG.random((20, 30)) < 0.8
    mask[:, 0] = True
    bias = RNG.standard_normal((3, 1, 30)).astype(np.float32)
    causal = np.tri(20, 30, dtype=bool)
    cases: list[tuple[dict[str, Any], Callable[[Any], Any]]] = [
        ({}, lambda s: s),
        ({"mask": mask}, lambda s: np.where(mask, s, -np.inf)),
        ({"mask": bias}, lambda s: s + bias),
        ({"is_causal": True}, lambda s: np.where(causal, s, -np.inf)),
        ({"is_causal": True, "mask": bias, "scale": 0.5},
         lambda s: np.where(causal, s * math.sqrt(2) + bias, -np.inf)),
    ]  # fmt: skip
    for arguments, change in cases:
        got = sg.scaled_dot_product_attention(q, k, v, **arguments)
        compare([got.numpy()], [exact(q, k, v, change)])


@pytest.mark.parametrize("sizes", [(100, 40), (40, 100)], ids=str)
def test_causal_blocks_are_left_out_rightly(one_cl_device: Any, sizes: tuple[int, int]) -> None:
    m, n = sizes
    leaves = operands((1, 2, m, 16), (1, 2, n, 16), (1, 2, n, 16))
    weight = RNG.standard_normal((1, 2, m, 16)).astype(np.float32)

    def build(*leaves: Any) -> Any:
        return sg.scaled_dot_product_attention(*leaves, is_causal=True)

    got, names = run(build, leaves, weight)
    assert {"k_attention_out_top_total"} | BACKWARD <= names
    compare(got, plain(build, leaves, weight))
    assert "#define CAUSAL 1" in sg.explain(sg.scaled_dot_product_attention(*leaves, None, True))


def test_function_errors() -> None:
    q, k = np.ones((2, 5, 8), np.float32), np.ones((2, 6, 9), np.float32)
    with pytest.raises(sg.ShapeError, match=r"q \(2, 5, 8\), k \(2, 6, 9\)"):
        sg.scaled_dot_product_attention(q, k, k)
    with pytest.raises(sg.ShapeError, match="two axes"):
        sg.scaled_dot_product_attention(q[0, 0], k, k)
    with pytest.raises(sg.DTypeError, match="mask is int64"):
        sg.scaled_dot_product_attention(q, q, q, mask=np.ones((5, 5), int))


def test_varying_lengths_share_a_program_and_store_no_scores(one_cl_device: Any) -> None:
    """The first length is compiled in, the second makes it a parameter, later ones are instances."""
    compiled = []
    for n in (33, 50, 64, 129, 41):
        q, k, v = operands((2, 3, n, 16), (2, 3, n, 16), (2, 3, n, 16))
        before = program_cache.counters.compiles
        with sg.Profile() as profile:
            out = sg.scaled_dot_product_attention(q, k, v, is_causal=True)
            out.sum().backward()
            sg.realize(out, q.grad, k.grad, v.grad)
        compiled.append(program_cache.counters.compiles - before)
        assert {"k_attention_out_top_total"} | BACKWARD <= set(profile.kernels)
        hidden = ~np.tri(n, dtype=bool)
        compare(
            [out.detach().numpy()], [exact(q, k, v, lambda s, h=hidden: np.where(h, -np.inf, s))]
        )
    assert compiled[2:] == [0, 0, 0]
