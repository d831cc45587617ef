"""Graph nodes as ONNX nodes: broadcasting kept implicit, and a rule for each operation.

An elementwise result may stand in the file with a smaller shape than its node has, since ONNX
broadcasts as NumPy does: a bias is added as it is, a constant is one number. `Writer.full` spreads
a value where an operator needs its whole shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.graph.infer import Shape, broadcast_shapes
from simplegrad.graph.node import Node, const_value
from simplegrad.onnx import formulas, patterns
from simplegrad.onnx.recurrence import write_scan
from simplegrad.onnx.tensors import NUMBERS
from simplegrad.ops import Op
from simplegrad.runtime import realize as execution

Rule = Callable[["Writer", Node], str]


class Writer:
    """A graph being written: nodes, initialisers, and the name and shape of each value."""

    def __init__(self, onnx: Any, taken: Sequence[str], apart: bool = False) -> None:
        self._onnx = onnx
        self.apart = apart
        """Whether constants stand for themselves, equal or not, and may differ between traces."""
        self.nodes: list[Any] = []
        self.weights: dict[str, Node] = {}
        """Computed nodes that become initialisers."""
        self.arrays: dict[str, tuple[np.ndarray, DType]] = {}
        """Constants that become initialisers."""
        self._outputs: list[str] = []
        self._taken = set(taken)
        self._counters: dict[str, Any] = {}
        self._values: dict[int, tuple[str, Shape]] = {}
        self._full: dict[int, str] = {}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._kept: list[Node] = []

    # Names and values ---------------------------------------------------------------------------

    def fresh(self, hint: str) -> str:
        """Return a name that nothing has."""
        counter = self._counters.setdefault(hint, itertools.count())
        while (name := f"{hint}_{next(counter)}") in self._taken:
            pass
        self._taken.add(name)
        return name

    def bind(self, node: Node, name: str, shape: Shape | None = None) -> None:
        """Let `name` stand for a node, with a shape that broadcasts to the node's."""
        self._values[id(node)] = name, node.shape if shape is None else shape

    def weight(self, node: Node, name: str | None) -> None:
        """Write a computed node as an initialiser."""
        if name is None or name in self._taken:
            name = self.fresh(name or "weight")
        self._taken.add(name)
        self.weights[name] = node
        self.bind(node, name)

    def initializers(self) -> list[Any]:
        """Return weights and constants as ONNX's tensors."""
        found = {n: (execution.to_numpy(node), node.dtype) for n, node in self.weights.items()}
        return [self._tensor(n, *pair) for n, pair in (found | self.arrays).items()]

    def _tensor(self, name: str, array: np.ndarray, dtype: DType) -> Any:
        if dtype is dtypes.bfloat16:
            bits = np.ascontiguousarray(array, np.float32).view(np.uint32) >> np.uint32(16)
            data = bits.astype("<u2").tobytes()
        else:
            data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        make = self._onnx.helper.make_tensor
        return make(name, NUMBERS[dtype], array.shape, data, raw=True)

    def constant(self, value: Any, dtype: DType) -> str:
        """Return the name of an initialiser with these numbers; equal ones are written once."""
        array = np.asarray(value).astype(dtype.numpy)
        key = dtype, array.shape, array.tobytes(), len(self.arrays) if self.apart else 0
        if key not in self._constants:
            self._constants[key] = self.fresh("constant")
            self.arrays[self._constants[key]] = array, dtype
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> str:
        """Return the name of a vector of int64."""
        return self.constant(np.array(list(values), np.int64), dtypes.int64)

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Write one ONNX node and return the name of its result."""
        return self.outputs_of(op, inputs, 1, **attributes)[0]

    def outputs_of(
        self, op: str, inputs: Sequence[str], count: int, **attributes: Any
    ) -> list[str]:
        """Write one ONNX node and return the names of its results."""
        names = [self.fresh(op.lower()) for _ in range(count)]
        node = self._onnx.helper.make_node(op, list(inputs), names, name=names[0], **attributes)
        self.nodes.append(node)
        return names

    def graph(
        self, name: str, nodes: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str],
        dtype: DType, shape: Shape,
    ) -> Any:  # fmt: skip
        """Return a graph for a node's attribute; all its inputs and outputs have one shape."""
        make = self._onnx.helper.make_tensor_value_info
        given, results = ([make(x, NUMBERS[dtype], shape) for x in v] for v in (inputs, outputs))
        return self._onnx.helper.make_graph(list(nodes), name, given, results)

    def keep(self, *nodes: Node) -> None:
        """Keep nodes that the exported graph does not hold: values are known by their ids."""
        self._kept += nodes

    def cast(self, name: str, dtype: DType) -> str:
        """Write a cast."""
        return self.op("Cast", name, to=NUMBERS[dtype])

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Write a reshape."""
        zero = {"allowzero": 1} if 0 in shape else {}
        return self.op("Reshape", name, self.ints(shape), **zero)

    # Nodes --------------------------------------------------------------------------------------

    def value(self, node: Node) -> tuple[str, Shape]:
        """Return the name of a node's value, and the shape it has in the file."""
        return self._values[id(node)]

    def full(self, node: Node) -> str:
        """Return the name of a node's value with its whole shape."""
        name, shape = self._values[id(node)]
        if shape == node.shape:
            return name
        if id(node) not in self._full:
            self._full[id(node)] = self.op("Expand", name, self.ints(node.shape))
        return self._full[id(node)]

    def shaped(self, node: Node, shape: Shape) -> str:
        """Return a node's value with other extents, that of its own operand where they fit."""
        while node.shape != shape and node.op is ops.RESHAPE and node.buffer is None:
            node = node.srcs[0]
        name = self.full(node)
        return name if node.shape == shape else self.reshape(name, shape)

    def prune(self) -> None:
        """Drop what no output needs: views that became part of an operator."""
        needed = set(self._outputs)
        kept = []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed.update(node.input)
                for attribute in node.attribute:
                    needed.update(x for inner in attribute.g.node for x in inner.input)
        self.nodes = kept[::-1]
        self.weights = {n: node for n, node in self.weights.items() if n in needed}
        self.arrays = {n: pair for n, pair in self.arrays.items() if n in needed}

    def write(self, node: Node) -> None:
        """Write a node whose operands are written."""
        op = node.op
        if op in (ops.CONST, ops.SCALAR):
            number = const_value(node) if op is ops.CONST else node.value
            self.bind(node, self.constant(number, node.dtype), ())
        elif op is ops.EXPAND or (op.kind == ops.VIEW and self._uniform(node)):
            self.bind(node, *self.value(node.srcs[0]))
        elif op.kind == ops.ELEMENTWISE:
            names, shapes = zip(*[self.value(s) for s in node.srcs], strict=True)
            shape = broadcast_shapes(op.name, *shapes)
            self.bind(node, self._elementwise(node, names), shape)
        else:
            self.bind(node, RULES[op](self, node))

    def _uniform(self, node: Node) -> bool:
        """Whether a view only moves copies of one number."""
        return node.op not in (ops.PAD, ops.CAST) and self.value(node.srcs[0])[1] == ()

    def _elementwise(self, node: Node, names: Sequence[str]) -> str:
        op = node.op
        if op is ops.CAST:
            return self.cast(names[0], node.dtype)
        operands = names[1:] if op is ops.WHERE else names
        dtype = node.srcs[-1].dtype
        wide = formulas.computed_in(op, dtype)
        if wide is not dtype:
            operands = [self.cast(n, wide) for n in operands]
        lead = names[:1] if op is ops.WHERE else ()
        result = formulas.FORMULAS[op](self, wide, *lead, *operands)
        if wide is not dtype and op.result is None:
            result = self.cast(result, dtype)
        return result

    def output(self, node: Node, name: str) -> None:
        """Give a value its name among the model's outputs."""
        self._outputs.append(name)
        self.nodes.append(
            self._onnx.helper.make_node("Identity", [self.full(node)], [name], name=f"to_{name}")
        )


