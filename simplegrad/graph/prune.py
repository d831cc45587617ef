"""Cut the history that no gradient will ever walk, so that a loop's memory stays bounded."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from simplegrad.graph.node import Node


def prune(nodes: Sequence[Node]) -> None:
    """Drop the operands of realized nodes whose history leads to no live leaf tensor.

    Nobody could read a gradient that flows there: the leaves' tensors are gone, or an optimiser
    has made them fresh leaves since.
    """
    useless: set[Node] = set()
    for node in nodes:
        if node.buffer is not None and node.srcs:
            found = live_leaf(node, useless)
            if found is None:
                node.srcs = ()
            else:
                node.below = weakref.ref(found)


def live_leaf(root: Node, useless: set[Node]) -> Node | None:
    """Return a leaf node below `root` whose tensor lives, or None.

    `useless` collects nodes that lead to none. A leaf found in an earlier call is found again at
    once, so that looking at every link of a growing chain takes linear time in all.
    """
    if not root.srcs:
        return _alive(root)
    stack: list[tuple[Node, Any]] = [(root, None)]
    seen: list[Node] = []
    while stack:
        node, way = stack.pop()
        if node in useless:
            continue
        found = _alive(node)
        if found is None:
            useless.add(node)
            seen.append(node)
            if not node.tracks:
                continue
            way = (node, way)
            for source in node.srcs:
                if source.tracks:
                    if source.leaf is not None and source.leaf() is not None:
                        found = source
                        break
                    stack.append((source, way))
        if found is not None:
            # What was seen beside the way may still lead somewhere: only a full walk tells.
            useless.difference_update(seen)
            below = weakref.ref(found)
            while way is not None:
                node, way = way
                node.below = below
            return found
    return None


def _alive(node: Node) -> Node | None:
    """Return the node itself, or the leaf known below it, if that is a leaf whose tensor lives."""
    if node.leaf is None:
        below = node.below() if node.below is not None else None
        return below if below is not None and below.leaf and below.leaf() is not None else None
    return node if node.leaf() is not None else None
