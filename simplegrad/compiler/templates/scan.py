"""SCAN nodes as kernels: ``kernels/scan_cpu.cl`` and ``scan_gpu.cl``.

One kernel runs through all times. Its axes are the time t, the batch b and the hidden units k;
inputs are read in place through whatever views lead to them, the step's program is evaluated at
(t, b, k) over products and states that the template brings. The matrix stands in memory row by
row (`fuse` sees to that), and so does the result, which is also where the states are kept.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace

from simplegrad import ops
from simplegrad.compiler.ir.index import Index, Var, flatten
from simplegrad.compiler.ir.kernel import CONST, LOAD, Kernel, Output, Value
from simplegrad.compiler.passes.fuse import Group
from simplegrad.compiler.passes.groups import Lowered
from simplegrad.compiler.passes.lower import Builder
from simplegrad.compiler.render.ctext import vector
from simplegrad.compiler.render.emit import Body, Emitter
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates.template import Holes
from simplegrad.compiler.tiles import Shape, choose
from simplegrad.graph.node import Node, leaf
from simplegrad.graph.scan import Step, parts


@dataclass(frozen=True, eq=False, kw_only=True)
class Scan(Kernel):
    """A kernel over the axes t, b, k that a template computes; r and n are the matrix's."""

    step: Step
    matrix: Value
    after: tuple[Output, ...]
    """The fields after the step of time t."""
    first: tuple[Output, ...]
    """The fields before the first step."""

    def brought(self) -> int:
        """Return the operations of the products of states and matrix, a pair a multiply-add."""
        t, b, _, n = self.outer
        return 2 * math.prod(axis.extent for axis in (t, b, n, *self.reduce))


def lower(group: Group, roots: frozenset[int]) -> list[Lowered]:
    """Return the kernel of a SCAN."""
    (node,) = group.members
    step: Step = node.arg
    matrix, starts, inputs = parts(node)
    builder = Builder(roots)
    _, slots, batch, hidden = node.shape
    extents = {"t": slots - 1, "b": batch, "k": hidden, "r": matrix.shape[0], "n": matrix.shape[1]}
    axes = [Var(name, extent) for name, extent in extents.items()]
    t, b, k, r, n = (Index.of(axis) for axis in axes)
    shape = (slots - 1, batch, hidden)
    brought = [leaf(ops.GIVEN, shape, node.dtype, i) for i in range(step.first_input)]
    values = step.nodes([*brought, *inputs])
    weights = builder.at(matrix, (r, n))
    new = [builder.at(values[v], (t, b, k)) for v in step.results]
    old = [builder.at(start, (b, k)) for start in starts]
    nothing = builder.value(form=CONST, dtype=node.dtype, number=0.0)
    old += [nothing] * (len(new) - len(old))
    place = builder.argument(node, "out")
    into, origin = (t, slots - 1) if step.reverse else (t + 1, 0)

    def stored(values: list[Value], slot: Index) -> tuple[Output, ...]:
        flats = [flatten((Index.of(f), slot, b, k), node.shape) for f in range(len(values))]
        return tuple([Output(place, v, i) for v, i in zip(values, flats, strict=True)])

    after, first = stored(new, into), stored(old, Index.of(origin))
    told = (node, *builder.computed.values())
    kernel = Scan(
        name="k_scan", outer=(*axes[:3], axes[4]), reduce=(axes[3],),
        args=tuple(builder.args), reductions=(), outputs=(*after, *first), asked=(weights,),
        step=step, matrix=weights, after=after, first=first,
        notes={"lines": [n.where for n in told], "ops": [n.op.name for n in told]},
    )  # fmt: skip
    return [Lowered(kernel, tuple(builder.sources), group)]


def fits(node: Node, target: Target) -> bool:
    """Whether a template computes a SCAN on this device; what does not is unrolled."""
    if f"scan_{target.family}" in target.distrusted:
        return False
    step: Step = node.arg
    return target.family == "gpu" or (step.multiplied + step.products) * node.shape[-1] <= _MOST


_MOST = 1 << 15
"""Most numbers of one batch row that a CPU's work-item keeps in private memory."""


def render(kernel: Scan, target: Target) -> Body:
    """Return the filled template of the target's family."""
    step, matrix = kernel.step, kernel.matrix
    t, b, k, n = kernel.outer
    hidden = operator.index(k.extent)  # arrays have their sizes
    gpu = target.family == "gpu"
    lanes = 1 if gpu else min(target.vector_width, 1 << (hidden.bit_length() - 1))
    ctype = matrix.dtype.compute
    sizes = (b.extent, hidden, step.multiplied, step.products, lanes)
    tile = choose(Shape(f"scan_{target.family}", sizes, ctype), target)
    f, s = Var("f", len(step.results)), Var("s", t.extent + 1)
    shape = (f.extent, s.extent, b.extent, hidden)
    flat = flatten(tuple(Index.of(v) for v in (f, s, b, k)), shape)
    past = Value(LOAD, matrix.dtype, arg=kernel.after[0].arg, index=flat)
    # The result is read as well, which no other kernel does.
    reading = replace(kernel, outer=(*kernel.outer, f, s), asked=(*kernel.asked, past))
    axes = {"t": t, "b": b, "at_k": k, "n": n, "r": kernel.reduce[0], "f": f, "s": s}
    holes = Holes(reading, axes, lanes, target.family)
    holes.read_back = True
    along = "at_k" if lanes > 1 else ""
    holes.load("LOAD_M", matrix, ("r", "n"), "n" if lanes > 1 else "")
    holes.load("LOAD_PAST", past, ("f", "s", "b", "at_k"), along)
    names = [f"g{i}" for i in range(step.first_input)]
    given = ", ".join(f"{vector(ctype, lanes)} {name}" for name in names)

    def bring(emitter: Emitter) -> None:
        emitter.given = dict(enumerate(names))

    holes.store("CELL", ("t", "b", "at_k"), along, given, bring, kernel.after)
    holes.store("START", ("b", "at_k"), along, "", lambda _: None, kernel.first)
    brought = [f"PRODUCT({p})" for p in range(step.products)]
    brought += [f"PAST({c})" for c in range(step.carried)]
    defines: dict[str, object] = {
        "STEP(t, b, k)": f"CELL(t, b, k, {', '.join(brought)})",
        "BATCH": b.extent, "TIME": t.extent, "HIDDEN": hidden, "MULTIPLIED": step.multiplied,
        "PRODUCTS": step.products, "REVERSE": int(step.reverse), "ACC_T": ctype, "VW": lanes,
        **tile.parameters,
    }  # fmt: skip
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=tile.groups,
        group_size=tile.group_size, template=holes.program(tile.stem, defines), origin=tile.stem,
        tile=tile, index_type=holes.ctype,
    )  # fmt: skip
