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

Anything unknown makes a count larger, and nothing is written over then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import compress
from operator import attrgetter, gt, itemgetter
from sys import getrefcount
from typing import Any

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
        self._pending = _getter([i for i, waits in enumerate(pending) if waits])
        self._ends = [i for i, waits in enumerate(pending) if not waits]
        self._explained = [EXPLAINED + uses[i] for i in between]
        self._input_places = [place for place, _ in inputs]
        self._inputs = _getter(self._input_places)
        self._alone = [EXPLAINED + uses[place] for place in self._input_places]
        self._known: dict[tuple[Any, ...], frozenset[int]] = {}
        """By who names nodes in between from outside, and what leads to live leaves: `_read`."""

    def dying(
        self, order: Sequence[Node], kept: Sequence[Node], inputs: Sequence[tuple[int, int]],
        given: Collection[Node] = (),
    ) -> list[int]:  # fmt: skip
        """Return the numbers of those `inputs` whose buffer nobody reads after this plan.

        Their places are those that this was made with. `given` holds nodes that one owner besides
        the graph will let go.
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
            return []
        more = map(gt, counts(self._between(order)), self._explained)
        read = self._read(order, kept, tuple(compress(self._places, more)))
        return [i for i in found if self._input_places[i] not in read] if read else found

    def _read(
        self, order: Sequence[Node], kept: Sequence[Node], outside: tuple[int, ...]
    ) -> frozenset[int]:
        """Return the places whose value may be asked for later; loops ask the same every time."""
        tracks = tuple(map(_TRACKS, order))
        leaves: tuple[int, ...] = ()
        if any(map(_LEAF, self._pending(order))):
            leaves = tuple([i for i, n in enumerate(order) if n.leaf is not None and n.srcs])
        ends = [i for i in (*self._ends, *leaves) if tracks[i]]
        leads = tuple([live_leaf(order[i], set()) is not None for i in ends])
        key = (outside, leaves, tracks, leads)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            read = _read_later([order[i] for i in outside], kept)
            found = frozenset([i for i, n in enumerate(order) if n in read])
            self._known[key] = found
        return found


_MOST_KNOWN = 16
_BUFFER, _LEAF, _TRACKS = attrgetter("buffer"), attrgetter("leaf"), attrgetter("tracks")


def _getter(places: list[int]) -> Any:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda order: [order[i] for i in places]


def _read_later(outside: Sequence[Node], kept: Sequence[Node]) -> set[Node]:
    """Return the nodes whose value may be asked for once the `kept` ones have theirs.

    What is `outside`, named by other graphs, can be computed again from the nearest values below.
    A gradient asks for the operands of all nodes between where it begins and a live leaf; past a
    value of an earlier plan, nothing reads an input that only this graph names.
    """
    useless: set[Node] = set()
    begins = [n for n in (*kept, *outside) if n.tracks and live_leaf(n, useless) is not None]
    if not begins and not outside:
        return set()
    values, read, passed = set(kept), set[Node](), set[Node]()
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
        if node not in read:
            read.add(node)
            if node.buffer is None and node not in values:
                wanted += node.srcs
    return read
