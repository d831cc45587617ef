"""Masked sums that send rows to places: ``kernels/scatter_add.cl`` and ``scatter_add_gpu.cl``.

A kernel matches if its one reduction sums ``where(e == at(r), row(r, t), 0)``: e is an outer axis
that nothing else in the sum depends on, and `at` depends on reduced axes alone. Generated loops
would compare every result with every row; the templates read each row once, and every index once
for each block of results.
"""

from __future__ import annotations

from dataclasses import dataclass

from simplegrad import ops
from simplegrad.compiler.ir.axes import dependences
from simplegrad.compiler.ir.index import Var
from simplegrad.compiler.ir.kernel import APPLY, CONST, INDEX, Kernel, Value
from simplegrad.compiler.ir.symbolic import ceil_div, estimate
from simplegrad.compiler.render.access import unaligned
from simplegrad.compiler.render.ctext import unsigned, vector
from simplegrad.compiler.render.emit import Body, Emitter
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates.contraction import unit_axis
from simplegrad.compiler.templates.template import Holes, flattened
from simplegrad.dtypes import width
from simplegrad.graph.infer import size_of

_LEAST_PLACES = 16
"""Results up to which a comparison with each is as cheap."""
_LEAST_WORK = 1 << 14
_MOST_SUMS = 8192
"""Sums that a CPU's work-item keeps in private memory."""
_GROUP, _PER_ITEM = 128, 16
"""Work-items of a GPU's group, and indices that each looks at in one turn."""
_MOST_COLUMNS = 64
_SUM_BYTES = 12 << 10
"""Local memory for a group's sums; its tile of indices takes as much."""
_LEAST_LOCAL = _SUM_BYTES + 6 * _GROUP * _PER_ITEM + 4 * _GROUP


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
    if kernel.split or len(kernel.reductions) != 1 or target.local_bytes < _LEAST_LOCAL:
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
    """Return the filled template of the target's family."""
    return _cpu(scatter, target) if target.family == "cpu" else _gpu(scatter, target)


def _cpu(scatter: Scatter, target: Target) -> Body:
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
    holes, defines = _filled(scatter, target, lanes)
    defines |= {"EB": eb, "TB": tb, "T_BLOCKS": blocks, "VW": lanes}
    if wide:
        holes.load("LOAD_ROW_V", scatter.row, ("r", "t"), "t")
        holes.helpers[unaligned(dtype.compute, lanes)] = None
        defines["LANES_AT"] = f"{vector(dtype.compute, lanes)}_at"
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=ceil_div(e, eb) * blocks,
        group_size=1, template=holes.program("scatter_add", defines), origin="scatter_add",
        index_type=holes.ctype,
    )  # fmt: skip


def _gpu(scatter: Scatter, target: Target) -> Body:
    kernel, (e, t) = scatter.kernel, (scatter.e.extent, scatter.t.extent)
    group = min(_GROUP, 1 << (target.max_work_group.bit_length() - 1))
    tb = min(1 << (estimate(t) - 1).bit_length(), _MOST_COLUMNS, group)
    size = width(scatter.row.dtype.compute)
    # Few results a group where the device would idle, but enough that its items share the rows.
    typical = estimate(e) * ceil_div(estimate(t), tb)
    busy = ceil_div(typical, 4 * target.compute_units)
    eb = max(min(_SUM_BYTES // (tb * size), busy), group // tb)
    blocks = ceil_div(t, tb)
    holes, defines = _filled(scatter, target, 1)
    defines |= {"WG": group, "PER": _PER_ITEM, "EB": eb, "TB": tb, "T_BLOCKS": blocks}
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=ceil_div(e, eb) * blocks,
        group_size=group, template=holes.program("scatter_add_gpu", defines),
        origin="scatter_add_gpu", index_type=holes.ctype,
    )  # fmt: skip


def _filled(scatter: Scatter, target: Target, lanes: int) -> tuple[Holes, dict[str, object]]:
    """Return the holes and the macros that both templates have."""
    axes = {"e": scatter.e, "t": scatter.t, "r": scatter.r}
    holes = Holes(scatter.kernel, axes, lanes, target.family)
    holes.load("LOAD_AT", scatter.at, ("r",))
    holes.load("LOAD_ROW", scatter.row, ("r", "t"))
    dtype = scatter.row.dtype
    holes.store("STORE", ("e", "t"), "", f"{dtype.compute} acc", _bind_sum)
    sums = dtype.compute if dtype.is_float else unsigned(dtype.compute)
    defines: dict[str, object] = {"E": scatter.e.extent, "T": scatter.t.extent}
    return holes, defines | {"R": scatter.r.extent, "ACC_T": sums, "VALUE_T": dtype.compute}


def _bind_sum(emitter: Emitter) -> None:
    emitter.bind(0, "acc", 1)
