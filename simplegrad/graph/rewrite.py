"""The one helper that rewrites graphs: bottom-up, iterative, sharing what did not change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from simplegrad.graph.node import Node, make

Rule = Callable[[Node], Node]


def rewrite(order: Sequence[Node], rule: Rule) -> dict[int, Node]:
    """Apply `rule` to every node of a topological `order` and return new nodes by old ``id``.

    `rule` gets a node whose operands are already rewritten and returns it, or a replacement. A
    node whose operands and rule result are unchanged stays the same object.
    """
    new: dict[int, Node] = {}
    for node in order:
        new[id(node)] = rule(over_new(node, new))
    return new


def over_new(node: Node, new: Mapping[int, Node]) -> Node:
    """Return the same operation over what stands in `new` for its operands, by old ``id``.

    The same object where no operand changed; a node with data, and a leaf, have none.
    """
    if not node.srcs or node.buffer is not None:
        return node
    srcs = tuple([new[id(s)] for s in node.srcs])
    if all(a is b for a, b in zip(srcs, node.srcs, strict=True)):
        return node
    copy = make(node.op, srcs, node.arg, node.device)
    copy.line = node.line
    return copy
