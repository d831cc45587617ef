"""Cut the history that no gradient will ever walk, so that a loop's memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

from simplegrad.graph.node import Node


def prune(nodes: Sequence[Node]) -> None:
    """Drop the operands of realized nodes whose history leads to no live leaf tensor.

    Nobody could read a gradient that flows there: the leaves' tensors are gone, or an optimiser
    has made them fresh leaves since.
    """
    useful: dict[Node, bool] = {}
    for node in nodes:
        if node.buffer is not None and node.srcs and not leads_to_leaf(node, useful):
            node.srcs = ()


def leads_to_leaf(root: Node, known: dict[Node, bool]) -> bool:
    """Return whether a gradient from `root` reaches a live leaf tensor; `known` is filled."""
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, done = stack.pop()
        if done:
            known[node] = known[node] or any(known.get(s, False) for s in node.srcs)
            continue
        if node in known:
            continue
        known[node] = node.leaf is not None and node.leaf() is not None
        if known[node]:
            # Everything above this leaf is useful: no need to look at the rest.
            for above, finished in stack:
                if finished:
                    known[above] = True
            if known.get(root):
                return True
        elif node.tracks:
            stack.append((node, True))
            stack.extend((s, False) for s in node.srcs)
    return known[root]
