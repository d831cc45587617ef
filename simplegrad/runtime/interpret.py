"""Graphs run operation by operation, for devices that compile nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simplegrad.errors import OutOfMemory
from simplegrad.graph.node import Node


def evaluate(
    order: Sequence[Node],
    targets: Sequence[Node],
    compute: Callable[[Node, list[Any]], Any],
    keep: Callable[[Any], Any] = lambda value: value,
) -> None:
    """Set the `buffer` of `targets` and of the held nodes of a topological order.

    `compute` gives a node's value from its operands' values; `keep` makes a value one that may
    stay. Values are let go after their last use. Raises `OutOfMemory` where the host has no room.
    """
    uses: dict[Node, int] = {}
    for node in order:
        if node.buffer is None:
            for src in node.srcs:
                uses[src] = uses.get(src, 0) + 1
    wanted = set(targets)
    values: dict[Node, Any] = {}
    with np.errstate(all="ignore"):
        for node in order:
            if node.buffer is not None:
                values[node] = node.buffer
                continue
            try:
                value = compute(node, [values[s] for s in node.srcs])
                if node in wanted or (node.holders and node.srcs):
                    node.buffer = value = keep(value)
            except MemoryError as error:
                raise OutOfMemory(
                    f"{node.op}: no room for {node.nbytes:,} bytes of shape {node.shape} "
                    f"({node.where}); free arrays, or compute in parts"
                ) from error
            values[node] = value
            for src in node.srcs:
                uses[src] -= 1
                if not uses[src]:
                    del values[src]
