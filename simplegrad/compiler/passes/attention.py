"""Softmax attention in a graph becomes ATTENTION nodes, forward and backward.

before  any graph of the operations table: EINSUM nodes stand as they were written
after   where scores, weights and their gradients are read by the attention alone, they are gone

What is looked for (`attention_match`), with any number of axes b in any order:

    S = einsum(q, k) over d          T: S after any elementwise operations, masks and biases
    e = exp(T - max(T))              P = e * (1 / sum(e)) or e / sum(e), along n
    O = einsum(P, v) over n

and, as the gradient rules write them, with g the gradient of O:

    dP = einsum(g, v) over e         dT = (dP * R + spread(sum(dP * e) * -R²)) * e, R = 1 / sum(e)
    dS: dT after any elementwise operations
    dQ = einsum(dS, k) over n        dK = einsum(dS, q) over m        dV = einsum(P, g) over m

Each of O, dQ, dK and dV becomes an ATTENTION node, and so do the maxima and the sums of e that the
backward parts read (``top`` and ``total``). Its argument is (part, letters of the softmax,
subscripts of the operands, of the result), letters as an EINSUM's; its operands are q, k, v, T,
and for backward parts dS, g, O, top and total too. T and dS stand there as expressions over GIVEN
leaves, which the kernel brings. Where anything else reads a score or a gradient of one (a tensor
that somebody holds, a learned bias, a second derivative), all parts of that attention are left as
they were written.
"""

from __future__ import annotations

from collections.abc import Sequence

from simplegrad import ops
from simplegrad.compiler.passes.attention_match import Letters, Part, find
from simplegrad.graph.node import Node, leaf, make, topological
from simplegrad.graph.rewrite import over_new


def recognise(order: Sequence[Node], targets: Sequence[Node], room: int) -> list[Node]:
    """Return the targets of a graph in which attentions are ATTENTION nodes.

    `order` is the topological order of `targets`, `room` the most bytes of a query and a value
    together; where there is no attention, the targets are
    returned as they are.
    """
    parts = find(order, room)
    while parts:
        new = _rewritten(targets, parts)
        if new is None:
            break
        results = [new[id(t)] for t in targets]
        left = {id(n) for n in topological(results)}
        leaking = {
            id(part.softmax)
            for part in parts.values()
            if any(id(new[id(n)]) in left for n in part.inner if id(n) in new)
        }
        if not leaking:
            return results
        parts = {i: p for i, p in parts.items() if id(p.softmax) not in leaking}
    return list(targets)


def _rewritten(targets: Sequence[Node], parts: dict[int, Part]) -> dict[int, Node] | None:
    """Return new nodes by old id; None where the parts depend on each other in a circle."""
    order = _order(targets, parts)
    if order is None:
        return None
    maker = _Maker()
    for node in order:
        part = parts.get(id(node))
        if part is not None:
            maker.new[id(node)] = maker.part(part, node)
        else:
            maker.new[id(node)] = over_new(node, maker.new)
    return maker.new


def _order(targets: Sequence[Node], parts: dict[int, Part]) -> list[Node] | None:
    """Return what must be rewritten, operands first, with the parts' operands for their own."""
    order: list[Node] = []
    finished: dict[int, bool] = {}
    stack: list[tuple[Node, bool]] = [(t, False) for t in reversed(targets)]
    while stack:
        node, done = stack.pop()
        if done:
            finished[id(node)] = True
            order.append(node)
        elif id(node) not in finished:
            finished[id(node)] = False
            stack.append((node, True))
            part = parts.get(id(node))
            srcs = node.srcs if part is None else part.operands
            for source in reversed(srcs) if node.buffer is None else ():
                if finished.get(id(source)) is False:
                    return None
                stack.append((source, False))
    return order


class _Maker:
    """Makes ATTENTION nodes over rewritten operands; equal ones are one node."""

    def __init__(self) -> None:
        self.new: dict[int, Node] = {}
        self._made: dict[object, Node] = {}

    def part(self, part: Part, node: Node) -> Node:
        """Return the ATTENTION node of a part, over the rewritten operands."""
        own, slope = part.softmax, part.slope
        score = leaf(ops.GIVEN, own.score.shape, own.score.dtype, 0)
        t = self._over_scores(own.t, {id(own.score): score})
        srcs = [self.new[id(own.q)], self.new[id(own.k)], self.new[id(part.v)], t]
        everywhere = tuple(range(own.rank))
        letters = [own.q_letters, own.k_letters, part.v_letters, everywhere]
        if slope is None:
            return self._node(node, part, part.name, srcs, letters, part.result)
        rows = tuple(a for a in everywhere if a not in own.axes)
        out = self._node(node, part, "out", srcs, letters, slope.g_letters)
        top, total = (self._node(node, part, x, srcs, letters, rows) for x in ("top", "total"))
        d_s, d_s_letters = t, everywhere  # dV does without
        if part.d_s is not None:
            after = leaf(ops.GIVEN, slope.d_t.shape, slope.d_t.dtype, 1)
            d_s = self._over_scores(part.d_s, {id(own.score): score, id(slope.d_t): after})
            d_s_letters = part.d_s_letters
        srcs += [d_s, self.new[id(slope.g)], out, top, total]
        letters += [d_s_letters, slope.g_letters, slope.g_letters, rows, rows]
        return self._node(node, part, part.name, srcs, letters, part.result)

    def _node(
        self, node: Node, part: Part, name: str, srcs: list[Node], letters: list[Letters],
        result: Letters,
    ) -> Node:  # fmt: skip
        numbers: dict[int, int] = {}
        for letter in (i for term in letters for i in term):
            numbers.setdefault(letter, len(numbers))
        named = [part.softmax.axes, *letters, result]
        arg = (name, *[tuple(numbers[i] for i in x) for x in named])
        key = (arg, tuple(map(id, srcs)))
        if key not in self._made:
            self._made[key] = make(ops.ATTENTION, tuple(srcs), arg)
            self._made[key].line = node.line
        return self._made[key]

    def _over_scores(self, top: Node, slots: dict[int, Node]) -> Node:
        """Return an expression with some nodes replaced, over rewritten operands else."""
        key = (id(top), tuple(slots))
        if key in self._made:
            return self._made[key]
        new: dict[int, Node] = {}
        stack: list[tuple[Node, bool]] = [(top, False)]
        while stack:
            node, done = stack.pop()
            if id(node) in slots:
                new[id(node)] = slots[id(node)]
            elif done:
                new[id(node)] = over_new(node, new)
            elif id(node) not in new:
                if node.op.kind in (ops.ELEMENTWISE, ops.VIEW) and node.buffer is None:
                    stack.append((node, True))
                    stack.extend((s, False) for s in node.srcs)
                else:
                    new[id(node)] = self.new[id(node)]
        self._made[key] = new[id(top)]
        return new[id(top)]
