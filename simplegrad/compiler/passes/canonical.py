"""First passes: composite operations become primitive ones, equal nodes become one.

before  any graph of the operations table
after   no EINSUM, CUMSUM, SCATTER_ADD or CONCAT, no SCAN that has no kernel; no two nodes of
        equal kind and equal operands, leaves with data excepted (two parameters of equal value
        stay two)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.compiler.ir.symbolic import ceil_div, estimate, symbolic
from simplegrad.compiler.passes.nested_sums import join_sums
from simplegrad.graph import build
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, const_value, make, topological
from simplegrad.graph.rewrite import rewrite
from simplegrad.graph.scan import unrolled

_SCAN_BLOCK = 64
_FEW_TERMS = 4
_MUCH = 16
_JOINED = 8
"""Most parts joined by one expression."""
Factor = tuple[tuple[int, ...], Node]


class Canonical:
    """Result: the new targets, and the nodes that belong to a composite's one kernel."""

    def __init__(self, targets: list[Node], glued: set[int]) -> None:
        self.targets, self.glued = targets, glued


def canonicalise(
    order: Sequence[Node], targets: Sequence[Node], fusion: bool = True,
    whole: Callable[[Node], bool] = lambda scan: True,
) -> Canonical:  # fmt: skip
    """Expand composites, join nested sums where fusion is on, apply algebra, merge equal nodes.

    `whole` says whether a SCAN stays one.
    """
    pieces: list[Node] = []
    if not all(whole(n) for n in order if n.op is ops.SCAN and n.buffer is None):
        flat = rewrite(order, lambda n: n if n.op is not ops.SCAN or whole(n) else unrolled(n))
        targets = [flat[id(t)] for t in targets]
        order = topological(targets)
    expanded = rewrite(order, lambda node: _expand(node, pieces))
    roots = [expanded[id(t)] for t in targets]
    if fusion:
        roots = join_sums(roots, pieces)
    table: dict[tuple[int, ...], Node] = {}
    merged = rewrite(topological(roots), lambda node: merge(simplify(node), table))
    glued = {id(merged[id(p)]) for p in pieces if id(p) in merged}
    glued |= above([merged[id(r)] for r in roots], lambda node: node.op is ops.GIVEN)
    return Canonical([_computed(merged[id(r)], table) for r in roots], glued)


def above(roots: Sequence[Node], chosen: Callable[[Node], bool]) -> set[int]:
    """Return the ids of nodes that depend on a chosen one, itself too, short of an ATTENTION."""
    found: set[int] = set()
    for node in topological(roots):
        reads = chosen(node) or any(id(s) in found for s in node.srcs)
        if reads and node.op is not ops.ATTENTION:
            found.add(id(node))
    return found


def _computed(node: Node, table: dict[tuple[int, ...], Node]) -> Node:
    """Return a target; a number that is wanted in memory is copied there by a view."""
    if node.op.kind == ops.LEAF and node.op is not ops.BUFFER and node.buffer is None:
        return merge(make(ops.RESHAPE, (node,), node.shape), table)
    return node


def _expand(node: Node, pieces: list[Node]) -> Node:
    if node.buffer is not None:
        return node
    if node.op is ops.EINSUM:
        result = _einsum(node, pieces)
    elif node.op is ops.CUMSUM:
        result = _cumsum(node.srcs[0], node.arg, pieces)
    elif node.op is ops.SCATTER_ADD:
        result = _scatter_add(node, pieces)
    elif node.op is ops.CONCAT:
        result = _concat([s for s in node.srcs if s.size] or node.srcs[:1], node.arg)
        result = build.reshape(result, node.shape)  # of no elements, with any other extents
    else:
        return node
    for new in topological([result], ends={id(s) for s in node.srcs}):
        if new.line is None and new.srcs:
            new.line = node.line
    return result


def _einsum(node: Node, pieces: list[Node]) -> Node:
    """Return the sum of products over views that share one index space (output, then summed)."""
    *subscripts, output = node.arg
    factors = list(zip(subscripts, node.srcs, strict=True))
    extents = {i: n for s, x in factors for i, n in zip(s, x.shape, strict=True)}
    summed = [i for i in extents if i not in output]
    if _is_short(factors, output, summed, extents):
        return _written_out(factors, output, summed, extents, pieces)
    space = [*output, *summed]
    shape = tuple(extents[i] for i in space)
    product = None
    for subscript, x in factors:
        here = [i for i in space if i in subscript]
        x = build.permute(x, [subscript.index(i) for i in here])
        x = build.reshape(x, tuple(extents[i] if i in subscript else 1 for i in space))
        x = build.broadcast_to(x, shape)
        product = x if product is None else build.apply(ops.MUL, product, x)
        if product is not x:
            pieces.append(product)
    assert product is not None
    return build.reduce(ops.SUM, product, range(len(output), len(space)))


