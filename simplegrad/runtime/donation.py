"""Which inputs of a plan die with it, so that their memory may become that of its results.

A buffer may be written over where nothing but the graph that is being computed leads to it: no
tensor, no other graph, no array that shares its memory. Python counts references, so this is seen
by comparing the counts of the nodes and of the buffer with those that the graph itself explains:

    an input           read by the graph's nodes, named in its order, and held by whoever declares
                       that it will let go (an optimiser, of what it replaces)
    a node in between  read by the graph's nodes and named in its order; what else refers to it
                       could compute it again, and reads the nearest values below then
    a node that keeps  its value needs no operands any more, unless gradients of a live leaf flow
    its value          through it: they read the operands on their way
    a folded stencil   reads what those of its results are made of that are held elsewhere, or are
                       not in the graph; it lets go of its other operands, should any die

Anything unknown makes a count larger, and nothing is written over then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import compress
from operator import attrgetter, gt, itemgetter
from sys import getrefcount
from typing import Any

from simplegrad import ops
from simplegrad.graph.node import Node
from simplegrad.graph.prune import live_leaf
from simplegrad.runtime.inbox import Block
from simplegrad.runtime.pool import Buffer

OWN = frozenset({Buffer, Block})
"""Buffers that nothing but the engine writes: others are over memory of the user's."""


def counts(objects: Sequence[Any]) -> list[int]:
    """Return the reference counts of objects that stand in `objects` and one other container."""
    return list(map(getrefcount, objects))


def _explained() -> int:
    elsewhere = [object()]
    return counts([elsewhere[0]])[0]


EXPLAINED = _explained()
"""What `counts` gives for an object to which nothing else refers."""


class Watch:
    """The counts that a graph's own structure explains; `order` and `kept` are of any equal one.

    `inputs` are the places of those that may die, and the bytes that are wanted of their buffers.
    """

    def __init__(
        self, order: Sequence[Node], kept: Sequence[Node], inputs: Sequence[tuple[int, int]]
    ) -> None:
        uses = [0] * len(order)
        places = {node: i for i, node in enumerate(order)}
        for node in order:
            for source in node.srcs if node.buffer is None else ():
                uses[places[source]] += 1
        values = set(kept)
        pending = [n.srcs != () and n.buffer is None for n in order]
        between = [i for i, n in enumerate(order) if pending[i] and n not in values]
        self._places, self._between = between, _getter(between)
        waiting = [i for i, waits in enumerate(pending) if waits]
        self._pending = _getter(waiting)
        self._folded = _getter([i for i in waiting if order[i].kind.op in _FOLDED])
        self._ends = [i for i, waits in enumerate(pending) if not waits]
        self._explained = [EXPLAINED + uses[i] for i in between]
        self._input_places = [place for place, _ in inputs]
        self._inputs = _getter(self._input_places)
        self._alone = [EXPLAINED + uses[place] for place in self._input_places]
        self._known: dict[tuple[Any, ...], _Later] = {}
        """By who names nodes in between from outside, what leads to live leaves, and what folded
        stencils read: `_later`."""

    def dying(
        self, order: Sequence[Node], kept: Sequence[Node], inputs: Sequence[tuple[int, int]],
        given: Collection[Node] = (),
    ) -> tuple[list[int], Sequence[tuple[int, frozenset[int]]]]:  # fmt: skip
        """Return the numbers of those `inputs` whose buffer nobody reads after this plan.

        Their places are those that this was made with. `given` holds nodes that one owner besides
        the graph will let go. With them go the places of folded stencils that are to be narrowed
        once the plan has run, and to which results.
        """
        nodes = self._inputs(order)
        buffers = list(map(_BUFFER, nodes))
        seen, holding = counts(nodes), counts(buffers)
        found = []
        for i, (_, nbytes) in enumerate(inputs):
            buffer, is_given = buffers[i], nodes[i] in given
            if (
                holding[i] == EXPLAINED
                and seen[i] == self._alone[i] + 2 * is_given
                and nodes[i].holders <= is_given
                and type(buffer) in OWN
                and buffer.nbytes >= nbytes
            ):
                found.append(i)
        if not found:
            return [], ()
        more = map(gt, counts(self._between(order)), self._explained)
        read, narrow = self._later(order, kept, tuple(compress(self._places, more)))
        if read:
            found = [i for i in found if self._input_places[i] not in read]
        return found, narrow if found else ()

    def _later(
        self, order: Sequence[Node], kept: Sequence[Node], outside: tuple[int, ...]
    ) -> _Later:
        """Return the places whose value may be asked for later; loops ask the same every time."""
        tracks = tuple(map(_TRACKS, order))
        leaves: tuple[int, ...] = ()
        if any(map(_LEAF, self._pending(order))):
            leaves = tuple([i for i, n in enumerate(order) if n.leaf is not None and n.srcs])
        ends = [i for i in (*self._ends, *leaves) if tracks[i]]
        leads = tuple([live_leaf(order[i], set()) is not None for i in ends])
        # Graphs of one layout may be folded otherwise.
        args = [n.kind.arg for n in self._folded(order)]
        folded = tuple([arg if type(arg) is int else arg.reads for arg in args])
        key = (outside, leaves, tracks, leads, folded)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            absent = _absent(order)
            read, left = _read_later([order[i] for i in outside], kept, absent)
            places = frozenset([i for i, n in enumerate(order) if n in read])
            narrow = [(i, frozenset(left[n])) for i, n in enumerate(order) if n in left]
            found = self._known[key] = (places, narrow)
        return found


