"""The tuner: candidate tiles are measured on the device, and clear winners are kept.

A class of shapes is measured by a plain case of it: operands of the same layout, without prologue
or epilogue. Every candidate's result is compared with NumPy's before it is timed. Speeds drift, so
candidates are timed in turns with the default, by the device's own events; what counts is the
median of the ratios within a turn, and a candidate wins by a clear margin or not at all.
"""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.compiler import tiles
from simplegrad.compiler.pipeline import compile_graph, fitted
from simplegrad.compiler.program import Program
from simplegrad.compiler.target import Target, Winner
from simplegrad.compiler.tiles import Shape, Tile
from simplegrad.errors import DeviceError
from simplegrad.graph import build
from simplegrad.graph.node import Node, leaf, topological
from simplegrad.runtime import tuned
from simplegrad.runtime.opencl import OpenCLDevice
from simplegrad.runtime.plan import Plan

_MARGIN = 1.05
"""Median of the ratios from which a candidate is clearly faster; three quarters reach 1.02."""
_FIRST_TURNS = 3
_LAST_TURNS = 11
_FINALISTS = 3
_SAMPLE_SECONDS = 1e-3
_MOST_LAUNCHES = 16
_MOST_BYTES = 1 << 30
_SECONDS = 20.0
"""Longest that one class of shapes takes when a program meets it."""

Said = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What measuring one class of shapes gave."""

    winner: Winner
    default: str
    measured: int
    """Candidates that were timed, the default included."""
    wrong: tuple[str, ...]
    """Candidates refused by the driver, or whose result differs from NumPy's."""


# What is measured ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """A graph that goes to one template, its leaves' arrays, and NumPy's result."""

    root: Node
    want: Any


def _product(shape: Shape, device: OpenCLDevice) -> _Case:
    """Return a matrix product of the extents and the layout of a shape.

    Sums of numbers stored in 16 bits are float, so that they can be compared like others.
    """
    batch, m, n, k = shape.extents
    a_unit, b_unit, along_n = shape.layout
    rng = np.random.default_rng(0)
    a = _operand(rng, shape.ctype, (batch, m, k), {0: None, 1: 2, 2: 1}[a_unit], device)
    b = _operand(rng, shape.ctype, (batch, k, n), {0: None, 1: 1, 2: 2}[b_unit], device)
    subscripts: list[tuple[int, ...]] = [(0, 1, 2), (0, 2, 3), (0, 1, 3) if along_n else (0, 3, 1)]
    if batch == 1:
        a, b = (replace(x, node=build.reshape(x.node, x.node.shape[1:])) for x in (a, b))
        subscripts = [s[1:] for s in subscripts]
    dtype = a.node.dtype if a.node.dtype.itemsize > 2 else dtypes.float32
    factors = [build.cast(x.node, dtype) for x in (a, b)]
    root = build.einsum(subscripts[:2], subscripts[2], *factors)
    want = np.matmul(a.array, b.array)
    want = want if along_n else np.swapaxes(want, 1, 2)
    return _Case(root, want.reshape(root.shape))


def _turned(shape: Shape, device: OpenCLDevice) -> _Case:
    """Return the copy of a transposed view."""
    batch, i, j = shape.extents
    x = _operand(np.random.default_rng(0), shape.ctype, (batch, j, i), 2, device)
    turned = build.permute(x.node, (0, 2, 1))
    return _Case(build.apply(ops.NEG, turned), -x.array.transpose(0, 2, 1))


