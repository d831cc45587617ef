"""ATTENTION nodes as kernels: ``kernels/attention_cpu.cl`` and ``attention_gpu.cl``.

The axes of all operands fall into five groups: *d* (only queries and keys have it), *e* (only
values), *n* (those of the softmax), *m* (of the scores' other axes, those that neither keys nor
values have), and the batch *b*, all others. A kernel is written over the five flattened axes, and
the template's holes are filled with what the emitter makes of each operand at its own: operands
are read in place through whatever views, scale and mask are functions of a score and its position.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from simplegrad import ops
from simplegrad.compiler.ir.index import Index, Var, flatten
from simplegrad.compiler.ir.kernel import CONST, GIVEN, INDEX, Kernel, Output, Value
from simplegrad.compiler.passes.fuse import Group
from simplegrad.compiler.passes.groups import Lowered
from simplegrad.compiler.passes.lower import Builder
from simplegrad.compiler.render.emit import Body, Emitter
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates.contraction import unit_axis
from simplegrad.compiler.templates.template import Holes, flattened
from simplegrad.compiler.tiles import Shape, choose
from simplegrad.graph.node import Node

_OPERANDS = ("q", "k", "v", "t", "ds", "g", "o", "h", "z")
_STAGES = {"out": 0, "top": 0, "total": 0, "dq": 1, "dk": 2, "dv": 2}
_RESULTS = {"out": "bme", "top": "bm", "total": "bm", "dq": "bmd", "dk": "bnd", "dv": "bne"}
_ALONG = {"q": "bmd", "k": "bnd", "v": "bne", "g": "bme", "o": "bme", "h": "bm", "z": "bm"}


@dataclass(frozen=True, eq=False)
class Attention(Kernel):
    """A kernel over the axes b, m, e and the reduced n, d that a template computes."""

    stage: int = 0
    """0: the result, maxima and sums; 1: the gradient of the queries; 2: of keys and values."""
    axes: dict[str, Var] = field(default_factory=dict)
    """By name: b, m, n, d, e."""
    values: dict[str, Value] = field(default_factory=dict)
    """By name of an operand: its value at its own axes."""
    results: dict[str, Output] = field(default_factory=dict)
    """By name of a part."""

    def brought(self) -> int:
        """Return the operations of products and softmax over the scores that a mask lets be seen.

        The letters are those of the templates: a weight is exp(T - H) / Z.
        """
        b, m, e, _, d = (axis.extent for axis in (*self.outer, *self.reduce))
        each, rows = 2 * d + 1 + ops.EXP.cost, 0  # the score S, exp(T - H)
        if self.stage == 0:
            each += 2 + 2 * e  # H, Z and the sum of values
            rows = m * (ops.RECIPROCAL.cost + e)  # which Z divides
        else:
            each += 1 + 2 * e * ("dv" in self.results)
            if self.results.keys() & {"dq", "dk"}:
                each += 2 * e + 2 + 2 * d  # dP, dT, the sum of queries or keys
        return b * (each * self._seen() + rows)

    def _seen(self) -> int:
        """Return how many scores of one b the positions alone do not hide."""
        m, n = self.outer[1].extent, self.reduce[0].extent
        # A kernel that was settled has other axes and values than those by name.
        names = dict(zip("bmend", (*self.outer, *self.reduce), strict=True))
        values = dict(zip(self.values, self.asked, strict=True))
        last = _last_seen(replace(self, axes=names, values=values))
        if last is None:
            return m * n
        return sum(min(max(row + last + 1, 0), n) for row in range(m))


_MOST_BYTES = 4096
"""Most bytes of a query and a value on CPUs, where blocks of them stand in private memory."""


def room(target: Target) -> int:
    """Return the most bytes of a query and a value together that a template takes, or 0.

    A GPU's local memory holds eight columns and eight rows at least, and their weights.
    """
    if f"attention_{target.family}" in target.distrusted:
        return 0
    return target.local_bytes // 18 if target.family == "gpu" else _MOST_BYTES


def lower(group: Group, roots: frozenset[int]) -> list[Lowered]:
    """Return the one kernel of a group of ATTENTION nodes."""
    first = group.members[0]
    builder = Builder(roots)
    _, keys, *subscripts, _ = first.arg
    extents: dict[int, int] = {}
    for term, src in zip(subscripts, first.srcs, strict=True):
        extents.update(zip(term, src.shape, strict=True))
    variables = {i: Var(f"i{i}", n) for i, n in extents.items()}

    def position(term: Sequence[int]) -> tuple[Index, ...]:
        return tuple(Index.of(variables[i]) for i in term)

    stage = _STAGES[first.arg[0]]
    values: dict[str, Value] = {}
    for name, term, src in zip(_OPERANDS, subscripts, first.srcs, strict=False):
        values[name] = builder.at(src, position(term))
    stores: dict[str, tuple[int, Index, Node]] = {}
    for member in group.members:
        flat = flatten(position(member.arg[-1]), member.shape)
        if member in group.stored:
            stores[member.arg[0]] = (builder.argument(member, "out"), flat, member)
        builder.computed[id(member)] = member
    letters = _groups(keys, subscripts)
    rewriter, axes = flattened({n: [variables[i] for i in own] for n, own in letters.items()})
    values = {name: rewriter.value(v) for name, v in values.items()}
    results = {
        name: Output(arg, Value(GIVEN, node.dtype, arg=0), rewriter.index(flat))
        for name, (arg, flat, node) in stores.items()
    }
    b, m, n, d, e = axes
    parts = "_".join(name for name in _STAGES if name in stores)
    kernel = Attention(
        name=f"k_attention_{parts}", outer=(b, m, e), reduce=(n, d),
        args=tuple(builder.args), reductions=(), outputs=tuple(results.values()),
        asked=tuple(values.values()), stage=stage,
        axes=dict(zip("bmnde", axes, strict=True)), values=values, results=results,
        notes={
            "lines": [n.where for n in builder.computed.values()],
            "ops": [n.op.name for n in builder.computed.values()],
        },
    )  # fmt: skip
    return [Lowered(kernel, tuple(builder.sources), group)]


def _groups(keys: Sequence[int], subscripts: Sequence[tuple[int, ...]]) -> dict[str, list[int]]:
    """Return the letters of each group of axes, in the order in which the operands have them."""
    q, k, v, t = subscripts[:4]
    groups: dict[str, list[int]] = {"b": [], "m": [], "n": list(keys), "d": [], "e": []}
    for i in (x for x in t if x not in keys):
        groups["m" if i in q and i not in (*k, *v) else "b"].append(i)
    groups["d"] = [i for i in k if i not in t]
    groups["e"] = [i for i in v if i not in t]
    return groups


def render(kernel: Attention, target: Target) -> Body:
    """Return the filled template of the target's family."""
    gpu = target.family == "gpu"
    lanes = 1 if gpu else target.vector_width
    extents = {name: var.extent for name, var in kernel.axes.items()}
    extents |= {name: operator.index(extents[name]) for name in "de"}  # arrays have their sizes
    columns, rows = ("n", "m") if kernel.stage == 2 else ("m", "n")
    ctype = kernel.values["t"].dtype.compute
    sizes = tuple(extents[x] for x in ("b", columns, rows, "d", "e"))
    tile = choose(Shape(f"attention_{target.family}", sizes, ctype, (kernel.stage,)), target)
    defines: dict[str, object] = {name.upper(): n for name, n in extents.items() if name != "b"}
    defines |= {"STAGE": kernel.stage, "BATCH": extents["b"], "ACC_T": ctype, **tile.parameters}
    seen = _last_seen(kernel)
    if seen is not None:
        defines |= {"CAUSAL": 1, "OFFSET": seen}
    holes = Holes(kernel, kernel.axes, lanes, target.family)
    if not gpu:
        wide = columns if extents[columns] >= lanes else ""
        defines |= {"VW": lanes, "WIDE": int(bool(wide)), **_wide(kernel, holes, wide)}
        defines["OWN_EXP"] = int(ctype == "float")
    defines |= _filled(kernel, holes, ctype)
    return Body(
        name=kernel.name, lines=(), helpers=(), args=kernel.args, groups=tile.groups,
        group_size=tile.group_size, template=holes.program(tile.stem, defines), origin=tile.stem,
        tile=tile, index_type=holes.ctype,
    )  # fmt: skip


