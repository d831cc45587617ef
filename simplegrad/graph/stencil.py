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

_Step = tuple[Kind, int, int, tuple[int, ...], bool, bool, Any]
"""Kind, places of one operand or of two (-1: none), of more, whether it tracks, whether it has a
line of the user's, a leaf's number."""


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
        for kind, first, second, more, tracks, has_line, value in self.steps:
            if second >= 0:
                node = Node(kind, (nodes[first], nodes[second]), device)
            elif first >= 0:
                node = Node(kind, (nodes[first],), device)
            else:
                node = Node(kind, tuple([nodes[i] for i in more]), device)
                node.value = value
            if has_line:
                node.line = line
            if tracks:
                node.tracks = True
            add(node)
        return [nodes[i] for i in self.results]


def cut(inputs: Sequence[Node], made: Sequence[Node], results: Sequence[Node]) -> Stencil | None:
    """Return the stencil of what was `made`, operands first; None where it holds data.

    So where it holds numbers that the next inputs, or the next replay, may change.
    """
    places: dict[int, int] = {}
    for i, node in enumerate(inputs):
        places.setdefault(id(node), i)
    # A number among the inputs may stand in the graph again, in another shape.
    numbers = any(n.kind.op is ops.SCALAR and n.buffer is None for n in inputs)
    leaves = _FIXED if numbers else (*_FIXED, ops.SCALAR)
    steps: list[_Step] = []
    for node in made:
        fixed = node.srcs or (node.kind.op in leaves and type(node.value) in _NUMBERS)
        if not fixed or node.leaf is not None:
            return None
        found = tuple([places[id(s)] for s in node.srcs])
        first, second = (*found, -1, -1)[:2] if len(found) <= 2 else (-1, -1)
        places[id(node)] = len(inputs) + len(steps)
        has_line = node.line is not None
        steps.append((node.kind, first, second, found, node.tracks, has_line, node.value))
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
        ends = {id(node) for node in inputs}
        order = topological(results, realized=True, ends=ends)
        made = [node for node in order if id(node) not in ends]
        if any(node.buffer is not None for node in made):
            return  # computed on the way, as long chains are: not so the next time
        size = len(inputs) + len(made)
        stencil = cut(inputs, made, results) if size <= MAX_STEPS // 4 else None
        self._steps += size if stencil else 1
        if self._steps > MAX_STEPS:
            self._known.clear()
            self._steps = size
        self._known[key] = stencil


def sort_of(node: Node) -> Any:
    """Return what a function may ask of an input: the kind of a leaf without data, else its spec.

    Such leaves are numbers, which fold, and placeholders.
    """
    kind = node.kind
    return kind.spec if node.srcs or node.buffer is not None else kind
