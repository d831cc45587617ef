"""Masked sums that send rows to places become ``kernels/scatter_add.cl``, on CPUs.

A kernel matches if its one reduction sums ``where(e == at(r), row(r, t), 0)``: e is an outer axis
that nothing else in the sum depends on, and `at` depends on reduced axes alone. Generated loops
would compare every result with every row; the template reads each row once. GPUs keep the loops.
"""

from __future__ import annotations

from dataclasses import dataclass

from simplegrad import ops
from simplegrad.compiler.access import unaligned
from simplegrad.compiler.axes import dependences
from simplegrad.compiler.contraction import unit_axis
from simplegrad.compiler.ctext import unsigned, vector
from simplegrad.compiler.emit import Body, Emitter
from simplegrad.compiler.index import Var
from simplegrad.compiler.kernel import APPLY, CONST, INDEX, Kernel, Value
from simplegrad.compiler.symbolic import ceil_div, estimate
from simplegrad.compiler.target import Target
from simplegrad.compiler.template import Holes, flattened
from simplegrad.graph.infer import size_of

_LEAST_PLACES = 16
"""Results up to which a comparison with each is as cheap."""
_LEAST_WORK = 1 << 14
_MOST_SUMS = 8192
"""Sums that a work-item keeps in private memory."""


@dataclass(frozen=True, eq=False)
class Scatter:
    """A kernel over the axes (e, t | r), where row r goes, and the row."""

    kernel: Kernel
    at: Value
    row: Value
    e: Var
    t: Var
    r: Var


def match(kernel: Kernel, target: Target) -> Scatter | None:
    """Return the kernel as a scatter, or None where generated loops serve it."""
    if target.family != "cpu" or kernel.split or len(kernel.reductions) != 1:
        return None
    chosen = kernel.reductions[0].value
    if kernel.reductions[0].op is not ops.SUM or chosen.form != APPLY or chosen.op is not ops.WHERE:
        return None
    test, row, zero = chosen.srcs
    if test.op is not ops.EQUAL or zero.form != CONST or zero.number != 0:
        return None
    deps = dependences(kernel)
    for place, at in (test.srcs, test.srcs[::-1]):
        e = _axis(place, kernel)
        if e is None or e in deps[id(at)] | deps[id(row)]:
            continue
        work = size_of(tuple(v.extent for v in (*kernel.outer, *kernel.reduce)))
        outside = deps[id(at)] - set(kernel.reduce)
        few = estimate(e.extent) <= _LEAST_PLACES or estimate(work) < _LEAST_WORK
        if outside or few:
            return None
        tail = [v for v in kernel.outer if v is not e]
        rewriter, (e, t, r) = flattened({"e": [e], "t": tail, "r": list(kernel.reduce)})
        new = rewriter.kernel(kernel, (e, t), (r,))
        return Scatter(new, rewriter.value(at), rewriter.value(row), e, t, r)
    return None


def _axis(place: Value, kernel: Kernel) -> Var | None:
    """Return the outer axis whose position a value is."""
    if place.form != INDEX or place.guards or place.index is None or place.index.const:
        return None
    terms = place.index.terms
    if len(terms) != 1 or terms[0][1] != 1 or terms[0][0] not in kernel.outer:
        return None
    axis = terms[0][0]
    return axis if isinstance(axis, Var) else None


def render(scatter: Scatter, target: Target) -> Body:
    """Return the filled template."""
    kernel, (e, t) = scatter.kernel, (scatter.e.extent, scatter.t.extent)
    dtype = scatter.row.dtype
    wide = (
        dtype.is_float
        and estimate(t) >= target.vector_width
        and unit_axis(scatter.row, (scatter.t,)) == 1
    )
    lanes = target.vector_width if wide else 1
    tb = min(estimate(t), _MOST_SUMS // 8)
    eb = min(max(_MOST_SUMS // tb, 1), ceil_div(estimate(e), 4 * target.compute_units))
    blocks = ceil_div(t, tb)
    holes = Holes(kernel, {"e": scatter.e, "t": scatter.t, "r": scatter.r}, lanes, target.family)
    holes.load("LOAD_AT", scatter.at, ("r",))
    holes.load("LOAD_ROW", scatter.row, ("r", "t"))
    sums = dtype.compute if dtype.is_float else unsigned(dtype.compute)
    defines: dict[str, object] = {
        "E": e, "T": t, "R": scatter.r.extent, "EB": eb, "TB": tb, "T_BLOCKS": blocks, "VW": lanes,
        "ACC_T": sums, "VALUE_T": dtype.compute,
    }  # fmt: skip
    if wide:
        holes.load("LOAD_ROW_V", scatter.row, ("r", "t"), "t")
        holes.helpers[unaligned(dtype.compute, lanes)] = None
        defines["LANES_AT"] = f"{vector(dtype.compute, lanes)}_at"
    holes.store("STORE", ("e", "t"), "", f"{dtype.compute} acc", _bind_sum)
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=ceil_div(e, eb) * blocks,
        group_size=1, template=holes.program("scatter_add", defines), origin="scatter_add",
        index_type=holes.ctype,
    )  # fmt: skip


def _bind_sum(emitter: Emitter) -> None:
    emitter.bind(0, "acc", 1)