def _last_seen(kernel: Attention) -> int | None:
    """Return c where every key n > m + c has the score -inf by the positions alone."""
    found = []
    stack = [kernel.values["t"]]
    while stack:
        value = stack.pop()
        if value.op is not ops.WHERE:
            continue
        test, yes, no = value.srcs
        if _is_minus_infinity(no):
            found += _bounds(test, kernel, True)
            stack.append(yes)
        elif _is_minus_infinity(yes):
            found += _bounds(test, kernel, False)
            stack.append(no)
    return min(found, default=None)


def _is_minus_infinity(value: Value) -> bool:
    return value.form == CONST and value.number == -math.inf


def _bounds(test: Value, kernel: Attention, holds: bool) -> list[int]:
    """Return c where a test on positions is `holds` for keys n <= m + c only."""
    if test.op is ops.AND and holds:
        return [c for s in test.srcs for c in _bounds(s, kernel, holds)]
    if test.op is ops.INVERT:
        return _bounds(test.srcs[0], kernel, not holds)
    tests = {ops.GREATER_EQUAL: (1, 0), ops.GREATER: (1, -1), ops.LESS: (-1, -1),
             ops.LESS_EQUAL: (-1, 0)}  # fmt: skip
    if test.op not in tests:
        return []
    sign, shift = tests[test.op]
    left, right = (s.index if s.form == INDEX and not s.guards else None for s in test.srcs)
    if left is None or right is None:
        return []
    # The test says: sign * (left - right) + shift >= 0, or its opposite.
    far = (left - right) * sign + shift if holds else (right - left) * sign - shift - 1
    slopes = [far.coefficient(kernel.axes[x]) for x in "bmn"]
    return [far.const] if slopes == [0, 1, -1] and len(far.terms) == 2 else []


