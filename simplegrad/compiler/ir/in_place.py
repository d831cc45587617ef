"""Which outputs of a kernel may be written over one of its operands, element by element.

Output O may take the memory of operand A where O's element i is computed from A's element i, and
nothing else in the kernel reads that element: every load of A stands at O's own index, without
guards, and none is part of a reduction. Whoever computes an element then reads it before it
writes it. A renderer that computes an element twice must not offer this.
"""

from __future__ import annotations

from simplegrad.compiler.ir.axes import walk
from simplegrad.compiler.ir.index import Index
from simplegrad.compiler.ir.kernel import LOAD, Kernel, Output, Value

Pairs = tuple[tuple[int, int], ...]
"""(operand, output): argument numbers."""


def pairs(kernel: Kernel) -> Pairs:
    """Return every operand and output of a kernel that may be one memory."""
    tokens = [t for o in kernel.outputs for t in o.index.tokens()]
    elsewhere = [r.value for r in kernel.reductions] + list(kernel.asked) + tokens
    taken = {v.arg for v in walk(elsewhere) if v.form == LOAD}
    reads = [_loads(output) for output in kernel.outputs]
    found = []
    for output, own in zip(kernel.outputs, reads, strict=True):
        for arg in own.keys() - taken:
            loads = [v for by_arg in reads for v in by_arg.get(arg, ())]
            levels = {
                _is_full(kernel, o)
                for o, by_arg in zip(kernel.outputs, reads, strict=True)
                if arg in by_arg
            }
            as_wide = (
                kernel.args[arg].dtype.itemsize == kernel.args[output.arg].dtype.itemsize
            )  # fmt: skip
            if as_wide and len(levels) == 1 and all(_is_there(v, output.index) for v in loads):
                found.append((arg, output.arg))
    return tuple(sorted(found))


def _loads(output: Output) -> dict[int, list[Value]]:
    """Return the loads that an output is computed from, by argument."""
    found: dict[int, list[Value]] = {}
    for value in walk([output.value]):
        if value.form == LOAD:
            found.setdefault(value.arg, []).append(value)
    return found


def _is_full(kernel: Kernel, output: Output) -> bool:
    """Whether an output has an element per point of the reduce axes too."""
    used = output.index.variables()
    for value in walk([output.value]):
        for index in value.indices:
            used |= index.variables()
    return not used.isdisjoint(kernel.reduce)


def _is_there(load: Value, place: Index) -> bool:
    index = load.index
    if index is None or load.guards or index.tokens() or place.tokens():
        return False
    # By hash first: sizes that stand for any number must not be made equal by asking.
    return hash(index.key) == hash(place.key) and index.key == place.key
