"""Sums of products become batched matrix products: ``kernels/einsum_cpu.cl`` and ``einsum_gpu.cl``.

A kernel matches if its one reduction sums ``A * B``. Each outer axis goes to one of three groups:
*m* if only A depends on it, *n* if only B does, else the batch *b*; the reduce axes are *k*. The
kernel is rewritten over the four flattened axes, and the templates' holes are filled with what the
emitter makes of A, B and the outputs at (b, m, k), (b, k, n) and (b, m, n): operands are read in
place through whatever views, and prologue and epilogue are part of the loads and stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from simplegrad import ops
from simplegrad.compiler.axes import all_indices, dependences, walk
from simplegrad.compiler.emit import Body, Emitter, Target
from simplegrad.compiler.groups import Rewriter
from simplegrad.compiler.index import Index, Var
from simplegrad.compiler.kernel import APPLY, LOAD, Kernel, Value
from simplegrad.compiler.sources import kernel_source
from simplegrad.graph.infer import size_of

_LEAST_WORK = 1 << 14
"""Multiply-adds below which generated loops are as good."""


@dataclass(frozen=True, eq=False)
class Product:
    """A kernel over the axes (b, m, n | k), and its two factors."""

    kernel: Kernel
    a: Value
    b: Value
    batch: Var
    m: Var
    n: Var
    k: Var


def match(kernel: Kernel, target: Target) -> Product | None:
    """Return the kernel as a matrix product, or None where generated loops serve it better."""
    if len(kernel.reductions) != 1 or kernel.reductions[0].op is not ops.SUM or kernel.split:
        return None
    product = kernel.reductions[0].value
    if product.form != APPLY or product.op is not ops.MUL or not product.dtype.is_float:
        return None
    work = size_of(tuple(v.extent for v in (*kernel.outer, *kernel.reduce)))
    if work < _LEAST_WORK:
        return None
    deps = dependences(kernel)
    sides = [_axes_of(s, deps, kernel) for s in product.srcs]
    best: tuple[float, Product] | None = None
    for a, b in ((0, 1), (1, 0)):
        grouped = _group(kernel, product.srcs[a], product.srcs[b], sides[a], sides[b])
        if grouped is None:
            continue
        score = _score(grouped, target.vector_width)
        if best is None or score > best[0]:
            best = score, grouped
    if best is None or best[0] <= 0:
        return None
    return best[1]


def _axes_of(value: Value, deps: dict[int, frozenset[object]], kernel: Kernel) -> set[Var]:
    found = deps[id(value)]
    return {v for v in (*kernel.outer, *kernel.reduce) if v in found}


def _group(kernel: Kernel, a: Value, b: Value, in_a: set[Var], in_b: set[Var]) -> Product | None:
    m_axes = [v for v in kernel.outer if v in in_a and v not in in_b]
    n_axes = [v for v in kernel.outer if v in in_b and v not in in_a]
    if not m_axes or not n_axes or not kernel.reduce:
        return None
    related = [v.index for v in walk([b]) if v.index is not None]
    related += [o.index for o in kernel.outputs]
    n_axes = _mergeable_tail(n_axes, related)
    batch_axes = [v for v in kernel.outer if v not in m_axes and v not in n_axes]
    axes = [_flat("b", batch_axes), _flat("m", m_axes), _flat("n", n_axes)]
    k = _flat("k", kernel.reduce)
    changes: dict[Var, Index] = {}
    for var, parts in zip((*axes, k), (batch_axes, m_axes, n_axes, kernel.reduce), strict=True):
        rest = Index(((var, 1),), 0) if var.extent > 1 else Index.of(0)
        for part in reversed(parts):
            changes[part] = rest % part.extent if part is not parts[0] else rest
            rest = rest // part.extent
    rewriter = Rewriter(dict(changes))
    new = rewriter.kernel(kernel, tuple(axes), (k,))
    return Product(new, rewriter.value(a), rewriter.value(b), *axes, k)


def _flat(name: str, axes: Sequence[Var]) -> Var:
    return Var(name, size_of(tuple(v.extent for v in axes)))


def _mergeable_tail(axes: list[Var], indices: list[Index]) -> list[Var]:
    """Return the last axes that one index runs through contiguously, wherever it is used."""
    tail = axes[-1:]
    for outer, inner in zip(reversed(axes[:-1]), reversed(axes[1:]), strict=True):
        for index in indices:
            far, near = index.coefficient(outer), index.coefficient(inner)
            if far is None or near is None or far != near * inner.extent:
                return tail
        tail.insert(0, outer)
    return tail


def unit_axis(value: Value, axes: Sequence[Var]) -> int:
    """Return the number (from 1) of the first axis along which all loads are contiguous, or 0."""
    loads = [v for v in walk([value]) if v.form == LOAD and v.index is not None]
    for number, axis in enumerate(axes, 1):
        strides = {v.index.coefficient(axis) for v in loads if v.index is not None}
        if 1 in strides and strides <= {0, 1} and axis.extent > 1:
            return number
    return 0


def _score(product: Product, lanes: int) -> float:
    """Weigh an orientation: full vectors along n, contiguous reads, contiguous stores."""
    n, k, m = product.n, product.k, product.m
    if n.extent * 2 < lanes or k.extent < 4 or m.extent < 2:
        return -1
    filled = n.extent / (-(-n.extent // lanes) * lanes)
    score = 3 * filled if n.extent >= lanes else filled
    score += 2 * (unit_axis(product.b, (n,)) == 1) + 0.5 * (unit_axis(product.b, (k,)) == 1)
    score += any(o.index.coefficient(n) == 1 for o in product.kernel.outputs)
    return score + min(m.extent, 8) / 8


# Filling the templates ----------------------------------------------------------------------------


def render(product: Product, target: Target) -> Body:
    """Return the filled template of the target's family."""
    return _cpu(product, target) if target.family == "cpu" else _gpu(product, target)


