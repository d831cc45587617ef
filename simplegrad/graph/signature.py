"""The structural key of a graph: what a plan is known by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from simplegrad import ops
from simplegrad.errors import DeviceError
from simplegrad.graph.node import Node


def signature(wanted: Sequence[Node]) -> tuple[list[Node], tuple[Any, ...], list[Node]]:
    """Return (the graph's nodes, structural key, nodes whose value is kept).

    Nodes stand in the order in which a walk from `wanted` meets them, breadth first, which equal
    graphs share; values already there end it. The key names operations, arguments, shapes, dtypes,
    sharing, which leaf is which and what is kept; never a number that is an argument of a kernel.
    """
    order = list(wanted)
    place = {node: i for i, node in enumerate(order)}
    kinds: list[Any] = []
    edges: list[int] = []
    held: list[Node] = []
    find, meet, kind, edge = place.get, order.append, kinds.append, edges.append
    count = len(order)
    for node in order:  # which grows
        own = node.kind
        if node.buffer is not None:
            kind(own.spec)
            continue
        kind(own.id)
        srcs = node.srcs
        if srcs:
            for src in srcs:
                at = find(src)
                if at is None:
                    place[src] = at = count
                    meet(src)
                    count += 1
                edge(at)
            if node.holders:
                held.append(node)
        elif own.op is ops.BUFFER:
            _refuse(node)
    asked = set(wanted)
    kept = [*wanted, *[n for n in held if n not in asked]]
    key = (tuple(kinds), tuple(edges), tuple([place[n] for n in kept]), len(wanted))
    return order, key, kept


def _refuse(node: Node) -> NoReturn:
    if node.device is not None and node.device.kind in ("none", "symbolic"):
        node.device.evaluate([node], [node])
    raise DeviceError(
        "realize: this value depends on an argument that stands for any array of shape "
        f"{node.shape}: where a function is being traced (simplegrad.onnx.export), it may not "
        "read values (numpy(), float(x), a tensor as a mask)"
    )
