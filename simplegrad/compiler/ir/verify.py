"""Checks that a kernel means something: run between passes, always in tests.

An index is shown to be inside its buffer by intervals, tightened by the guards; where intervals
are too coarse, by trying the points of the axes (all of them, or a fixed sample of many).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from simplegrad import ops
from simplegrad.compiler.ir.axes import dependences, roots, walk
from simplegrad.compiler.ir.index import Atom, Div, Dyn, Guard, Index, Mod, Var
from simplegrad.compiler.ir.kernel import (
    APPLY,
    ARG,
    CONST,
    GIVEN,
    GUARD,
    INDEX,
    LOAD,
    REDUCED,
    Kernel,
    Value,
)  # fmt: skip
from simplegrad.dtypes import DType, bool_, uint32
from simplegrad.errors import VerifyError

_MOST_POINTS = 1 << 20
"""Points that an index is tried at, all at once."""


def verify_kernel(kernel: Kernel) -> None:
    """Raise `VerifyError` where a kernel is not well formed."""
    checker = _Checker(kernel)
    checker.arguments()
    checker.order()
    for value in walk(roots(kernel)):
        checker.value(value)
    checker.reductions()
    checker.outputs()


class _Checker:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.axes = frozenset((*kernel.outer, *kernel.reduce))

    def fail(self, text: str) -> VerifyError:
        """Return the error for a fault found."""
        return VerifyError(f"verify: kernel {self.kernel.name}: {text}")

    def arguments(self) -> None:
        """Check roles and sizes of arguments, and that no axis stands twice."""
        for i, arg in enumerate(self.kernel.args):
            if arg.role not in ("in", "out", "scalar") or arg.size < 0:
                raise self.fail(f"argument {i} is {arg}")
        if len(self.axes) != len(self.kernel.outer) + len(self.kernel.reduce):
            raise self.fail("an axis stands twice")
        split = self.kernel.split
        if split is not None:
            inside = split.axis in self.kernel.reduce and split.part in self.kernel.outer
            if not inside or split.length * split.part.extent < split.axis.extent:
                raise self.fail(f"{split} does not cover its axis")

    def order(self) -> None:
        """Check that reduction i reads results of reductions before it only."""
        for i, reduction in enumerate(self.kernel.reductions):
            for value in walk([reduction.value]):
                if value.form == REDUCED and not 0 <= value.arg < i:
                    raise self.fail(f"reduction {i} reads reduction {value.arg}")

    def _argument(self, value_arg: int, roles: Sequence[str]) -> DType:
        if not 0 <= value_arg < len(self.kernel.args):
            raise self.fail(f"argument {value_arg} is not among {len(self.kernel.args)}")
        arg = self.kernel.args[value_arg]
        if arg.role not in roles:
            raise self.fail(f"argument {value_arg} ({arg.name}) is {arg.role}, not {roles[0]}")
        return arg.dtype

    def value(self, value: Value) -> None:
        """Check one value whose operands have been checked."""
        for index in value.indices:
            self._bound(index)
        dtype = self._dtype(value)
        if dtype is not value.dtype:
            raise self.fail(f"a {value.form} has dtype {value.dtype}, not {dtype}: {value.op}")
        if value.form == LOAD:
            if value.index is None:
                raise self.fail("a load without an index")
            self._inside(value.index, value.guards, self.kernel.args[value.arg].size, "load")

    def _bound(self, index: Index) -> None:
        free = index.variables() - self.axes
        if any(v.extent != 1 for v in free):
            raise self.fail(f"{sorted(v.name for v in free)} bound by no axis in {index}")
        for token in index.tokens():
            if not isinstance(token, Value) or token.dtype.kind not in "ui":
                raise self.fail(f"{token} is no run-time index")

    def _dtype(self, value: Value) -> DType:
        """Return the dtype that a value must have."""
        if value.form == LOAD:
            return self._argument(value.arg, ("in",))
        if value.form == ARG:
            return self._argument(value.arg, ("scalar",))
        if value.form == REDUCED:
            if not 0 <= value.arg < len(self.kernel.reductions):
                raise self.fail(f"reduction {value.arg} does not exist")
            return self.kernel.reductions[value.arg].dtype
        if value.form == GUARD:
            return bool_
        if value.form in (CONST, INDEX, GIVEN):
            if value.form == INDEX and value.index is None:
                raise self.fail("an index value without an index")
            return value.dtype
        if value.form != APPLY or value.op is None:
            raise self.fail(f"{value.form} is no form of a value")
        return self._applied(value)

    def _applied(self, value: Value) -> DType:
        op, sources = value.op, value.srcs
        assert op is not None
        dtypes = [s.dtype for s in sources]
        if op.kind != ops.ELEMENTWISE or len(sources) != op.arity:
            raise self.fail(f"{op} with {len(sources)} operands is no elementwise operation")
        if op is ops.CAST:
            return value.dtype
        if op is ops.WHERE:
            if dtypes[0] is not bool_ or dtypes[1] is not dtypes[2]:
                raise self.fail(f"where of {dtypes}")
            return dtypes[1]
        if any(d is not dtypes[0] for d in dtypes) or dtypes[0].kind not in op.kinds:
            raise self.fail(f"{op} of {dtypes}")
        if op in (ops.RANDOM_BITS, ops.PERMUTE_INDEX) and dtypes[0] is not uint32:
            raise self.fail(f"{op} of {dtypes}")
        return op.result or dtypes[0]

    def reductions(self) -> None:
        """Check operations and dtypes of reductions, and that they reduce something."""
        for i, reduction in enumerate(self.kernel.reductions):
            if reduction.op.kind != ops.REDUCE:
                raise self.fail(f"reduction {i} is {reduction.op}")
            if reduction.op in (ops.ARGMAX, ops.ARGMIN):
                if reduction.dtype.kind not in "ui":
                    raise self.fail(f"reduction {i}: {reduction.op} gives {reduction.dtype}")
            elif reduction.value.dtype.kind not in reduction.op.kinds:
                raise self.fail(f"reduction {i}: {reduction.op} of {reduction.value.dtype}")
        if self.kernel.reductions and not self.kernel.reduce:
            raise self.fail("reductions without a reduce axis")

    def outputs(self) -> None:
        """Check that every output stands inside its buffer, at the level of its value."""
        deps, inner = dependences(self.kernel), frozenset(self.kernel.reduce)
        for output in self.kernel.outputs:
            dtype = self._argument(output.arg, ("out",))
            if dtype is not output.value.dtype:
                raise self.fail(f"output {output.arg} stores {output.value.dtype} as {dtype}")
            self._bound(output.index)
            used = output.index.variables()
            for token in output.index.tokens():
                used |= deps[id(token)]
            if not used & inner and deps[id(output.value)] & inner:
                raise self.fail(f"output {output.arg} of outer level reads a full-level value")
            self._inside(output.index, (), self.kernel.args[output.arg].size, "store")

    def _inside(self, index: Index, guards: tuple[Guard, ...], size: int, what: str) -> None:
        if any(v.extent == 0 for v in self.axes) or any(g.never for g in guards):
            return  # happens never
        low, high = _bounds(index, guards)
        if low >= 0 and high < size:
            return
        worst = _tried(index, guards, size)
        if worst is not None:
            raise self.fail(f"a {what} at {index} reaches {worst}, outside 0..{size - 1}")


def _bounds(index: Index, guards: Sequence[Guard]) -> tuple[int, int]:
    """Return bounds of an index where all guards hold."""
    terms = {a.order: (a, c) for a, c in index.terms}
    low = high = index.const
    ranges: dict[Any, tuple[int, int]] = {}
    for guard in sorted(guards, key=lambda g: -len(g.index.terms)):
        least = max(guard.low, guard.index.low)
        most = min(guard.high - 1, guard.index.high)
        times = _multiple(guard.index, terms)
        if not times:
            continue
        # The guard's own sum stands in the index: its bounds replace those of its terms.
        for atom, c in guard.index.terms:
            left = terms[atom.order][1] - times * c
            terms[atom.order] = (atom, left)
        ends = [times * (least - guard.index.const), times * (most - guard.index.const)]
        low, high = low + min(ends), high + max(ends)
    for atom, c in terms.values():
        first, last = ranges.get(atom.order, (atom.low, atom.high))
        low, high = low + min(c * first, c * last), high + max(c * first, c * last)
    return low, high


def _multiple(part: Index, terms: dict[Any, tuple[Atom, int]]) -> int:
    """Return k such that `terms` holds k times every term of `part`, 0 if there is none."""
    times = 0
    for atom, c in part.terms:
        held = terms.get(atom.order, (atom, 0))[1]
        if held == 0 or held % c or times not in (0, held // c):
            return 0
        times = held // c
    return times


def _free_atoms(index: Index) -> Iterator[Var | Dyn]:
    for atom in index.atoms():
        if isinstance(atom, (Var, Dyn)):
            yield atom


def _tried(index: Index, guards: Sequence[Guard], size: int) -> int | None:
    """Return an index outside the buffer at some point where the guards hold, if one is found."""
    free: dict[Any, Var | Dyn] = {}
    for part in (index, *[g.index for g in guards]):
        free.update({a.order: a for a in _free_atoms(part)})
    counts = [a.high - a.low + 1 for a in free.values()]
    if math.prod(counts) <= _MOST_POINTS:
        grid = np.indices(counts).reshape(len(counts), -1)
        points = {o: grid[i] + a.low for i, (o, a) in enumerate(free.items())}
    else:
        chance = np.random.default_rng(0)
        points = {o: chance.integers(a.low, a.high + 1, _MOST_POINTS) for o, a in free.items()}
    shape = next(iter(points.values())).shape if points else (1,)
    holds = np.ones(shape, bool)
    for guard in guards:
        at = _evaluate(guard.index, points)
        holds &= (at >= guard.low) & (at < guard.high)
    at = np.broadcast_to(_evaluate(index, points), shape)[holds]
    wrong = at[(at < 0) | (at >= size)]
    return int(wrong[0]) if wrong.size else None


def _evaluate(index: Index, points: dict[Any, Any]) -> Any:
    total: Any = np.int64(index.const)
    for atom, c in index.terms:
        if isinstance(atom, Div):
            total = total + c * (_evaluate(atom.index, points) // atom.k)
        elif isinstance(atom, Mod):
            total = total + c * (_evaluate(atom.index, points) % atom.k)
        else:
            total = total + c * points[atom.order]
    return total