def _attention(shape: Shape, device: OpenCLDevice) -> _Case:
    """Return an attention forward: its queries are the columns."""
    batch, m, n, d, e = shape.extents
    rng = np.random.default_rng(0)
    q, k, v = (
        _operand(rng, shape.ctype, x, 2, device)
        for x in ((batch, m, d), (batch, n, d), (batch, n, e))
    )
    space: list[tuple[int, ...]] = [(0, 1, 3), (0, 2, 3), (0, 1, 2), (0, 1, 4), (0, 2, 4)]
    nodes = [q.node, k.node, v.node]
    if batch == 1:
        nodes = [build.reshape(x, x.shape[1:]) for x in nodes]
        space = [s[1:] for s in space]
    scores = build.einsum(space[:2], space[2], *nodes[:2])
    axis = [len(scores.shape) - 1]
    top = build.broadcast_to(build.reduce(ops.MAX, scores, axis, True), scores.shape)
    weights = build.apply(ops.EXP, build.apply(ops.SUB, scores, top))
    total = build.apply(ops.RECIPROCAL, build.reduce(ops.SUM, weights, axis, True))
    weights = build.apply(ops.MUL, weights, total)
    root = build.einsum([space[2], space[4]], space[3], weights, nodes[2])
    exact = np.exp(np.matmul(q.array, np.swapaxes(k.array, 1, 2)))
    want = np.matmul(exact / exact.sum(-1, keepdims=True), v.array)
    return _Case(root, want.reshape(root.shape))


_CASES = {
    "attention_cpu": _attention,
    "attention_gpu": _attention,
    "einsum_cpu": _product,
    "einsum_cpu_skinny": _product,
    "einsum_gpu": _product,
    "einsum_mma": _product,
    "as_strided": _turned,
}
"""By the template's file: how a class of its shapes is measured."""


_DTYPES = {
    "float": dtypes.float32, "double": dtypes.float64,
    "half": dtypes.float16, "bfloat16": dtypes.bfloat16,
}  # fmt: skip
"""What a C type computed with is measured on; tf32 would miss NumPy's numbers by its rounding."""


@dataclass(frozen=True)
class _Operand:
    node: Node
    array: Any


def _operand(
    rng: Any, ctype: str, extents: tuple[int, ...], unit: int | None, device: OpenCLDevice
) -> _Operand:
    """Return random numbers that are contiguous along axis `unit`; None: along no axis."""
    dtype = _DTYPES[ctype]
    last = len(extents) - 1
    order = tuple(range(last + 1))
    if unit is not None and unit != last:
        order = (*[a for a in order if a != unit], unit)
    stored = tuple(extents[a] for a in order) + ((2,) if unit is None else ())
    array = rng.random(stored, np.float32) - np.float32(0.5)
    if dtype.itemsize == 2:
        array = np.round(array * 16) / 16  # exact in every format
    array = array.astype(np.float64 if dtype is dtypes.float64 else np.float32)
    node = leaf(ops.BUFFER, stored, dtype, None, device)
    node.buffer = device.from_host(array, dtype)
    if unit is None:
        node = build.slice_(node, [*((0, n, 1) for n in extents), (0, 1, 1)])
        return _Operand(build.reshape(node, extents), array[..., 0])
    back = tuple(order.index(a) for a in range(last + 1))
    return _Operand(build.permute(node, back), array.transpose(back))


# Measuring ----------------------------------------------------------------------------------------


def measure(
    device: OpenCLDevice, shape: Shape, target: Target, seconds: float, say: Said
) -> Outcome | None:
    """Return the winner of a class of shapes; None where it cannot be measured.

    `target` knows no winner of the class. Measuring stops adding candidates once `seconds` have
    passed; `say` is told what is going on.
    """
    until = time.monotonic() + seconds
    known = replace(target, tuned=frozenset())
    case = _case(shape, device)
    if case is None:
        return None
    order = topological([case.root])
    tile, width = _met(order, case.root, known)
    if tile is None or tiles.shape_class(tile.shape) != tiles.shape_class(shape):
        return None
    plans: dict[str, Plan] = {}
    wrong: list[str] = []
    for candidate in tiles.candidates(tile.shape, width):
        if plans and time.monotonic() > until:
            break
        say(candidate.recipe)
        plan = _checked(device, case, order, _with(known, tile.shape, candidate.recipe))
        if plan is None:
            wrong.append(candidate.recipe)
            if candidate.recipe == tile.recipe:
                return None
        else:
            plans[candidate.recipe] = plan
    say("in turns")
    recipe, gain = _fastest(plans, tile.recipe, until)
    today = datetime.date.today().isoformat()
    winner = Winner(tiles.shape_class(shape), recipe, round(gain, 3), today)
    return Outcome(winner, tile.recipe, len(plans), tuple(wrong))


