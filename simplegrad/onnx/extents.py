"""Axes of any extent in an exported model.

A graph of the engine has numbers for extents. So a function with named axes is traced several
times, with other numbers for them: what is written must be the same but for constants, and each
number in these must be a polynomial of the extents, of degree 1 in each (12·batch, batch·time + 1).
That is found from the traces at all corners of a box of extents and checked at a point outside of
it; the file then computes those constants from the shapes of its inputs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from simplegrad.arguments import integer, mapping
from simplegrad.dtypes import DType
from simplegrad.errors import ModelError
from simplegrad.graph.node import Node
from simplegrad.onnx.writer import Writer
from simplegrad.runtime import realize as execution

Extents = dict[str, int]
"""Extents by name of axis."""
_GRAPH = 5
"""ONNX's number for attributes that are graphs."""
_MOST = 4
"""Most names: the traces double with each."""
_LEAST = 7
"""The least extent from which those of the traces are counted down; 0 and 1 are structure."""


class Trace:
    """What was written for some extents."""

    def __init__(
        self, extents: Extents, writer: Writer, inputs: Mapping[str, Node],
        outputs: Mapping[str, Node],
    ) -> None:  # fmt: skip
        self.extents, self.writer, self.inputs, self.outputs = extents, writer, inputs, outputs
        self.dims: dict[str, list[Any]] = {
            n: list(node.shape) for n, node in (*inputs.items(), *outputs.items())
        }
        """Extents of inputs and outputs for the file: numbers, or names."""


class Axes:
    """The named axes of a model's inputs."""

    def __init__(self, dynamic: Any, shapes: Mapping[str, Sequence[int]]) -> None:
        self.places: dict[str, list[tuple[str, int]]] = {}
        """By name of axis, where it is: (input, axis)."""
        self.extents: Extents = {}
        mapping("export: dynamic", dynamic)
        for name, axes in dynamic.items():
            mapping(f"export: dynamic[{name!r}]", axes)
            if name not in shapes:
                raise ModelError(
                    f"export: dynamic names the input {name!r}; the inputs are {list(shapes)}"
                )
            for axis, label in axes.items():
                rank = len(shapes[name])
                axis = integer("export: an axis of dynamic", axis, -rank, rank - 1) % rank
                extent = shapes[name][axis]
                if not isinstance(label, str) or not label.isidentifier():
                    raise ModelError(f"export: dynamic names an axis {label!r}; give a word")
                if self.extents.setdefault(label, extent) != extent:
                    raise ModelError(
                        f"export: the axis {label!r} has extent {self.extents[label]} in one "
                        f"argument and {extent} in another"
                    )
                self.places.setdefault(label, []).append((name, axis))
        if len(self.places) > _MOST:
            raise ModelError(f"export: dynamic names {len(self.places)} axes; {_MOST} at most")

    def shape(self, name: str, shape: Sequence[int], extents: Extents) -> tuple[int, ...]:
        """Return an input's shape for some extents."""
        result = list(shape)
        for label, places in self.places.items():
            for place, axis in places:
                if place == name:
                    result[axis] = extents[label]
        return tuple(result)

    def followed(self, trace: Callable[[Extents], Trace]) -> Trace:
        """Return a trace whose constants follow the extents.

        `ModelError` where extents decide more than numbers. Those of the traces lie below the ones
        given, or below 7: a model may have a longest length, where its table of places is not cut.
        """
        low, high, beyond = (
            {label: max(n, _LEAST) - less for label, n in self.extents.items()}
            for less in (1, 2, 4)
        )
        corners = itertools.product(*[(low[label], high[label]) for label in low])
        points = [dict(zip(low, corner, strict=True)) for corner in corners]
        traces = [trace(point) for point in [*points, beyond]]
        first, *others = traces
        for other in others:
            _alike(first, other)
        fit = _Fit([t.extents for t in traces])
        varying = _Varying(first, self.places, fit)
        for name in list(first.writer.arrays):
            varying.constant(name, [t.writer.arrays[name] for t in traces])
        varying.finish()
        for name in first.dims:
            columns = zip(*[t.dims[name] for t in traces], strict=True)
            first.dims[name] = [fit.text(fit(column)) for column in columns]
        return first