def _is_short(
    factors: Sequence[Factor], output: tuple[int, ...], summed: list[int], extents: dict[int, int]
) -> bool:
    """Whether the sum is a few terms of much smaller arrays: cheaper to repeat than to store."""
    terms = size_of(tuple(extents[i] for i in summed))
    if not summed or not output or symbolic(terms) or not 1 <= terms <= _FEW_TERMS:
        return False
    size = size_of(tuple(extents[i] for i in output))
    small = all(_MUCH * estimate(x.size) <= estimate(size) for _, x in factors)
    # A term read with a stride along the last axis would be gathered again at every use.
    return small and all(s[-1] == output[-1] for s, _ in factors if output[-1] in s)


def _written_out(
    factors: Sequence[Factor], output: tuple[int, ...], summed: list[int],
    extents: dict[int, int], pieces: list[Node],
) -> Node:  # fmt: skip
    """Return a sum of products without a reduction: it is evaluated where it is read."""
    shape = tuple(extents[i] for i in output)
    total: Node | None = None
    for term in np.ndindex(*[extents[i] for i in summed]):
        at = dict(zip(summed, term, strict=True))
        product: Node | None = None
        for subscript, x in factors:
            x = build.slice_(x, [(at[i], 1, 1) if i in at else (0, n, 1) for i, n in
                                 zip(subscript, x.shape, strict=True)])  # fmt: skip
            kept = [i for i in subscript if i not in at]
            x = build.reshape(x, tuple(extents[i] for i in kept))
            here = [i for i in output if i in kept]
            x = build.permute(x, [kept.index(i) for i in here])
            x = build.reshape(x, tuple(extents[i] if i in kept else 1 for i in output))
            x = build.broadcast_to(x, shape)
            product = x if product is None else build.apply(ops.MUL, product, x)
        assert product is not None
        pieces.append(product)
        total = product if total is None else build.apply(ops.ADD, total, product)
        pieces.append(total)
    assert total is not None
    pieces.pop()  # what the others lead to is a value like any other
    return total


def _cumsum(x: Node, axis: int, pieces: list[Node]) -> Node:
    """Return prefix sums: masked sums inside blocks, then the same over the blocks' totals."""
    n = x.shape[axis]
    if n > _SCAN_BLOCK:
        blocks = ceil_div(n, _SCAN_BLOCK)
        head, tail = x.shape[:axis], x.shape[axis + 1 :]
        widths = [(0, blocks * _SCAN_BLOCK - n if a == axis else 0, 0) for a in range(len(x.shape))]
        cut = build.reshape(build.pad(x, widths), (*head, blocks, _SCAN_BLOCK, *tail))
        inner = _cumsum(cut, axis + 1, pieces)
        totals = build.slice_(
            inner,
            [(_SCAN_BLOCK - 1, 1, 1) if a == axis + 1 else (0, m, 1) for a, m in
             enumerate(inner.shape)],
        )  # fmt: skip
        totals = build.reshape(totals, (*head, blocks, *tail))
        before = _cumsum(totals, axis, pieces)
        before = build.pad(before, [(1 if a == axis else 0, 0, 0) for a in range(len(x.shape))])
        before = build.slice_(before, [(0, m, 1) for m in totals.shape])
        before = build.reshape(before, (*head, blocks, 1, *tail))
        both = build.apply(ops.ADD, inner, before)
        both = build.reshape(both, (*head, blocks * _SCAN_BLOCK, *tail))
        return build.slice_(both, [(0, m, 1) for m in x.shape])
    rank = len(x.shape)
    ones = (1,) * rank
    i = build.reshape(build.iota(n, dtypes.int32), (*ones[:axis], n, 1, *ones[axis + 1 :]))
    j = build.reshape(build.iota(n, dtypes.int32), (*ones[:axis], 1, n, *ones[axis + 1 :]))
    shape = (*x.shape[:axis], n, n, *x.shape[axis + 1 :])
    earlier = build.apply(ops.GREATER_EQUAL, i, j)
    seen = build.broadcast_to(earlier, shape)
    rows = build.reshape(x, (*x.shape[:axis], 1, n, *x.shape[axis + 1 :]))
    zero = build.full(0, shape, x.dtype)
    masked = build.apply(ops.WHERE, seen, build.broadcast_to(rows, shape), zero)
    pieces += [earlier, masked]
    return build.reduce(ops.SUM, masked, [axis + 1])


