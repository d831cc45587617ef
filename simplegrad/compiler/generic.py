"""One program for all shapes of a graph structure.

A graph's *structure* is what is left when the extents, offsets, strides and constants that may
vary are taken out of it; these are its *numbers* (0, 1 and -1 stay: they are structure). The first
numbers of a structure are compiled in. When others show up, those that differ become symbols, or
polynomials of symbols as far as the numbers seen show a relation, the graph is rebuilt over them,
and the compiler runs once more (see `symbolic`). Any later numbers that fit the relations and the
guards are an *instance*: sizes of buffers, launches and kernel arguments are worked out, nothing
is scheduled, rendered or compiled.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from simplegrad import ops, settings
from simplegrad.compiler.ir import symbolic
from simplegrad.compiler.ir.symbolic import Trace, symbol
from simplegrad.compiler.pipeline import compile_graph
from simplegrad.compiler.program import Launch, Program
from simplegrad.compiler.target import Target
from simplegrad.graph.node import (
    Kind,
    Node,
    Spec,
    const_value,
    leaf,
    leaf_of,
    make,
    scalar,
    topological,
)

_MOST_SAMPLES = 8
_MOST_PROGRAMS = 8
_MOST_FAILURES = 3
_TYPICAL = 64
_REACH = 64
"""A program serves extents up to this many times those it was made for."""
_MOST_KINDS = 50_000

_Record = TypeVar("_Record")
Numbers = tuple[Any, ...]
"""Ints, and the texts of constants."""

_WITH_NUMBERS = frozenset({ops.RESHAPE, ops.EXPAND, ops.SLICE, ops.PAD, ops.IOTA, ops.SCATTER_ADD})


class _Hole:
    """Where a number stands in the argument of an operation."""

    def __repr__(self) -> str:
        return "hole"


_HOLE = _Hole()


# Structure and numbers ----------------------------------------------------------------------------

_described: dict[int | Spec, tuple[int, Numbers]] = {}
"""By the id of a kind, or a value's spec: the number of its form without numbers, and these."""
_forms: dict[tuple[Any, ...], int] = {}
"""The number of each form; kept for good, since keys name forms by it."""


def structure(order: Sequence[Node], signature: tuple[Any, ...]) -> tuple[Any, Numbers]:
    """Return a graph's structure over all numbers, as a key, and its numbers.

    `signature` has the kinds (specs of values) and edges in the order of the nodes, and the places
    of what is kept.
    """
    kinds, edges, kept = signature[:3]
    known = _described.get
    found = [known(kind) or _describe(kind, node) for kind, node in zip(kinds, order, strict=True)]
    key = (tuple([form for form, _ in found]), edges, kept)
    return key, tuple(itertools.chain.from_iterable([numbers for _, numbers in found]))


def _describe(kind: int | Spec, node: Node) -> tuple[int, Numbers]:
    if isinstance(kind, Spec):
        numbers: list[Any] = []
        form: tuple[Any, ...] = (kind.dtype, _taken_out(kind.shape, numbers))
    else:
        form, numbers = _parts(node.kind)
    if len(_described) > _MOST_KINDS:
        _described.clear()
    number = _forms.setdefault(form, len(_forms))
    found = _described[kind] = (number, tuple(numbers))
    return found


def _parts(kind: Kind) -> tuple[tuple[Any, ...], list[Any]]:
    """Return (operation, argument, dtype, shape of a leaf) with holes, and what stood there."""
    numbers: list[Any] = []
    arg = kind.arg
    if kind.op in _WITH_NUMBERS:
        arg = _taken_out(arg, numbers)
    elif kind.op is ops.AS_STRIDED:
        arg = _of_view(arg, len(kind.ins[0].shape), numbers)
    elif kind.op is ops.CONST:
        arg = _HOLE
        numbers.append(kind.arg)
    shape = _taken_out(kind.spec.shape, numbers) if not kind.ins else ()
    return (kind.op.name, arg, kind.spec.dtype, shape), numbers


def _taken_out(arg: Any, numbers: list[Any]) -> Any:
    if isinstance(arg, tuple):
        return tuple([_taken_out(a, numbers) for a in arg])
    if not isinstance(arg, int) or abs(arg) < 2:
        return arg
    numbers.append(arg)
    return _HOLE


def _of_view(arg: Any, rank: int, numbers: list[Any]) -> Any:
    """Take out what may vary of a view of an operand of `rank` axes.

    Windows, and the gathering of their gradients, stand at quotients and remainders by the lines
    and pixels of an image. Over symbols these do not simplify, and no loop reads vectors (2 to 50
    times as slow): their strides are structure, and so is the size of a window. Batches vary.
    """
    shape, strides, offset = arg
    if len(shape) < rank:  # a diagonal
        return _taken_out(arg, numbers)
    return (_taken_out(shape[:rank], numbers) + shape[rank:], strides, offset)


def _put_back(arg: Any, numbers: Iterator[Any]) -> Any:
    if isinstance(arg, tuple):
        return tuple(_put_back(a, numbers) for a in arg)
    return next(numbers) if arg is _HOLE else arg


