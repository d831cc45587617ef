"""Every gradient rule on bare nodes, by central differences: first and second derivatives.

``tests/operations/test_gradients.py`` checks the same rules through `Tensor` and on every device; here the
gradient's own gradient is checked for each rule too, and what the rules document at the points
where there is no derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from simplegrad import dtypes, ops
from simplegrad.autograd import rules
from simplegrad.autograd.backward import gradients
from simplegrad.graph import build
from simplegrad.graph.node import Node, leaf, make, topological
from simplegrad.graph.scan import Step, scan
from simplegrad.runtime.numpy_device import NumpyDevice

DEVICE = NumpyDevice()
RNG = np.random.default_rng(3)
STEP = 1e-5
# Central differences of step h err by h**2 f''' / 6 + 1e-16 |f| / h: 1e-10 here, times the
# third derivatives of these functions, which stay below a thousand.
RTOL, ATOL = 1e-6, 1e-7


def data(array: Any, dtype: dtypes.DType = dtypes.float64, tracks: bool = True) -> Node:
    node = leaf(ops.BUFFER, np.shape(array), dtype, None, DEVICE)
    node.buffer = DEVICE.from_host(array, dtype)
    node.tracks = tracks and dtype.is_float
    return node


def whole(array: Any, dtype: dtypes.DType = dtypes.int64) -> Node:
    return data(np.array(array), dtype)


def track(*roots: Node) -> None:
    """Let gradients flow through what was recorded, as the tensor floor does."""
    for node in topological(roots, realized=True):
        if node.srcs and node.op.differentiable and node.dtype.is_float:
            node.tracks = any(s.tracks for s in node.srcs)


def values(*nodes: Node) -> list[Any]:
    DEVICE.evaluate(topological(nodes), nodes)
    return [n.buffer for n in nodes]


@dataclass
class Row:
    op: ops.Op
    function: Callable[..., Node]
    arrays: tuple[Any, ...]


def of(op: ops.Op, *arrays: Any) -> Row:
    return Row(op, lambda *srcs: build.apply(op, *srcs), arrays)


X = RNG.uniform(0.2, 0.9, (2, 3)) * np.array([[1, -1, 1], [-1, 1, -1]])
Y = RNG.uniform(1.2, 2.5, (2, 3))
C = RNG.permutation(24).reshape(2, 3, 4) / 8.0 - 1.4
ZEROS = np.array([[0.0, 2.0, 3.0], [0.0, 0.0, 5.0], [1.5, -2.0, 3.0]])
LONG = np.where(np.arange(40) % 13 == 5, 0.0, RNG.uniform(0.8, 1.2, 40)).reshape(2, 20)
NEAR = [ops.ABS, ops.NEG, ops.EXP, ops.EXP2, ops.EXPM1, ops.SIN, ops.COS, ops.TAN, ops.ASIN]
NEAR += [ops.ACOS, ops.ATAN, ops.SINH, ops.COSH, ops.TANH, ops.ASINH, ops.ATANH, ops.ERF]
NEAR += [ops.RECIPROCAL]
ABOVE = [ops.LOG, ops.LOG2, ops.LOG1P, ops.SQRT, ops.RSQRT, ops.ACOSH]
IJ, JK = (0, 1), (1, 2)


def view(shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Row:
    def window(x: Node) -> Node:
        x = build.as_strided(x, shape, strides, offset)
        return build.apply(ops.MUL, x, x)

    return Row(ops.AS_STRIDED, window, (C,))


def contraction(subscripts: list[tuple[int, ...]], output: tuple[int, ...], *arrays: Any) -> Row:
    return Row(ops.EINSUM, lambda *s: build.einsum(subscripts, output, *s), arrays)


def row_name(row: Row) -> str:
    return row.op.name


ROWS = [
    *[of(op, X) for op in NEAR],
    *[of(op, Y) for op in ABOVE],
    *[of(op, X, Y) for op in (ops.ADD, ops.SUB, ops.MUL, ops.DIV, ops.ATAN2, ops.HYPOT)],
    *[of(op, X, X[::-1] + 0.01) for op in (ops.MAXIMUM, ops.MINIMUM)],
    of(ops.REMAINDER, 3 * X, Y),
    of(ops.POW, Y, X),
    of(ops.MUL, X, Y[0]),
    Row(ops.POW, lambda x: build.apply(ops.POW, x, build.number(3, x)), (ZEROS,)),
    Row(ops.CAST, lambda x: build.cast(build.cast(x, dtypes.float64), dtypes.float64), (X,)),
    Row(
        ops.WHERE,
        lambda x, y: build.apply(
            ops.WHERE,
            build.apply(ops.GREATER, x, build.number(0, x)),
            build.apply(ops.MUL, x, y),
            build.apply(ops.EXP, y),
        ),
        (X, Y),
    ),
    Row(ops.SUM, lambda x: build.reduce(ops.SUM, build.apply(ops.MUL, x, x), (0, 2)), (C,)),
    Row(ops.MAX, lambda x: build.reduce(ops.MAX, x, (1,)), (C,)),
    Row(ops.MIN, lambda x: build.reduce(ops.MIN, x, (0, 2)), (C,)),
    Row(ops.PROD, lambda x: build.reduce(ops.PROD, x, (0, 2)), (C[:, :, :2],)),
    Row(ops.PROD, lambda x: build.reduce(ops.PROD, x, (1,)), (ZEROS,)),
    Row(ops.PROD, lambda x: build.reduce(ops.PROD, x, (1,)), (LONG,)),
    Row(ops.CUMSUM, lambda x: make(ops.CUMSUM, (build.apply(ops.MUL, x, x),), 1), (C,)),
    Row(ops.CONCAT, lambda x, y: make(ops.CONCAT, (build.apply(ops.MUL, x, x), y, x), 0), (X, Y)),
    Row(ops.RESHAPE, lambda x: build.reshape(build.apply(ops.EXP, x), (4, 6)), (C,)),
    Row(ops.PERMUTE, lambda x: build.permute(build.apply(ops.EXP, x), (2, 0, 1)), (C,)),
    Row(ops.EXPAND, lambda x: build.broadcast_to(build.apply(ops.EXP, x), (2, 2, 3)), (X,)),
    Row(
        ops.SLICE,
        lambda x: build.slice_(build.apply(ops.EXP, x), [(1, 2, -1), (2, 1, 1), (3, 2, -2)]),
        (C,),
    ),
    Row(ops.SLICE, lambda x: build.slice_(x, [(0, 0, 1), (0, 3, 1), (0, 4, 1)]), (C,)),
    Row(
        ops.PAD,
        lambda x: build.pad(build.apply(ops.EXP, x), [(1, 0, 2), (0, 2, 1)], 3.0),
        (X,),
    ),
    view((6, 2), (4, 2)),
    view((3, 2, 2), (0, 2, 1), 3),  # elements read through an axis of stride 0
    view((2, 2, 3, 2, 2), (12, 4, 1, 4, 1)),  # windows of 2 x 2 on the last two axes
    view((2, 3, 2, 2), (12, 4, 1, 2)),  # windows of 2, dilated by 2
    view((2, 3, 1, 3), (12, 4, 2, 1), 1),  # windows of 3, one position
    view((4, 3, 2), (2, 1, 3)),  # crosses the rows: a scatter
    view((4,), (-2,), 9),
    view((2, 2, 2), (1, 1, 1)),  # three readers of one axis: a scatter
    contraction([IJ, JK], (0, 2), X, Y.T),
    contraction([JK, IJ], (2, 0), X, Y.T),
    contraction([(0, 1, 2), (0, 3, 2)], (0, 1, 3), C, C[:, :2]),
    contraction([(0,), (1,)], (0, 1), X[0], Y[0]),
    contraction([(), (0,)], (0,), np.array(1.5), Y[0]),
    Row(ops.TAKE, lambda x: build.take(x, whole([[2, 0], [2, 9]]), 1), (C,)),
    Row(ops.TAKE, lambda x: build.take(x, whole([-1, 1], dtypes.int8), 0), (C,)),
    Row(ops.SCATTER_ADD, lambda x: build.scatter_add(whole([1, 7, 1]), x, 4), (X.T,)),
]

STEP_ROWS = (
    # c0 = tanh(p0 + x0), c1 = c1 p1 + c0; then one product, two multiplied, one field emitted
    Step(2, 1, 2, 1, (("add", 0, 4), ("tanh", 5), ("mul", 3, 1), ("add", 7, 6)), (6, 8)),
    Step(1, 2, 2, 2, (("mul", 0, 3), ("exp", 4), ("sin", 5), ("mul", 2, 6)), (5, 8, 7), True),
)


def recurrence(step: Step) -> Row:
    sizes = step.multiplied * 2, step.products * 2
    arrays = [RNG.uniform(-0.5, 0.5, s) for s in (sizes, *[(3, 2)] * 2, *[(4, 3, 2)] * step.inputs)]
    return Row(ops.SCAN, lambda m, a, b, *x: scan(step, m, (a, b), x), tuple(arrays))


ROWS += map(recurrence, STEP_ROWS)
ROWS.append(recurrence(STEP_ROWS[0].saving()))


def weighted(row: Row, nodes: list[Node]) -> tuple[Node, Node]:
    """Return the row's result, and the seed that makes it one number."""
    result = row.function(*nodes)
    seed = np.random.default_rng(8).uniform(0.5, 1.5, result.shape)
    return result, data(seed, tracks=False)


