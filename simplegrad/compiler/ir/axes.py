"""What the renderers ask of a kernel: its walks, dependences, stages and axes that merge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from simplegrad.compiler.ir.index import Div, Guard, Index, Mod, Var
from simplegrad.compiler.ir.kernel import (
    APPLY,
    LOAD,
    REDUCED,
    Kernel,
    Output,
    Reduction,
    Value,
)
from simplegrad.compiler.ir.symbolic import estimate, greater, product
from simplegrad.dtypes import width

_INT_MAX = 2**31 - 1

Dependences = frozenset[Any]
"""Loop variables, and the numbers of reductions, that a value depends on."""


def walk(roots: Iterable[Value], known: Callable[[Value], bool] | None = None) -> Iterator[Value]:
    """Yield values, operands first, without recursion; skip `known` ones and all below them."""
    done: set[int] = set()
    for root in roots:
        stack: list[Any] = [root]
        while stack:
            value = stack.pop()
            if value is None:  # the operands of the value below have come
                yield stack.pop()
            elif id(value) not in done and not (known and known(value)):
                done.add(id(value))
                if value.children:
                    stack += (value, None, *value.children[::-1])
                else:
                    yield value


@lru_cache(maxsize=8)
def widest(kernel: Kernel) -> int:
    """Return the bytes of the widest number that a kernel computes with."""
    types = {v.dtype.compute for v in walk(roots(kernel))}
    types |= {r.dtype.compute for r in kernel.reductions}
    return max(width(ctype) for ctype in types)


def roots(kernel: Kernel) -> list[Value]:
    """Return the values that reductions and outputs read."""
    stores = [t for o in kernel.outputs for t in o.index.tokens()]
    own = [r.value for r in kernel.reductions] + list(kernel.asked)
    return own + [o.value for o in kernel.outputs] + stores


@lru_cache(maxsize=8)  # asked for by every hole of a template
def dependences(kernel: Kernel) -> dict[int, Dependences]:
    """Return what each value, by its id, depends on.

    A reduction is said to depend on every outer axis: one accumulator per outer element.
    """
    found: dict[int, Dependences] = {}
    for value in walk(roots(kernel)):
        if value.form == REDUCED:
            found[id(value)] = frozenset((value.arg, *kernel.outer))
            continue
        deps: Dependences = frozenset()
        for index in value.indices:
            deps |= index.variables()
        for child in value.children:
            deps |= found[id(child)]
        found[id(value)] = deps
    return found


@dataclass
class Stage:
    """One run over the reduce axes: reductions and full-level outputs that it computes."""

    reductions: list[int]
    outputs: list[Output]


def stages(kernel: Kernel, deps: dict[int, Dependences]) -> tuple[list[Stage], list[Output]]:
    """Return the runs over the reduce axes in order, and the outputs of outer level."""
    order: list[int] = []

    def after(value: Value, extra: Iterable[Value] = ()) -> int:
        # Through outer-level values a full-level value may hang on several reductions.
        needed = [d for v in (value, *extra) for d in deps[id(v)] if isinstance(d, int)]
        return max((order[d] + 1 for d in needed), default=0)

    for reduction in kernel.reductions:
        order.append(after(reduction.value))
    inner = set(kernel.reduce)
    full, outer = [], []
    for output in kernel.outputs:
        tokens = output.index.tokens()
        used = deps[id(output.value)] | output.index.variables()
        used = used.union(*[deps[id(t)] for t in tokens])
        if used & inner:
            full.append((after(output.value, tokens), output))
        else:
            outer.append(output)
    count = 1 + max([*order, *[s for s, _ in full]], default=-1)
    return [
        Stage(
            [i for i, s in enumerate(order) if s == stage],
            [o for s, o in full if s == stage],
        )
        for stage in range(count)
    ], outer


def cost(values: Iterable[Value], known: Callable[[Value], bool] | None = None) -> int:
    """Return the rough cost in multiply-adds of computing values once."""
    return sum(v.op.cost for v in walk(values, known) if v.form == APPLY and v.op is not None)


def kept_values(
    kernel: Kernel, parts: list[Stage], deps: dict[int, Dependences]
) -> list[tuple[int, Value]]:
    """Return (first stage, value) of dear full-level values that several stages read."""
    inner = set(kernel.reduce)

    def cheap(value: Value) -> bool:
        return not deps[id(value)] & inner

    kept: list[tuple[int, Value]] = []
    seen: dict[int, int] = {}
    for number, stage in enumerate(parts):
        stage_roots = [kernel.reductions[i].value for i in stage.reductions]
        stage_roots += [o.value for o in stage.outputs]
        chosen = {id(v) for _, v in kept}

        def known(value: Value, chosen: set[int] = chosen) -> bool:
            return id(value) in chosen or cheap(value)

        again = [v for v in walk(stage_roots, known) if seen.get(id(v), number) < number]
        inside = {id(c) for v in again for c in v.children}
        for value in again:
            if id(value) not in inside and cost([value], cheap) >= 4:
                kept.append((seen[id(value)], value))
        for value in walk(stage_roots, cheap):
            seen.setdefault(id(value), number)
    return kept


def size(axes: Iterable[Var]) -> int:
    """Return the number of points of some axes."""
    return product(v.extent for v in axes)


def all_indices(kernel: Kernel) -> list[Index]:
    """Return every index expression of a kernel."""
    found = [o.index for o in kernel.outputs]
    for value in walk(roots(kernel)):
        found += value.indices
    return found


def merge_axes(kernel: Kernel) -> Kernel:
    """Return the kernel with neighbouring axes joined wherever every index stays affine.

    Axes a, b of extents A, B become one axis c of extent A*B with a = c // B and b = c % B where
    in every index the stride of a is B times the stride of b.
    """
    fixed = {kernel.split.axis, kernel.split.part} if kernel.split else set()
    expressions = all_indices(kernel)
    if any(i.tokens() for i in expressions):
        return kernel  # a run-time index hides what it depends on from `substitute`
    changes: dict[Var, Index] = {}
    outer = _merged(list(kernel.outer), expressions, fixed, changes)
    reduce = _merged(list(kernel.reduce), expressions, fixed, changes)
    if not changes:
        return replace(kernel, outer=outer, reduce=reduce)
    return _substituted(kernel, outer, reduce, changes)


def _merged(
    axes: list[Var], expressions: list[Index], fixed: set[Var], changes: dict[Var, Index]
) -> tuple[Var, ...]:
    axes = [v for v in axes if v.extent != 1 or v in fixed]
    strides = {v: [e.coefficient(v) for e in expressions] for v in axes}
    groups: list[list[Var]] = []
    for var in axes:
        last = groups[-1][-1] if groups else None
        if last is not None and last not in fixed and var not in fixed and var.extent > 0:
            pairs = zip(strides[last], strides[var], strict=True)
            if all(a is not None and b is not None and a == b * var.extent for a, b in pairs):
                groups[-1].append(var)
                continue
        groups.append([var])
    result = []
    for group in groups:
        if len(group) == 1:
            result.append(group[0])
            continue
        joined = Var(group[0].name, size(group))
        position = Index.of(joined)
        for var in reversed(group):
            changes[var] = position % var.extent if var is not group[0] else position
            position = position // var.extent
        result.append(joined)
    return tuple(result)


def _substituted(
    kernel: Kernel, outer: tuple[Var, ...], reduce: tuple[Var, ...], changes: dict[Var, Index]
) -> Kernel:
    new: dict[int, Value] = {}
    for value in walk(roots(kernel)):
        new[id(value)] = replace(
            value,
            srcs=tuple(new[id(s)] for s in value.srcs),
            index=None if value.index is None else value.index.substitute(changes),
            guards=tuple(g.substitute(changes) for g in value.guards),
        )
    return replace(
        kernel,
        outer=outer,
        reduce=reduce,
        reductions=tuple(Reduction(r.op, new[id(r.value)], r.dtype) for r in kernel.reductions),
        outputs=tuple(
            Output(o.arg, new[id(o.value)], o.index.substitute(changes)) for o in kernel.outputs
        ),
    )


def choose_lane(kernel: Kernel, deps: dict[int, Dependences], lanes: int) -> Var | None:
    """Return the axis whose steps are the vector lanes (or neighbouring work-items), if any.

    Every load and store votes with the number of elements that it touches: for an axis along
    which it has unit stride, against (twice: a gather) one where it has another stride or a
    guard or a division stands in the way, not at all where it does not depend on the axis. An
    axis shorter than a vector counts for the lanes that it fills.
    """
    no_guards: tuple[Guard, ...] = ()
    accesses = [(o.index, no_guards, deps[id(o.value)]) for o in kernel.outputs]
    for value in walk(roots(kernel)):
        if value.form == LOAD and value.index is not None:
            accesses.append((value.index, value.guards, deps[id(value)]))
    best, best_score = None, 0.0
    split_part = kernel.split.part if kernel.split else None
    for var in (*kernel.reduce, *reversed(kernel.outer)):
        if var is split_part or var.extent < 2:
            continue
        score = 0.0
        for index, guards, used in accesses:
            votes = _vote(var, index, guards, used | index.variables())
            touched = [v for v in used | index.variables() if isinstance(v, Var)]
            score += votes * estimate(size(touched))
        score *= min(estimate(var.extent), lanes) / lanes
        if score > best_score:
            best, best_score = var, score
    return best


def _vote(var: Var, index: Index, guards: tuple[Guard, ...], used: Dependences) -> float:
    if var not in used:
        return 0
    stride = index.coefficient(var)
    hidden = any(var in g.index.variables() and g.index.coefficient(var) is None for g in guards)
    if stride in (1, -1) and not hidden:
        return 1
    return -2 if stride else -1


@lru_cache(maxsize=8)
def int_type(kernel: Kernel) -> str:
    """Return the type of index arithmetic: int, unless a number may not fit."""
    sizes = [a.size for a in kernel.args]
    points = [product(max(v.extent, 1) for v in axes) for axes in (kernel.outer, kernel.reduce)]
    reached = [_reach(i) for i in all_indices(kernel)]
    # Loops step past their end by up to a few hundred vectors before they stop.
    most = _INT_MAX - 65536
    return "int" if all(n < most for n in (*sizes, *points, *reached)) else "long"


def _reach(index: Index) -> int:
    """Return a bound of every number that stands in the computation of an index."""
    total = abs(index.const)
    for atom, c in index.terms:
        inner = 0
        if isinstance(atom, (Div, Mod)):
            inner = _reach(atom.index) + atom.k + abs(min(atom.index.low, 0))
        total += greater(abs(c) * greater(abs(atom.low), abs(atom.high)), inner)
    return total
