"""Every gradient rule against central differences in float64, in every way and several layouts.

The differences are taken on the NumPy device, and so is what NaN and inf lead to. The gradients of
all rows are realized together, so that a way compiles a few programs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import conftest
import numpy as np
import pytest
from checking import Case, check

import simplegrad as sg
from simplegrad import Tensor, ops
from simplegrad.autograd import rules
from simplegrad.tensor.scan import scan, step_of

RNG = np.random.default_rng(5)
STEP = 1e-5
# Central differences of step h err by about h**2 f''' / 6 + 1e-16 |f| / h: 1e-10 here; functions
# with large third derivatives lose another three digits.
RTOL, ATOL = 1e-6, 1e-7


@dataclass
class Row:
    function: Callable[..., Any]
    arrays: tuple[Any, ...] = field(default_factory=lambda: (X,))
    op: str = ""
    """The primitive whose rule this row checks."""


X = RNG.uniform(0.2, 0.9, (3, 4)) * np.where(RNG.random((3, 4)) < 0.5, -1, 1)
Y = RNG.uniform(1.2, 2.5, (3, 4))
SMALL = RNG.normal(size=(2, 3))
CUBE = RNG.normal(size=(2, 3, 4))
IMAGE = RNG.permutation(2 * 2 * 5 * 4).reshape(2, 2, 5, 4) / 10.0 - 3
WEIGHT = RNG.normal(size=(4, 1, 3, 2))
ZEROS = np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 5.0], [1.5, -2.0, 3.0]])
LABELS = np.array([2, 0, 3])
CELL = step_of(lambda products, states, inputs: [(products[0] + inputs[0]).tanh()], 1, 1, 1)


def _unary() -> dict[str, Row]:
    plain = ["neg", "abs", "exp", "exp2", "expm1", "sin", "cos", "tan", "asin", "acos", "atan"]
    plain += ["sinh", "cosh", "tanh", "asinh", "atanh", "erf", "reciprocal"]
    above = ["log", "log2", "log1p", "sqrt", "rsqrt", "acosh"]
    return {n: Row(lambda x, n=n: getattr(x, n)(), (X,), n) for n in plain} | {
        n: Row(lambda x, n=n: getattr(x, n)(), (Y,), n) for n in above
    }


ROWS: dict[str, Row] = _unary() | {
    "cast": Row(lambda x: x.cast("float64") * 2 + x.cast("float64"), (X,), "cast"),
    "add": Row(lambda x, y: x + y, (X, Y[:1]), "add"),
    "sub": Row(lambda x, y: x - y, (X[:, :1], Y), "sub"),
    "mul": Row(lambda x, y: x * y, (X, Y[0]), "mul"),
    "div": Row(lambda x, y: x / y, (X, Y), "div"),
    "remainder": Row(lambda x, y: (3 * x) % y, (X, Y), "remainder"),
    "pow": Row(lambda x, y: x.pow(y), (Y, X), "pow"),
    "pow of a number": Row(lambda x: x.pow(3) + x.pow(2.0) + x.abs().pow(0.5) + 2.0**x, (X,)),
    "maximum": Row(lambda x, y: x.maximum(y), (X, -X[::-1] + 0.01), "maximum"),
    "minimum": Row(lambda x, y: x.minimum(y), (X, -X[::-1] + 0.01), "minimum"),
    "atan2": Row(lambda x, y: x.atan2(y), (X, Y), "atan2"),
    "hypot": Row(lambda x, y: x.hypot(y), (X, Y), "hypot"),
    "sine of a sine": Row(lambda x: x.sin().sin() * x.cos().cos(), (X,)),
    "where": Row(lambda x, y: sg.where(x > 0, x * y, y), (X, Y), "where"),
    "clip": Row(lambda x: x.clip(-0.5, 0.5)),
    # Reductions
    "sum": Row(lambda x: x.sum((0, 2)), (CUBE,), "sum"),
    "sum keepdims": Row(lambda x: x * x.sum(1, keepdims=True), (CUBE,)),
    "prod": Row(lambda x: x.prod(1), (CUBE,), "prod"),
    "prod of zeros": Row(lambda x: x.prod(1), (ZEROS,)),
    "prod of all": Row(lambda x: x.prod(), (SMALL,)),
    "max": Row(lambda x: x.max(1), (CUBE,), "max"),
    "min": Row(lambda x: x.min((0, 2)), (CUBE,), "min"),
    "mean var std": Row(lambda x: x.mean(0) + x.var(0, correction=1) * x.std(), (CUBE,)),
    "logsumexp": Row(lambda x: x.logsumexp(-1), (CUBE,)),
    "cumsum": Row(lambda x: x.cumsum(1) * x, (CUBE,), "cumsum"),
    "scan": Row(
        lambda w, h, x: scan(CELL, w, [h], [x])[0][0] * x,
        (X[:3, :3], CUBE[0, :2, :3], CUBE[:, :2, :3]),
        "scan",
    ),
    # Views
    "reshape": Row(lambda x: x.reshape(4, 6) * 2, (CUBE,), "reshape"),
    "permute": Row(lambda x: x.permute(2, 0, 1).exp(), (CUBE,), "permute"),
    "expand": Row(lambda x: x.broadcast_to(2, 3, 4) * Tensor(CUBE), (X[:1],), "expand"),
    "slice": Row(lambda x: x[::-1, 2:0:-1, 1::2], (CUBE,), "slice"),
    "slice of nothing": Row(lambda x: x[:0].sum() + x[1:].sum(), (SMALL,)),
    "pad": Row(lambda x: x.pad(((1, 0), (0, 2)), 3.0).square(), (SMALL,), "pad"),
    "as_strided": Row(lambda x: x.as_strided((3, 4), (4, 1)).square(), (X,), "as_strided"),
    "as_strided overlaps": Row(lambda x: x.as_strided((4, 3, 2), (2, 1, 3)).square(), (X,)),
    "as_strided repeats": Row(lambda x: x.as_strided((3, 2, 2), (0, 2, 1), 3).square(), (X,)),
    "as_strided back": Row(lambda x: x.as_strided((4,), (-2,), 9).square(), (X,)),
    "window_view": Row(lambda x: x.window_view((2, 3), 1).square().sum((-1, -2)), (IMAGE,)),
    "window_view strided": Row(lambda x: x.window_view((2, 2), 2).prod(-1), (IMAGE,)),
    "concat stack": Row(
        lambda x: sg.concat([x, sg.stack([x[0], x[1]]) * 2], 1), (SMALL,), "concat"
    ),
    "roll tile repeat": Row(lambda x: x.roll(1, 0).tile(2, 1) * x.repeat(2, 0), (SMALL,)),
    # Contraction
    "einsum": Row(lambda x, y: sg.einsum("ij,jk->ik", x, y), (SMALL, X), "einsum"),
    "einsum transposed": Row(lambda x, y: sg.einsum("ji,jk->ki", x, y), (X, Y)),
    "einsum batch": Row(lambda x, y: sg.einsum("bij,bkj->bik", x, y), (CUBE, CUBE[:, :2])),
    "einsum diagonal": Row(lambda x: sg.einsum("iij->ij", x), (np.stack([SMALL, SMALL + 1]),)),
    "einsum trace": Row(lambda x: sg.einsum("ii->", x), (ZEROS,)),
    "einsum summed out": Row(lambda x, y: sg.einsum("ij,kl->il", x, y), (SMALL, X)),
    "einsum outer": Row(lambda x, y: sg.einsum("i,j", x, y), (X[0], Y[1])),
    "einsum ellipsis": Row(lambda x, y: sg.einsum("...j,j->...", x, y), (CUBE, X[0])),
    "einsum three": Row(
        lambda x, y, z: sg.einsum("ij,jk,ik->j", x, y, z), (SMALL, X, SMALL @ X + 1)
    ),
    "einsum with itself": Row(lambda x: sg.einsum("ij,ij->i", x, x), (X,)),
    "matmul": Row(lambda x, y: x @ y, (CUBE, Y.T)),
    # Gather and scatter
    "take": Row(lambda x: x.take([2, 0, 2, -1], 1), (X,), "take"),
    "take twice": Row(lambda x: x[[0, 1, 0], [1, 1, 1]] * x[:, [3, 3, 0]].sum(1), (X,)),
    "scatter_add": Row(lambda x: sg.scatter_add([1, 0, 1], x, 3).square(), (X,), "scatter_add"),
    "scatter_add outside": Row(lambda x: sg.scatter_add([1, 1, 0], x, 4).exp(), (X,)),
    # Composites
    "relu": Row(lambda x: x.relu()),
    "gelu silu": Row(lambda x: x.gelu() + x.silu()),
    "softplus sigmoid": Row(lambda x: x.softplus() * x.sigmoid()),
    "softmax": Row(lambda x: x.softmax(), (CUBE,)),
    "logsoftmax": Row(lambda x: x.logsoftmax(0), (X,)),
    "layer_norm": Row(lambda x, w, b: x.layer_norm((-1,), w, b), (CUBE, Y[0], X[0])),
    "layer_norm axes": Row(lambda x, w, b: x.layer_norm((-2, -1), w, b), (CUBE, Y, X)),
    "batch_norm": Row(lambda x, w, b: x.batch_norm(w, b), (IMAGE, Y[0, :2], X[0, :2])),
    "conv2d": Row(lambda x, w: x.conv2d(w, 1, 2, 1, 2), (IMAGE, WEIGHT)),
    "conv2d plain": Row(lambda x, w: x.conv2d(w), (IMAGE, np.concatenate([WEIGHT[:2]] * 2, 1))),
    "conv1d": Row(lambda x, w: x.conv1d(w, 2, 1, 2), (CUBE, WEIGHT[:, 0].repeat(3, 1)[:, :3])),
    "maxpool2d": Row(lambda x: x.maxpool2d((3, 2), 1, 2), (IMAGE,)),
    "avgpool2d": Row(lambda x: x.avgpool2d((2, 2), 0, 1), (IMAGE,)),
    "cross_entropy": Row(lambda x: x.cross_entropy(LABELS), (X,)),
    "mse_loss": Row(lambda x, y: x.mse_loss(y), (X, Y)),
}
DEVICES = ["numpy", *conftest.OPENCL[:1]]


@dataclass
class Variant:
    """Other leaves for the operands of a row: data, view, and the view's transpose."""

    leaf: Callable[[Any], Any]
    view: Callable[[Any], Any] = lambda x: x
    back: Callable[[Any], Any] = lambda g: g
    known: bool = True
    """Whether the gradients are those of the row's own operands."""