def first(row: Row, arrays: list[Any]) -> tuple[list[Node], list[Node]]:
    """Return the leaves and the gradients of the weighted sum of a row's result."""
    nodes = [data(a) for a in arrays]
    result, seed = weighted(row, nodes)
    track(result)
    found = gradients([result], [seed], nodes)
    return nodes, [build.full(0, n.shape, n.dtype) if g is None else g
                   for n, g in zip(nodes, found, strict=True)]  # fmt: skip


def differences(function: Callable[[list[Any]], float], arrays: tuple[Any, ...]) -> list[Any]:
    found = []
    for k, array in enumerate(arrays):
        slope = np.zeros(np.shape(array))
        for i in np.ndindex(slope.shape):
            ends = []
            for step in (STEP, -STEP):
                moved = [np.array(a) for a in arrays]
                moved[k][i] += step
                ends.append(function(moved))
            slope[i] = (ends[0] - ends[1]) / (2 * STEP)
        found.append(slope)
    return found


def test_every_differentiable_operation_has_a_rule_and_a_row() -> None:
    assert rules.without_rule() == []
    kinds = (ops.ELEMENTWISE, ops.REDUCE, ops.VIEW, ops.OTHER)
    wanted = {o.name for o in ops.OPS.values() if o.kind in kinds and o.differentiable}
    assert wanted == {row.op.name for row in ROWS}


