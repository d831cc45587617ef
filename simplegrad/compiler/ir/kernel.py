"""The kernel IR: what one kernel computes, independent of how a device family runs it.

A kernel has *outer* axes (one result each) and *reduce* axes (shared by all its reductions). Its
values form a DAG; a value that depends on a reduce axis lives at the *full* level, any other at
the *outer* level. A reduction consumes a full-level value and is an outer-level value that later
values, full-level ones included, may read: softmax is two reductions and a full-level output.

    outer o0 in 0..4096, reduce r0 in 0..1024
    R0 = max   over r0 of x[o0, r0]
    R1 = sum   over r0 of exp(x[o0, r0] - R0)
    out[o0, r0] = exp(x[o0, r0] - R0) / R1
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from simplegrad.compiler.ir.index import Guard, Index, Var
from simplegrad.dtypes import DType
from simplegrad.ops import Op

LOAD, ARG, CONST, INDEX, GUARD, APPLY, REDUCED, GIVEN = (
    "load", "arg", "const", "index", "guard", "apply", "reduced", "given",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Value:
    """One value of a kernel; equal values are one object (`kernel lowering` interns them)."""

    form: str
    dtype: DType
    op: Op | None = None
    """APPLY: the elementwise operation."""
    srcs: tuple[Value, ...] = ()
    arg: int = -1
    """LOAD and ARG: the position in `Kernel.args`; REDUCED: the position in `reductions`; GIVEN:
    which number of those that the template of the kernel brings."""
    index: Index | None = None
    """LOAD: element of the buffer; INDEX: the number itself; GIVEN: where it differs."""
    guards: tuple[Guard, ...] = ()
    """LOAD, GUARD: conditions that must all hold; a LOAD gives `number` where one does not."""
    number: bool | int | float = 0
    """CONST: the number; LOAD: what stands outside the guards."""

    @cached_property
    def indices(self) -> tuple[Index, ...]:
        """Every index expression of this value."""
        own = () if self.index is None else (self.index,)
        return (*own, *[g.index for g in self.guards]) if self.guards else own

    @cached_property
    def children(self) -> tuple[Value, ...]:
        """The values that it reads, those inside its indices included."""
        tokens = [t for index in self.indices for t in index.tokens()]
        return (*self.srcs, *tokens) if tokens else self.srcs


@dataclass(frozen=True, eq=False)
class Reduction:
    """``op`` over all reduce axes of a full-level value; dtype is that of the result."""

    op: Op
    value: Value
    dtype: DType


@dataclass(frozen=True, eq=False)
class Output:
    """A store of `value` to element `index` of argument `arg`, at its own level."""

    arg: int
    value: Value
    index: Index


@dataclass(frozen=True)
class Arg:
    """A kernel parameter: ``in`` and ``out``, buffers of `size` elements, or a ``scalar``."""

    name: str
    role: str
    dtype: DType
    size: int = 1


@dataclass(frozen=True)
class Split:
    """First stage of a two-stage reduction: the reduce axis runs over one part of `length`.

    For part p it runs over ``p*length … min(extent, (p+1)*length) - 1``; `part` is an outer axis.
    """

    axis: Var
    part: Var
    length: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """Everything one kernel computes; verified by `compiler.verify`."""

    name: str
    outer: tuple[Var, ...]
    reduce: tuple[Var, ...]
    args: tuple[Arg, ...]
    reductions: tuple[Reduction, ...]
    outputs: tuple[Output, ...]
    split: Split | None = None
    asked: tuple[Value, ...] = ()
    """Further values, of any level, that the kernel's own template asks for."""
    notes: dict[str, Any] = field(default_factory=dict)
    """For people only: operations and user lines, reasons of boundaries."""

    def brought(self) -> int:
        """Return the operations that the kernel's own template brings, beyond those of its values.

        Extents must be plain ints (`passes.settle`).
        """
        return 0