def _wide(w: Writer, node: Node, op: Op) -> tuple[str, DType]:
    """Return an operand in a dtype that runtimes compute in, and that dtype."""
    source = node.srcs[0]
    wide = formulas.computed_in(op, source.dtype)
    name = w.full(source)
    return (name if wide is source.dtype else w.cast(name, wide)), wide


# Views ------------------------------------------------------------------------------------------


def _reshape(w: Writer, node: Node) -> str:
    return w.reshape(w.full(node.srcs[0]), node.shape)


def _permute(w: Writer, node: Node) -> str:
    return w.op("Transpose", w.full(node.srcs[0]), perm=list(node.arg))


def _slice(w: Writer, node: Node) -> str:
    source = node.srcs[0]
    return _cut(w, w.full(source), source.shape, node.arg)


def _cut(w: Writer, name: str, shape: Shape, steps: Sequence[tuple[int, int, int]]) -> str:
    cut = [a for a, (s, n) in enumerate(zip(steps, shape, strict=True)) if s != (0, n, 1)]
    if not cut:
        return name
    starts, ends = [], []
    for start, extent, step in [steps[a] for a in cut]:
        end = start + extent * step
        starts.append(start)
        # An end before the first element has no number of its own: the least one is clamped to it.
        ends.append(end if end >= 0 else np.iinfo(np.int64).min + 1)
    given = starts, ends, cut, [steps[a][2] for a in cut]
    return w.op("Slice", name, *[w.ints(g) for g in given])


