"""Sums of products become batched matrix products: ``kernels/einsum_cpu.cl`` and ``einsum_gpu.cl``.

A kernel matches if its one reduction sums ``A * B``. Each outer axis goes to one of three groups:
*m* if only A depends on it, *n* if only B does, else the batch *b*; the reduce axes are *k*. The
kernel is rewritten over the four flattened axes, and the templates' holes are filled with what the
emitter makes of A, B and the outputs at (b, m, k), (b, k, n) and (b, m, n): operands are read in
place through whatever views, and prologue and epilogue are part of the loads and stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from simplegrad import ops
from simplegrad.compiler import tiles
from simplegrad.compiler.ir import in_place
from simplegrad.compiler.ir.axes import dependences, walk
from simplegrad.compiler.ir.index import Guard, Index, Var
from simplegrad.compiler.ir.kernel import APPLY, CONST, GUARD, LOAD, Kernel, Value
from simplegrad.compiler.ir.symbolic import estimate, less, symbolic, within
from simplegrad.compiler.passes.groups import Rewriter
from simplegrad.compiler.render.ctext import vector
from simplegrad.compiler.render.emit import Body, Emitter
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates import matrix_units
from simplegrad.compiler.templates.template import Flat, Holes, flattened_in_runs
from simplegrad.dtypes import bool_
from simplegrad.graph.infer import size_of

_TINY = 4
_WIDE = 128
_SHORT = 8
"""Shortest run that is worth vectors of its own; of 4, Intel's runtime takes four times as long."""
_STRIP = 8
"""Most vectors of a strip."""
_LEAST_PIECE = 16
"""Extents from which matrix units are not mostly idle."""
_NEAR = 1 << 18
"""Elements of B that stay in a core's own caches."""
_LEAST_WORK = 1 << 14
"""Multiply-adds below which generated loops are as good."""


@dataclass(frozen=True, eq=False)
class Product:
    """A kernel over the axes (b, m, n | k), and its two factors."""

    kernel: Kernel
    """Over axes of its own until `_over_axes`: of several ways to see it, one is worth it."""
    a: Value
    b: Value
    batch: Flat
    m: Flat
    n: Flat
    k: Flat
    part: Var | None = None
    """The outer axis of the parts that k is cut into, where it is; see `kernel.Split`."""
    bits: str = ""
    """Where the factors are loads of bits for matrix units: of ``half``, ``bfloat16``, ``tf32``."""
    variant: str = "tile"
    """``tile``, or where one extent is 1 to 4: ``dot`` (n), ``strip`` (m), ``outer`` (k)."""
    score: float = 0.0


@lru_cache(maxsize=4)  # a kernel is asked for its parts, then for its text
def match(kernel: Kernel, target: Target) -> Product | None:
    """Return the kernel as a matrix product, or None where generated loops serve it better."""
    if len(kernel.reductions) != 1 or kernel.reductions[0].op is not ops.SUM:
        return None
    kernel = guarded_factor(kernel)
    product = kernel.reductions[0].value
    if product.form != APPLY or product.op is not ops.MUL or not product.dtype.is_float:
        return None
    work = size_of(tuple(v.extent for v in (*kernel.outer, *kernel.reduce)))
    if estimate(work) < _LEAST_WORK:
        return None
    deps = dependences(kernel)
    sides = [_axes_of(s, deps, kernel) for s in product.srcs]
    found: list[tuple[Product, Rewriter]] = []
    for a, b in ((0, 1), (1, 0)):
        found += _grouped(
            kernel, product.srcs[a], product.srcs[b], sides[a], sides[b], target
        )  # fmt: skip
    best, rewriter = max(found, key=lambda f: f[0].score, default=(None, None))
    if best is None or rewriter is None or best.score <= 0:
        return None
    best = replace(best, kernel=_over_axes(best, rewriter))
    return _for_matrix_units(best) if target.mma else best