class _Fit:
    """Finds polynomials from values at the corners of a box, and checks them beyond it."""

    def __init__(self, points: Sequence[Extents]) -> None:
        labels = list(points[0])
        self.terms = [
            term for k in range(len(labels) + 1) for term in itertools.combinations(labels, k)
        ]
        """Products of names; () is 1."""
        self.rows = np.array([[math.prod(p[x] for x in t) for t in self.terms] for p in points])

    def __call__(self, values: Sequence[int]) -> tuple[int, ...]:
        """Return a whole factor for each of `terms`."""
        corners = self.rows[:-1].astype(np.float64)
        factors = np.rint(np.linalg.solve(corners, np.array(values[:-1], np.float64)))
        found = factors.astype(np.int64)
        if not np.array_equal(self.rows @ found, np.array(values, np.int64)):
            raise ModelError(
                f"export: an extent is {', '.join(map(str, values))} where the named axes are "
                f"{', '.join(str(tuple(row[1 : self._names + 1])) for row in self.rows.tolist())}: "
                "no sum of products of these; name fewer axes"
            )
        return tuple(int(n) for n in found)

    @property
    def _names(self) -> int:
        return sum(len(term) == 1 for term in self.terms)

    def text(self, factors: tuple[int, ...]) -> int | str:
        """Return a polynomial as a number, or in words."""
        if not any(factors[1:]):
            return factors[0]
        parts = []
        for factor, term in zip((*factors[1:], factors[0]), (*self.terms[1:], ()), strict=True):
            if factor:
                names = "*".join(term)
                parts.append(
                    names if term and factor == 1 else f"{factor}{'*' * bool(term)}{names}"
                )
        return " + ".join(parts)


class _Varying:
    """Nodes that compute constants from the shapes of the inputs, in front of all others."""

    def __init__(
        self, trace: Trace, places: Mapping[str, list[tuple[str, int]]], fit: _Fit
    ) -> None:
        self.writer, self.places, self.fit = trace.writer, places, fit
        self.nodes, self.writer.nodes = self.writer.nodes, []
        self.writer.apart = False
        self._known: dict[tuple[Any, ...], str] = {}
        self._same: dict[str, str] = {}

    def constant(self, name: str, found: Sequence[tuple[np.ndarray, DType]]) -> None:
        """Write the constant `name`, of which every trace has another version."""
        arrays, dtype = [array for array, _ in found], found[0][1]
        key = dtype, *[(a.shape, a.tobytes()) for a in arrays]
        known = self._known.setdefault(key, name)
        if known != name:
            self._same[name] = self._same.get(known, known)
            return
        if all(a.shape == arrays[0].shape and np.array_equal(a, arrays[0], True) for a in arrays):
            return
        whole = all(a.shape == arrays[0].shape and np.array_equal(a, np.rint(a)) for a in arrays)
        if not whole or arrays[0].ndim > 1 or (dtype.is_float and arrays[0].ndim):
            users = [n.op_type for n in self.nodes if name in n.input]
            shown = " and ".join(f"{a.reshape(-1)[:8]} of shape {a.shape}" for a in arrays[:2])
            raise ModelError(
                f"export: a constant that {', '.join(users) or 'a loop'} takes depends on the "
                f"named axes, and not by whole numbers in a shape: {shown}; name fewer axes"
            )
        columns = np.stack([a.astype(np.int64).reshape(-1) for a in arrays], 1).tolist()
        parts = [self._number(self.fit(column)) for column in columns]
        w = self.writer
        vector = w.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
        if not arrays[0].ndim:
            vector = w.op("Squeeze", vector)
        vector = w.cast(vector, dtype) if dtype.is_float else vector
        self._same[name] = vector

    def _number(self, factors: tuple[int, ...]) -> str:
        """Return the name of a polynomial's value, a vector of one number."""
        total = self.writer.ints([factors[0]]) if factors[0] or not any(factors) else ""
        for factor, term in zip(factors[1:], self.fit.terms[1:], strict=True):
            if factor:
                part = self._product(term)
                part = part if factor == 1 else self._pair("Mul", part, self.writer.ints([factor]))
                total = self._pair("Add", total, part) if total else part
        return total

    def _product(self, term: tuple[str, ...]) -> str:
        if len(term) > 1:
            return self._pair("Mul", self._product(term[:-1]), self._product(term[-1:]))
        name, axis = self.places[term[0]][0]
        key = "Shape", name, axis
        if key not in self._known:
            self._known[key] = self.writer.op("Shape", name, start=axis, end=axis + 1)
        return self._known[key]

    def _pair(self, op: str, a: str, b: str) -> str:
        key = op, a, b
        if key not in self._known:
            self._known[key] = self.writer.op(op, a, b)
        return self._known[key]

    def finish(self) -> None:
        """Put the new nodes in front, and let the others read them."""
        for node in self.nodes:
            self._rename(node)
        self.writer.nodes += self.nodes
        self.writer.prune()

    def _rename(self, node: Any) -> None:
        node.input[:] = [self._same.get(x, x) for x in node.input]
        for attribute in node.attribute:
            if attribute.type == _GRAPH:
                for inner in attribute.g.node:
                    self._rename(inner)


