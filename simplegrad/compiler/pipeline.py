"""The compiler as one visible list of passes, from graph nodes to launches.

    recognise      softmax attentions become one node each            `attention`
    canonicalise   composites become primitives, equal nodes one      `canonical`, `nested_sums`
    fuse           nodes become groups, one per kernel                `fuse`
    lower          groups become kernels over index expressions       `groups`, `lower`
    render         kernels become OpenCL C bodies of one family       `cpu`, `gpu`, templates
    assemble       independent small bodies share one launch          `assemble`
    place          every parameter gets a slot, slots their lifetime `program`

``SIMPLEGRAD_VERIFY=1`` checks the result of each: `verify_graph`, `verify` and `program`.

``SIMPLEGRAD_DEBUG=fuse,lower,render`` prints what the named passes made.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from simplegrad import ops, settings
from simplegrad.compiler.ir.axes import widest
from simplegrad.compiler.ir.kernel import Kernel
from simplegrad.compiler.ir.names import names_in
from simplegrad.compiler.ir.symbolic import current, estimate
from simplegrad.compiler.ir.verify import verify_kernel
from simplegrad.compiler.passes.attention import recognise
from simplegrad.compiler.passes.canonical import canonicalise
from simplegrad.compiler.passes.fuse import Group, Limits, fuse
from simplegrad.compiler.passes.groups import Lowered, column_parts, lower, signature, two_stages
from simplegrad.compiler.passes.settle import settled
from simplegrad.compiler.passes.verify_graph import verify_canonical, verify_groups
from simplegrad.compiler.program import Placer, Program, verify_program
from simplegrad.compiler.render import cpu, gpu
from simplegrad.compiler.render.emit import Body
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates import as_strided, contraction, scan, scatter
from simplegrad.compiler.templates import attention as attention_kernel
from simplegrad.compiler.templates.attention import Attention
from simplegrad.compiler.templates.scan import Scan
from simplegrad.errors import UnsupportedOp
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, Spec, leaf, topological

_POINTER = 8
_MOST_BODIES = 16
MOST_KNOWN = 4096
_SMALL_WORK = 1 << 20
"""Positions of a kernel that is small enough to share a launch with others."""


def compile_graph(
    order: Sequence[Node], targets: Sequence[Node], target: Target, fusion: bool,
    fresh: bool = False,
) -> Program:  # fmt: skip
    """Return the program that computes `targets`; its slots name leaves by place in `order`.

    `fresh` leaves out the memory of kernels, whose user lines are those of an equal graph.
    """
    _name_lines(order)
    _check_dtypes(order, target)
    limits = device_limits(target)
    checked = settings.current().verify
    recognised = list(targets)
    if fusion:
        recognised = recognise(topological(targets), targets, attention_kernel.room(target))
    canonical = canonicalise(
        topological(recognised), recognised, fusion, lambda node: scan.fits(node, target)
    )
    if checked:
        verify_canonical(canonical, targets)
    groups = fuse(canonical, limits, fusion)
    if checked:
        verify_groups(groups, canonical.targets)
    _show("fuse", groups)
    roots = frozenset(id(m) for g in groups for m in g.members)
    pairs = [
        pair
        for group in groups
        if any(size_of(m.shape) for m in group.stored)
        for pair in _kernels(group, roots, limits, target, fresh)
    ]
    lowered, bodies = [p[0] for p in pairs], [p[1] for p in pairs]
    program = Program()
    placer = Placer(program, order)
    for batch in _batches(lowered, bodies, target, fusion):
        placer.launch([lowered[i] for i in batch], [bodies[i] for i in batch])
    program.results = [placer.result(t) for t in canonical.targets]
    placer.lifetimes()
    if checked:
        verify_program(program)
    _show("render", [launch.source.text for launch in program.launches])
    return program


@dataclass(frozen=True, eq=False)
class _Known:
    """The kernels of one group structure: places are node numbers, or negative for scratch."""

    kernels: list[tuple[Kernel, tuple[int, ...], Body]]
    scratch: dict[int, Spec]


_known: OrderedDict[tuple[object, ...], _Known] = OrderedDict()


def forget() -> None:
    """Drop the kernels that are kept; the next graph lowers and renders its own."""
    _known.clear()


def known_count() -> int:
    """Return how many groups' kernels are kept."""
    return len(_known)


def _kernels(
    group: Group, roots: frozenset[int], limits: Limits, target: Target, fresh: bool
) -> list[tuple[Lowered, Body]]:
    """Lower, verify and render a group, or take the kernels of an equal group over its nodes."""
    structure, nodes = signature(group, roots)
    key = (target, limits, settings.current().fast_math, structure)
    trace = current()
    memory = trace.memory if trace else _known
    known = None if fresh else memory.get(key)
    if known is None:
        numbers = {id(n): i for i, n in enumerate(nodes)}
        if group.alone:
            own = scan if group.members[0].op is ops.SCAN else attention_kernel
            lowered = own.lower(group, roots)
        else:
            found = lower(group, roots, limits)
            lowered = [w for low in found for w in _stages(low, limits, target)]
        _show("lower", [low.kernel for low in lowered])
        if settings.current().verify:
            for low in lowered:
                verify_kernel(settled(low.kernel, trace.example) if trace else low.kernel)
        between = [n for low in lowered for n in low.nodes if id(n) not in numbers]
        numbers |= {id(n): -1 - i for i, n in enumerate(dict.fromkeys(between))}
        specs = {numbers[id(n)]: n.kind.spec for n in between}
        known = _Known(
            [(w.kernel, tuple(numbers[id(n)] for n in w.nodes), render(w.kernel, target))
             for w in lowered],
            specs,
        )  # fmt: skip
        if not fresh:
            memory[key] = known
        if len(memory) > MOST_KNOWN:
            memory.popitem(last=False)
    # Between two stages stands memory that the graph does not know.
    scratch = {i: leaf(ops.BUFFER, spec.shape, spec.dtype) for i, spec in known.scratch.items()}
    result = []
    for kernel, places, body in known.kernels:
        bound = tuple([nodes[p] if p >= 0 else scratch[p] for p in places])
        result.append((Lowered(kernel, bound, group), body))
    return result


