"""One round's graph for all rounds at once: the same operations with an axis of rounds in front."""

from __future__ import annotations

from simplegrad import ops
from simplegrad.errors import UnsupportedOp
from simplegrad.graph import build
from simplegrad.graph.node import Node, make, topological
from simplegrad.tensor.core import lift
from simplegrad.tensor.tensor import Tensor


class Rounds:
    """Computes nodes of one round for all `count` of them: (count, …).

    `known` holds what is known for all rounds, by the ``id`` of the node of one round; what does
    not depend on these is the same in every round.
    """

    def __init__(self, count: int, known: dict[int, Node]) -> None:
        self.count, self.known = count, known

    def of(self, root: Node) -> Tensor:
        """Return a node for all rounds; `UnsupportedOp` where an operation has no such form."""
        order = topological([root], ends=self.known)
        made: dict[int, Node] = {}
        for node in order:
            if id(node) in self.known:
                made[id(node)] = self.known[id(node)]
            elif any(id(s) in made for s in node.srcs):
                made[id(node)] = self._made(node, [made.get(id(s)) for s in node.srcs])
        ends = [made.get(id(n), n) for n in order if id(n) in self.known or id(n) not in made]
        return lift(made.get(id(root)) or self._same(root), *ends)

    def _same(self, node: Node) -> Node:
        return build.broadcast_to(node, (self.count, *node.shape))

    def _made(self, node: Node, given: list[Node | None]) -> Node:
        """Return a node over operands for all rounds; None is one that is the same in each."""
        op, arg = node.op, node.arg
        if op is ops.EINSUM:
            return self._einsum(node, given)
        if op is ops.TAKE:
            return self._take(node, given)
        whole = tuple(
            [g if g is not None else self._same(s) for g, s in zip(given, node.srcs, strict=True)]
        )
        if op.kind == ops.ELEMENTWISE:
            return make(op, whole, arg)
        if op.kind == ops.REDUCE:
            return make(op, whole, tuple([a + 1 for a in arg]))
        if op in (ops.CONCAT, ops.CUMSUM):
            return make(op, whole, arg + 1)
        (x,) = whole
        if op is ops.RESHAPE:
            return build.reshape(x, (self.count, *arg))
        if op is ops.PERMUTE:
            return build.permute(x, (0, *[a + 1 for a in arg]))
        if op is ops.EXPAND:
            ones = (1,) * (len(arg) - len(node.srcs[0].shape))
            x = build.reshape(x, (self.count, *ones, *node.srcs[0].shape))
            return build.broadcast_to(x, (self.count, *arg))
        if op is ops.SLICE:
            return build.slice_(x, ((0, self.count, 1), *arg))
        if op is ops.PAD:
            return make(op, (x,), (((0, 0, 0), *arg[0]), arg[1]))
        raise UnsupportedOp(f"scan: {op} has no form for all rounds at once")

    def _einsum(self, node: Node, given: list[Node | None]) -> Node:
        *terms, output = node.arg
        new = 1 + max(x for term in node.arg for x in term)
        pairs = list(zip(terms, given, strict=True))
        subscripts = [term if g is None else (new, *term) for term, g in pairs]
        operands = [s if g is None else g for s, g in zip(node.srcs, given, strict=True)]
        return build.einsum(subscripts, (new, *output), *operands)

    def _take(self, node: Node, given: list[Node | None]) -> Node:
        (table, indices), axis = given, node.arg
        if indices is None:
            assert table is not None
            return build.take(table, node.srcs[1], axis + 1)
        if table is not None:
            raise UnsupportedOp("scan: indices and rows that both change have no form at once")
        found = build.take(node.srcs[0], indices, axis)
        order = [axis, *[a for a in range(len(found.shape)) if a != axis]]
        return build.permute(found, order)
