"""The tuner: candidate tiles are measured on the device, and clear winners are kept.

A class of shapes is measured by a plain case of it (`tuner_cases`). Every candidate's result is
compared with NumPy's before it is timed. Speeds drift, so candidates are timed in turns with the
default, by the device's own events; what counts is the median of the ratios within a turn, and a
candidate wins by a clear margin or not at all. Candidates change one choice of the default's; what
was faster alone is tried together.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simplegrad.compiler import tiles
from simplegrad.compiler.pipeline import compile_graph, fitted
from simplegrad.compiler.program import Program
from simplegrad.compiler.target import Target, Winner
from simplegrad.compiler.tiles import Shape, Tile
from simplegrad.errors import DeviceError
from simplegrad.graph.node import Node, topological
from simplegrad.runtime import tuned
from simplegrad.runtime.opencl import OpenCLDevice
from simplegrad.runtime.plan import Plan
from simplegrad.runtime.tuner_cases import Case, case_of

_MARGIN = 1.05
"""Median of the ratios from which a candidate is clearly faster; three quarters reach 1.02."""
_FIRST_TURNS = 3
_LAST_TURNS = 11
_FINALISTS = 3
_SAMPLE_SECONDS = 1e-3
_MOST_RUNS = 16
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
    case = case_of(shape, device)
    if case is None:
        return None
    order = topological(case.roots)
    name = tiles.shape_class(shape)
    met = _met(order, case.roots, known, name)
    if met is None:
        return None
    tile, width = met
    field = _Field(device, case, order, known, tile, until)
    for candidate in tiles.candidates(tile.shape, width):
        if field.plans and time.monotonic() > until:
            break
        say(candidate.recipe)
        if not field.enter(candidate) and candidate.recipe == tile.recipe:
            return None
    say("in turns")
    better = field.heats()
    both = tiles.combined(tile, better, width)
    if both is not None and time.monotonic() < until and field.enter(both):
        better.insert(0, both.recipe)
    recipe, gain = field.final(better)
    winner = Winner(name, recipe, round(gain, 3), datetime.date.today().isoformat())
    return Outcome(winner, tile.recipe, len(field.plans), tuple(field.wrong))


def _compiled(order: Sequence[Node], roots: Sequence[Node], target: Target) -> Program:
    return compile_graph(order, roots, target, fusion=True, fresh=True)


def _met(
    order: Sequence[Node], roots: Sequence[Node], target: Target, name: str
) -> tuple[Tile, Target] | None:
    """Return the tile that a class gets untuned, and the target that its kernel is fitted to.

    None where its case does not meet the class.
    """
    for launch in _compiled(order, roots, target).launches:
        tile = launch.source.tile
        if tile is not None and tiles.shape_class(tile.shape) == name:
            return tile, fitted(launch.kernels[0], target)
    return None


class _Field:
    """The candidates of one class of shapes, in turns with the default."""

    def __init__(
        self, device: OpenCLDevice, case: Case, order: Sequence[Node], target: Target,
        default: Tile, until: float,
    ) -> None:  # fmt: skip
        self.plans: dict[str, Plan] = {}
        self.wrong: list[str] = []
        self._device, self._case, self._order, self._target = device, case, order, target
        self._default, self._until = default, until
        self._runs: dict[str, int] = {}

    def enter(self, tile: Tile) -> bool:
        """Let a tile take part, if the driver gives NumPy's numbers with it."""
        winner = Winner(tiles.shape_class(tile.shape), tile.recipe, 1.0, "")
        target = replace(self._target, tuned=frozenset([winner]))
        plan = _checked(self._device, self._case, self._order, target)
        if plan is None:
            self.wrong.append(tile.recipe)
            return False
        self.plans[tile.recipe] = plan
        once = min(self._seconds(plan) for _ in range(2))
        self._runs[tile.recipe] = int(min(max(_SAMPLE_SECONDS / max(once, 1e-9), 1), _MOST_RUNS))
        return True

    def _seconds(self, plan: Plan) -> float:
        """Return the time of what a tile decides: second stages too, no other templates."""
        name = tiles.shape_class(self._default.shape)
        met = enumerate(launch.source.tile for launch in plan.program.launches)
        return plan.seconds([i for i, t in met if t is None or tiles.shape_class(t.shape) == name])

    def _sample(self, recipe: str) -> float:
        plan = self.plans[recipe]
        return float(np.median([self._seconds(plan) for _ in range(self._runs[recipe])]))

    def heats(self) -> list[str]:
        """Return the recipes that are faster than the default in a few turns, the best first."""
        others = [r for r in self.plans if r != self._default.recipe]
        ratios: dict[str, list[float]] = {r: [] for r in others}
        for turn in range(_FIRST_TURNS):
            base = self._sample(self._default.recipe)
            for recipe in others if turn % 2 else others[::-1]:
                ratios[recipe].append(base / self._sample(recipe))
        middle = {r: float(np.median(own)) for r, own in ratios.items()}
        return sorted((r for r in others if middle[r] > 1), key=lambda r: -middle[r])

    def final(self, better: Sequence[str]) -> tuple[str, float]:
        """Return the recipe to use, and how many times as fast as the default it is."""
        default = self._default.recipe
        finals: dict[str, list[float]] = {r: [] for r in better[:_FINALISTS]}
        for turn in range(_LAST_TURNS):
            if turn >= _FIRST_TURNS and time.monotonic() > self._until:
                break
            for recipe, own in finals.items():
                if turn % 2:
                    base, time_ = self._sample(default), self._sample(recipe)
                else:
                    time_, base = self._sample(recipe), self._sample(default)
                own.append(base / time_)
        best, gain = default, 1.0
        for recipe, own in finals.items():
            middle, low = float(np.median(own)), sorted(own)[len(own) // 4]
            if middle >= _MARGIN and low >= 1.02 and middle > gain:
                best, gain = recipe, middle
        return best, gain


def _checked(
    device: OpenCLDevice, case: Case, order: Sequence[Node], target: Target
) -> Plan | None:
    """Return a plan that has just given NumPy's numbers; None where the driver has others."""
    try:
        plan = Plan(_compiled(order, case.roots, target), device)
        found = plan.run(order, counted=False)
        got = [
            device.to_host(buffer, root.dtype, root.shape)
            for buffer, root in zip(found, case.roots, strict=True)
        ]
    except DeviceError:
        return None
    # Sums of float32 in another order: some 1e-6 of the largest; a wrong tile misses by much more.
    close = all(
        np.allclose(x, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))
        for x, want in zip(got, case.want, strict=True)
    )
    return plan if close else None


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


