"""A sum over views of a sum of products becomes one sum of products.

before  Σ over a of views(Σ over r of A·B), the inner sum read by nothing else
after   Σ over (a, r) of views(A·B): no inner sum ever stands in memory

A slice or a permutation of such a sum moves inside too: the sum is computed where it is wanted.

This makes the gradient of a convolution's input a contraction that gathers: the gradients of all
windows, which are nine times an image for 3x3 filters, are never stored. Where a padding of the
views leaves positions out, a product there is 0 · B, as in a convolution with padded input: an
infinite or NaN factor B shows at the border.
"""

from __future__ import annotations

from collections.abc import Sequence

from simplegrad import ops
from simplegrad.compiler.ir.symbolic import estimate
from simplegrad.graph import build
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, make, topological
from simplegrad.graph.rewrite import over_new

_MOST_WORK = 1.5
"""Products of the one sum per product of the inner sum; more are cheaper to store."""
_MOVED = (ops.SLICE, ops.PERMUTE)
_LIFTED = (ops.RESHAPE, ops.PERMUTE, ops.SLICE, ops.PAD, ops.AS_STRIDED)


def join_sums(roots: Sequence[Node], pieces: list[Node]) -> list[Node]:
    """Return the roots over joined sums.

    `pieces` are the products of contractions; copies of them are added.
    """
    order = topological(roots)
    readers: dict[int, int] = {}
    for node in order:
        for src in node.srcs if node.buffer is None else ():
            readers[id(src)] = readers.get(id(src), 0) + 1
    alone = {i for i, n in readers.items() if n == 1} - {id(r) for r in roots}
    products = {id(p): p for p in pieces if p.op is ops.MUL}
    new: dict[int, Node] = {}
    for node in order:
        current = over_new(node, new)
        if current is not node and id(node) in products:
            products[id(current)] = current
            pieces.append(current)
        if node.op is ops.SUM and node.buffer is None and node.dtype.is_float:
            current = _joined(node, current, new, alone, products)
        elif node.op in _MOVED and node.buffer is None and id(node.srcs[0]) in alone:
            current = _moved(node, current, products)
        new[id(node)] = current
    return [new[id(r)] for r in roots]


def _joined(
    node: Node, current: Node, new: dict[int, Node], alone: set[int], products: dict[int, Node]
) -> Node:
    """Return the sum over the inner sum's products, or `current` where there is none to join."""
    views: list[Node] = []
    source = node.srcs[0]
    while source.op in _LIFTED and source.buffer is None and id(source) in alone:
        views.append(source)
        source = source.srcs[0]
    inner = new[id(source)]
    if source.op is not ops.SUM or source.buffer is not None or id(source) not in alone:
        return current
    much = estimate(node.srcs[0].size) > _MOST_WORK * estimate(inner.size)
    if not _of_products(inner, products) or much:
        return current
    if any(v.op is ops.PAD and float(v.arg[1]) != 0 for v in views):
        return current
    x, rest = _split_axes(inner)
    for view in reversed(views):
        x = _lifted(view, x, rest)
    rank = len(node.srcs[0].shape)
    result = build.reduce(ops.SUM, x, [*node.arg, *range(rank, rank + len(rest))])
    result.line = node.line
    return result


def _moved(view: Node, current: Node, products: dict[int, Node]) -> Node:
    """Return the sum over a view of the products, or `current`, the view of something else."""
    inner = current.srcs[0]
    if not _of_products(inner, products):
        return current
    x, rest = _split_axes(inner)
    rank = len(view.shape)
    result = build.reduce(ops.SUM, _lifted(view, x, rest), range(rank, rank + len(rest)))
    result.line = inner.line
    return result


def _of_products(node: Node, products: dict[int, Node]) -> bool:
    """Whether a node is a sum of products of a contraction, seen through views."""
    if node.op is not ops.SUM or node.buffer is not None:
        return False
    return id(behind_views(node.srcs[0])) in products


def _split_axes(node: Node) -> tuple[Node, tuple[int, ...]]:
    """Return what is summed with the summed axes last, and their extents."""
    x = node.srcs[0]
    outer = [a for a in range(len(x.shape)) if a not in node.arg]
    return build.permute(x, [*outer, *node.arg]), tuple(x.shape[a] for a in node.arg)


def behind_views(node: Node) -> Node:
    """Return what a chain of views leads to."""
    while node.op.kind == ops.VIEW and node.buffer is None:
        node = node.srcs[0]
    return node


def _lifted(view: Node, x: Node, rest: tuple[int, ...]) -> Node:
    """Return a view over an operand with the axes `rest` behind its own, which stay."""
    rank = len(view.srcs[0].shape)
    if view.op is ops.RESHAPE:
        return build.reshape(x, (*view.shape, *rest))
    if view.op is ops.PERMUTE:
        return build.permute(x, [*view.arg, *range(rank, rank + len(rest))])
    if view.op is ops.SLICE:
        return build.slice_(x, [*view.arg, *[(0, n, 1) for n in rest]])
    if view.op is ops.PAD:
        widths, fill = view.arg
        return make(ops.PAD, (x,), ((*widths, *[(0, 0, 0)] * len(rest)), fill))
    shape, strides, offset = view.arg
    scale = size_of(rest)
    own = [size_of(rest[a + 1 :]) for a in range(len(rest))]
    steps = (*[s * scale for s in strides], *own)
    return build.as_strided(x, (*shape, *rest), steps, offset * scale)