def _rebuilt(order: Sequence[Node], numbers: Sequence[Any]) -> list[Node]:
    """Return the graph over other numbers; a constant that varies becomes a kernel argument."""
    left = iter(numbers)
    filled: dict[int, tuple[Any, Any]] = {}
    for node in order:
        if node.buffer is not None:
            filled[id(node)] = None, tuple(n if n < 2 else next(left) for n in node.shape)
        else:
            (_, arg, _, shape), _ = _parts(node.kind)
            filled[id(node)] = _put_back(arg, left), _put_back(shape, left)
    new: dict[int, Node] = {}
    for node in topological(order):
        arg, shape = filled[id(node)]
        if node.buffer is not None:
            copy = leaf(ops.BUFFER, shape, node.dtype, None, node.device)
            copy.buffer = node.buffer
        elif node.srcs:
            copy = make(node.op, tuple([new[id(s)] for s in node.srcs]), arg, node.device)
        elif node.op is ops.CONST and arg is None:
            copy = scalar(const_value(node), Spec.of(shape, node.dtype), node.device)
        else:
            copy = leaf_of(node.op, Spec.of(shape, node.dtype), arg, node.device)
            copy.value = node.value
        copy.line = node.line
        new[id(node)] = copy
    return [new[id(n)] for n in order]


# Relations ----------------------------------------------------------------------------------------


class _NoFit(Exception):
    """The numbers vary in a way that no program can follow."""


def _relations(samples: Sequence[Numbers], lines: bool) -> tuple[list[Any], list[int]]:
    """Return every number as an expression of symbols, and the place of each symbol's own number.

    What never varied is itself; a constant that varied is None. `lines`: numbers may lie on a line
    over another. By chance they do so where nothing in the graph does, which then fits nowhere.
    """
    columns = list(zip(*samples, strict=True))
    found: dict[tuple[Any, ...], Any] = {}
    bases: list[tuple[int, ...]] = []
    ordered = dict.fromkeys(c for c in columns if len(set(c)) > 1)
    for column in sorted((c for c in ordered if isinstance(c[0], int)), key=lambda c: c[-1]):
        related = _related(column, bases, lines)
        if related is None:
            if min(column) < 2:
                raise _NoFit
            related = symbol(len(bases))
            bases.append(column)
        found[column] = related
    results = [found.get(c) if len(set(c)) > 1 else c[0] for c in columns]
    return results, [columns.index(b) for b in bases]