def _functions(kernel: Attention) -> list[tuple[str, Value, tuple[str, ...]]]:
    """Return (hole, value, what the template brings) of the functions of a score."""
    own: list[tuple[str, Value, tuple[str, ...]]] = [("SCORE", kernel.values["t"], ("s",))]
    if "ds" in kernel.values:
        own.append(("GRAD", kernel.values["ds"], ("s", "g")))
    return own


def _filled(kernel: Attention, holes: Holes, ctype: str) -> dict[str, object]:
    """Fill the holes that take one element; return what of the results there is."""
    for name, along in _ALONG.items():
        if name in kernel.values:
            holes.load(f"LOAD_{name.upper()}", kernel.values[name], tuple(along))
    for hole, value, given in _functions(kernel):
        holes.load(hole, value, ("b", "m", "n"), "", given)
    hole_of = {"out": "STORE_O", "top": "STORE_H", "total": "STORE_Z"}
    for name, output in kernel.results.items():
        hole = hole_of.get(name, f"STORE_{name.upper()}")
        holes.store(hole, tuple(_RESULTS[name]), "", f"{ctype} acc", _bind_result, [output])
    wanted = {"STATS": "top", "WANT_DK": "dk", "WANT_DV": "dv"}
    return {macro: int(name in kernel.results) for macro, name in wanted.items()}


def _wide(kernel: Attention, holes: Holes, wide: str) -> dict[str, object]:
    """Fill the holes that take a vector; return which there are."""
    defines: dict[str, object] = {}
    for name in ("q", "k", "v", "g"):
        if name in kernel.values:
            value, along = kernel.values[name], _ALONG[name]
            axis = kernel.axes[along[-1]]
            unit = bool(unit_axis(value, (axis,))) and axis.extent >= holes.lanes
            defines[f"{name.upper()}_UNIT"] = int(unit)
            if unit:
                holes.load(f"LOAD_{name.upper()}_V", value, tuple(along), along[-1])
    if wide:
        for hole, value, given in _functions(kernel):
            holes.load(f"{hole}_V", value, ("b", "m", "n"), wide, given)
    return defines


def _bind_result(emitter: Emitter) -> None:
    emitter.given[0] = "acc"