def _pad(w: Writer, node: Node) -> str:
    widths, text = node.arg
    source = node.srcs[0]
    name, dtype = _wide(w, node, ops.PAD)
    fill = text == "True" if text in ("True", "False") else float(text)
    fill = int(text) if source.dtype.kind in "ui" else fill
    value = w.constant(fill, dtype)
    shape = source.shape
    if any(between for _, _, between in widths):
        name, shape = _spread(w, name, shape, [between for _, _, between in widths], value)
    pads = [b for b, _, _ in widths] + [a for _, a, _ in widths]
    if any(pads):
        name = w.op("Pad", name, w.ints(pads), value)
    return name if dtype is source.dtype else w.cast(name, source.dtype)


def _spread(
    w: Writer, name: str, shape: Shape, between: Sequence[int], value: str
) -> tuple[str, Shape]:
    """Put `between` fill values between neighbours: as new axes, padded and merged."""
    wide = [m for n in shape for m in (n, 1)]
    name = w.reshape(name, wide)
    name = w.op("Pad", name, w.ints([0] * len(wide) + [m for b in between for m in (0, b)]), value)
    merged = tuple(n * (b + 1) for n, b in zip(shape, between, strict=True))
    name = w.reshape(name, merged)
    kept = tuple(m - b if n else 0 for n, m, b in zip(shape, merged, between, strict=True))
    return _cut(w, name, merged, [(0, n, 1) for n in kept]), kept


def _as_strided(w: Writer, node: Node) -> str:
    """Gather from the flat operand at sums of one vector of offsets per axis."""
    shape, strides, offset = node.arg
    source = node.srcs[0]
    flat = w.reshape(w.full(source), [source.size])
    if not math.prod(shape):
        return w.reshape(_cut(w, flat, (source.size,), [(0, 0, 1)]), shape)
    total = w.constant(np.full((1,) * len(shape), offset), dtypes.int64)
    for axis, (extent, stride) in enumerate(zip(shape, strides, strict=True)):
        if extent > 1:
            places = np.arange(extent) * stride
            places = places.reshape([extent if a == axis else 1 for a in range(len(shape))])
            total = w.op("Add", total, w.constant(places, dtypes.int64))
    return w.op("Gather", flat, total, axis=0)


# Reductions, contractions, indices ----------------------------------------------------------------

_REDUCTIONS = {ops.SUM: "ReduceSum", ops.PROD: "ReduceProd", ops.MAX: "ReduceMax",
               ops.MIN: "ReduceMin"}  # fmt: skip


def _reduce(w: Writer, node: Node) -> str:
    found = patterns.pool(w, node)
    if found is not None:
        return found
    name, wide = _wide(w, node, node.op)
    name = w.op(_REDUCTIONS[node.op], name, w.ints(node.arg), keepdims=0)
    return name if wide is node.dtype else w.cast(name, node.dtype)


def _arg_reduce(w: Writer, node: Node) -> str:
    name, _ = _wide(w, node, node.op)
    op = "ArgMax" if node.op is ops.ARGMAX else "ArgMin"
    return w.op(op, name, axis=node.arg[0], keepdims=0)


def _cumsum(w: Writer, node: Node) -> str:
    name, wide = _wide(w, node, node.op)
    name = w.op("CumSum", name, w.constant(node.arg, dtypes.int64))
    return name if wide is node.dtype else w.cast(name, node.dtype)


def _einsum(w: Writer, node: Node) -> str:
    found = patterns.conv(w, node)
    if found is not None:
        return found
    *subscripts, output = node.arg
    wide = formulas.computed_in(node.op, node.dtype)
    names = [w.full(s) for s in node.srcs]
    names = names if wide is node.dtype else [w.cast(n, wide) for n in names]
    name = _matmul(w, subscripts, output, names) if len(names) == 2 else None
    if name is None:
        terms = ["".join(chr(ord("a") + i) for i in s) for s in (*subscripts, output)]
        name = w.op("Einsum", *names, equation=f"{','.join(terms[:-1])}->{terms[-1]}")
    return name if wide is node.dtype else w.cast(name, node.dtype)