def usual_shapes(target: Target) -> list[Shape]:
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
    family, lanes = target.family, target.vector_width if target.family == "cpu" else 1
    attention = [
        Shape(f"attention_{family}", (64, 512, 512, 64, 64), layout=(stage,)) for stage in range(3)
    ]
    scans = [Shape(f"scan_{family}", (32, 64, *x, lanes)) for x in ((1, 4), (4, 1))]
    if family == "gpu":
        shapes = [Shape("einsum_gpu", extents, layout=layout) for extents, layout in products]
        if target.mma:
            large = products[:2] + products[9:11]
            shapes += [Shape("einsum_mma", e, "half", layout) for e, layout in large]
        return shapes + [Shape("as_strided gpu", v) for v in views] + attention + scans
    shapes = [Shape("einsum_cpu tile", extents, layout=layout) for extents, layout in products]
    skinny = [
        Shape("einsum_cpu_skinny dot", (1, 600, 3, 1024), layout=right),
        Shape("einsum_cpu_skinny strip", (1, 3, 1024, 600), layout=plain),
        Shape("einsum_cpu_skinny dot", (1, 4096, 2, 4096), layout=right),
        Shape("einsum_cpu_skinny strip", (1, 4, 4096, 4096), layout=plain),
    ]
    views_ = [Shape("as_strided cpu", v) for v in views]
    first = shapes[:3] + skinny[:2] + views_[:1] + attention[:1] + scans
    return first + shapes[3:] + skinny[2:] + views_[1:] + attention[1:]


def tune(device: OpenCLDevice, target: Target, budget: float) -> list[Outcome]:
    """Measure the usual shapes, those never measured first, for about `budget` seconds."""
    from tqdm import tqdm

    known = {w.shape_class for w in winners(device)}
    shapes = usual_shapes(target)
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