def test_an_operation_without_a_rule_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(rules.RULES, ops.TANH)
    assert rules.without_rule() == [ops.TANH]


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_gradient(row: Row) -> None:
    def value(arrays: list[Any]) -> float:
        result, seed = values(*weighted(row, [data(a) for a in arrays]))
        return float((result * seed).sum())

    got = values(*first(row, list(row.arrays))[1])
    for g, want in zip(got, differences(value, row.arrays), strict=True):
        np.testing.assert_allclose(g, want, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("row", ROWS, ids=row_name)
def test_gradient_of_the_gradient(row: Row) -> None:
    weights = [np.random.default_rng(k).uniform(0.5, 1.5, np.shape(a))
               for k, a in enumerate(row.arrays)]  # fmt: skip

    def slope(arrays: list[Any]) -> float:
        found = values(*first(row, arrays)[1])
        return float(sum((w * g).sum() for w, g in zip(weights, found, strict=True)))

    nodes, firsts = first(row, list(row.arrays))
    track(*firsts)
    second = gradients(firsts, [data(w, tracks=False) for w in weights], nodes)
    for n, g, want in zip(nodes, second, differences(slope, row.arrays), strict=True):
        got = np.zeros(n.shape) if g is None else values(g)[0]
        np.testing.assert_allclose(got, want, rtol=RTOL, atol=ATOL)


# Where there is no derivative ---------------------------------------------------------------------


def slopes(function: Callable[..., Node], *arrays: Any) -> list[list[Any]]:
    """Return the gradients of a result's sum."""
    nodes = [data(np.array(a, float)) for a in arrays]
    result = function(*nodes)
    track(result)
    found = gradients([result], [build.full(1, result.shape, result.dtype)], nodes)
    return [v.tolist() for v in values(*[g for g in found if g is not None])]


def apply(op: ops.Op) -> Callable[..., Node]:
    return lambda *srcs: build.apply(op, *srcs)


NAN, INF = np.nan, np.inf


def test_kinks_and_ties() -> None:
    assert slopes(apply(ops.ABS), [-2, 0, 3]) == [[-1, 0, 1]]
    for op in (ops.MAXIMUM, ops.MINIMUM):
        assert slopes(apply(op), [1, 1], [1, 1]) == [[0.5, 0.5], [0.5, 0.5]]
        assert slopes(apply(op), [NAN, 1], [1, NAN]) == [[1, 0], [0, 1]]
    for op in (ops.MAX, ops.MIN):
        assert slopes(lambda x, op=op: build.reduce(op, x, (0,)), [2, 2, 2, 2]) == [[0.25] * 4]
        assert slopes(lambda x, op=op: build.reduce(op, x, (0,)), [NAN, 2, NAN]) == [[0.5, 0, 0.5]]
    assert slopes(lambda x: build.reduce(ops.MAX, x, (0,)), [INF, 1, INF]) == [[0.5, 0, 0.5]]


def test_powers_of_zero_and_below() -> None:
    base, exponent = slopes(apply(ops.POW), [0, 0, 0, -2, -2], [0, 2, -1, 3, 0.5])
    np.testing.assert_equal(base, [0, 0, -INF, 12, NAN])
    assert exponent == [0, 0, 0, 0, 0]
    base, exponent = slopes(apply(ops.POW), [NAN, 2], [2, 1])
    np.testing.assert_allclose(base, [NAN, 1])
    np.testing.assert_allclose(exponent, [NAN, 2 * np.log(2)])


def test_edges_of_domains_are_ieee() -> None:
    assert slopes(apply(ops.SQRT), [0]) == [[INF]]
    assert slopes(apply(ops.LOG), [0]) == [[INF]]
    assert slopes(apply(ops.RECIPROCAL), [INF]) == [[0]]
    np.testing.assert_equal(slopes(apply(ops.HYPOT), [0], [0]), [[NAN], [NAN]])


def test_where_keeps_the_other_branch_out() -> None:
    def safe(x: Node) -> Node:
        zero = build.broadcast_to(build.number(0, x), x.shape)
        positive = build.apply(ops.GREATER, x, zero)
        return build.apply(ops.WHERE, positive, x, zero)

    assert slopes(safe, [2, -INF, NAN]) == [[1, 0, 0]]


def test_prod_neither_divides_nor_overflows() -> None:
    def prod(x: Node) -> Node:
        return build.reduce(ops.PROD, x, (0,))

    assert slopes(prod, [1e-200, 1e-200, 3]) == [[3e-200, 3e-200, 0]]
    assert slopes(prod, [INF, 2]) == [[2, INF]]
    found = slopes(prod, np.where(np.arange(300) == 123, 0.0, 1.0))[0]
    assert found == (np.arange(300) == 123).tolist()
    assert slopes(prod, np.zeros(0)) == [[]]


def test_windows_need_no_scatter_and_odd_views_do() -> None:
    def used(shape: tuple[int, ...], strides: tuple[int, ...], size: int = 24) -> set[ops.Op]:
        x = data(np.zeros(size).reshape(2, -1))
        result = build.as_strided(x, shape, strides)
        track(result)
        (found,) = gradients([result], [build.full(1, shape, x.dtype)], [x])
        assert found is not None
        return {n.op for n in topological([found])}

    assert ops.SCATTER_ADD not in used((2, 10, 3), (12, 1, 1))
    assert ops.SCATTER_ADD not in used((2, 4, 3), (12, 2, 2))
    assert ops.SCATTER_ADD not in used((2, 4, 3), (12, 3, 1))
    assert ops.SCATTER_ADD not in used((3, 2), (1, 12))
    assert ops.SCATTER_ADD in used((20, 3), (1, 1))  # crosses the rows
    assert ops.SCATTER_ADD in used((2, 2, 2), (1, 2, 3))


def test_half_precision_gradients_keep_their_dtype() -> None:
    for dtype in (dtypes.float16, dtypes.bfloat16):
        x = data([1.0, 2.0], dtype)
        y = build.cast(x, dtypes.float32)
        y = build.apply(ops.MUL, y, y)
        track(y)
        (g,) = gradients([y], [build.full(1, (2,), dtypes.float32)], [x])
        assert g is not None and g.dtype is dtype
        assert values(g)[0].tolist() == [2, 4]


def test_operands_that_track_nothing_get_no_nodes() -> None:
    x, still = data([1.0]), data([2.0], tracks=False)
    for op in (ops.MUL, ops.SUB, ops.DIV, ops.POW, ops.MAXIMUM, ops.HYPOT, ops.REMAINDER):
        for srcs, which in (((x, still), 1), ((still, x), 0)):
            assert rules.RULES[op](build.apply(op, *srcs), still)[which] is None


def test_narrow_indices_reach_every_row() -> None:
    """300 rows have no uint8 numbers: the scatter of the gradient counts in a wider type."""
    x, indices = data(np.arange(300.0)), whole([3, 90, 3], dtypes.uint8)
    result = build.take(x, indices, 0)
    track(result)
    (found,) = gradients([result], [build.full(1, (3,), x.dtype)], [x])
    assert found is not None
    scatters = [n for n in topological([found]) if n.op is ops.SCATTER_ADD]
    assert [n.srcs[0].dtype for n in scatters] == [dtypes.int64]
    assert np.nonzero(values(found)[0])[0].tolist() == [3, 90]