def _alike(first: Trace, other: Trace) -> None:
    """Compare two traces; raises `ModelError` where they differ in more than numbers."""
    where = f"export: with extents {first.extents} and {other.extents} of the named axes"
    if list(first.outputs) != list(other.outputs):
        raise ModelError(f"{where} the function has other outputs")
    ranks = [[len(n.shape) for n in t.outputs.values()] for t in (first, other)]
    if ranks[0] != ranks[1]:
        raise ModelError(f"{where} the outputs have {ranks[0]} and {ranks[1]} axes")
    same = first.writer.weights.keys() == other.writer.weights.keys()
    for name, node in first.writer.weights.items():
        match = other.writer.weights.get(name)
        same = same and match is not None and _equal(node, match)
    if not same:
        raise ModelError(
            f"{where} the function uses other arrays: one that it makes on the host depends on "
            "an extent; make it by operations (simplegrad.arange, ones, where, …)"
        )
    _alike_nodes(first.writer.nodes, other.writer.nodes, where)
    if first.writer.arrays.keys() != other.writer.arrays.keys():
        raise ModelError(f"{where} the function uses other constants")


def _equal(a: Node, b: Node) -> bool:
    if a is b:
        return True
    if a.shape != b.shape or a.dtype is not b.dtype:
        return False
    return np.array_equal(execution.to_numpy(a), execution.to_numpy(b))


def _alike_nodes(first: Sequence[Any], other: Sequence[Any], where: str) -> None:
    """Compare nodes; shapes that graphs inside of them declare are dropped where they differ."""
    for a, b in zip(first, other, strict=False):
        graphs = [[x for x in n.attribute if x.type == _GRAPH] for n in (a, b)]
        for x, y in zip(*graphs, strict=False):
            for mine, theirs in zip(_declared(x.g), _declared(y.g), strict=False):
                if mine.type != theirs.type:
                    mine.type.tensor_type.ClearField("shape")
            _alike_nodes(x.g.node, y.g.node, where)
        plain = [[x for x in n.attribute if x.type != _GRAPH] for n in (a, b)]
        same = (a.op_type, list(a.input), list(a.output)) == (
            b.op_type, list(b.input), list(b.output)
        )  # fmt: skip
        if not same or plain[0] != plain[1] or len(graphs[0]) != len(graphs[1]):
            raise ModelError(
                f"{where} the function computes other things ({a.op_type} {a.name}, {b.op_type} "
                f"{b.name}): an extent decides more than shapes there, "
                "or meets another by chance: then give arguments of other extents"
            )
    if len(first) != len(other):
        raise ModelError(f"{where} the function has {len(first)} and {len(other)} operators")


def _declared(graph: Any) -> list[Any]:
    return [*graph.input, *graph.output]