def _related(column: tuple[int, ...], bases: Sequence[tuple[int, ...]], lines: bool) -> Any:
    """Return k*a, k*a*b or, of `lines`, a + k or k*a + l over earlier columns; or None."""
    symbols = [symbol(i) for i in range(len(bases))]
    terms = list(zip(symbols, bases, strict=True))
    for i, (a, values) in enumerate(list(terms)):
        for b, others in terms[: i + 1]:
            terms.append((a * b, tuple(x * y for x, y in zip(values, others, strict=True))))
    for term, values in terms:
        times = column[0] // values[0]
        if times and all(c == times * v for c, v in zip(column, values, strict=True)):
            return term * times
    for a, values in zip(symbols, bases, strict=True) if lines else ():
        steps = [(c - column[0], v - values[0]) for c, v in zip(column, values, strict=True)]
        times = next((c // v for c, v in steps if v), 0)
        # Two samples lie on some line in any case.
        if times and (times == 1 or len(column) > 2) and all(c == times * v for c, v in steps):
            return a * times + (column[0] - times * values[0])
    return None


# Programs -----------------------------------------------------------------------------------------


@dataclass(eq=False)
class Generic:
    """A program whose sizes are expressions, and which numbers it serves."""

    program: Program
    bases: tuple[int, ...]
    limits: tuple[int, ...]
    expected: Callable[..., Numbers]
    """The numbers of the graph, given those of the symbols; None where any constant will do."""
    holds: Callable[..., tuple[bool, ...]]
    sizes: Callable[..., tuple[int, ...]]
    first: Any = None
    """For the runtime: the plan of the first instance, which owns the kernels."""

    def serves(self, numbers: Numbers) -> bool:
        """Return whether the program computes a graph of these numbers."""
        values = [numbers[place] for place in self.bases]
        if any(not 2 <= v <= most for v, most in zip(values, self.limits, strict=True)):
            return False
        for want, number in zip(self.expected(*values), numbers, strict=True):
            if want != number and want is not None:
                return False
        return all(self.holds(*values))

    @cached_property
    def _varying(self) -> tuple[list[int], set[int]]:
        """The slots, and the launches, whose sizes are expressions."""
        return _varying_slots(self.program), {
            i for i, launch in enumerate(self.program.launches)
            if any(map(symbolic.symbolic, _launch_sizes(launch)))
        }  # fmt: skip

    def instance(self, numbers: Numbers) -> Program:
        """Return the program for numbers that it serves: plain ints everywhere.

        What no symbol changes is shared with all other instances.
        """
        symbols = tuple([numbers[place] for place in self.bases])
        sizes = iter(self.sizes(*symbols))
        result = Program(list(self.program.slots), [], self.program.results)
        slots, launches = self._varying
        for number in slots:
            result.slots[number] = _with(result.slots[number], nbytes=next(sizes))
        for number, launch in enumerate(self.program.launches):
            if number in launches:
                source = _with(
                    launch.source,
                    global_size=next(sizes),
                    numbers=tuple([(next(sizes), ctype) for _, ctype in launch.source.numbers]),
                )
                read, written = next(sizes), next(sizes)
                launch = _with(
                    launch, source=source, bytes_read=read, bytes_written=written, symbols=symbols
                )
            result.launches.append(launch)
        return result


def _with(record: _Record, **changes: Any) -> _Record:
    """As `dataclasses.replace`, in a sixth of the time; what was cached is copied, too."""
    new = object.__new__(type(record))
    new.__dict__.update(record.__dict__, **changes)
    return new


def _varying_slots(program: Program) -> list[int]:
    return [i for i, slot in enumerate(program.slots) if symbolic.symbolic(slot.nbytes)]


def _launch_sizes(launch: Launch) -> list[int]:
    source = launch.source
    numbers = [n for n, _ in source.numbers]
    return [source.global_size, *numbers, launch.bytes_read, launch.bytes_written]


def _sizes(program: Program) -> list[int]:
    """Return what an instance has to work out, in its order."""
    found = [program.slots[i].nbytes for i in _varying_slots(program)]
    for launch in program.launches:
        own = _launch_sizes(launch)
        found += own if any(map(symbolic.symbolic, own)) else []
    return found


class Family:
    """All shapes of one graph structure: the numbers seen, and the programs made for many."""

    def __init__(self) -> None:
        self.samples: list[Numbers] = []
        self.programs: list[Generic] = []
        self.failures = 0

    def find(self, numbers: Numbers) -> Generic | None:
        """Return a program that serves these numbers."""
        for generic in self.programs:
            if generic.serves(numbers):
                return generic
        return None

    def generalise(
        self, order: Sequence[Node], kept: Sequence[Node], numbers: Numbers, target: Target,
        fusion: bool,
    ) -> Generic | None:  # fmt: skip
        """Return a new program for these numbers and others; None for the first, or if none fits.

        What cannot be compiled for unknown numbers is compiled for those at hand.
        """
        self.met(numbers)
        full = len(self.programs) >= _MOST_PROGRAMS or self.failures >= _MOST_FAILURES
        if len(set(self.samples)) < 2 or full:
            return None
        failure: Exception = _NoFit()
        for lines in (True, False):
            try:
                generic = _compiled(self.samples, order, kept, target, fusion, lines)
            except Exception as error:  # nobody's program may fail for being asked twice
                failure = error
            else:
                self.programs.append(generic)
                return generic
        if settings.current().verify and not isinstance(failure, _NoFit):
            raise failure
        self.failures += 1
        return None

    def met(self, numbers: Numbers) -> None:
        """Take note of numbers for which there is a program."""
        self.samples = [*self.samples[:1], *self.samples[1:][1 - _MOST_SAMPLES :], numbers]

    def reject(self, generic: Generic) -> None:
        """Forget a program that the driver refused, and make no other."""
        self.programs.remove(generic)
        self.failures = _MOST_FAILURES


def _compiled(
    samples: Sequence[Numbers], order: Sequence[Node], kept: Sequence[Node], target: Target,
    fusion: bool, lines: bool,
) -> Generic:  # fmt: skip
    expressions, bases = _relations(samples, lines)
    columns = [[s[place] for s in samples] for place in bases]
    typical = _typical(samples, expressions, columns)
    limits = tuple(_REACH * n for n in typical)
    with Trace([c[-1] for c in columns], typical, limits) as trace:
        trace.unifies = True
        new = _rebuilt(order, expressions)
        trace.unifies = False
        place = {id(n): i for i, n in enumerate(order)}
        targets = [new[place[id(n)]] for n in kept]
        program = compile_graph(new, targets, target, fusion)
        texts = [symbolic.source(n) for n in _sizes(program)]
    count = len(bases)
    return Generic(
        program,
        tuple(bases),
        limits,
        symbolic.function(count, [_literal(e) for e in expressions]),
        symbolic.function(count, trace.guards),
        symbolic.function(count, texts),
    )


def _typical(
    samples: Sequence[Numbers], expressions: Sequence[Any], columns: Sequence[list[int]]
) -> list[int]:
    """Return a number for each symbol to make estimates with: large, as it may be.

    What falls where a symbol grows must not fall below any extent: then the last ones seen serve.
    """
    typical = [max(*column, _TYPICAL) for column in columns]
    pairs = zip(expressions, samples[-1], strict=True)
    extents = [e for e, n in pairs if isinstance(e, symbolic.Sym) and n > 1]
    fallen = any(symbolic.evaluate(e, typical) < 2 for e in extents)
    return [column[-1] for column in columns] if fallen else typical


def _literal(expression: Any) -> str:
    number = symbolic.is_number(expression)
    return symbolic.source(expression) if number else repr(expression)
