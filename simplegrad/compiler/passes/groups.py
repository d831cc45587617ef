"""One fused group becomes one kernel, or two where a long reduction has few results.

before  a `fuse.Group`
after   `Lowered` kernels whose parameters are tied to graph nodes; index divisions by constants
        that a split of an axis removes are gone
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from simplegrad import ops
from simplegrad.compiler.ir.axes import choose_lane, dependences
from simplegrad.compiler.ir.index import Div, Dyn, Guard, Index, Mod, Var, flatten
from simplegrad.compiler.ir.kernel import (
    INDEX,
    LOAD,
    REDUCED,
    Arg,
    Kernel,
    Output,
    Reduction,
    Split,
    Value,
)  # fmt: skip
from simplegrad.compiler.ir.symbolic import ceil_div, estimate, quotient, symbolic
from simplegrad.compiler.passes.fuse import SMALL, Group, Limits
from simplegrad.compiler.passes.lower import Builder
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, leaf

_MOST_PARTS = 256
_PART = 1 << 12
"""Elements of a part of a sum to one number, so short that rounding stays at that of pairwise
sums: a lane adds some hundred numbers."""
_NEIGHBOURS = 64
"""Columns that a work-item sums side by side without waiting for memory more than it must."""
_COLUMN_WORK = 1 << 19
"""Elements of a part of long columns, below which the second launch costs more than it brings."""


@dataclass(frozen=True, eq=False)
class Lowered:
    """A kernel and the graph node behind each of its parameters."""

    kernel: Kernel
    nodes: tuple[Node, ...]
    group: Group


def lower(group: Group, roots: frozenset[int], limits: Limits) -> list[Lowered]:
    """Return the kernels of one group; `roots` are the ids of all nodes that may be stored."""
    builder = Builder(roots)
    reductions: list[Reduction] = []
    stores: list[tuple[Node, Value, Index]] = []
    everywhere = tuple(Index.of(v) for v in group.vars)
    for member in group.members:
        position = group.position(member)
        if member.op.kind == ops.REDUCE:
            inner = builder.at(member.srcs[0], everywhere)
            builder.computed[id(member)] = member
            value = builder.value(form=REDUCED, dtype=member.dtype, arg=len(reductions))
            reductions.append(Reduction(member.op, inner, member.dtype))
        else:
            value = builder.compute(member, position)
        flat = flatten(position, member.shape)
        builder.known[id(member)] = (flat, value)
        if member in group.stored:
            stores.append((member, value, flat))
    outer = _axes(group, reduced=False)
    reduce = _axes(group, reduced=True)
    outputs = [Output(builder.argument(node, "out"), v, i) for node, v, i in stores]
    kernel = Kernel(
        name=_name(group),
        outer=outer,
        reduce=reduce,
        args=tuple(builder.args),
        reductions=tuple(reductions),
        outputs=tuple(outputs),
        notes={
            "lines": [n.where for n in builder.computed.values()],
            "ops": [n.op.name for n in builder.computed.values()],
        },
    )
    kernel = split_axes(kernel)
    nodes = tuple(builder.sources)
    parts = _parts(kernel, limits)
    if parts:
        return two_stages(kernel, nodes, group, parts)
    return [Lowered(kernel, nodes, group)]


def _axes(group: Group, reduced: bool) -> tuple[Var, ...]:
    return tuple(
        v for a, v in enumerate(group.vars) if (a in group.reduced) is reduced and v.extent != 1
    )


def _name(group: Group) -> str:
    names = [m.op.name for m in group.members]
    if group.contraction:
        names[0] = "einsum"
    return "k_" + "_".join(dict.fromkeys(names))[:48]  # not a built-in function's name


def signature(group: Group, roots: frozenset[int]) -> tuple[tuple[Any, ...], list[Node]]:
    """Return what determines a group's kernels, and its nodes in the order the key numbers them.

    Groups of equal signature have the same kernels over other nodes: the steps of an unrolled
    loop, the links of a long chain.
    """
    key: list[Any] = [group.domain, group.reduced, group.contraction]
    numbers: dict[int, int] = {}
    nodes: list[Node] = []
    for member in group.members:
        key.append((group.full[id(member)], member in group.stored))
        stack = [member]
        while stack:
            node = stack.pop()
            number = numbers.get(id(node))
            if number is not None:
                key.append(number)
                continue
            numbers[id(node)] = len(nodes)
            nodes.append(node)
            if node is not member and (id(node) in roots or node.buffer is not None):
                key.append(node.kind.spec)
            else:
                key.append(-node.kind.id)
                stack.extend(node.srcs)
    return tuple(key), nodes


# Rewriting values ---------------------------------------------------------------------------------


class Rewriter:
    """Rebuilds values with index variables replaced; what does not change stays the object."""

    def __init__(self, changes: dict[Any, Index]) -> None:
        self.changes = changes
        self._memo: dict[int, Value] = {}

    def index(self, index: Index) -> Index:
        """Return an index with variables replaced, those behind run-time values included."""
        for atom in index.atoms():
            if isinstance(atom, Dyn) and atom not in self.changes:
                token = self.value(atom.token)
                same = token is atom.token
                new = atom if same else Dyn(token, atom.low, atom.high)
                self.changes[atom] = Index(((new, 1),), 0)
        return index.substitute(self.changes)

    def value(self, value: Value) -> Value:
        """Return a value with its indices replaced."""
        found = self._memo.get(id(value))
        if found is None:
            found = self._memo[id(value)] = self._rebuild(value)
        return found

    def _rebuild(self, value: Value) -> Value:
        srcs = tuple([self.value(s) for s in value.srcs])
        index = None if value.index is None else self.index(value.index)
        guards = tuple([Guard(self.index(g.index), g.low, g.high) for g in value.guards])
        if srcs == value.srcs and index == value.index and guards == value.guards:
            return value
        guards = tuple([g for g in guards if not g.always])
        v = value
        return Value(v.form, v.dtype, v.op, srcs, v.arg, index, guards, v.number)

    def kernel(self, kernel: Kernel, outer: tuple[Var, ...], reduce: tuple[Var, ...]) -> Kernel:
        """Return the kernel over new axes."""
        reductions = tuple(replace(r, value=self.value(r.value)) for r in kernel.reductions)
        outputs = tuple(
            replace(o, value=self.value(o.value), index=self.index(o.index)) for o in kernel.outputs
        )
        return replace(kernel, outer=outer, reduce=reduce, reductions=reductions, outputs=outputs)


def split_axes(kernel: Kernel) -> Kernel:
    """Split axes until no ``v // k`` or ``v % k`` is left of a variable whose extent k divides."""
    for _ in range(16):
        found = next(_splittable(kernel), None)
        if found is None:
            break
        var, k = found
        high, low = Var(f"{var.name}a", var.extent // k), Var(f"{var.name}b", k)
        changes = {var: Index.of(high) * k + Index.of(low)}

        def renew(axes: tuple[Var, ...], var: Var = var, new: Any = (high, low)) -> tuple[Var, ...]:
            return tuple(n for v in axes for n in (new if v is var else (v,)) if n.extent != 1)

        kernel = Rewriter(changes).kernel(kernel, renew(kernel.outer), renew(kernel.reduce))
    return kernel


def _splittable(kernel: Kernel) -> Iterator[tuple[Var, int]]:
    for index in indices(kernel):
        for atom in index.atoms():
            if isinstance(atom, (Div, Mod)) and len(atom.index.terms) == 1:
                var, c = atom.index.terms[0]
                whole = c == 1 and atom.index.const == 0
                if whole and isinstance(var, Var) and quotient(var.extent, atom.k)[1] == 0:
                    yield var, atom.k


def indices(kernel: Kernel) -> Iterator[Index]:
    """Yield every index expression of a kernel, those of run-time positions included."""
    seen: set[int] = set()
    stack = [r.value for r in kernel.reductions] + [o.value for o in kernel.outputs]
    pending = [o.index for o in kernel.outputs]
    while stack or pending:
        while pending:
            index = pending.pop()
            stack.extend(index.tokens())
            yield index
        if stack:
            value = stack.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            stack.extend(value.srcs)
            pending.extend(g.index for g in value.guards)
            if value.index is not None:
                pending.append(value.index)


# Two stages ---------------------------------------------------------------------------------------


def depends_on_reduced(value: Value) -> bool:
    """Whether a value needs the result of a reduction."""
    stack, seen = [value], set()
    while stack:
        value = stack.pop()
        if value.form == REDUCED:
            return True
        if id(value) not in seen:
            seen.add(id(value))
            stack.extend(value.srcs)
            for index in [value.index, *[g.index for g in value.guards]]:
                stack.extend(index.tokens() if index is not None else ())
    return False


def _parts(kernel: Kernel, limits: Limits) -> int:
    """Return into how many parts the reduction is cut; 0 for none."""
    outer = estimate(size_of(tuple(v.extent for v in kernel.outer)))
    length = estimate(size_of(tuple(v.extent for v in kernel.reduce)))
    if not kernel.reductions or outer >= limits.parallel or outer * length <= SMALL:
        return 0
    if any(depends_on_reduced(r.value) for r in kernel.reductions):
        return 0
    longest = max(estimate(v.extent) for v in kernel.reduce)
    busy = min(-(-outer * length // SMALL), -(-4 * limits.parallel // outer))
    parts = min(max(min(busy, _MOST_PARTS), min(length // _PART, 1 << 13)), longest)
    return parts if parts > 1 else 0


def column_parts(kernel: Kernel, limits: Limits) -> int:
    """Return into how many parts the sums of a few long columns are cut; 1 for none.

    Neighbouring columns are read together, so that few columns keep few compute units busy.
    """
    outer = estimate(size_of(tuple(v.extent for v in kernel.outer)))
    length = estimate(size_of(tuple(v.extent for v in kernel.reduce)))
    positions = any(r.op in (ops.ARGMAX, ops.ARGMIN) for r in kernel.reductions)
    most = _NEIGHBOURS * limits.parallel // (2 if positions else 1)  # these compute more a read
    if not kernel.reductions or not 0 < outer <= most:
        return 1
    parts = min(
        outer * length // _COLUMN_WORK, -(-4 * _NEIGHBOURS * limits.parallel // outer),
        length // _NEIGHBOURS, max((estimate(v.extent) for v in kernel.reduce), default=1),
        _MOST_PARTS,
    )  # fmt: skip
    if parts < 2 or any(depends_on_reduced(r.value) for r in kernel.reductions):
        return 1
    return parts if choose_lane(kernel, dependences(kernel), 8) in kernel.outer else 1


def two_stages(kernel: Kernel, nodes: tuple[Node, ...], group: Group, parts: int) -> list[Lowered]:
    """Return the kernel that reduces `parts` parts apart, and the one that combines them.

    The second combines in the order of the parts, and computes all that follows.
    """
    axis = max(kernel.reduce, key=lambda v: estimate(v.extent))
    length = ceil_div(axis.extent, parts)
    if not symbolic(length):  # else some of the last may be empty
        parts = ceil_div(axis.extent, length)
    part = Var("part", parts)
    extents = tuple(v.extent for v in kernel.outer)
    here = flatten(tuple(Index.of(v) for v in kernel.outer), extents)
    args = list(kernel.args)
    sources = list(nodes)
    outputs = [o for o in kernel.outputs if not depends_on_reduced(o.value) and _full(kernel, o)]
    scratch: list[Node] = []
    first: list[Reduction] = []
    where = Index.of(part) * size_of(extents) + here
    for reduction in _with_values(kernel.reductions):
        node = leaf(ops.BUFFER, (parts, size_of(extents)), reduction.dtype)
        number = len(first)
        first.append(reduction)
        value = Value(REDUCED, reduction.dtype, arg=number)
        outputs.append(Output(len(args), value, where))
        args.append(Arg(f"part{number}", "out", reduction.dtype, node.size))
        sources.append(node)
        scratch.append(node)
    one = replace(
        kernel, name=kernel.name + "_parts", outer=(part, *kernel.outer), args=tuple(args),
        reductions=tuple(first), outputs=tuple(outputs), split=Split(axis, part, length),
    )  # fmt: skip
    two = _second_stage(kernel, scratch, parts, here, size_of(extents))
    ones, ones_nodes = _drop_unused(one, tuple(sources))
    twos, twos_nodes = _drop_unused(two, (*nodes, *scratch))
    return [Lowered(ones, ones_nodes, group), Lowered(twos, twos_nodes, group)]


def _full(kernel: Kernel, output: Output) -> bool:
    return bool(output.index.variables() & set(kernel.reduce))


def _with_values(reductions: tuple[Reduction, ...]) -> list[Reduction]:
    """Return the reductions, then for each ARGMAX or ARGMIN the extremum it stands for."""
    extra = [
        Reduction(ops.MAX if r.op is ops.ARGMAX else ops.MIN, r.value, r.value.dtype)
        for r in reductions
        if r.op in (ops.ARGMAX, ops.ARGMIN)
    ]
    return [*reductions, *extra]


def _second_stage(
    kernel: Kernel, scratch: list[Node], parts: int, here: Index, size: int
) -> Kernel:
    """Return the kernel that combines the parts and computes what follows."""
    part = Var("part", parts)
    base = len(kernel.args)
    args = [*kernel.args]
    args += [Arg(f"part{i}", "in", n.dtype, n.size) for i, n in enumerate(scratch)]
    where = Index.of(part) * size + here

    def load(number: int, index: Index) -> Value:
        return Value(LOAD, scratch[number].dtype, arg=base + number, index=index)

    reductions, results = [], {}
    extremum = len(kernel.reductions)
    for number, r in enumerate(kernel.reductions):
        source = number
        if r.op in (ops.ARGMAX, ops.ARGMIN):
            source, extremum = extremum, extremum + 1
        reductions.append(Reduction(r.op, load(source, where), r.dtype))
        result = Value(REDUCED, r.dtype, arg=number)
        if source != number:  # the winning part knows the winning element
            winner = Dyn(result, 0, parts - 1)
            result = load(number, Index(((winner, size),), 0) + here)
        results[number] = result
    outputs = [o for o in kernel.outputs if depends_on_reduced(o.value) or not _full(kernel, o)]
    memo: dict[int, Value] = {}

    def swap(value: Value) -> Value:
        if value.form == REDUCED:
            return results[value.arg]
        if id(value) not in memo:
            srcs = tuple([swap(s) for s in value.srcs])
            memo[id(value)] = value if srcs == value.srcs else replace(value, srcs=srcs)
        return memo[id(value)]

    return replace(
        kernel, reduce=(part,), args=tuple(args), reductions=tuple(reductions),
        outputs=tuple(replace(o, value=swap(o.value)) for o in outputs),
    )  # fmt: skip


def _drop_unused(kernel: Kernel, nodes: tuple[Node, ...]) -> tuple[Kernel, tuple[Node, ...]]:
    """Leave out parameters that only the other stage needs."""
    used: set[int] = {o.arg for o in kernel.outputs}
    stack = [r.value for r in kernel.reductions] + [o.value for o in kernel.outputs]
    values: dict[int, Value] = {}
    while stack:
        value = stack.pop()
        if id(value) in values:
            continue
        values[id(value)] = value
        stack.extend(value.srcs)
        for index in [value.index, *[g.index for g in value.guards]]:
            stack.extend(index.tokens() if index is not None else ())
        if value.form not in (REDUCED, INDEX) and value.arg >= 0:
            used.add(value.arg)
    renumber = {old: new for new, old in enumerate(sorted(used))}
    rewriter = _Renumber(renumber)
    new = rewriter.kernel(kernel, kernel.outer, kernel.reduce)
    new = replace(
        new,
        args=tuple(kernel.args[i] for i in sorted(used)),
        outputs=tuple(replace(o, arg=renumber[o.arg]) for o in new.outputs),
    )
    return new, tuple(nodes[i] for i in sorted(used))


class _Renumber(Rewriter):
    def __init__(self, numbers: dict[int, int]) -> None:
        super().__init__({})
        self.numbers = numbers

    def _rebuild(self, value: Value) -> Value:
        new = super()._rebuild(value)
        if value.arg >= 0 and value.form != REDUCED:
            new = replace(new, arg=self.numbers[value.arg])
        return new
