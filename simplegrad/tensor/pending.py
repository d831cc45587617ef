"""What is pending is computed before it grows unseen: by length, by bytes and by numbers held."""

from __future__ import annotations

from collections.abc import Iterable

from simplegrad.graph.node import Node, topological
from simplegrad.runtime import realize as execution
from simplegrad.tensor.modes import mode

MAX_PENDING = 1000
"""Operations in a row that pile up before they are computed, read or not: bounds the memory."""
MAX_HELD_BYTES = 256 << 20
"""Bytes that pending operations alone keep alive before their result, if small, is computed."""
_MUCH = 8
"""How many times its own bytes a result must set free to be computed unasked."""
_MAX_NUMBERS = 16
"""Numbers in memory of their own that a pending number alone may keep, as a running total does."""


def flush(node: Node, inputs: Iterable[Node]) -> None:
    """Compute the operands of a node that ends a long chain, so that nothing grows unseen."""
    if mode.lazy:
        return
    execution.realize([n for n in inputs if n.srcs])
    node.depth, node.unread = 1, sum(n.unread for n in node.srcs)


def release(node: Node) -> None:
    """Compute a small node that alone keeps much data alive, so that this can go.

    `Node.unread` only bounds the bytes from above: what several operations read counts each time,
    and so does what a tensor holds anyway. The walk that counts rightly makes the bound exact.
    """
    held = sum(n.nbytes for n in topological([node]) if n.buffer is not None and not n.holders)
    node.unread = held
    if held > max(MAX_HELD_BYTES, _MUCH * node.nbytes):
        execution.realize([node])


def gather(node: Node) -> None:
    """Compute the operands of a number that alone keeps many others, so that these can go.

    To be called at depths that are powers of two, so that all these walks take linear time.
    """
    if _MAX_NUMBERS <= node.depth <= node.unread <= 8 * node.depth:  # else few, or other things
        parts = topological([node])
        kept = [n for n in parts if n.buffer is not None and not n.holders and not n.shape]
        if len(kept) >= _MAX_NUMBERS:
            flush(node, node.srcs)
