"""How much a kernel computes, from its IR alone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from simplegrad.compiler.ir.axes import dependences, roots, walk
from simplegrad.compiler.ir.index import Var
from simplegrad.compiler.ir.kernel import APPLY, Kernel


def operations(kernel: Kernel) -> int:
    """Return the operations that one run of a kernel needs: a contraction's m·k·n count twice.

    Every value counts once for each position of the axes it depends on, whether or not the
    device computes it again: an addition, a multiplication or a comparison is 1, a division,
    root or transcendental the `cost` of its row in the table of operations. A step of a
    reduction is 1. Arithmetic of indices, loads and stores are none. What a template brings, such
    as the products inside an attention or a recurrence, is told by its kernel.
    """
    depends = dependences(kernel)
    total = kernel.brought()
    for value in walk(roots(kernel)):
        if value.form == APPLY and value.op is not None:
            total += value.op.cost * _positions(kernel, depends[id(value)])
    for reduction in kernel.reductions:
        total += _positions(kernel, {*depends[id(reduction.value)], *kernel.reduce})
    return total


def _positions(kernel: Kernel, depends: Iterable[Any]) -> int:
    """Return how many positions the axes among `depends` have."""
    axes = {axis for axis in depends if isinstance(axis, Var)}
    if kernel.split is not None and kernel.split.axis in axes:
        axes.discard(kernel.split.part)  # all parts together run over the axis once
    return math.prod(axis.extent for axis in axes)
