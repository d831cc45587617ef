"""The one helper that rewrites graphs: bottom-up, iterative, sharing what did not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simplegrad.graph.node import Node, make

Rule = Callable[[Node], Node]


def rewrite(order: Sequence[Node], rule: Rule) -> dict[int, Node]:
    """Apply `rule` to every node of a topological `order` and return new nodes by old ``id``.

    `rule` gets a node whose operands are already rewritten and returns it, or a replacement. A
    node whose operands and rule result are unchanged stays the same object.
    """
    new: dict[int, Node] = {}
    for node in order:
        current = node
        if node.srcs and node.buffer is None:
            srcs = tuple([new[id(s)] for s in node.srcs])
            if any(a is not b for a, b in zip(srcs, node.srcs, strict=True)):
                current = copy_with(node, srcs)
        new[id(node)] = rule(current)
    return new


def copy_with(node: Node, srcs: tuple[Node, ...]) -> Node:
    """Return the same operation over other operands of the same specs."""
    copy = make(node.op, srcs, node.arg, node.device)
    copy.line = node.line
    return copy