def _stages(low: Lowered, limits: Limits, target: Target) -> list[Lowered]:
    """Return a kernel, or the two that it becomes where long sums are cut."""
    kernel, target = low.kernel, fitted(low.kernel, target)
    if kernel.split is not None:
        return [low]
    if (product := contraction.match(kernel, target)) is not None:
        parts = contraction.parts(product, target)
    else:
        parts = 1 if scatter.match(kernel, target) is not None else column_parts(kernel, limits)
    return two_stages(kernel, low.nodes, low.group, parts) if parts > 1 else [low]


def device_limits(target: Target) -> Limits:
    """Return what the fuser must know of a device."""
    per_unit = 8 if target.family == "cpu" else 4
    return Limits(
        parallel=max(per_unit * target.compute_units, 8),
        max_args=max((target.max_parameter_bytes - 64) // _POINTER, 8),
    )


def render(kernel: Kernel, target: Target) -> Body:
    """Return the OpenCL C of one kernel: a template where one fits, else generated loops."""
    target = fitted(kernel, target)
    if isinstance(kernel, Attention):
        return attention_kernel.render(kernel, target)
    if isinstance(kernel, Scan):
        return scan.render(kernel, target)
    body = None
    if (product := contraction.match(kernel, target)) is not None:
        body = contraction.render(product, target)
    elif (turned := as_strided.match(kernel, target)) is not None:
        body = as_strided.render(turned, target)
    elif (sent := scatter.match(kernel, target)) is not None:
        body = scatter.render(sent, target)
    if body is not None and body.origin not in target.distrusted:
        return body
    kernel = contraction.guarded_factor(kernel)
    return cpu.render(kernel, target) if target.family == "cpu" else gpu.render(kernel, target)


def fitted(kernel: Kernel, target: Target) -> Target:
    """Return the target with no more lanes than its functions take of the widest numbers."""
    lanes = min(target.vector_width, target.vector_bytes // widest(kernel))
    return target if lanes == target.vector_width else replace(target, vector_width=lanes)


def _name_lines(order: Sequence[Node]) -> None:
    """Give the inner nodes of a composite the user's line, which its last node knows."""
    for node in reversed(order):
        for source in node.srcs if node.line is not None else ():
            if source.line is None:
                source.line = node.line


def _check_dtypes(order: Sequence[Node], target: Target) -> None:
    for node in order:
        if node.dtype.name == "float64" and not target.fp64:
            raise UnsupportedOp(
                f"{node.op}: this device has no float64 ({node.where}); "
                "use .astype('float32') or another device"
            )


def _show(name: str, results: Sequence[object]) -> None:
    if name in settings.current().debug:
        for result in results:
            text = describe(result) if isinstance(result, Group) else str(result)
            print(f"--- {name}\n{text}", file=sys.stderr)


def describe(group: Group) -> str:
    """Return one line per member of a group."""
    lines = [f"group {group.number}: domain {group.domain}, reduced axes {group.reduced}"]
    for member in group.members:
        mark = "stored" if member in group.stored else "kept in the kernel"
        lines.append(f"  {member} {mark}  {member.where}")
    return "\n".join(lines)


def _batches(
    lowered: Sequence[Lowered], bodies: Sequence[Body], target: Target, fusion: bool
) -> list[list[int]]:
    """Return which kernels share a launch: small ones of one level, within the device's limits."""
    level_of: dict[int, int] = {}
    levels: list[int] = []
    for low in lowered:
        level = 0
        for node, arg in zip(low.nodes, low.kernel.args, strict=True):
            if arg.role == "in":
                level = max(level, level_of.get(id(node), 0))
        levels.append(level)
        for node, arg in zip(low.nodes, low.kernel.args, strict=True):
            if arg.role == "out":
                level_of[id(node)] = level + 1
    batches: list[list[int]] = []
    open_: dict[int, tuple[list[int], int]] = {}
    room = target.max_parameter_bytes - 64
    for i in sorted(range(len(lowered)), key=lambda i: levels[i]):
        sizes = len(list(names_in(bodies[i].lines)))
        sizes += 2 if sizes else 0  # where its work-groups begin and end
        bytes_ = _POINTER * (len(lowered[i].kernel.args) + sizes)
        axes = lowered[i].kernel.outer + lowered[i].kernel.reduce
        # Barriers stay out of conditions, even uniform ones: PoCL 3.0 gives wrong numbers there.
        alone = bool(bodies[i].template) or bodies[i].local_bytes > 0
        work = size_of(tuple(v.extent for v in axes))
        small = fusion and not alone and estimate(work) <= _SMALL_WORK
        batch, used = open_.get(levels[i], ([], room))
        if batch and bodies[batch[0]].group_size != bodies[i].group_size:
            batch = []
        if not small or not batch or used + bytes_ > room or len(batch) >= _MOST_BODIES:
            batch, used = [], 0
            batches.append(batch)
        batch.append(i)
        if small:
            open_[levels[i]] = (batch, used + bytes_)
    return batches