def _case(shape: Shape, device: OpenCLDevice) -> _Case | None:
    make = _CASES.get(shape.template.split()[0])
    if make is None or shape.ctype not in _DTYPES:
        return None
    extents = shape.extents
    if len(extents) == 4:
        batch, m, n, k = extents
        elements = batch * (2 * m * k + 2 * k * n + m * n)
    elif len(extents) == 5:
        batch, m, n, d, e = extents
        elements = batch * (m * (d + e) + n * (d + e) + 2 * m * n)  # NumPy's scores
    else:
        elements = 2 * extents[0] * extents[1] * extents[2]
    most = min(_MOST_BYTES, device.limits.max_alloc_bytes)
    return make(shape, device) if 8 * elements <= most else None


def _compiled(order: Sequence[Node], root: Node, target: Target) -> Program:
    return compile_graph(order, [root], target, fusion=True, fresh=True)


def _met(order: Sequence[Node], root: Node, target: Target) -> tuple[Tile | None, Target]:
    """Return the tile that a case gets untuned, and the target that its kernel is fitted to."""
    launch = _compiled(order, root, target).launches[0]
    return launch.source.tile, fitted(launch.kernels[0], target)


def _with(target: Target, shape: Shape, recipe: str) -> Target:
    winner = Winner(tiles.shape_class(shape), recipe, 1.0, "")
    return replace(target, tuned=frozenset([winner]))


def _checked(
    device: OpenCLDevice, case: _Case, order: Sequence[Node], target: Target
) -> Plan | None:
    """Return a plan that has just given NumPy's numbers; None where the driver has others."""
    try:
        plan = Plan(_compiled(order, case.root, target), device)
        (buffer,) = plan.run(order, counted=False)
        got = device.to_host(buffer, case.root.dtype, case.root.shape)
    except DeviceError:
        return None
    # Sums of float32 in another order: some 1e-6 of the largest; a wrong tile misses by much more.
    close = np.allclose(got, case.want, rtol=1e-4, atol=1e-4 * float(np.abs(case.want).max()))
    return plan if close else None


