"""The walk from outputs to leaves: sums, shared and dead parts, deep and wide graphs."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from simplegrad import dtypes, ops
from simplegrad.autograd import rules
from simplegrad.autograd.backward import backward, gradients, total
from simplegrad.errors import AutogradError
from simplegrad.graph import build
from simplegrad.graph.node import Node, leaf, topological
from simplegrad.graph.prune import prune
from simplegrad.runtime.numpy_device import NumpyDevice

DEVICE = NumpyDevice()


class Holder:
    """Stands for a tensor: something that a leaf node can refer to weakly."""

    def __init__(self, array: Any) -> None:
        array = np.array(array, float)
        self.node = leaf(ops.BUFFER, array.shape, dtypes.float64, None, DEVICE)
        self.node.buffer = array
        self.node.tracks, self.node.leaf = True, weakref.ref(self)


def op(operation: ops.Op, *srcs: Node) -> Node:
    node = build.apply(operation, *srcs)
    node.tracks = any(s.tracks for s in srcs)
    return node


def ones(node: Node) -> Node:
    return build.full(1, node.shape, node.dtype)


def value(node: Node) -> Any:
    DEVICE.evaluate(topological([node]), [node])
    return node.buffer.tolist()


def slopes(root: Node, *holders: Holder) -> list[Any]:
    found = dict(backward(root, ones(root)))
    return [value(found[h]) if h in found else None for h in holders]


def test_every_use_of_a_node_adds_to_its_gradient() -> None:
    x = Holder([1, 2])
    assert slopes(op(ops.ADD, x.node, x.node), x) == [[2, 2]]
    assert slopes(op(ops.MUL, x.node, x.node), x) == [[2, 4]]
    y = op(ops.MUL, x.node, x.node)
    z = op(ops.ADD, y, op(ops.MUL, y, x.node))
    assert slopes(op(ops.MUL, z, y), x) == [[9, 112]]  # x^4 + x^5


def test_the_root_may_be_a_leaf() -> None:
    x = Holder([3.0])
    assert slopes(x.node, x) == [[1]]


def test_leaves_of_equal_value_are_two() -> None:
    a, b = Holder([3.0]), Holder([3.0])
    assert slopes(op(ops.MUL, op(ops.MUL, a.node, a.node), b.node), a, b) == [[18], [9]]


def test_twice_backward_gives_the_same_twice() -> None:
    x = Holder([1, 3])
    y = op(ops.MUL, x.node, x.node)
    assert slopes(y, x) == slopes(y, x) == [[2, 6]]


def test_gradients_of_several_outputs_and_inputs() -> None:
    x, y, still = Holder([2.0]), Holder([5.0]), Holder([1.0])
    product = op(ops.MUL, x.node, y.node)
    square = op(ops.MUL, product, product)
    outputs, seeds = [square, product], [ones(square), ones(product)]
    found = gradients(outputs, seeds, [x.node, product, still.node])
    assert [None if g is None else value(g) for g in found] == [[105], [21], None]
    assert found[2] is None
    again = gradients([product, product], [ones(product)] * 2, [x.node])[0]
    assert again is not None
    assert value(again) == [10]


def test_nothing_is_built_for_what_reaches_no_live_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    x, gone = Holder([1.0]), Holder([2.0])
    dead = op(ops.EXP, gone.node)
    root = op(ops.ADD, x.node, dead)
    del gone
    gc.collect()
    monkeypatch.delitem(rules.RULES, ops.EXP)  # asked for, it would be an error
    assert [t for t, _ in backward(root, ones(root))] == [x]
    assert backward(dead, ones(dead)) == []


def test_a_missing_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x = Holder([1.0])
    root = op(ops.EXP, x.node)
    monkeypatch.delitem(rules.RULES, ops.EXP)
    with pytest.raises(AutogradError, match=r"exp has no gradient.*detach"):
        backward(root, ones(root))


def test_realized_nodes_are_walked_through() -> None:
    x = Holder([3.0])
    y = op(ops.MUL, x.node, x.node)
    value(y)
    assert slopes(op(ops.MUL, y, y), x) == [[108]]


def chain(length: int) -> tuple[Holder, Node]:
    x = Holder([1.0])
    node = x.node
    for _ in range(length):
        node = op(ops.ADD, node, x.node)
    return x, node


def wide(count: int) -> tuple[list[Holder], Node]:
    leaves = [Holder([float(i)]) for i in range(count)]
    node = leaves[0].node
    for other in leaves[1:]:
        node = op(ops.ADD, node, other.node)
    return leaves, node


def test_a_chain_of_100_000() -> None:
    x, root = chain(100_000)
    assert slopes(root, x) == [[100_001]]


def test_a_sum_of_5000() -> None:
    leaves, root = wide(5000)
    assert slopes(root, leaves[0], leaves[2500], leaves[-1]) == [[1]] * 3
    x = Holder([2.0])  # 5,000 uses of one node: a balanced tree, in the order of the uses
    parts = [op(ops.MUL, x.node, x.node) for _ in range(5000)]
    root = total(parts)
    for node in topological([root]):
        node.tracks = True
    (pair,) = backward(root, ones(root))
    assert value(pair[1]) == [20_000]
    assert pair[1].depth < 40


def test_total_keeps_one_order() -> None:
    a, b, c = (Holder([float(i)]).node for i in range(3))
    root = total([a, b, c])
    assert root.srcs[1] is c
    assert root.srcs[0].srcs == (a, b)
    assert total([a]) is a


# Pruning ------------------------------------------------------------------------------------------


def test_prune_cuts_history_without_a_live_leaf() -> None:
    x = Holder([1.0])
    y = op(ops.EXP, x.node)
    z = op(ops.EXP, y)
    value(z)
    prune([z])
    assert z.srcs  # x lives
    del x
    gc.collect()
    prune([z])
    assert not z.srcs


def test_prune_leaves_what_has_no_value() -> None:
    x = Holder([1.0])
    y = op(ops.EXP, x.node)
    del x
    prune([y])
    assert y.srcs


def test_prune_looks_past_what_another_node_tracks() -> None:
    live, gone = Holder([1.0]), Holder([2.0])
    mixed = op(ops.MUL, op(ops.EXP, gone.node), op(ops.EXP, live.node))
    alone = op(ops.EXP, gone.node)
    value(mixed)
    value(alone)
    del gone
    gc.collect()
    prune([mixed, alone])
    assert mixed.srcs
    assert not alone.srcs


def test_prune_of_a_long_chain_is_linear() -> None:
    x, root = chain(20_000)
    order = topological([root])
    DEVICE.evaluate(order, order)
    prune(order[::-1])  # a walk per node would take minutes
    prune(order)
    assert root.srcs
    del x
    gc.collect()
    prune(order)
    assert not any(n.srcs for n in order)
