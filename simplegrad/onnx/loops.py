"""Loops whose body is the step of a recurrence: one SCAN instead of the body at every round.

The body is run once, over placeholders, and its graph is read. Where the next states come,
elementwise, from products of states with matrices, from states, and from what depends on the
round's inputs alone, the loop is a SCAN (`graph.scan`). What depends on the inputs alone is
computed for all rounds at once before it; what is only put out (an output layer, say), after it.
A body of any other form is left to be unrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simplegrad import dtypes, ops
from simplegrad.errors import SimplegradError
from simplegrad.graph import build
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, Spec, const, const_value, leaf, make, topological
from simplegrad.graph.scan import recorded
from simplegrad.onnx.rounds import Rounds
from simplegrad.onnx.tensors import Value
from simplegrad.tensor.core import lift, wrap
from simplegrad.tensor.modes import lazy
from simplegrad.tensor.scan import scan
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import concat

_Function = Callable[[list[Value]], list[Value]]
_SLOT = Spec.of((1, 1, 1), dtypes.float64)
"""Of what stands for a value of the step."""
_RANDOM = (ops.RANDOM_BITS, ops.PERMUTE_INDEX, ops.BOX_MULLER)


class Other(Exception):
    """The body is no step of a recurrence."""


def as_scan(
    body: _Function, carried: Sequence[Value], inputs: Sequence[Tensor], device: Any
) -> tuple[list[Value], list[Tensor]] | None:
    """Return what is carried in the end and the other outputs of all rounds, or None.

    `body` takes what is carried and a slice of every input (rounds, …), and returns what is
    carried on and its other outputs. None says that it is no step of a recurrence.
    """
    if not inputs or not inputs[0].shape[0]:
        return None
    slices = [leaf(ops.BUFFER, x.shape[1:], x.dtype, None, device) for x in inputs]
    starts = [value.on(device) for value in carried]
    own = [leaf(ops.BUFFER, s.shape, s.dtype, None, device) for s in starts]

    def results(given: Sequence[Value]) -> list[Node]:
        with lazy():
            found = body([*given, *[Value.of(wrap(node)) for node in slices]])
        return [value.on(device)._node for value in found]

    try:
        found = results([Value.of(wrap(node)) for node in own])
        moving = [i for i, node in enumerate(own) if found[i] is not node]
        if len(moving) < len(own):  # what stays as it is may be a matrix
            given = [Value.of(wrap(own[i])) if i in moving else v for i, v in enumerate(carried)]
            found = results(given)
        if any(node.op in _RANDOM for node in topological(found)):
            return None  # new numbers in every round
        step = _Body([own[i] for i in moving], [found[i] for i in moving])
        known = {id(node): x._node for node, x in zip(slices, inputs, strict=True)}
        rounds = Rounds(inputs[0].shape[0], known)
        last, outputs = step.computed([starts[i] for i in moving], rounds, found[len(own) :])
    except (Other, SimplegradError, RecursionError):
        return None
    ends = list(carried)
    for i, end in zip(moving, last, strict=True):
        ends[i] = Value.of(end)
    return ends, outputs


class _Body:
    """The graph of a body, and the values of the SCAN's step that are found in it.

    A value is known by a node and the first of its columns: a part of the last axis, as wide as
    the states.
    """

    def __init__(self, states: list[Node], results: list[Node]) -> None:
        if not states or not states[0].shape or states[0].shape[-1] < 2:
            raise Other
        self.states, self.results = states, results
        self.shape, self.dtype, self.hidden = states[0].shape, states[0].dtype, states[0].shape[-1]
        for node in (*states, *results):
            if node.shape != self.shape or node.dtype is not self.dtype or not node.dtype.is_float:
                raise Other
        self.moving = {id(s) for s in states}
        for node in topological(results, ends=self.moving):
            if any(id(s) in self.moving for s in node.srcs):
                self.moving.add(id(node))
        self.products: list[tuple[Node, int]] = []
        self.given: list[tuple[Node, int]] = []
        self.slots = {(id(s), 0): _slot() for s in states}
        """What stands for a value in the step."""

    def computed(
        self, starts: list[Tensor], rounds: Rounds, outputs: list[Node]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the states after the last round, and the other outputs of all rounds.

        `rounds` knows the inputs.
        """
        fields = [self.at(node, 0) for node in self.results]
        if not self.products or not self.given:
            raise Other
        places = {id(node): i for i, (node, _) in enumerate(self.products)}
        self.products.sort(key=lambda p: (places[id(p[0])], p[1]))
        factors = [_Product.of(node, self.states) for node, _ in self.products]
        first = [s for s in self.states if any(s in f.states for f in factors)]
        order = [*first, *[s for s in self.states if s not in first]]
        at = [self.states.index(s) for s in order]
        keys = [*self.products, *[(s, 0) for s in order], *self.given]
        step = recorded(
            [self.slots[id(node), start] for node, start in keys], [fields[i] for i in at],
            len(self.products), len(first), len(order),
        )  # fmt: skip
        count, rows = rounds.count, size_of(self.shape[:-1])
        given = [
            rounds.of(node)[..., start : start + self.hidden]
            .astype(starts[0].dtype)
            .reshape(count, rows, self.hidden)
            for node, start in self.given
        ]
        flat = [starts[i].reshape(rows, self.hidden) for i in at]
        lines, last = scan(step, self._matrix(factors, first), flat, given)
        found = {i: line.reshape(count, *self.shape) for i, line in zip(at, lines, strict=True)}
        for i, line in found.items():
            rounds.known[id(self.results[i])] = line._node
        for i, line in found.items():
            before = concat([starts[i].expand_dims(0), line[:-1]], 0)
            rounds.known[id(self.states[i])] = before._node
        ends = {i: end.reshape(self.shape) for i, end in zip(at, last, strict=True)}
        return [ends[i] for i in range(len(starts))], [rounds.of(node) for node in outputs]

    def at(self, node: Node, start: int) -> Node:
        """Return what stands for a value in the step, elementwise over slots."""
        key = id(node), start
        if key not in self.slots:
            found = self._within if id(node) in self.moving else self._fixed
            self.slots[key] = found(node, start)
        return self.slots[key]

    def _fixed(self, node: Node, start: int) -> Node:
        """Return a number, or an input of the step: no state leads to it."""
        if node.op in (ops.CONST, ops.SCALAR) and node.buffer is None:
            number = const_value(node) if node.op is ops.CONST else node.value
            wide = dtypes.float64 if node.dtype.is_float else node.dtype
            return const(number, Spec.of(_SLOT.shape, wide))
        if start + self.hidden > node.shape[-1] or node.dtype not in (self.dtype, dtypes.bool_):
            raise Other
        self.given.append((node, start))
        slot = _slot()
        if node.dtype is dtypes.bool_:
            return build.apply(ops.NOT_EQUAL, slot, const(0, _SLOT))
        return slot

    def _within(self, node: Node, start: int) -> Node:
        """Return the value of a node that a state leads to."""
        source = node.srcs[0]
        if node.op is ops.EINSUM:
            _Product.of(node, self.states)
            self.products.append((node, start))
            return _slot()
        if node.op.kind == ops.ELEMENTWISE and node.op is not ops.CAST:
            return build.apply(node.op, *[self.at(s, start) for s in node.srcs])
        if node.op is ops.SLICE:
            begin, _, step = node.arg[-1]
            whole = all(a == (0, n, 1) for a, n in zip(node.arg[:-1], source.shape, strict=False))
            if whole and step == 1:
                return self.at(source, begin + start)
        elif node.op is ops.CONCAT and node.arg == len(node.shape) - 1:
            for part in node.srcs:
                if 0 <= start <= part.shape[-1] - self.hidden:
                    return self.at(part, start)
                start -= part.shape[-1]
        elif _same_but_ones(node):
            return self.at(source, start)
        raise Other

    def _matrix(self, factors: list[_Product], states: list[Node]) -> Tensor:
        """Return the matrix of all products, (states x hidden, products x hidden)."""
        hidden, only = self.hidden, factors[0]
        starts = [start for _, start in self.products]
        whole = starts == list(range(0, only.matrix.shape[1], hidden))
        if whole and all(f.node is only.node for f in factors) and only.states == states:
            return lift(only.matrix, *only.node.srcs)
        columns = []
        for factor, start in zip(factors, starts, strict=True):
            zero = build.full(0, (hidden, hidden), self.dtype, only.node.device)
            rows = [factor.rows(s, start, hidden) or zero for s in states]
            columns.append(make(ops.CONCAT, tuple(rows), 0) if len(rows) > 1 else rows[0])
        joined = make(ops.CONCAT, tuple(columns), 1) if len(columns) > 1 else columns[0]
        return lift(joined, *[s for f in factors for s in f.node.srcs])


