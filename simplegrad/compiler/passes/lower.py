"""Graph to kernel IR: every node of a fused group becomes a value at an index.

A view does nothing but change the index at which its operand is evaluated; a padding adds guards
to the loads below it. Index variables belong to the group, so that two nodes that read the same
element get the same `Value` object.
"""

from __future__ import annotations

from typing import Any

from simplegrad import dtypes, ops
from simplegrad.compiler.ir.index import Dyn, Guard, Index, Var, flatten, unflatten
from simplegrad.compiler.ir.kernel import (
    APPLY,
    ARG,
    CONST,
    GIVEN,
    GUARD,
    INDEX,
    LOAD,
    Arg,
    Value,
)  # fmt: skip
from simplegrad.compiler.ir.symbolic import less
from simplegrad.dtypes import DType
from simplegrad.graph.node import Node, const_value

Position = tuple[Index, ...]


class Builder:
    """Evaluates nodes at positions; one per kernel. Equal values are one object."""

    def __init__(self, stored: frozenset[int]) -> None:
        self.known: dict[int, tuple[Index, Value]] = {}
        """By node id: values the kernel itself computes, with the flat index they are at."""
        self._stored = stored
        """By id: nodes that stand in buffers when this kernel runs."""
        self.args: list[Arg] = []
        self.sources: list[Node] = []
        """The node behind each argument."""
        self.computed: dict[int, Node] = {}
        """The operations evaluated, operands first, each once."""
        self._positions: dict[int, int] = {}
        self._values: dict[Any, Value] = {}
        self._memo: dict[Any, Value] = {}
        self._bounded: dict[tuple[Index, int], Index] = {}
        self._behind: dict[Any, Index] = {}
        """What the variables of `_bounded` stand for."""

    def argument(self, node: Node, role: str) -> int:
        """Return the position of the parameter for a node's data or number."""
        position = self._positions.get(id(node))
        if position is None:
            position = self._positions[id(node)] = len(self.args)
            self.args.append(Arg(f"{_NAMES[role]}{position}", role, node.dtype, node.size))
            self.sources.append(node)
        return position

    def value(self, **fields: Any) -> Value:
        """Return the one `Value` with these fields."""
        key = tuple(fields.items())
        key = tuple((k, repr(v) if k == "number" else v) for k, v in key)
        found = self._values.get(key)
        if found is None:
            found = self._values[key] = Value(**fields)
        return found

    def at(self, node: Node, position: Position, guards: tuple[Guard, ...] = ()) -> Value:
        """Return the value of `node` at a position."""
        key = (id(node), position, guards)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = self._evaluate(node, position, guards)
        return found

    def _evaluate(self, node: Node, position: Position, guards: tuple[Guard, ...]) -> Value:
        known = self.known.get(id(node))
        if known is not None:
            if self._resolved(flatten(position, node.shape)) == known[0]:
                return known[1]
            raise AssertionError(f"lower: {node} is read inside its own kernel elsewhere")
        if node.buffer is not None or node.op is ops.BUFFER or id(node) in self._stored:
            index = self._resolved(flatten(position, node.shape))
            arg = self.argument(node, "in")
            return self.value(form=LOAD, dtype=node.dtype, arg=arg, index=index, guards=guards)
        return self.compute(node, position, guards)

    def compute(self, node: Node, position: Position, guards: tuple[Guard, ...] = ()) -> Value:
        """Return the value of `node` from its operands, wherever else it may stand."""
        if node.op is ops.SCALAR:
            return self.value(form=ARG, dtype=node.dtype, arg=self.argument(node, "scalar"))
        if node.op is ops.CONST:
            return self.value(form=CONST, dtype=node.dtype, number=const_value(node))
        if node.op is ops.GIVEN:
            index = flatten(position, node.shape)
            return self.value(form=GIVEN, dtype=node.dtype, arg=node.arg, index=index)
        if node.op is ops.IOTA:
            index = self._resolved(position[0])
            return self.value(form=INDEX, dtype=node.dtype, index=index)
        if node.op.kind == ops.VIEW or node.op is ops.TAKE:
            return self._view(node, position, guards)
        srcs = tuple([self.at(s, position, guards) for s in node.srcs])
        self.computed[id(node)] = node
        return self.value(form=APPLY, dtype=node.dtype, op=node.op, srcs=srcs)

    def _view(self, node: Node, position: Position, guards: tuple[Guard, ...]) -> Value:
        source = node.srcs[0]
        if node.op is ops.TAKE:
            return self.at(source, self._taken(node, position, guards), guards)
        inner, conditions = source_position(node, position)
        if node.op is not ops.PAD:
            return self.at(source, inner, guards)
        fill = dtype_number(node.arg[1], node.dtype)
        if any(g.never for g in conditions):
            return self.value(form=CONST, dtype=node.dtype, number=fill)
        conditions = tuple(
            Guard(self._resolved(g.index), g.low, g.high) for g in conditions if not g.always
        )
        inner = tuple([self._within(i, n) for i, n in zip(inner, source.shape, strict=True)])
        value = self.at(source, inner, guards + conditions)
        if not conditions:
            return value
        if value.form == LOAD and not guards and value.guards == conditions:
            fields = {"arg": value.arg, "index": value.index, "guards": conditions}
            return self.value(form=LOAD, dtype=value.dtype, **fields, number=fill)
        guard = self.value(form=GUARD, dtype=dtypes.bool_, guards=conditions)
        if node.dtype is dtypes.bool_ and value.form == CONST and value.number and not fill:
            return guard
        outside = self.value(form=CONST, dtype=node.dtype, number=fill)
        srcs = (guard, value, outside)
        return self.value(form=APPLY, dtype=node.dtype, op=ops.WHERE, srcs=srcs)

    def _within(self, index: Index, extent: int) -> Index:
        """Return a position that a guard keeps within an axis as a variable of that extent.

        Views further down simplify by that range; loads get the position itself back.
        """
        if index.low >= 0 and index.high < extent:
            return index
        found = self._bounded.get((index, extent))
        if found is None:
            var = Var("within", extent)
            found = self._bounded[(index, extent)] = Index(((var, 1),), 0)
            self._behind[var] = index
        return found

    def _resolved(self, index: Index) -> Index:
        """Return an index with the positions that `_within` put aside."""
        while any(a in self._behind for a in index.atoms()):
            index = index.substitute(self._behind)
        return index

    def _taken(self, node: Node, position: Position, guards: tuple[Guard, ...]) -> Position:
        source, indices = node.srcs
        axis, rank = node.arg, len(indices.shape)
        chosen = self.at(indices, position[axis : axis + rank], guards)
        if chosen.form == INDEX and chosen.index is not None:
            index = chosen.index
        else:
            key = ("dyn", chosen, source.shape[axis])
            atom: Any = self._memo.get(key)
            if atom is None:
                atom = self._memo[key] = Dyn(chosen, 0, source.shape[axis] - 1)  # type: ignore
            index = Index.of(atom)
        return (*position[:axis], index, *position[axis + rank :])