def _over_axes(product: Product, rewriter: Rewriter) -> Kernel:
    """Return the kernel over the axes of a product."""
    outer = (*product.batch.vars, *product.m.vars, *product.n.vars)
    # The template cuts k by itself: whatever the parts, their sum is the same.
    whole = replace(product.kernel, split=None)
    if product.part is not None:
        outer = (product.part, *outer)
    return rewriter.kernel(whole, outer, product.k.vars)


def _for_matrix_units(product: Product) -> Product:
    """Return the product over bits, where matrix units may compute it; else as it is."""
    if min(estimate(v.extent) for v in (product.m, product.n, product.k)) < _LEAST_PIECE:
        return product
    found = matrix_units.as_bits(product.kernel, product.a, product.b)
    if found is None:
        return product
    kernel, a, b, bits = found
    return replace(product, kernel=kernel, a=a, b=b, bits=bits)


def guarded_factor(kernel: Kernel) -> Kernel:
    """Return a kernel that sums ``inside ? A * B : 0`` as one that sums ``(inside ? A : 0) * B``.

    B is the factor that stands inside its buffers everywhere. Other kernels come back as they are.
    """
    if len(kernel.reductions) != 1 or kernel.reductions[0].op is not ops.SUM:
        return kernel
    value, guards = kernel.reductions[0].value, dict[Guard, None]()
    while value.op is ops.WHERE and value.srcs[0].form == GUARD and _is_zero(value.srcs[2]):
        guards |= dict.fromkeys(value.srcs[0].guards)
        value = value.srcs[1]
    if not guards or value.op is not ops.MUL:
        return kernel
    for a, b in (value.srcs, value.srcs[::-1]):
        free = _unguarded(b, frozenset(guards), kernel)
        if free is None:
            continue
        if a.form != LOAD or a.number != 0 or not set(guards) <= set(a.guards):
            inside = Value(GUARD, bool_, guards=tuple(guards))
            zero = Value(CONST, a.dtype, number=0)
            a = Value(APPLY, a.dtype, op=ops.WHERE, srcs=(inside, a, zero))
        product = replace(value, srcs=(a, free))
        return replace(kernel, reductions=(replace(kernel.reductions[0], value=product),))
    return kernel


def _is_zero(value: Value) -> bool:
    return value.form == CONST and value.number == 0


def _unguarded(root: Value, guards: frozenset[Guard], kernel: Kernel) -> Value | None:
    """Return a value whose loads no longer ask for `guards`; None where one would stray."""
    new: dict[int, Value] = {}
    for value in walk([root]):
        left = tuple(g for g in value.guards if g not in guards)
        if value.index is not None and value.index.tokens():
            return None
        if value.form == LOAD and value.index is not None and len(left) < len(value.guards):
            size = kernel.args[value.arg].size
            strays = not within(value.index.low, value.index.high, size)
            if strays:
                return None
        srcs = tuple(new[id(s)] for s in value.srcs)
        same = left == value.guards and srcs == value.srcs
        new[id(value)] = value if same else replace(value, guards=left, srcs=srcs)
    return new[id(root)]


def _axes_of(value: Value, deps: dict[int, frozenset[object]], kernel: Kernel) -> set[Var]:
    found = deps[id(value)]
    return {v for v in (*kernel.outer, *kernel.reduce) if v in found}


