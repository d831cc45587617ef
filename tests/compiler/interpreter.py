"""A slow, plain evaluator of the kernel IR in NumPy: the witness for everything above rendering."""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad import ops
from simplegrad.compiler.ir.index import Div, Index, Mod, Var
from simplegrad.compiler.ir.kernel import APPLY, ARG, CONST, GUARD, INDEX, LOAD, Kernel, Value
from simplegrad.compiler.passes.canonical import canonicalise
from simplegrad.compiler.passes.fuse import Limits, fuse
from simplegrad.compiler.passes.groups import lower
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, topological


class Interpreter:
    """Runs one kernel over flat arrays; axes become broadcast NumPy axes."""

    def __init__(self, kernel: Kernel, args: list[Any]) -> None:
        self.kernel, self.args = kernel, args
        axes = [*kernel.outer, *kernel.reduce]
        self.rank = len(axes)
        self.grid: dict[Any, Any] = {}
        for i, var in enumerate(axes):
            shape = [1] * self.rank
            shape[i] = var.extent
            self.grid[var] = np.arange(var.extent).reshape(shape)
        self.shape = tuple(v.extent for v in axes)
        self.reduced: list[Any] = []
        self.memo: dict[int, Any] = {}

    def index(self, index: Index) -> Any:
        total: Any = index.const
        for atom, c in index.terms:
            if isinstance(atom, Var):
                value = self.grid[atom]
            elif isinstance(atom, Div):
                value = self.index(atom.index) // atom.k
            elif isinstance(atom, Mod):
                value = self.index(atom.index) % atom.k
            else:
                value = np.clip(self.value(atom.token), atom.low, atom.high)
            total = total + c * value
        return np.asarray(total)

    def holds(self, guards: Any) -> Any:
        result: Any = True
        for guard in guards:
            index = self.index(guard.index)
            result = result & (guard.low <= index) & (index < guard.high)
        return np.asarray(result)

    def value(self, value: Value) -> Any:
        if id(value) not in self.memo:
            self.memo[id(value)] = self._value(value)
        return self.memo[id(value)]

    def _value(self, value: Value) -> Any:
        if value.form == LOAD:
            holds, index = self.holds(value.guards), self.index(value.index)
            holds, index = np.broadcast_arrays(holds, index)
            data = self.args[value.arg]
            assert ((index[holds] >= 0) & (index[holds] < data.size)).all(), "read outside"
            return np.where(holds, data[np.where(holds, index, 0)], value.number)
        if value.form == ARG:
            return np.asarray(self.args[value.arg], value.dtype.numpy)
        if value.form == CONST:
            return np.asarray(value.number, value.dtype.numpy)
        if value.form == INDEX:
            return self.index(value.index).astype(value.dtype.numpy)
        if value.form == GUARD:
            return self.holds(value.guards)
        if value.form == APPLY:
            srcs = [self.value(s) for s in value.srcs]
            if value.op is ops.CAST:
                return srcs[0].astype(value.dtype.numpy)
            return np.asarray(value.op.numpy(*srcs)).astype(value.dtype.numpy)
        return self.reduced[value.arg]

    def run(self) -> None:
        kernel = self.kernel
        axes = tuple(range(len(kernel.outer), self.rank))
        for r in kernel.reductions:
            data = np.broadcast_to(self.value(r.value), self.shape)
            if kernel.split is not None:
                at = self.grid[kernel.split.axis]
                part = self.grid[kernel.split.part]
                inside = at // kernel.split.length == part
                data = np.where(inside, data, r.op.identity(r.value.dtype))
            if r.op in (ops.ARGMAX, ops.ARGMIN):
                flat = data.reshape(*data.shape[: len(kernel.outer)], -1)
                result = r.op.numpy(flat, axis=-1)
                result = result.reshape(result.shape + (1,) * len(axes))
            else:
                result = r.op.numpy(data, axis=axes, keepdims=True) if axes else data
            self.reduced.append(result.astype(r.dtype.numpy))
        for out in kernel.outputs:
            index = self.index(out.index)
            value, index = np.broadcast_arrays(self.value(out.value), index)
            self.args[out.arg][index] = value


def evaluate(targets: list[Node], *, fusion: bool = True, limits: Limits | None = None) -> Any:
    """Run canonicalise, fuse, lower and interpret; return (arrays, number of kernels)."""
    limits = limits or Limits(parallel=16, max_args=100)
    canonical = canonicalise(topological(targets), targets)
    groups = fuse(canonical, limits, fusion)
    roots = frozenset(id(m) for g in groups for m in g.members)
    memory: dict[int, Any] = {}
    keep: list[Any] = []
    count = 0

    def data(node: Node) -> Any:
        keep.append(node)
        if node.op is ops.SCALAR:
            return node.value
        if node.buffer is not None:
            return np.asarray(node.buffer).reshape(-1)
        if id(node) not in memory:
            memory[id(node)] = np.zeros(node.size, node.dtype.numpy)
        return memory[id(node)]

    for group in groups:
        if not any(size_of(m.shape) for m in group.stored):
            continue
        for low in lower(group, roots, limits):
            Interpreter(low.kernel, [data(n) for n in low.nodes]).run()
            count += 1
    return [data(t).reshape(t.shape) for t in canonical.targets], count