def _fastest(plans: dict[str, Plan], default: str, until: float) -> tuple[str, float]:
    """Return the recipe to use, and how many times as fast as the default it is."""
    launches = {r: _launches(plan) for r, plan in plans.items()}

    def sample(recipe: str) -> float:
        return statistics.median(plans[recipe].seconds() for _ in range(launches[recipe]))

    others = [r for r in plans if r != default]
    ratios: dict[str, list[float]] = {r: [] for r in others}
    for turn in range(_FIRST_TURNS):
        order = others if turn % 2 else others[::-1]
        base = sample(default)
        for recipe in order:
            ratios[recipe].append(base / sample(recipe))
    others.sort(key=lambda r: -statistics.median(ratios[r]))
    finals: dict[str, list[float]] = {r: [] for r in others[:_FINALISTS]}
    for turn in range(_LAST_TURNS):
        if turn >= _FIRST_TURNS and time.monotonic() > until:
            break
        for recipe, own in finals.items():
            if turn % 2:
                base, time_ = sample(default), sample(recipe)
            else:
                time_, base = sample(recipe), sample(default)
            own.append(base / time_)
    best, gain = default, 1.0
    for recipe, own in finals.items():
        middle, low = statistics.median(own), sorted(own)[len(own) // 4]
        if middle >= _MARGIN and low >= 1.02 and middle > gain:
            best, gain = recipe, middle
    return best, gain


def _launches(plan: Plan) -> int:
    once = min(plan.seconds() for _ in range(2))
    return int(min(max(_SAMPLE_SECONDS / max(once, 1e-9), 1), _MOST_LAUNCHES))


# Who asks -----------------------------------------------------------------------------------------


def winners(device: OpenCLDevice) -> frozenset[Winner]:
    """Return what tuning found on a device; the file is read once a process."""
    if device.tuned is None:
        device.tuned = tuned.load(device.identity)
    return device.tuned


def keep(device: OpenCLDevice, found: Iterable[Winner]) -> None:
    """Put winners in force on a device, and into the file."""
    new = {w.shape_class: w for w in found}
    tuned.save(device.identity, new.values())
    old = {w for w in winners(device) if w.shape_class not in new}
    device.tuned = frozenset(old | set(new.values()))


def tune_program(device: OpenCLDevice, program: Program, target: Target) -> bool:
    """Measure the classes of a program's tiles that nobody has measured; return whether any was.

    This is what ``SIMPLEGRAD_TUNE=1`` does when a graph is compiled.
    """
    known = {w.shape_class for w in winners(device)} | device.untunable
    met = [launch.source.tile for launch in program.launches]
    shapes = {tiles.shape_class(t.shape): t.shape for t in met if t is not None}
    new = {name: shape for name, shape in shapes.items() if name not in known}
    if not new:
        return False
    from tqdm import tqdm

    found = []
    with tqdm(new.items(), desc="tuning", unit="class", leave=False) as bar:
        for name, shape in bar:
            outcome = measure(device, shape, target, _SECONDS, _teller(bar, name))
            if outcome is None:
                device.untunable.add(name)
            else:
                found.append(outcome.winner)
    if found:
        keep(device, found)
    return bool(found)


def _teller(bar: Any, name: str) -> Said:
    return lambda said: bar.set_postfix_str(f"{name}: {said}")


def usual_shapes(family: str, mma: bool = False) -> list[Shape]:
    """Return the shapes that ``python -m simplegrad tune`` measures, the most useful first."""
    plain, right, left = (1, 2, 1), (1, 1, 1), (2, 2, 1)
    products = [
        ((1, 512, 512, 512), plain), ((1, 1024, 1024, 1024), plain), ((1, 256, 256, 256), plain),
        ((1, 128, 512, 784), plain), ((1, 784, 512, 128), left), ((1, 128, 784, 512), right),
        ((256, 128, 128, 64), right), ((1, 1000, 777, 333), plain), ((256, 128, 64, 128), plain),
        ((1, 512, 512, 512), right), ((1, 512, 512, 512), left), ((1, 64, 64, 100_000), plain),
        ((64, 32, 32, 32), plain), ((1, 2048, 2048, 2048), plain),
    ]  # fmt: skip
    views = [(1, 2048, 2048), (64, 512, 512)]
    if family == "gpu":
        shapes = [Shape("einsum_gpu", extents, layout=layout) for extents, layout in products]
        if mma:
            large = products[:2] + products[9:11]
            shapes += [Shape("einsum_mma", e, "half", layout) for e, layout in large]
        return shapes + [Shape("as_strided gpu", v) for v in views]
    shapes = [Shape("einsum_cpu tile", extents, layout=layout) for extents, layout in products]
    skinny = [
        Shape("einsum_cpu_skinny dot", (1, 600, 3, 1024), layout=right),
        Shape("einsum_cpu_skinny strip", (1, 3, 1024, 600), layout=plain),
        Shape("einsum_cpu_skinny dot", (1, 4096, 2, 4096), layout=right),
        Shape("einsum_cpu_skinny strip", (1, 4, 4096, 4096), layout=plain),
    ]
    views_ = [Shape("as_strided cpu", v) for v in views]
    return shapes[:3] + skinny[:2] + views_[:1] + shapes[3:] + skinny[2:] + views_[1:]


def tune(device: OpenCLDevice, target: Target, budget: float) -> list[Outcome]:
    """Measure the usual shapes, those never measured first, for about `budget` seconds."""
    from tqdm import tqdm

    known = {w.shape_class for w in winners(device)}
    shapes = usual_shapes(target.family, bool(target.mma))
    shapes.sort(key=lambda s: tiles.shape_class(s) in known)
    until = time.monotonic() + budget
    outcomes = []
    with tqdm(shapes, desc=device.name, unit="class") as bar:
        for done, shape in enumerate(bar):
            left = until - time.monotonic()
            if left <= 0:
                break
            name = tiles.shape_class(shape)
            # A dear class may take more than its share, since others take less.
            share = max(2 * left / (len(shapes) - done), 2.0)
            outcome = measure(device, shape, target, share, _teller(bar, name))
            if outcome is not None:
                outcomes.append(outcome)
                keep(device, [outcome.winner])
    return outcomes