def _grouped(
    kernel: Kernel, a: Value, b: Value, in_a: set[Var], in_b: set[Var], target: Target
) -> Iterator[tuple[Product, Rewriter]]:
    """Yield ways to see a kernel over (b, m, n | k), rated, and what rewrites it so.

    First with n as the last axes alone, then with all of its own. On CPUs the template takes axes
    made of runs, as the pixels of an image are of its lines.
    """
    m_axes = [v for v in kernel.outer if v in in_a and v not in in_b]
    all_n = [v for v in kernel.outer if v in in_b and v not in in_a]
    if not m_axes or not all_n or not kernel.reduce:
        return
    reads_a, reads_b = _expressions(a), _expressions(b)
    stores = [o.index for o in kernel.outputs]
    k_axes = _as_stored(list(kernel.reduce), reads_b)
    tail = _mergeable_tail(all_n, reads_b + stores)
    runs = {
        "m": len(_mergeable_tail(m_axes, reads_a + stores)),
        "n": len(tail),
        "k": len(_mergeable_tail(k_axes, reads_a + reads_b)),
    }
    part = kernel.split.part if kernel.split else None
    for n_axes in (tail, all_n) if len(tail) < len(all_n) else (tail,):
        rest = [v for v in kernel.outer if v is not part]
        batch_axes = [v for v in rest if v not in m_axes and v not in n_axes]
        groups = {"b": batch_axes, "m": m_axes, "n": n_axes, "k": k_axes}
        fixed = {name: last for name, last in runs.items() if _is_fixed(groups[name][-last:])}
        runs_of = fixed if target.family == "cpu" else {}
        rewriter, (batch, m, n, k) = flattened_in_runs(groups, runs_of)
        factors = rewriter.value(a), rewriter.value(b)
        product = Product(kernel, *factors, batch, m, n, k, part)
        along_n = _run_along(map(rewriter.index, stores), product.n)
        yield _rated(product, along_n, target.vector_width), rewriter


def _expressions(value: Value) -> list[Index]:
    """Return what the loads behind a value compute with loop variables."""
    return [index for v in walk([value]) for index in v.indices]


def _as_stored(axes: list[Var], expressions: list[Index]) -> list[Var]:
    """Return axes with the longest step in memory first: windows of a channel after each other."""
    steps: dict[Var, int] = {}
    for axis in axes:
        found = [index.coefficient(axis) for index in expressions]
        if None in found:
            return axes
        steps[axis] = max((abs(estimate(c)) for c in found if c is not None), default=0)
    return sorted(axes, key=lambda axis: -steps[axis])


def _mergeable_tail(axes: list[Var], expressions: list[Index]) -> list[Var]:
    """Return the last axes that every expression runs through as through one."""
    tail = axes[-1:]
    for outer, inner in zip(reversed(axes[:-1]), reversed(axes[1:]), strict=True):
        for index in expressions:
            far, near = index.coefficient(outer), index.coefficient(inner)
            if far is None or near is None or far != near * inner.extent:
                return tail
        tail.insert(0, outer)
    return tail


def unit_axis(value: Value, axes: Sequence[Var], step: int = 1) -> int:
    """Return the number (from 1) of the first axis along which all loads are contiguous, or 0.

    `step`: so many elements from one position to the next.
    """
    loads = [v for v in walk([value]) if v.form == LOAD and v.index is not None]
    for number, axis in enumerate(axes, 1):
        strides = {v.index.coefficient(axis) for v in loads if v.index is not None}
        if step in strides and strides <= {0, 1, step} and axis.extent > 1:
            return number
    return 0


def _rated(product: Product, stored: bool, lanes: int) -> Product:
    """Choose the variant of an orientation, and weigh it against the other orientation.

    What counts: full vectors along n, contiguous reads of both factors, contiguous stores
    (`stored`).
    """
    m, n, k = (estimate(v.extent) for v in (product.m, product.n, product.k))
    along_n = _along(product.b, (product.n,), lanes) == 1
    if _is_tiny(product.k):
        good = n >= lanes and stored and not product.n.run and product.part is None
        return replace(product, variant="outer", score=9.0 if good else 0.0)
    a_along_k = not product.k.run and unit_axis(product.a, (product.k.inside,)) == 1
    if _is_tiny(product.n) and a_along_k and k >= lanes:
        return replace(product, variant="dot", score=8.0)
    if _is_tiny(product.m) and along_n and _is_wide(product.n, lanes) and not product.n.run:
        return replace(product, variant="strip", score=8.0)
    if 2 * n < lanes or m < 2:
        return replace(product, score=0.0)
    score = _filled_share(n, lanes) * (3 if n >= lanes else 1) + stored
    score += 2.0 * along_n * _whole_share(product.n, lanes)
    score += (_along(product.b, (product.k,), lanes) == 1) * _whole_share(product.k, lanes)
    # A is packed anew for every _WIDE columns: few columns make that dear.
    return replace(product, score=score + min(m, 8) / 8 + min(n, _WIDE) / _WIDE)