def _cpu(product: Product, target: Target) -> Body:
    lanes = target.vector_width
    mr, nv = (6, 2) if lanes <= 8 else (8, 3)
    m, n, k, batch = (v.extent for v in (product.m, product.n, product.k, product.batch))
    nv = min(nv, -(-n // lanes))
    nr = nv * lanes
    mr = min(mr, m)
    kb = min(256, k)
    nb = min(64 // nr * nr or nr, -(-n // nr) * nr)
    mb = min(96 // mr * mr, -(-m // mr) * mr)
    want = 4 * target.compute_units
    while batch * -(-m // mb) * -(-n // nb) < want and mb > 2 * mr:
        mb = -(-mb // 2 // mr) * mr
    a_unit, b_unit = unit_axis(product.a, (product.k, product.m)), 0
    if unit_axis(product.b, (product.n,)):
        b_unit = 2
    tiles = batch * -(-m // mb) * -(-n // nb)
    per_item = max(1, min(tiles // (8 * target.compute_units), 65536 // (mb * nb * k) or 1))
    acc = product.kernel.reductions[0].value.dtype.compute
    defines = {
        "BATCH": batch, "M": m, "N": n, "K": k, "ACC_T": acc, "VW": lanes, "MR": mr, "NV": nv,
        "KB": kb, "MB": mb, "NB": nb, "A_UNIT": a_unit, "B_UNIT": b_unit,
        "C_UNIT": 1, "TILES_PER_ITEM": per_item,
    }  # fmt: skip
    holes = Holes(product, lanes)
    holes.load("LOAD_A", product.a, ("b", "m", "k"), "")
    holes.load("LOAD_B", product.b, ("b", "k", "n"), "")
    if a_unit:
        holes.load("LOAD_A_V", product.a, ("b", "m", "k"), "mk"[a_unit == 1])
    if b_unit:
        holes.load("LOAD_B_V", product.b, ("b", "k", "n"), "n")
    holes.store("STORE", "")
    holes.store("STORE_V", "n")
    text = holes.program("einsum_cpu", defines)
    groups = -(-tiles // per_item)
    return _body(product, text, groups, 1)


def _gpu(product: Product, target: Target) -> Body:
    raise NotImplementedError


def _body(product: Product, text: str, groups: int, group_size: int) -> Body:
    kernel = product.kernel
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=groups,
        group_size=group_size, template=text,
    )  # fmt: skip


class Holes:
    """The functions that a template calls to load and store."""

    def __init__(self, product: Product, lanes: int) -> None:
        self.product, self.lanes = product, lanes
        self.functions: list[str] = []
        self.helpers: dict[str, None] = {}
        self.macros: dict[str, str] = {}
        kernel = product.kernel
        self.parameters = ", ".join(_declaration(a) for a in kernel.args)
        self.names = ", ".join(a.name for a in kernel.args)
        self.vars = {"b": product.batch, "m": product.m, "n": product.n, "k": product.k}

    def _emitter(self, along: str, wide: str) -> Emitter:
        emitter = Emitter(self.product.kernel)
        bound = {v: (name, self.lanes if name == wide else 1) for name, v in self.vars.items()
                 if name in along}  # fmt: skip
        emitter.open("", bound)
        return emitter

    def load(self, hole: str, value: Value, along: tuple[str, ...], wide: str) -> None:
        """Define a hole that returns a factor at a position, in lanes along `wide`."""
        emitter = self._emitter("".join(along), wide)
        lanes = self.lanes if wide else 1
        result = emitter.value(value, lanes)
        ctype = value.dtype.compute + (str(lanes) if lanes > 1 else "")
        self._function(hole, ctype, [f"{emitter.int_type} {v}" for v in along], along, emitter,
                       f"return {result};")  # fmt: skip

    def store(self, hole: str, wide: str) -> None:
        """Define a hole that takes a finished sum through the epilogue to the outputs."""
        emitter = self._emitter("bmn", wide)
        lanes = self.lanes if wide else 1
        emitter.bind(0, "acc", lanes)
        for output in self.product.kernel.outputs:
            emitter.store(output, lanes)
        ctype = self.product.kernel.reductions[0].value.dtype.compute
        ctype += str(lanes) if lanes > 1 else ""
        own = [f"{emitter.int_type} {v}" for v in "bmn"] + [f"{ctype} acc"]
        self._function(hole, "void", own, ("b", "m", "n", "acc"), emitter, "")

    def _function(
        self, hole: str, ctype: str, own: list[str], names: Sequence[str], emitter: Emitter,
        last: str,
    ) -> None:  # fmt: skip
        emitter.close()
        self.helpers.update(emitter.helpers)
        name = "sg_" + hole.lower()
        lines = [*emitter.finish(), *([last] if last else [])]
        lines = [_named(line, self.product.kernel) for line in lines]
        head = f"static inline {ctype} {name}({', '.join([self.parameters, *own])})"
        self.functions.append("\n".join([head, "{", *["  " + x for x in lines], "}"]))
        arguments = ", ".join(names)
        self.macros[f"{hole}({arguments})"] = f"{name}({self.names}, {arguments})"

    def program(self, stem: str, defines: dict[str, object]) -> str:
        """Return the whole program: parameters, functions, then the template as it stands."""
        lines = [f"// {self.product.kernel.name}: filled from kernels/{stem}.cl"]
        lines += [f"#define {k} {v}" for k, v in defines.items()]
        lines.append(f"#define KERNEL_NAME {self.product.kernel.name}")
        lines.append(f"#define PARAMS {self.parameters}")
        lines += [f"#define {k} {v}" for k, v in self.macros.items()]
        return "\n".join([*lines, *self.helpers, *self.functions, kernel_source(stem)])


def _declaration(arg: object) -> str:
    raise NotImplementedError


def _named(line: str, kernel: Kernel) -> str:
    raise NotImplementedError


