"""The reference device, on bare nodes: dtypes, wraparound, views, memory."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from simplegrad import dtypes, ops, settings
from simplegrad.errors import IndexOutOfRange, VerifyError
from simplegrad.graph import build
from simplegrad.graph.node import Node, Spec, const, leaf, make, scalar, topological
from simplegrad.runtime.numpy_device import NumpyDevice, compute, rounded

DEVICE = NumpyDevice()


def data(array: Any, dtype: dtypes.DType) -> Node:
    node = leaf(ops.BUFFER, np.shape(array), dtype, None, DEVICE)
    node.buffer = DEVICE.from_host(np.array(array), dtype)
    return node


def value(node: Node) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DEVICE.evaluate(topological([node]), [node])
    assert node.buffer.dtype == node.dtype.numpy
    assert node.buffer.shape == node.shape
    assert node.buffer.flags.c_contiguous
    return node.buffer


def test_leaves() -> None:
    assert value(const(float("-inf"), Spec.of((), dtypes.float32))) == -np.inf
    assert value(const(2**63, Spec.of((), dtypes.uint64))) == 2**63
    assert value(scalar(-1, Spec.of((), dtypes.uint8))) == 255
    assert value(scalar(True, Spec.of((), dtypes.bool_))).tolist() is True
    assert value(build.iota(4, dtypes.int16)).tolist() == [0, 1, 2, 3]


def test_integers_wrap_in_silence() -> None:
    for dtype in (dtypes.int8, dtypes.int32, dtypes.int64):
        x = data([dtype.high, dtype.low], dtype)
        assert value(build.apply(ops.ADD, x, build.number(1, x)))[0] == dtype.low
        assert value(build.apply(ops.NEG, x))[1] == dtype.low
        assert value(build.apply(ops.ABS, x))[1] == dtype.low
        zero = build.broadcast_to(build.number(0, x), (2,))
        assert value(build.apply(ops.FLOOR_DIVIDE, x, zero)).tolist() == [0, 0]
    big = data([200, 100], dtypes.uint8)
    assert value(build.reduce(ops.SUM, big, (0,))) == 44
    assert value(make(ops.CUMSUM, (big,), 0)).tolist() == [200, 44]


def test_floats_are_ieee() -> None:
    x = data([0.0, -1.0, np.nan, np.inf], dtypes.float32)
    np.testing.assert_equal(value(build.apply(ops.LOG, x)), [-np.inf, np.nan, np.nan, np.inf])
    np.testing.assert_equal(value(build.apply(ops.DIV, x, x))[[0, 3]], [np.nan, np.nan])
    assert np.isnan(value(build.reduce(ops.MAX, x, (0,))))
    assert value(build.reduce(ops.ARGMAX, x, (0,))) == 2
    assert np.isnan(value(build.apply(ops.MAXIMUM, x, build.number(0, x)))[2])


def test_half_types_compute_in_float32() -> None:
    # 2048 + 1 is not a float16; adding one by one in float16 would stay at 2048.
    x = data(np.ones(3000), dtypes.float16)
    assert value(build.reduce(ops.SUM, x, (0,))) == 3000
    assert value(make(ops.CUMSUM, (x,), 0))[-1] == 3000
    y = data([300.0], dtypes.float16)  # squared it overflows, and does so at the end only
    assert value(build.apply(ops.MUL, y, y))[0] == np.inf
    assert value(build.einsum([(0,), (0,)], (), x, x)) == 3000


def test_bfloat16_rounds_to_nearest_even() -> None:
    one = 2.0**-7  # the last place of 1.x
    x = [1 + one / 2, 1 + 3 * one / 2, 1 + one / 2 + 1e-6, 3.4e38, np.nan, -np.inf, -0.0]
    want = [1, 1 + 2 * one, 1 + one, np.inf, np.nan, -np.inf, -0.0]
    np.testing.assert_array_equal(rounded(np.array(x, np.float32), dtypes.bfloat16), want)
    assert rounded(np.float32(1 + one / 2), dtypes.bfloat16).shape == ()
    node = data([1.0, one / 4], dtypes.bfloat16)
    assert value(build.reduce(ops.SUM, node, (0,))) == 1


def test_views() -> None:
    x = data(np.arange(12).reshape(3, 4), dtypes.int32)
    host = x.buffer
    flipped = build.slice_(x, [(2, 3, -1), (3, 2, -2)])
    assert value(flipped).tolist() == host[::-1, 3::-2].tolist()
    assert value(build.slice_(x, [(0, 0, 1), (1, 2, 1)])).shape == (0, 2)
    assert value(build.permute(x, (1, 0))).tolist() == host.T.tolist()
    assert value(build.as_strided(build.permute(x, (1, 0)), (2, 3), (1, 4), 1)).tolist() == [
        [4, 9, 3], [8, 2, 7],
    ]  # fmt: skip
    assert value(build.as_strided(x, (3,), (-4,), 11)).tolist() == [11, 7, 3]
    assert value(build.as_strided(x, (0, 2), (1, 1))).shape == (0, 2)


def test_pad_between_with_any_fill() -> None:
    x = data([[1, 2], [3, 4]], dtypes.int64)
    found = value(build.pad(x, [(1, 0, 1), (0, 1, 2)], 2**62 + 1))
    want = np.full((4, 5), 2**62 + 1)
    want[1::2, :4:3] = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(found, want)
    mask = data([True], dtypes.bool_)
    assert value(build.pad(mask, [(1, 1, 0)], False)).tolist() == [False, True, False]
    real = data([1.0], dtypes.float32)
    assert value(build.pad(real, [(1, 0, 0)], float("-inf"))).tolist() == [-np.inf, 1]
    assert np.isnan(value(build.pad(real, [(0, 1, 0)], float("nan")))[1])
    empty = data(np.zeros((0,)), dtypes.float32)
    assert value(build.pad(empty, [(1, 1, 3)], 5)).tolist() == [5, 5]


def test_gather_and_scatter() -> None:
    x = data([10, 20, 30], dtypes.int32)
    indices = data([[-3, 1], [2, 9]], dtypes.int64)
    assert value(build.take(x, indices, 0)).tolist() == [[10, 20], [30, 30]]
    assert value(build.take(x, data([2**63, 1], dtypes.uint64), 0)).tolist() == [30, 20]
    rows = data([1e8, 1.0, -1e8, 4.0], dtypes.float32)
    to = data([0, 0, 0, 7], dtypes.int32)
    # in the order of the rows: 1e8 + 1 rounds to 1e8
    assert value(build.scatter_add(to, rows, 2)).tolist() == [0, 0]
    with settings.override(check=True):
        with pytest.raises(IndexOutOfRange, match="take: indices -3 … 9 on an axis of 3"):
            value(build.take(x, indices, 0))
        with pytest.raises(IndexOutOfRange, match="outside 0 … 1"):
            value(build.scatter_add(to, rows, 2))


def test_einsum_of_two_operands() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    x, y = data(a, dtypes.float64), data(b, dtypes.float64)
    np.testing.assert_allclose(value(build.einsum([(0, 1), (1, 2)], (2, 0), x, y)), (a @ b).T)
    square = data(np.arange(9.0).reshape(3, 3), dtypes.float64)
    ints = data([100, 100], dtypes.int8)
    assert value(build.einsum([(0,), (0,)], (), ints, ints)) == np.int8(20000 - 78 * 256)
    for left, right, output in [((0, 0), (0, 1), (0,)), ((0, 1), (1, 2), (0,))]:
        with pytest.raises(VerifyError, match="an index stands once in an operand"):
            build.einsum([left, right], output, square, square)


def test_random_bits_are_known_values() -> None:
    """Philox-2x32-10 of Random123's kat_vectors: counter and key of zeros."""
    zero = [data([0], dtypes.uint32) for _ in range(3)]
    assert value(build.apply(ops.RANDOM_BITS, *zero))[0] == 0xFF1DAE59
    n = 37
    index = build.iota(n, dtypes.uint32)
    size = build.broadcast_to(const(n, Spec.of((), dtypes.uint32)), (n,))
    key = build.broadcast_to(scalar(5, Spec.of((), dtypes.uint32)), (n,))
    assert sorted(value(build.apply(ops.PERMUTE_INDEX, index, size, key))) == list(range(n))