def _scatter_add(node: Node, pieces: list[Node]) -> Node:
    """Return, for each row, the sum of the rows sent there, in order: no atomics, one result."""
    indices, rows = node.srcs
    if indices.dtype.itemsize < 4:  # the row numbers beside them would wrap
        indices = build.cast(indices, dtypes.int32)
    n, extent = indices.shape[0], node.arg
    tail = rows.shape[1:]
    ones = (1,) * len(tail)
    shape = (extent, n, *tail)
    row = build.reshape(build.iota(extent, indices.dtype), (extent, 1, *ones))
    here = build.apply(ops.EQUAL, row, build.reshape(indices, (1, n, *ones)))
    sent = build.broadcast_to(build.reshape(rows, (1, n, *tail)), shape)
    zero = build.full(0, shape, rows.dtype)
    masked = build.apply(ops.WHERE, build.broadcast_to(here, shape), sent, zero)
    pieces += [here, masked]
    return build.reduce(ops.SUM, masked, [1])


def _concat(nodes: Sequence[Node], axis: int) -> Node:
    """Return parts joined along an axis, by choosing between padded ones.

    Values pass unchanged (-0.0 and NaN included), and the whole is one elementwise expression.
    The choices form a balanced tree, so that its depth is the logarithm of the number of parts.
    Many parts are joined a few at a time, so that no element is padded and copied often.
    """
    if len(nodes) > _JOINED:
        few = [nodes[i : i + _JOINED] for i in range(0, len(nodes), _JOINED)]
        return _concat([_concat(part, axis) for part in few], axis)
    ends = list(itertools.accumulate(n.shape[axis] for n in nodes))
    total = ends[-1]
    shape = (*nodes[0].shape[:axis], total, *nodes[0].shape[axis + 1 :])
    parts = [
        _padded(node, axis, end - node.shape[axis], total - end)
        for node, end in zip(nodes, ends, strict=True)
    ]
    while len(parts) > 1:
        joined = []
        for before, after, end in zip(parts[::2], parts[1::2], ends[::2], strict=False):
            line = build.full(
                True, (*(1,) * axis, end, *(1,) * (len(shape) - axis - 1)), dtypes.bool_
            )
            here = build.broadcast_to(_padded(line, axis, 0, total - end), shape)
            joined.append(build.apply(ops.WHERE, here, before, after))
        parts = joined + parts[len(joined) * 2 :]
        ends = ends[1::2] + ends[len(joined) * 2 :]
    return parts[0]


def _padded(x: Node, axis: int, before: int, after: int, fill: bool | int = 0) -> Node:
    widths = [(before, after, 0) if a == axis else (0, 0, 0) for a in range(len(x.shape))]
    return build.pad(x, widths, fill)


def simplify(node: Node) -> Node:
    """Apply rules that hold bit for bit, NaN and signed zero included."""
    op, srcs = node.op, node.srcs
    if not srcs or node.buffer is not None:
        return node
    if op is ops.RESHAPE and srcs[0].op is ops.RESHAPE and srcs[0].buffer is None:
        return build.reshape(srcs[0].srcs[0], node.shape)  # reshape(reshape(x)) = reshape(x)
    if op is ops.PERMUTE and srcs[0].op is ops.PERMUTE and srcs[0].buffer is None:
        return build.permute(srcs[0].srcs[0], [srcs[0].arg[a] for a in node.arg])
    if op is ops.MUL:  # x * 1 = x
        if _is_one(srcs[1]):
            return srcs[0]
        if _is_one(srcs[0]):
            return srcs[1]
    if op is ops.NEG and srcs[0].op is ops.NEG and srcs[0].buffer is None:
        return srcs[0].srcs[0]  # -(-x) = x
    if op.kind == ops.REDUCE and not srcs[0].size and op.identity is not None:
        return build.full(op.identity(node.dtype), node.shape, node.dtype, node.device)
    if op is ops.PAD and not srcs[0].size and srcs[0].op is not ops.CONST:
        # Nothing writes an array without elements, so nothing may read one.
        empty = build.full(0, srcs[0].shape, node.dtype, node.device)
        return make(ops.PAD, (empty,), node.arg)
    if op.kind == ops.REDUCE and all(srcs[0].shape[a] == 1 for a in node.arg):
        if op in (ops.ARGMAX, ops.ARGMIN):  # a reduction of one element
            return build.full(0, node.shape, node.dtype, node.device)
        return build.reshape(srcs[0], node.shape)
    return node


def _is_one(node: Node) -> bool:
    while node.op.kind == ops.VIEW and node.op is not ops.PAD and node.buffer is None:
        node = node.srcs[0]
    return node.op is ops.CONST and const_value(node) == 1


def merge(node: Node, table: dict[tuple[int, ...], Node]) -> Node:
    """Return the node of `table` with the same kind and operands, or this one, entered there."""
    if node.buffer is not None or node.op in (ops.BUFFER, ops.SCALAR):
        return node
    key = (node.kind.id, *[id(s) for s in node.srcs])
    return table.setdefault(key, node)