def _planted(*numbers: float) -> Callable[[Any], Any]:
    """Return what puts numbers in places of the larger operands."""

    def leaf(array: Any) -> Any:
        result = np.array(array)
        if result.size > 4:
            result.reshape(-1)[1 : 1 + 3 * len(numbers) : 3] = numbers[: (result.size + 1) // 3]
        return result

    return leaf


def _apart(array: Any, between: float = 1.0) -> Any:
    return np.stack([array, np.full(array.shape, between)], -1).reshape(*array.shape[:-1], -1)


VARIANTS: dict[str, Variant] = {
    "plain": Variant(lambda a: a),
    "turned": Variant(lambda a: np.flip(a.T).copy(), lambda x: x.flip().T, lambda g: np.flip(g.T)),
    "strided": Variant(_apart, lambda x: x[..., ::2], lambda g: _apart(g, 0.0)),
    "nan": Variant(_planted(np.nan), known=False),
    "inf": Variant(_planted(np.inf, -np.inf), known=False),
}
FEW = ["plain", "nan", "inf"]
"""Those of one structure, hence of the same kernels."""


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = sg.default_float()
    sg.set_default_float("float64")
    yield
    sg.set_default_float(before)


def test_every_differentiable_operation_has_a_rule_and_a_row() -> None:
    assert rules.without_rule() == []
    kinds = (ops.ELEMENTWISE, ops.REDUCE, ops.VIEW, ops.OTHER)
    wanted = {o.name for o in ops.OPS.values() if o.kind in kinds and o.differentiable}
    assert wanted == {row.op for row in ROWS.values() if row.op}


@cache
def expected(name: str) -> tuple[Any, tuple[Any, ...]]:
    """Return (seed, central differences) of a row."""
    row = ROWS[name]
    with sg.device("numpy"), sg.no_grad():
        seed = np.random.default_rng(9).uniform(
            0.5, 1.5, row.function(*map(Tensor, row.arrays)).shape
        )
        found = []
        for k, array in enumerate(row.arrays):
            want = np.zeros(array.shape)
            for i in np.ndindex(array.shape):
                ends = []
                for step in (STEP, -STEP):
                    moved = [np.array(a) for a in row.arrays]
                    moved[k][i] += step
                    ends.append(row.function(*map(Tensor, moved)).numpy())
                want[i] = ((ends[0] - ends[1]) / (2 * STEP) * seed).sum()
            found.append(want)
    return seed, tuple(found)


def gradients(row: Row, seed: Any, variant: Variant) -> list[Tensor]:
    leaves = [Tensor(variant.leaf(np.asarray(a))) for a in row.arrays]
    result = row.function(*[variant.view(leaf) for leaf in leaves])
    result.backward(Tensor(seed, requires_grad=False))
    return [leaf.grad for leaf in leaves]


@cache
def reference(name: str, label: str) -> list[Any]:
    """Return the gradients to expect: central differences, or those of the NumPy device."""
    seed, differences = expected(name)
    variant = VARIANTS[label]
    if variant.known:
        return [variant.back(want) for want in differences]
    with sg.device("numpy"), np.errstate(all="ignore"):
        return [g.numpy() for g in gradients(ROWS[name], seed, variant)]


def test_in_every_way_and_layout(way: Any) -> None:
    if not way.has(sg.float64):
        pytest.skip("this device has no float64")
    first = way.selector in ("numpy", *conftest.OPENCL[:1])
    labels = list(VARIANTS) if first and way.fused and not way.kernels else FEW
    # Unfused, other drivers than the first run one row for each rule.
    whole = way.fused or first
    rows = {name: row for name, row in ROWS.items() if whole or row.op}
    if way.selector == "numpy":
        labels = [label for label in VARIANTS if VARIANTS[label].known]
    for label in labels:
        cases = []
        for name, row in rows.items():
            wanted = reference(name, label)
            found = gradients(row, expected(name)[0], VARIANTS[label])
            for k, (got, want) in enumerate(zip(found, wanted, strict=True)):
                cases.append(
                    Case(f"{name}/{k} {label}", got, want, sg.float64, rtol=RTOL, atol=ATOL)
                )
        check(cases)  # by label: other numbers run the kernels that are there


EMPTY: dict[str, Row] = {
    "softmax": Row(lambda x: x.softmax().square(), (np.zeros((0, 5)),)),
    "softmax of none": Row(lambda x: x.softmax(), (np.zeros((2, 0)),)),
    "layer_norm": Row(lambda x, w: x.layer_norm(-1, w), (np.zeros((0, 4)), Y[0])),
    "mean": Row(lambda x: x.mean(0), (np.zeros((0, 3)),)),
    "var": Row(lambda x: x.var(1), (np.zeros((0, 3)),)),
    "prod": Row(lambda x: x.prod(0), (np.zeros((0, 3)),)),
    "max": Row(lambda x: x.max(1), (np.zeros((0, 3)),)),
    "matmul of nothing": Row(lambda x, y: x @ y, (np.zeros((2, 0)), np.zeros((0, 3)))),
    "matmul of no rows": Row(lambda x, y: x @ y, (np.zeros((0, 4)), Y.T)),
    "conv2d": Row(lambda x, w: x.conv2d(w, 1), (IMAGE[:0], WEIGHT[:, :, :2].repeat(2, 1))),
    "maxpool2d": Row(lambda x: x.maxpool2d(2), (IMAGE[:0],)),
    "take": Row(lambda x: x.take(np.zeros(0, int), 0), (X,)),
    "scatter_add": Row(lambda x: sg.scatter_add(np.zeros(0, int), x, 3), (X[:0],)),
    "concat": Row(lambda x: sg.concat([x[:0], x, x[3:]]).exp(), (X,)),
    "pad": Row(lambda x: x.tanh().pad(((1, 1), (0, 0)), 2.0).square(), (X[:0],)),
    "broadcast": Row(lambda x, y: x * y, (X[:1], np.zeros((0, 4)))),
    "cumsum": Row(lambda x: x.cumsum(0), (X[:0],)),
    "cross_entropy": Row(lambda x: x.cross_entropy(LABELS[:0], reduction="sum"), (X[:0],)),
    "0-d chain": Row(lambda x: (x.exp() * x).tanh().sum() + x.max() * x.mean(), (np.array(0.3),)),
    "0-d einsum": Row(lambda x, y: sg.einsum(",i->i", x, y), (np.array(0.3), Y[0])),
    "0-d softmax": Row(lambda x: x.reshape(1).softmax() * x, (np.array(0.3),)),
}


def test_of_no_elements_and_no_axes(way: Any) -> None:
    """Gradients have their operand's shape, and are 0 where nothing was read."""
    if not way.has(sg.float64):
        pytest.skip("this device has no float64")
    cases = []
    for name, row in EMPTY.items():
        found = []
        for where in ("numpy", way.selector):
            with sg.device(where):
                seed = np.ones(row.function(*map(Tensor, row.arrays)).shape)
                found.append(gradients(row, seed, VARIANTS["plain"]))
        for k, (want, got) in enumerate(zip(*found, strict=True)):
            assert want.shape == row.arrays[k].shape, name
            cases.append(Case(f"{name}/{k}", got, want.numpy(), sg.float64, rtol=1e-12, atol=1e-15))
    check(cases)


def _has_float64(device: str) -> bool:
    return conftest.Way(device).has(sg.float64)


@pytest.mark.parametrize("where", DEVICES)
def test_double_backward(where: str) -> None:
    if not _has_float64(where):
        pytest.skip("this device has no float64")
    cases: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "cube": (lambda x: (x * x * x).sum(), lambda x: 6 * x),
        "exp": (lambda x: x.exp().sum(), np.exp),
        "tanh": (lambda x: x.tanh().sum(), lambda x: -2 * np.tanh(x) * (1 - np.tanh(x) ** 2)),
        "log": (lambda x: x.log().sum(), lambda x: -1 / x**2),
        "matmul": (lambda x: (x @ x.T).sum(), lambda x: np.full_like(x, 2.0 * len(x))),
        "slice": (lambda x: (x[:, ::2] ** 3).sum(), lambda x: 6 * x * [1, 0, 1, 0]),
    }
    with sg.device(where):
        found = []
        for function, _ in cases.values():
            second = sg.grad(lambda x, f=function: sg.grad(f)(x).sum())(Tensor(Y))
            found.append(second)
        sg.realize(*found)
        for (name, (_, want)), got in zip(cases.items(), found, strict=True):
            np.testing.assert_allclose(got.numpy(), want(Y), rtol=1e-12, err_msg=name)
        x = Tensor(Y)
        (x * x * x).sum().backward(create_graph=True)
        first = x.grad
        x.zero_grad()
        (first * first).sum().backward()  # d(9 x^4)/dx
        np.testing.assert_allclose(x.grad.numpy(), 36 * Y**3, rtol=1e-12)