class _Product:
    """States, side by side, times a matrix (states x hidden, n)."""

    def __init__(self, node: Node, states: list[Node], matrix: Node) -> None:
        self.node, self.states, self.matrix = node, states, matrix

    @classmethod
    def of(cls, node: Node, states: list[Node]) -> _Product:
        """Return what an EINSUM is; raises `Other` where it is no such product."""
        *terms, output = node.arg
        for left, right in ((0, 1), (1, 0)):
            own = _parts(node.srcs[left], states)
            if own is None or not terms[left]:
                continue
            *lead, summed = terms[left]
            new = [x for x in terms[right] if x != summed]
            if len(new) == 1 and len(terms[right]) == 2 and output == (*lead, *new):
                turned = terms[right] == (*new, summed)
                matrix = node.srcs[right]
                return cls(node, own, build.permute(matrix, (1, 0)) if turned else matrix)
        raise Other

    def rows(self, state: Node, start: int, width: int) -> Node | None:
        """Return the part of the matrix that a state meets, from a column on; None if none."""
        if state not in self.states:
            return None
        at = self.states.index(state) * width
        return build.slice_(self.matrix, [(at, width, 1), (start, width, 1)])


def _parts(node: Node, states: list[Node]) -> list[Node] | None:
    """Return the states that stand side by side in a node, each once; None if it is no such."""
    while node not in states and _same_but_ones(node):
        node = node.srcs[0]
    if node in states:
        return [node]
    if node.op is not ops.CONCAT or node.arg != len(node.shape) - 1:
        return None
    fits = all(s in states for s in node.srcs) and len(set(node.srcs)) == len(node.srcs)
    return list(node.srcs) if fits else None


def _same_but_ones(node: Node) -> bool:
    """Whether a view only adds or drops axes of extent 1, before the last axis."""
    if node.op not in (ops.RESHAPE, ops.EXPAND) or not node.shape:
        return False
    old, new = node.srcs[0].shape, node.shape
    same = [n for n in old if n != 1] == [n for n in new if n != 1]
    return same and bool(old) and old[-1] == new[-1]


def _slot() -> Node:
    return leaf(ops.BUFFER, _SLOT.shape, _SLOT.dtype)