def _matmul(
    w: Writer, subscripts: Sequence[tuple[int, ...]], output: tuple[int, ...], names: Sequence[str]
) -> str | None:
    """Write a contraction as (…, n, k) @ (…, k, m), factors transposed; None where it is none."""
    a, b = subscripts
    batch = tuple([x for x in a if x in b and x in output])
    summed = [x for x in a if x in b and x not in output]
    count = len(batch)
    free = tuple([x for x in a if x not in b])
    last = tuple([x for x in b if x not in a])
    leads = a[:count] == b[:count] == output[:count] == batch
    if not leads or len(summed) != 1 or len(last) != 1 or output[count:] != free + last:
        return None
    if count and len(free) != 1:
        return None
    factors = []
    orders = (a, (*batch, *free, *summed)), (b, (*batch, *summed, *last))
    for name, (axes, wanted) in zip(names, orders, strict=True):
        perm = [axes.index(x) for x in wanted]
        plain = perm == list(range(len(perm)))
        factors.append(name if plain else w.op("Transpose", name, perm=perm))
    return w.op("MatMul", *factors)


def _take(w: Writer, node: Node) -> str:
    x, indices = node.srcs
    index = w.full(indices)
    index = index if indices.dtype is dtypes.int64 else w.cast(index, dtypes.int64)
    last = max(x.shape[node.arg] - 1, 0)
    limits = [w.constant(n, dtypes.int64) for n in (0, last)]
    return w.op("Gather", w.full(x), w.op("Clip", index, *limits), axis=node.arg)


def _scatter_add(w: Writer, node: Node) -> str:
    """Add rows up in zeros; those whose index is outside go to one more row, which is cut off."""
    indices, rows = node.srcs
    extent, rest = node.arg, node.shape[1:]
    wide = formulas.computed_in(ops.SCATTER_ADD, rows.dtype)
    index = w.cast(w.full(indices), dtypes.int64)
    below = w.op("Less", index, w.constant(0, dtypes.int64))
    above = w.op("GreaterOrEqual", index, w.constant(extent, dtypes.int64))
    index = w.op("Where", w.op("Or", below, above), w.constant(extent, dtypes.int64), index)
    index = w.reshape(index, (indices.size, 1))
    zeros = w.op("Expand", w.constant(0, wide), w.ints((extent + 1, *rest)))
    data = w.full(rows) if wide is rows.dtype else w.cast(w.full(rows), wide)
    sums = w.op("ScatterND", zeros, index, data, reduction="add")
    kept = [(0, extent, 1), *[(0, n, 1) for n in rest]]
    name = _cut(w, sums, (extent + 1, *rest), kept)
    return name if wide is node.dtype else w.cast(name, node.dtype)


def _concat(w: Writer, node: Node) -> str:
    return w.op("Concat", *[w.full(s) for s in node.srcs], axis=node.arg)


def _iota(w: Writer, node: Node) -> str:
    if not w.apart:
        return w.constant(np.arange(node.arg), node.dtype)
    name = w.op("Range", *[w.constant(n, dtypes.int64) for n in (0, node.arg, 1)])
    return name if node.dtype is dtypes.int64 else w.cast(name, node.dtype)


def _unused(w: Writer, node: Node) -> str:
    raise AssertionError(f"{node.op} is written by Writer.write")


RULES: dict[Op, Rule] = {
    **dict.fromkeys((ops.CONST, ops.SCALAR, ops.EXPAND, ops.CAST, *formulas.FORMULAS), _unused),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys((ops.ARGMAX, ops.ARGMIN), _arg_reduce),
    ops.RESHAPE: _reshape,
    ops.PERMUTE: _permute,
    ops.SLICE: _slice,
    ops.PAD: _pad,
    ops.AS_STRIDED: _as_strided,
    ops.CUMSUM: _cumsum,
    ops.CONCAT: _concat,
    ops.EINSUM: _einsum,
    ops.TAKE: _take,
    ops.SCATTER_ADD: _scatter_add,
    ops.SCAN: write_scan,
    ops.IOTA: _iota,
}
"""A rule for every operation that can be written; the rest is what `export` refuses."""