def test_ties_of_max_share_the_gradient(device: Any) -> None:
    """Documented: equal greatest elements get equal shares; NaN counts as the greatest."""
    x = Tensor([[2.0, 5.0, 5.0], [1.0, 1.0, 1.0]], dtype="float32")
    (x.max(1) * Tensor([6.0, 9.0], dtype="float32")).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [[0, 3, 3], [3, 3, 3]])
    y, z = Tensor([1.0, 2.0, 3.0], dtype="float32"), Tensor([1.0, 5.0, 0.0], dtype="float32")
    y.maximum(z).sum().backward()
    assert y.grad.tolist() == [0.5, 0, 1]
    assert z.grad.tolist() == [0.5, 1, 0]
    n = Tensor([1.0, float("nan"), 3.0], dtype="float32")
    n.max().backward()
    assert n.grad.tolist() == [0, 1, 0]


def test_diamonds_add_up(device: Any) -> None:
    x = Tensor([1.0, 2.0], dtype="float32")
    y = x * x
    z = y + y * x  # x^2 + x^3
    w = z * y  # x^4 + x^5
    w.sum().backward()
    assert x.grad.tolist() == [9.0, 112.0]


def test_leaves_of_equal_value_stay_two(device: Any) -> None:
    a, b = Tensor([3.0, 4.0], dtype="float32"), Tensor([3.0, 4.0], dtype="float32")
    (a * a * b).sum().backward()
    assert a.grad.tolist() == [18.0, 32.0]
    assert b.grad.tolist() == [9.0, 16.0]
    s, t = Tensor(2.0), Tensor(2.0)  # numbers, which are kernel arguments
    (s * s * t).backward()
    assert (s.grad.item(), t.grad.item()) == (8.0, 4.0)


def test_backward_twice_accumulates(device: Any) -> None:
    x = Tensor([1.0, 3.0], dtype="float32")
    y = (x * x).sum()
    y.backward()
    assert x.grad.tolist() == [2, 6]
    y.backward()
    assert x.grad.tolist() == [4, 12]
    (x * 5).sum().backward()
    assert x.grad.tolist() == [9, 17]
    x.zero_grad()
    assert x.grad is None


def test_gradients_keep_the_dtype_of_their_leaf(device: Any) -> None:
    for dtype in ("float16", "bfloat16", "float32"):
        x = Tensor([1.0, 2.0], dtype=dtype)
        (x.cast("float32") * 3 + x.square().cast("float32")).sum().backward()
        assert x.grad.dtype is x.dtype
        assert x.grad.tolist() == [5, 7]
