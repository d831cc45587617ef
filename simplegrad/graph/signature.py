"""The structural key of a graph: what a plan is known by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from simplegrad import ops
from simplegrad.errors import DeviceError
from simplegrad.graph.node import Node


def signature(wanted: Sequence[Node]) -> tuple[list[Node], tuple[Any, ...], list[Node]]:
    """Return (topological order, structural key, nodes whose value is kept).

    The key names operations, arguments, shapes, dtypes, sharing, which leaf is which and what is
    kept; never a number that is an argument of a kernel.
    """
    place: dict[Node, int] = {}
    kinds: list[Any] = []
    edges: list[int] = []
    held: list[Node] = []
    stack: list[Any] = list(wanted)
    stack.reverse()
    pop, push, kind, edge = stack.pop, stack.append, kinds.append, edges.append
    count = 0
    while stack:
        node = pop()
        if node is None:  # the operands of the node below have their places
            node = pop()
        elif node in place:
            continue
        else:
            waits = False
            for src in reversed(node.srcs):
                if src in place:
                    continue
                if src.buffer is not None:
                    kind(src.kind.spec)
                elif src.srcs:
                    if not waits:
                        waits = True
                        push(node)
                        push(None)
                    push(src)
                    continue
                else:
                    if src.kind.op is ops.BUFFER:
                        _refuse(src)
                    kind(src.kind.id)
                place[src] = count
                count += 1
            if waits:
                continue
        for src in node.srcs:
            edge(place[src])
        if node.kind.op is ops.BUFFER:
            _refuse(node)
        kind(node.kind.id)
        place[node] = count
        count += 1
        if node.holders:
            held.append(node)
    asked = set(wanted)
    kept = [*wanted, *[n for n in held if n not in asked]]
    key = (tuple(kinds), tuple(edges), tuple([place[n] for n in kept]), len(wanted))
    return list(place), key, kept


def _refuse(node: Node) -> NoReturn:
    if node.device is not None and node.device.kind in ("none", "symbolic"):
        node.device.evaluate([node], [node])
    raise DeviceError(
        "realize: this value depends on an argument that stands for any array of shape "
        f"{node.shape}: where a function is being traced (simplegrad.onnx.export), it may not "
        "read values (numpy(), float(x), a tensor as a mask)"
    )
