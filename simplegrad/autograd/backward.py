"""Reverse mode over the graph: from an output's gradient to those of leaves, as new lazy nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simplegrad import ops
from simplegrad.autograd.rules import RULES
from simplegrad.errors import AutogradError
from simplegrad.graph import build
from simplegrad.graph.node import Node
from simplegrad.graph.stencil import Table, sort_of
from simplegrad.runtime import recording


def backward(root: Node, seed: Node, fold: bool = False) -> list[tuple[Any, Node]]:
    """Return (tensor, gradient) for every live leaf tensor that `root` depends on.

    Branches that lead to no live leaf get no nodes. Nothing is computed here. What was swept over
    a graph of the same structure before is stamped, or folded if nobody looks into it.
    """
    inputs, key, leaves = _structure(root, seed)
    stencil = _sweeps.find(key)
    if stencil is not None:
        grow = stencil.fold if fold and recording.may_fold(root.device) else stencil.stamp
        return list(zip([t for _, t in leaves], grow(inputs, root.device), strict=True))
    order = _tracked(root)
    wanted = _above(order, {id(n) for n, _ in leaves})
    gradients = _sweep(order, wanted, {id(root): [seed]})
    pairs = [(t, gradients.get(id(n))) for n, t in leaves]
    parts = [g for _, g in pairs if g is not None]
    if len(parts) == len(pairs) and all(n.device is root.device for n in parts):
        _sweeps.learn(key, inputs, parts)
    return [(t, g) for t, g in pairs if g is not None]


_sweeps = Table()


def _structure(
    root: Node, seed: Node
) -> tuple[list[Node], tuple[Any, ...], list[tuple[Node, Any]]]:
    """Return what a sweep starts from, all that its result depends on, and the live leaves.

    Nodes stand in the order in which a walk from the root meets them, breadth first.
    """
    inputs, place = [root], {root: 0}
    kinds, edges = list[Any](), list[int]()
    leaves, places = list[tuple[Node, Any]](), list[int]()
    for node in inputs:  # which grows
        if not node.tracks:
            kinds.append(sort_of(node))
            continue
        srcs = node.srcs
        if not srcs:
            kinds += (None, node.kind.spec)  # None: it tracks
        else:
            kinds.append(node.kind)
            for source in srcs:
                at = place.get(source)
                if at is None:
                    at = place[source] = len(inputs)
                    inputs.append(source)
                edges.append(at)
        if node.leaf is not None and (tensor := node.leaf()) is not None:
            leaves.append((node, tensor))
            places.append(place[node])
    at = place.get(seed, len(inputs))
    if at == len(inputs):
        inputs.append(seed)
        kinds += (sort_of(seed), seed.tracks)
    return inputs, (tuple(kinds), tuple(edges), tuple(places), at), leaves


def gradients(
    outputs: Sequence[Node], seeds: Sequence[Node], inputs: Sequence[Node]
) -> list[Node | None]:
    """Return the gradient of each input, None where no output depends on it.

    `seeds` are the gradients of the outputs, of the same shapes.
    """
    order: list[Node] = []
    seen: set[int] = set()
    for output in outputs:
        order += _tracked(output, seen)
    start: dict[int, list[Node]] = {}
    for output, seed in zip(outputs, seeds, strict=True):
        start.setdefault(id(output), []).append(seed)
    wanted = _above(order, {id(n) for n in inputs})
    found = _sweep(order, wanted, start)
    return [found.get(id(n)) for n in inputs]


def _tracked(root: Node, seen: set[int] | None = None) -> list[Node]:
    """Return the tracking nodes below `root`, operands first, through realized ones too."""
    order: list[Node] = []
    seen = set() if seen is None else seen
    stack: list[Node | None] = [root]
    while stack:
        node = stack.pop()
        if node is None:
            done = stack.pop()
            assert done is not None
            order.append(done)
        elif node.tracks and id(node) not in seen:
            seen.add(id(node))
            if node.srcs:
                stack += (node, None, *reversed(node.srcs))
            else:
                order.append(node)
    return order


def _above(order: Sequence[Node], leaves: set[int]) -> set[int]:
    """Return the nodes of a topological order that depend on one of `leaves`."""
    above = set(leaves)
    for node in order:
        for source in node.srcs:
            if id(source) in above:
                above.add(id(node))
                break
    return above


def _sweep(
    order: Sequence[Node], wanted: set[int], incoming: dict[int, list[Node]]
) -> dict[int, Node]:
    """Walk from outputs to leaves; a node's gradients are summed once all have arrived."""
    result: dict[int, Node] = {}
    for node in reversed(order):
        parts = incoming.pop(id(node), None)
        if parts is None or id(node) not in wanted:
            continue
        gradient = result[id(node)] = parts[0] if len(parts) == 1 else total(parts)
        below = [s.tracks and id(s) in wanted for s in node.srcs]
        if True not in below:
            continue
        rule = RULES.get(node.op)
        if rule is None:
            raise AutogradError(f"backward: {node.op} has no gradient ({node.where}); use detach()")
        for source, asked, part in zip(node.srcs, below, rule(node, gradient), strict=True):
            if asked and part is not None:
                arrived = incoming.get(id(source))
                if arrived is None:
                    incoming[id(source)] = [part]
                else:
                    arrived.append(part)
    return result


def total(parts: Sequence[Node]) -> Node:
    """Return the sum of nodes of one shape, as a balanced tree in the order given."""
    level = list(parts)
    while len(level) > 1:
        pairs = [build.apply(ops.ADD, level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) // 2 * 2 :]
    return level[0]