def test_held_nodes_keep_their_value_and_others_do_not() -> None:
    x = data([1.0, 2.0], dtypes.float32)
    held, passing = build.apply(ops.EXP, x), build.apply(ops.NEG, x)
    held.holders = 1
    root = build.apply(ops.ADD, held, passing)
    value(root)
    np.testing.assert_allclose(held.buffer, np.exp([1, 2]), rtol=1e-6)
    assert passing.buffer is None
    held.buffer = np.zeros(2, np.float32)  # read, not computed again
    assert value(build.apply(ops.ADD, held, held)).tolist() == [0, 0]


def test_intermediates_are_freed_at_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: set[int] = set()
    most = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            alive.discard(id(self))

    def counting(node: Node, srcs: list[Any]) -> Any:
        nonlocal most
        result = compute(node, [np.asarray(s) for s in srcs]).copy().view(Counted)
        alive.add(id(result))
        most = max(most, len(alive))
        return result

    monkeypatch.setattr("simplegrad.runtime.numpy_device.compute", counting)
    node = data(np.zeros(4), dtypes.float32)
    for _ in range(100):
        node = build.apply(ops.COS, node)
    DEVICE.evaluate(topological([node]), [node])
    assert most <= 3


def test_buffers_are_nobody_elses() -> None:
    mine = np.arange(4, dtype=np.float32)
    node = leaf(ops.BUFFER, (4,), dtypes.float32, None, DEVICE)
    node.buffer = DEVICE.from_host(mine, dtypes.float32)
    mine[0] = 9
    assert node.buffer[0] == 0
    view = value(build.reshape(node, (2, 2)))
    assert not np.shares_memory(view, node.buffer)
    assert value(build.broadcast_to(node, (2, 4))).flags.writeable
    out = DEVICE.to_host(node.buffer, dtypes.float32, (4,))
    out[0] = 5
    assert node.buffer[0] == 0
    assert not np.shares_memory(out, node.buffer)


def test_a_chain_of_100_000() -> None:
    node = data([0.0], dtypes.float32)
    one = build.broadcast_to(const(1, Spec.of((), dtypes.float32)), (1,))
    for _ in range(100_000):
        node = build.apply(ops.ADD, node, one)
    assert value(node).tolist() == [100_000]


@pytest.mark.parametrize("op", sorted(ops.of_kind(ops.ELEMENTWISE), key=str), ids=str)
def test_every_elementwise_operation_takes_empty_and_zero_dimensional(op: ops.Op) -> None:
    kind = "f" if "f" in op.kinds else ("i" if "i" in op.kinds else "u")
    dtype = {"f": dtypes.float32, "i": dtypes.int32, "u": dtypes.uint32}[kind]
    for shape in ((), (0, 3), (2, 3)):
        srcs = [data(np.ones(shape), dtype) for _ in range(op.arity)]
        if op is ops.PERMUTE_INDEX:
            srcs[0] = data(np.zeros(shape), dtype)  # an index below the size, 1
        if op is ops.WHERE:
            srcs[0] = data(np.ones(shape), dtypes.bool_)
        value(make(op, tuple(srcs), dtypes.float64 if op is ops.CAST else None))
