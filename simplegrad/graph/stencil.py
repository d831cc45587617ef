"""Pieces of graph that are copied: what a function made of nodes of the same kinds before.

A gradient rule or a composite checks shapes, normalises axes and looks kinds up, and all of that
costs several times what its nodes do. What it makes follows from the kinds of its inputs, so it is
recorded when it is met again, and stamped from then on.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Sequence
from operator import is_
from types import CodeType
from typing import Any

from simplegrad import ops
from simplegrad.graph.node import Kind, Node, Spec, topological

MAX_STEPS = 200_000
"""Nodes of all stencils of a table."""
_MAX_MET = 20_000
_FEW = 3
"""Nodes that are not worth folding."""
_NEAR = 8
"""Steps in which an update follows a gradient to where it was made."""
_FIXED = (ops.CONST, ops.IOTA)
_NUMBERS = (bool, int, float, type(None))
"""Not those that a replay of `simplegrad.jit` makes anew."""

_Step = tuple[Kind, int, int, tuple[int, ...], bool, bool, Any]
"""Kind, places of one operand or of two (-1: none), of more, whether it tracks, whether it has a
line of the user's, a leaf's number."""


class Stencil:
    """The nodes between some inputs and some results, by place: inputs first, then operands first.

    `results` are places. What the compiler alone will look at may be *folded*: one node over the
    inputs, and one for each result, stand for all until `unfolded` makes the others.
    """

    __slots__ = (
        "_depth", "_less", "_parts", "_piece", "_reads", "_specs", "_used", "left", "results",
        "steps",
    )  # fmt: skip

    def __init__(
        self, steps: Sequence[_Step], results: Sequence[int], specs: Sequence[Spec],
        left: frozenset[int] | None = None,
    ) -> None:  # fmt: skip
        """`specs` are of the inputs; `left` are the results that can be asked for (None: all)."""
        self.steps, self.results, self._specs = tuple(steps), tuple(results), tuple(specs)
        first = len(specs)
        self.left = frozenset(range(len(results))) if left is None else left
        self._used = self._below(self.left)
        self._less: dict[frozenset[int], tuple[Kind, list[int]]] = {}
        """By results that are left the kind of a folded node for them, and its operands' places."""
        self._reads: int | None = None
        self._depth = _depth(steps, first)
        self._piece: Kind | None = None
        self._parts: list[Kind] = []
        numbers = any(step[0].op is ops.SCALAR for step in steps)  # which are kernels' arguments
        tracks = any(step[4] for step in steps)
        if len(steps) > _FEW and not numbers and not tracks and min(results) >= first:
            made = [steps[i - first][0].spec for i in results]
            self._piece = Kind(ops.PIECE, self, tuple([specs[i] for i in self._used]), made[0])
            self._parts = [Kind(ops.PART, i, (made[0],), spec) for i, spec in enumerate(made)]

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

    def fold(self, inputs: Sequence[Node], device: Any) -> list[Node]:
        """As `stamp`, but folded where that can be: nothing in it tracks, or is a number."""
        if self._piece is None:
            return self.stamp(inputs, device)
        piece = Node(self._piece, tuple([inputs[i] for i in self._used]), device)
        piece.depth += self._depth - 1
        return [Node(kind, (piece,), device) for kind in self._parts]

    def unfold(self, piece: Node, operands: Sequence[Node]) -> list[Node]:
        """Return the results of a folded stencil over its operands."""
        inputs = [piece] * len(self._specs)  # whatever stands where nothing asked for looks
        for i, operand in zip(self._used, operands, strict=True):
            inputs[i] = operand
        return self.stamp(inputs, piece.device)

    def _below(self, results: Iterable[int]) -> list[int]:
        """Return which inputs some results, by number, are made of."""
        first, wanted = len(self._specs), [self.results[i] for i in results]
        met = set(wanted)
        for place in wanted:  # which grows
            new = {*self.steps[place - first][3]} - met if place >= first else ()
            met.update(new)
            wanted += new
        return sorted([place for place in met if place < first])

    def operands(self, results: Iterable[int]) -> list[int]:
        """Return the places of those operands of a folded node that some results are made of."""
        below = {*self._below(results)}
        return [place for place, i in enumerate(self._used) if i in below]

    @property
    def reads(self) -> int:
        """A number that stencils share whose results are made of operands at the same places."""
        if self._reads is None:
            below = tuple([(i, *self.operands([i])) for i in sorted(self.left)])
            if len(_reads) > _MAX_MET:
                _reads.clear()
            self._reads = _reads.setdefault(below, next(_numbers))
        return self._reads

    def narrow(self, piece: Node, left: frozenset[int]) -> None:
        """Let a folded node go of the operands of all results but `left`, which nobody can ask for.

        They may be written over then.
        """
        if left == self.left:
            return
        known = self._less.get(left)
        if known is None:
            less = Stencil(self.steps, self.results, self._specs, left)
            assert less._piece is not None, "what could be folded can be with fewer results"
            known = self._less[left] = (less._piece, self.operands(left))
        piece.kind, piece.srcs = known[0], tuple([piece.srcs[place] for place in known[1]])


_reads: dict[Hashable, int] = {}
"""By results that can be asked for, and what each is made of."""
_numbers = itertools.count()


def _depth(steps: Sequence[_Step], first: int) -> int:
    """Return the length of the longest chain of steps."""
    depths = [0] * first
    for step in steps:
        depths.append(max([depths[i] for i in step[3]], default=0) + 1)
    return max(depths, default=0)


def over_folded(node: Node) -> bool:
    """Return whether a node is a folded stencil's result, or is made of one in a few steps."""
    for _ in range(_NEAR):
        if node.kind.op is ops.PART or not node.srcs:
            break
        node = node.srcs[0]
    return node.kind.op is ops.PART and node.buffer is None


def unfolded(nodes: Sequence[Node]) -> list[Node]:
    """Return the same values as graphs without folded stencils; what stands above one is copied.

    A copy has as many holders, so that the same values are kept.
    """
    order = topological(nodes)
    if not any(node.kind.op is ops.PIECE for node in order):
        return list(nodes)
    new: dict[Node, Any] = {}
    for node in order:
        if node.buffer is not None or not node.srcs:
            new[node] = node
            continue
        operands = tuple([new[source] for source in node.srcs])
        if node.kind.op is ops.PIECE:
            new[node] = node.kind.arg.unfold(node, operands)
        elif node.kind.op is ops.PART:
            new[node] = operands[0][node.kind.arg]
            new[node].holders += node.holders
        elif all(map(is_, operands, node.srcs)):
            new[node] = node
        else:
            copy = new[node] = Node(node.kind, operands, node.device)
            copy.line, copy.tracks, copy.holders = node.line, node.tracks, node.holders
    return [new[node] for node in nodes]


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
    specs = [node.kind.spec for node in inputs]
    return Stencil(steps, [places[id(n)] for n in results], specs)


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