def _run_along(stores: Iterable[Index], axis: Flat) -> bool:
    return any(index.coefficient(axis.inside) == 1 for index in stores)


def _along(value: Value, axes: Sequence[Flat], lanes: int, step: int = 1) -> int:
    """Return the number (from 1) of the first axis along which vectors can be loaded, or 0."""
    numbers = [i for i, axis in enumerate(axes, 1) if not axis.run or axis.run >= lanes]
    found = unit_axis(value, [axes[i - 1].inside for i in numbers], step)
    return numbers[found - 1] if found else 0


def _shorts(product: Product, a_unit: int, b_unit: int, lanes: int) -> dict[str, int]:
    """Return the lanes of the shorter vectors of A and B, which runs that are cut off take."""
    runs = {"A": product.k.run * (a_unit == 1), "B": (0, product.k.run, product.n.run)[b_unit]}
    fits = {name: [n for n in (8, 4, 2) if n < lanes and n <= run] for name, run in runs.items()}
    return {name: found[0] for name, found in fits.items() if found}


def _filled_share(extent: int, lanes: int) -> float:
    """Return the share of the lanes that hold something when an axis is cut into vectors."""
    return extent / (-(-extent // lanes) * lanes)


def _whole_share(axis: Flat, lanes: int) -> float:
    """Return the share of positions that vectors inside runs reach; the rest goes one by one."""
    run = axis.run or estimate(axis.extent)
    return run // lanes * lanes / run


def _is_fixed(run: Sequence[Var]) -> bool:
    """Whether the length of a run is known when the template is filled, which needs it then."""
    return not any(symbolic(v.extent) for v in run)


def _is_tiny(axis: Flat) -> bool:
    return not symbolic(axis.extent) and axis.extent <= _TINY


def _is_wide(axis: Flat, lanes: int) -> bool:
    """Whether there is a whole strip, which the template moves back to end at the last column."""
    return less(_STRIP * lanes - 1 if symbolic(axis.extent) else 2 * lanes - 1, axis.extent)


# Filling the templates ----------------------------------------------------------------------------


def render(product: Product, target: Target) -> Body:
    """Return the filled template of the target's family."""
    tile, (a_unit, b_unit) = _chosen(product, target)
    lanes = tile.parameters.get("VW", target.vector_width)
    if tile.stem == "einsum_cpu_skinny" and a_unit != 1:
        a_unit = 0
    kernel = product.kernel
    defines = {"VW": lanes, "A_UNIT": a_unit, "B_UNIT": b_unit, **tile.parameters}
    defines |= {f"{name}_SHORT": n for name, n in _shorts(product, a_unit, b_unit, lanes).items()}
    if product.bits:
        defines["KIND"] = list(matrix_units.KINDS.values()).index(product.bits)
        defines["EMULATE_MMA"] = int(target.mma == "emulated")
    holes = _filled(product, target, lanes, a_unit, b_unit)
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=tile.groups,
        group_size=tile.group_size, template=holes.program(tile.stem, _extents(product) | defines),
        origin=tile.shape.template, tile=tile, index_type=holes.ctype, in_place=holes.in_place,
    )  # fmt: skip


def parts(product: Product, target: Target) -> int:
    """Return into how many parts k should be cut, which a second stage adds up; 1 for none."""
    tile, _ = _chosen(product, target)
    return 1 if tile.shape.template in target.distrusted else tile.parameters.get("SPLIT_K", 1)


@lru_cache(maxsize=4)  # for the parts, then for the text
def _chosen(product: Product, target: Target) -> tuple[tiles.Tile, tuple[int, int]]:
    """Return the tile, and (A_UNIT, B_UNIT), which name the axes of vector loads."""
    m, n, k = product.m, product.n, product.k
    lanes = target.vector_width if target.family == "cpu" else 1
    a_unit = _along(product.a, (k, m), lanes)
    b_unit = (0, 2, 1)[_along(product.b, (n, k), lanes)]
    if target.family == "cpu" and product.variant == "tile":
        a_unit = a_unit or _along(product.a, (k,), _SHORT)
        # Every other element is read in two vectors.
        for least, step in ((lanes, 2), (_SHORT, 1), (_SHORT, 2)):
            b_unit = b_unit or (0, 2, 1)[_along(product.b, (n, k), least, step)]
    origin = "einsum_mma" if product.bits else "einsum_gpu"
    if target.family == "cpu":
        stem = "einsum_cpu" if product.variant == "tile" else "einsum_cpu_skinny"
        origin = f"{stem} {product.variant}"
    shape = tiles.Shape(
        origin,
        tuple(v.extent for v in (product.batch, product.m, product.n, product.k)),
        product.bits or product.kernel.reductions[0].value.dtype.compute,
        (a_unit, b_unit, int(_run_along([o.index for o in product.kernel.outputs], product.n))),
        0 if product.part is None else product.part.extent,
    )
    return tiles.choose(shape, target), (a_unit, b_unit)


def _extents(product: Product) -> dict[str, object]:
    extents = {"BATCH": product.batch, "M": product.m, "N": product.n, "K": product.k}
    defines: dict[str, object] = {name: var.extent for name, var in extents.items()}
    defines["ACC_T"] = product.kernel.reductions[0].value.dtype.compute
    runs = {"M_RUN": product.m.run, "N_RUN": product.n.run, "K_RUN": product.k.run}
    return defines | {name: run for name, run in runs.items() if run}


def _filled(product: Product, target: Target, lanes: int, a_unit: int, b_unit: int) -> Holes:
    """Return the holes of a template."""
    axes: dict[str, Var | Flat] = {
        "b": product.batch,
        "m": product.m,
        "n": product.n,
        "at_k": product.k,
    }
    where: tuple[str, ...] = ("b", "m", "n")
    hole = "STORE"
    if product.part is not None:
        axes["s"] = product.part
        where, hole = ("s", *where), "STORE_PART"
    holes = Holes(product.kernel, axes, lanes, target.family)
    holes.in_place = in_place.pairs(product.kernel)
    shorts = _shorts(product, a_unit, b_unit, lanes)
    factors = (
        ("A", product.a, ("b", "m", "at_k"), ("", "at_k", "m")[a_unit]),
        ("B", product.b, ("b", "at_k", "n"), ("", "at_k", "n")[b_unit]),
    )
    for name, value, along, wide in factors:
        holes.load(f"LOAD_{name}", value, along)
        if wide:
            holes.load(f"LOAD_{name}_V", value, along, wide)
        if name in shorts:
            holes.load(f"LOAD_{name}_SHORT", value, along, wide, lanes=shorts[name])
    if target.family == "cpu" and target.prefetch and product.variant == "tile" and b_unit == 2:
        for far in _rows(product):
            assert far.index is not None
            holes.touch("AHEAD_B", far.arg, far.index, ("b", "at_k", "n"), False, near=2)
    lanes = holes.lanes = 2 if product.bits else lanes  # neighbours that one work-item stores
    for name, wide in ((hole, ""), (f"{hole}_V", "n")):
        ctype = vector(product.kernel.reductions[0].value.dtype.compute, lanes if wide else 1)
        holes.store(name, where, wide, f"{ctype} acc", partial(_bind_sum, lanes, wide))
    return holes


def _rows(product: Product) -> list[Value]:
    """Return the load of B whose rows along n lie apart in memory, beyond the nearer caches.

    Lines of images, which are runs, follow each other.
    """
    loads = [v for v in walk([product.b]) if v.form == LOAD]
    plain = len(loads) == 1 and not loads[0].guards and not product.n.run and not product.k.run
    rows, columns = estimate(product.k.extent), estimate(product.n.extent)
    return loads if plain and rows * columns > _NEAR else []


def _bind_sum(lanes: int, wide: str, emitter: Emitter) -> None:
    emitter.bind(0, "acc", lanes if wide else 1)
