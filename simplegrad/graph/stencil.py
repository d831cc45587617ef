"""Pieces of graph that are copied: what a function made of nodes of the same kinds before.

A gradient rule or a composite checks shapes, normalises axes and looks kinds up, and all of that
costs several times what its nodes do. What it makes follows from the kinds of its inputs, so it is
recorded when it is met again, and stamped from then on.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from types import CodeType
from typing import Any

from simplegrad import ops
from simplegrad.graph.node import Kind, Node, topological

MAX_STEPS = 200_000
"""Nodes of all stencils of a table."""
_MAX_MET = 20_000
_FIXED = (ops.CONST, ops.IOTA)
_NUMBERS = (bool, int, float, type(None))
"""Not those that a replay of `simplegrad.jit` makes anew."""

_Step = tuple[Kind, int, int, tuple[int, ...], bool, Any]
"""Kind, places of one operand or of two (-1: none), of more, whether it tracks, a leaf's number."""


class Stencil:
    """The nodes between some inputs and some results, by place: inputs first, then operands first.

    `results` are places.
    """

    __slots__ = ("results", "steps")

    def __init__(self, steps: Sequence[_Step], results: Sequence[int]) -> None:
        self.steps, self.results = tuple(steps), tuple(results)

    def stamp(
        self, inputs: Sequence[Node], device: Any, line: tuple[CodeType, int] | None = None
    ) -> list[Node]:
        """Return new results over other inputs of the same kinds, on their `device`."""
        nodes = list(inputs)
        add = nodes.append
        for kind, first, second, more, tracks, value in self.steps:
            if second >= 0:
                node = Node(kind, (nodes[first], nodes[second]), device)
            elif first >= 0:
                node = Node(kind, (nodes[first],), device)
            else:
                node = Node(kind, tuple([nodes[i] for i in more]), device)
                node.value = value
            node.line = line
            if tracks:
                node.tracks = True
            add(node)
        return [nodes[i] for i in self.results]


def cut(inputs: Sequence[Node], results: Sequence[Node]) -> Stencil | None:
    """Return the stencil of what was made; None where it holds what other inputs would change."""
    places: dict[int, int] = {}
    for i, node in enumerate(inputs):
        places.setdefault(id(node), i)
    # A number among the inputs may stand in the graph again, in another shape.
    leaves = _FIXED if any(n.kind.op is ops.SCALAR for n in inputs) else (*_FIXED, ops.SCALAR)
    steps: list[_Step] = []
    for node in topological(results, realized=True, ends=places.keys()):
        if id(node) in places:
            continue
        made = node.srcs or (node.kind.op in leaves and type(node.value) in _NUMBERS)
        if not made or node.buffer is not None or node.leaf is not None:
            return None
        found = tuple([places[id(s)] for s in node.srcs])
        first, second, more = -1, -1, found
        if len(found) == 2:
            first, second = found
        elif len(found) == 1:
            first = found[0]
        places[id(node)] = len(inputs) + len(steps)
        steps.append((node.kind, first, second, more, node.tracks, node.value))
    return Stencil(steps, [places[id(n)] for n in results])


class Table:
    """Stencils by what they depend on, the inputs' kinds among it; it empties when it is full."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Stencil | None] = {}
        self._met: set[int] = set()
        self._steps = 0
        self.find = self._known.get

    def learn(self, key: Hashable, inputs: Sequence[Node], results: Sequence[Node]) -> None:
        """Remember what was made, if its key is met a second time; much happens only once."""
        if key in self._known:
            return
        if hash(key) not in self._met:
            if len(self._met) > _MAX_MET:
                self._met.clear()
            self._met.add(hash(key))
            return
        stencil = cut(inputs, results)
        self._steps += len(stencil.steps) if stencil else 1
        if self._steps > MAX_STEPS:
            self._known.clear()
            self._steps = 0
            return
        self._known[key] = stencil


def sort_of(node: Node) -> Any:
    """Return what a function may ask of an input: its kind where it is a number, else its spec."""
    kind = node.kind
    return kind.spec if node.srcs or node.buffer is not None else kind