_Later = tuple[frozenset[int], Sequence[tuple[int, frozenset[int]]]]
"""Places whose value may be asked for later, and of folded stencils which results may."""
_FOLDED = (ops.PIECE, ops.PART)
_MOST_KNOWN = 16
_BUFFER, _LEAF, _TRACKS = attrgetter("buffer"), attrgetter("leaf"), attrgetter("tracks")


def _getter(places: list[int]) -> Any:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda order: [order[i] for i in places]


def _absent(order: Sequence[Node]) -> dict[Node, set[int]]:
    """Return the folded stencils of a graph, and which of their results are not in it."""
    found = {n: {*n.kind.arg.left} for n in order if n.kind.op is ops.PIECE}
    for node in order:
        if node.kind.op is ops.PART and node.buffer is None:
            found[node.srcs[0]].discard(node.kind.arg)
    return found


def _read_later(
    outside: Sequence[Node], kept: Sequence[Node], absent: Mapping[Node, set[int]]
) -> tuple[set[Node], dict[Node, set[int]]]:
    """Return the nodes whose value may be asked for once the `kept` ones have theirs.

    What is `outside`, named by other graphs, can be computed again from the nearest values below.
    A gradient asks for the operands of all nodes between where it begins and a live leaf; past a
    value of an earlier plan, nothing reads an input that only this graph names. Of a folded stencil
    those results can be asked for that are `absent` here, and those that are among what is read;
    they are returned, too.
    """
    useless: set[Node] = set()
    begins = [n for n in (*kept, *outside) if n.tracks and live_leaf(n, useless) is not None]
    if not begins and not outside:
        return set(), {}
    values, read, passed = set(kept), set[Node](), set[Node]()
    left: dict[Node, set[int]] = {}
    wanted = list(outside)
    while begins:
        node = begins.pop()
        if node not in passed:
            passed.add(node)
            wanted += node.srcs
            begins += [
                s for s in node.srcs
                if s.buffer is None and s.tracks and live_leaf(s, useless) is not None
            ]  # fmt: skip
    while wanted:
        node = wanted.pop()
        if node in read:
            continue
        read.add(node)
        if node.buffer is not None or node in values:
            continue
        if node.kind.op is ops.PART:
            piece, asked = node.srcs[0], {node.kind.arg}
        elif node.kind.op is ops.PIECE:
            piece, asked = node, absent[node]
        else:
            wanted += node.srcs
            continue
        left.setdefault(piece, set()).update(asked)
        wanted += [piece.srcs[place] for place in piece.kind.arg.operands(asked)]
    return read, left
