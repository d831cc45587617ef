"""A kernel over extents that stand for any number, at one choice of them.

The verifier and the interpreter of the tests look at such a kernel: what they show of it, they
show of the kernel that is compiled, for these numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from simplegrad.compiler.ir.axes import roots, walk
from simplegrad.compiler.ir.index import Div, Dyn, Guard, Index, Mod, Var
from simplegrad.compiler.ir.kernel import Kernel, Output, Reduction, Value
from simplegrad.compiler.ir.symbolic import evaluate


def settled(kernel: Kernel, numbers: Sequence[int]) -> Kernel:
    """Return the kernel with plain ints, given the numbers of the symbols."""
    return _Settler(kernel, numbers).kernel()


class _Settler:
    def __init__(self, kernel: Kernel, numbers: Sequence[int]) -> None:
        self.old, self.numbers = kernel, numbers
        self.values: dict[int, Value] = {}
        self.axes: dict[Var, Var] = {}
        self.dynamic: dict[Dyn, Dyn] = {}
        for value in walk(roots(kernel)):
            self.values[id(value)] = self._value(value)

    def number(self, n: int) -> int:
        """Return the value of one number."""
        return evaluate(n, self.numbers)

    def axis(self, var: Var) -> Var:
        """Return the axis of known extent for an axis."""
        if var not in self.axes:
            self.axes[var] = Var(var.name, self.number(var.extent))
        return self.axes[var]

    def index(self, index: Index) -> Index:
        """Return an index over the new axes."""
        result = Index((), self.number(index.const))
        for atom, c in index.terms:
            if isinstance(atom, Var):
                new = Index(((self.axis(atom), 1),), 0)
            elif isinstance(atom, Dyn):
                if atom not in self.dynamic:
                    low, high = self.number(atom.low), self.number(atom.high)
                    self.dynamic[atom] = Dyn(self.values[id(atom.token)], low, high)
                new = Index(((self.dynamic[atom], 1),), 0)
            elif isinstance(atom, Div):
                new = Index(((Div(self.index(atom.index), self.number(atom.k)), 1),), 0)
            else:
                assert isinstance(atom, Mod)
                new = Index(((Mod(self.index(atom.index), self.number(atom.k)), 1),), 0)
            result = result + new * self.number(c)
        return result

    def _value(self, value: Value) -> Value:
        return replace(
            value,
            srcs=tuple(self.values[id(s)] for s in value.srcs),
            index=None if value.index is None else self.index(value.index),
            guards=tuple(
                Guard(self.index(g.index), self.number(g.low), self.number(g.high))
                for g in value.guards
            ),
        )

    def kernel(self) -> Kernel:
        """Return the whole kernel."""
        old, split = self.old, self.old.split
        if split is not None:
            axis, part = self.axis(split.axis), self.axis(split.part)
            split = replace(split, axis=axis, part=part, length=self.number(split.length))
        return replace(
            old,
            outer=tuple(map(self.axis, old.outer)),
            reduce=tuple(map(self.axis, old.reduce)),
            args=tuple(replace(a, size=self.number(a.size)) for a in old.args),
            reductions=tuple(
                Reduction(r.op, self.values[id(r.value)], r.dtype) for r in old.reductions
            ),
            outputs=tuple(
                Output(o.arg, self.values[id(o.value)], self.index(o.index)) for o in old.outputs
            ),
            asked=tuple(self.values[id(v)] for v in old.asked),
            split=split,
        )
