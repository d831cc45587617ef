"""Views whose reads and writes run along different axes: ``kernels/as_strided.cl``.

A view costs nothing where neighbours stay neighbours. Where they do not (a transposed operand of
an elementwise kernel, a permuted copy), generated loops would read or write one element per cache
line. Such a kernel is rewritten over a batch and the two axes, and the template reads the operands
concerned in tiles; everything else is evaluated in the template's store.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

from simplegrad.compiler import tiles
from simplegrad.compiler.ir.axes import merge_axes, walk
from simplegrad.compiler.ir.index import Index, Var
from simplegrad.compiler.ir.kernel import LOAD, Kernel, Value
from simplegrad.compiler.ir.symbolic import estimate
from simplegrad.compiler.render.emit import Body, Emitter, Kept
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates.template import Holes, flattened
from simplegrad.dtypes import width
from simplegrad.graph.infer import size_of

_LEAST_ELEMENTS = 1 << 14
_LEAST_EXTENT = 8
_MOST_VIEWS = 3


@dataclass(frozen=True, eq=False)
class Turned:
    """A kernel over the axes (b, i, j): `views` are read along i, outputs written along j."""

    kernel: Kernel
    views: list[Value]
    batch: Var
    i: Var
    j: Var


def match(kernel: Kernel, target: Target) -> Turned | None:
    """Return the kernel over its two axes, or None where generated loops serve it as well."""
    if kernel.reduce or kernel.reductions or not kernel.outputs:
        return None
    if estimate(size_of(tuple(v.extent for v in kernel.outer))) < _LEAST_ELEMENTS:
        return None
    if target.family == "gpu" and target.max_work_group < 256:
        return None
    kernel = merge_axes(kernel)
    along = [v for v in kernel.outer if all(o.index.coefficient(v) == 1 for o in kernel.outputs)]
    if len(along) != 1 or estimate(along[0].extent) < _LEAST_EXTENT:
        return None
    j = along[0]
    found = _turned(kernel, j)
    if not found:
        return None
    i = Counter(axis for _, axis in found).most_common(1)[0][0]
    views = [v for v, axis in found if axis is i]
    views = [v for v in views if v.dtype.compute == views[0].dtype.compute]
    views = views[: _most_views(views[0], target)]
    if not views:
        return None
    rest = [v for v in kernel.outer if v is not i and v is not j]
    rewriter, (batch, new_i, new_j) = flattened({"b": rest, "i": [i], "j": [j]})
    new = rewriter.kernel(kernel, (batch, new_i, new_j), ())
    return Turned(new, [rewriter.value(v) for v in views], batch, new_i, new_j)


def _most_views(view: Value, target: Target) -> int:
    """Return how many tiles fit: a GPU's stand in local memory."""
    if target.family == "cpu":
        return _MOST_VIEWS
    return min(_MOST_VIEWS, target.local_bytes // (32 * 33 * width(view.dtype.compute)))


def _turned(kernel: Kernel, j: Var) -> list[tuple[Value, Var]]:
    """Return the loads that step over many elements along `j`, with the axis they run along."""
    found = []
    for value in walk([o.value for o in kernel.outputs]):
        if value.form == LOAD and value.index is not None:
            step = value.index.coefficient(j)
            if step is None or abs(estimate(step)) < _LEAST_EXTENT:
                continue
            runs = [v for v in kernel.outer if v is not j and value.index.coefficient(v) == 1]
            if runs and estimate(runs[0].extent) >= _LEAST_EXTENT:
                found.append((value, runs[0]))
    return found


def render(turned: Turned, target: Target) -> Body:
    """Return the filled template of the target's family."""
    gpu = target.family == "gpu"
    ctype = turned.views[0].dtype.compute
    i, j, batch = turned.i.extent, turned.j.extent, turned.batch.extent
    origin = f"as_strided {target.family}"
    tile = tiles.choose(tiles.Shape(origin, (batch, i, j), ctype), target)
    lanes = target.vector_width
    axes = {"b": turned.batch, "i": turned.i, "j": turned.j}
    holes = Holes(turned.kernel, axes, lanes, target.family)
    for number, view in enumerate(turned.views):
        holes.load(f"LOAD_{number}", view, ("b", "i", "j"))
        if not gpu:
            holes.load(f"LOAD_V_{number}", view, ("b", "i", "j"), "i")
    given = f"{'__local' if gpu else '__private'} const {ctype} *turned"
    prepare = partial(_from_tile, turned.views, tile.parameters["TI"] * tile.parameters["PITCH"])
    holes.store("STORE", ("b", "i", "j"), "", given, prepare)
    if not gpu:
        holes.store("STORE_V", ("b", "i", "j"), "j", given, prepare)
    if not gpu and target.prefetch:
        for number, view in enumerate(turned.views):
            assert view.arg is not None
            assert view.index is not None
            holes.touch(f"AHEAD_{number}", view.arg, view.index, ("b", "i", "j"), False)
        output = turned.kernel.outputs[0]
        holes.touch("AHEAD_STORE", output.arg, output.index, ("b", "i", "j"), True)
    defines = {
        "GPU": int(gpu), "BATCH": batch, "I": i, "J": j, "VIEWS": len(turned.views), "T": ctype,
        "VW": lanes, **tile.parameters,
    }  # fmt: skip
    text = holes.program(tile.stem, defines)
    kernel = turned.kernel
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=tile.groups,
        group_size=tile.group_size, template=text, origin=origin,
        tile=tile, index_type=holes.ctype,
    )  # fmt: skip


def _from_tile(views: list[Value], size: int, emitter: Emitter) -> None:
    """Let the views be read from the tile, whose row and column are the template's business."""
    for number, view in enumerate(views):
        offset = f" + {number * size}" if number else ""
        emitter.arrays[id(view)] = Kept("turned", Index.of(0), offset, view.dtype.compute)
