"""What a kernel over rows should fetch into the cache while it computes.

A row that is read again and again between reductions leaves the memory idle in its dear stages,
so a stage before the one that stores asks for the lines that will be written. Where that stage
computes much (an exponential, say), it asks for the next row too: softmax of 4096x1024 takes 0.75
of the time. Where it computes little (layer_norm), the hardware, which has seen the row before
it, does better alone, and being asked twice costs up to a fifth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simplegrad.compiler.ir.axes import Stage, cost, walk
from simplegrad.compiler.ir.index import Index, Var
from simplegrad.compiler.ir.kernel import LOAD, Kernel, Value

LINE = 64
"""Bytes of a cache line."""
_IDLE = 8
"""Operations an element, in multiply-adds, from which a stage leaves the memory idle."""


@dataclass(frozen=True)
class Fetch:
    """Element `index` of argument `arg` will be read, or written, a row or a stage later."""

    arg: int
    index: Index
    writes: bool
    itemsize: int


def fetches(kernel: Kernel, stages: Sequence[Stage], lane: Var) -> dict[int, list[Fetch]]:
    """Return, by number of the stage that should ask for them, what is needed next."""
    if len(stages) < 2 or not kernel.outer:
        return {}
    costs = _costs(kernel, stages)
    row = kernel.outer[-1]
    found: dict[int, list[Fetch]] = {}
    dear = max(range(len(stages) - 1), key=lambda i: (costs[i], i))
    for output in stages[-1].outputs:
        if output.index.coefficient(row) and output.index.coefficient(lane) == 1:
            arg = kernel.args[output.arg]
            fetch = Fetch(output.arg, output.index, True, arg.dtype.itemsize)
            found.setdefault(dear, []).append(fetch)
    if costs[dear] >= _IDLE:
        values = [kernel.reductions[i].value for stage in stages for i in stage.reductions]
        ahead = reads_ahead(kernel, values, lane, row, 1)
        found.setdefault(dear, []).extend(dict.fromkeys(ahead))
    return found


def reads_ahead(
    kernel: Kernel, values: Sequence[Value], lane: Var | None, along: Var, steps: int
) -> list[Fetch]:
    """Return what `values` will read `steps` further along an axis, in runs along `lane`."""
    found = []
    for value in walk(values):
        if value.form == LOAD and value.index is not None and value.arg is not None and lane:
            step = value.index.coefficient(along)
            if step and value.index.coefficient(lane) == 1:
                itemsize = kernel.args[value.arg].dtype.itemsize
                found.append(Fetch(value.arg, value.index + step * steps, False, itemsize))
    return found


def _costs(kernel: Kernel, stages: Sequence[Stage]) -> list[int]:
    """Return what each stage computes that none before it did."""
    seen: set[int] = set()
    costs = []
    for stage in stages:
        values = [kernel.reductions[i].value for i in stage.reductions]
        values += [o.value for o in stage.outputs]
        costs.append(cost(values, lambda v: id(v) in seen))
        seen.update(id(v) for v in walk(values))
    return costs