_NAMES = {"in": "x", "out": "y", "scalar": "s"}


def dtype_number(text: str, dtype: DType) -> bool | int | float:
    """Return the number that a node's argument holds as text."""
    if text in ("True", "False"):
        return text == "True"
    return float(text) if dtype.is_float else int(text)


def source_position(node: Node, position: Position) -> tuple[Position, tuple[Guard, ...]]:
    """Return where a view reads its operand, and for PAD when it does."""
    op, arg = node.op, node.arg
    shape = node.srcs[0].shape
    if op is ops.RESHAPE:
        return _reshaped(node.shape, shape, position), ()
    if op is ops.PERMUTE:
        inner: list[Index] = [Index.of(0)] * len(shape)
        for a, index in zip(arg, position, strict=True):
            inner[a] = index
        return tuple(inner), ()
    if op is ops.EXPAND:
        pairs = zip(shape, position[len(position) - len(shape) :], strict=True)
        return tuple(Index.of(0) if n == 1 else i for n, i in pairs), ()
    if op is ops.SLICE:
        steps = zip(arg, position, strict=True)
        return tuple(i * step + start for (start, _, step), i in steps), ()
    if op is ops.AS_STRIDED:
        flat = Index.of(arg[2])
        for stride, index in zip(arg[1], position, strict=True):
            flat = flat + index * stride
        return unflatten(flat, shape), ()
    result, guards = [], []
    for (before, _, between), n, index in zip(arg[0], shape, position, strict=True):
        index = index - before
        if between:
            guards.append(Guard(index % (between + 1), 0, 1))
            index = index // (between + 1)
        guards.append(Guard(index, 0, n))
        result.append(index)
    return tuple(result), tuple(guards)


def _reshaped(outer: tuple[int, ...], inner: tuple[int, ...], position: Position) -> Position:
    """Reshape group by group, so that axes that only gain or lose a 1 stay as they are."""
    result: list[Index] = []
    i = j = 0
    while j < len(inner) or i < len(outer):
        first_i, first_j = i, j
        a = b = 1
        while True:
            if a == b and (i > first_i or j > first_j) and a != 1:
                break
            if less(a, b + 1) and i < len(outer):
                a *= outer[i]
                i += 1
            elif j < len(inner):
                b *= inner[j]
                j += 1
            elif i < len(outer):
                a *= outer[i]
                i += 1
            else:
                break
            if a == 0 or b == 0:
                return unflatten(flatten(position, outer), inner)
        flat = flatten(position[first_i:i], outer[first_i:i])
        result.extend(unflatten(flat, inner[first_j:j]))
    return tuple(result)
