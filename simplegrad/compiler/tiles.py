"""Which tile a template works in: ranked candidates per device kind and class of shapes.

A *recipe* names what can be chosen freely, such as ``MR=6 NV=2 KB=256 MB=96 NB=128``; fitted to a
shape and a device it is a `Tile`, the parameters that the template takes and the size of its
launch. The first candidate serves a device that nobody measured; `Target.tuned` holds what
measuring (`runtime.tuner`) found. A recipe from outside counts only if it is a candidate here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from simplegrad.compiler.ctext import width
from simplegrad.compiler.target import Target, Winner

Recipe = dict[str, int]
"""Parameters chosen freely, in the order in which they are written."""


@dataclass(frozen=True)
class Shape:
    """What decides a tile, beside the device."""

    template: str
    """Template and variant, as in `Body.origin`."""
    extents: tuple[int, ...]
    """(batch, m, n, k) of a contraction, (batch, i, j) of a turned view; in elements."""
    ctype: str = "float"
    """The C type computed with."""
    layout: tuple[int, ...] = ()
    """A_UNIT and B_UNIT of a contraction, and whether its results stand in a row along n."""


@dataclass(frozen=True)
class Tile:
    """A recipe fitted to a shape."""

    shape: Shape
    recipe: str
    stem: str
    """The template's file, without its ending."""
    parameters: dict[str, int]
    """Macros of the template."""
    groups: int
    """Work-groups of the launch."""
    group_size: int = 1
    why: str = "default for this device kind"


def candidates(shape: Shape, target: Target) -> list[Tile]:
    """Return the tiles worth measuring, no two of them alike; the first is the default."""
    rank, fit = _TEMPLATES[shape.template]
    found: list[Tile] = []
    for recipe in rank(shape, target):
        stem, parameters, groups, group_size = fit(recipe, shape, target)
        if all(parameters != tile.parameters for tile in found):
            text = " ".join(f"{name}={number}" for name, number in recipe.items())
            found.append(Tile(shape, text, stem, parameters, groups, group_size))
    return found


def choose(shape: Shape, target: Target) -> Tile:
    """Return the tile that a template works in: the tuned one, or the default."""
    found = candidates(shape, target)
    winner = _winners(target.tuned).get(shape_class(shape))
    if winner is None:
        return found[0]
    for tile in found:
        if tile.recipe == winner.recipe:
            said = f"{winner.gain:.2f} times as fast as the default"
            if tile is found[0]:
                said = "no candidate was clearly faster"
            return replace(tile, why=f"tuned on {winner.date}: {said}")
    return replace(found[0], why=f"default; the tuned {winner.recipe} is no candidate here")


@lru_cache(maxsize=64)
def _winners(tuned: frozenset[Winner]) -> dict[str, Winner]:
    return {winner.shape_class: winner for winner in tuned}


def shape_class(shape: Shape) -> str:
    """Return the name of all shapes that share a winner: tiny extents, and powers of two.

    >>> shape_class(Shape("einsum_cpu tile", (1, 1000, 777, 3), layout=(1, 2, 1)))
    'einsum_cpu tile, float, 1x1024x1024x3, layout 121'
    """
    extents = "x".join(str(n if n <= _EXACT else 1 << round(math.log2(n))) for n in shape.extents)
    layout = "".join(map(str, shape.layout))
    return f"{shape.template}, {shape.ctype}, {extents}" + f", layout {layout}" * bool(layout)


_EXACT = 4
"""Extents up to which a template is another one for each."""
_Fitted = tuple[str, dict[str, int], int, int]
"""(template, its parameters, work-groups, work-items of a group)"""


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


# Contraction on CPUs ------------------------------------------------------------------------------


def _rank_tile(shape: Shape, target: Target) -> Iterator[Recipe]:
    """Register tiles of 12 sums where there are 16 registers, of 24 where there are 32."""
    few = target.vector_width <= 8
    best, *others = ((6, 2), (4, 3), (12, 1)) if few else ((8, 3), (12, 2), (6, 4), (14, 2))
    base = {"MR": best[0], "NV": best[1], "KB": 256, "MB": 96, "NB": 128}
    yield base
    for mr, nv in others:
        yield {**base, "MR": mr, "NV": nv}
    for change in ({"KB": 128}, {"KB": 512}, {"MB": 48}, {"MB": 192}, {"NB": 64}, {"NB": 256}):
        yield {**base, **change}


def _fit_tile(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    lanes = target.vector_width
    batch, m, n, k = shape.extents
    nv, mr = min(recipe["NV"], -(-n // lanes)), min(recipe["MR"], m)
    nr = nv * lanes
    nb = min(max(recipe["NB"] // nr, 1) * nr, _up(n, nr))
    mb = min(max(recipe["MB"] // mr, 1) * mr, _up(m, mr))
    want = 4 * target.compute_units
    while batch * -(-m // mb) * -(-n // nb) < want and mb > 2 * mr:
        mb = _up(-(-mb // 2), mr)
    tiles = batch * -(-m // mb) * -(-n // nb)
    per_item = max(1, min(tiles // (8 * target.compute_units), (1 << 18) // (mb * nb * k)))
    parameters = {"MR": mr, "NV": nv, "KB": min(recipe["KB"], _up(k, lanes))}
    parameters |= {"MB": mb, "NB": nb, "TILES_PER_ITEM": per_item}
    return "einsum_cpu", parameters, -(-tiles // per_item), 1


def _rank_dot(shape: Shape, target: Target) -> Iterator[Recipe]:
    best, *others = {
        1: ((4, 2), (2, 4), (8, 1)),
        2: ((2, 2), (4, 1), (1, 4)),
        3: ((2, 2), (4, 1), (1, 4)),
        4: ((2, 1), (1, 2), (3, 1)),
    }[shape.extents[2]]
    base = {"MR": best[0], "KU": best[1], "KB": 1024, "MB": 64}
    yield base
    for mr, ku in others:
        yield {**base, "MR": mr, "KU": ku}
    for change in ({"KB": 512}, {"KB": 4096}, {"MB": 32}):
        yield {**base, **change}


def _fit_dot(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, m, _, k = shape.extents
    mr, items = recipe["MR"], 4 * target.compute_units
    mb = min(_up(recipe["MB"], mr), _up(max(m * batch // items, 1), mr), _up(m, mr))
    kb = min(recipe["KB"], _up(k, target.vector_width))
    parameters = {"VARIANT": 1, "MR": mr, "KU": recipe["KU"], "MB": mb, "KB": kb}
    return "einsum_cpu_skinny", parameters, batch * -(-m // mb), 1


def _rank_strip(shape: Shape, target: Target) -> Iterator[Recipe]:
    nv = {1: 8, 2: 4, 3: 4, 4: 2}[shape.extents[1]]
    base = {"NV": nv, "KB": 64, "NB": 128}
    yield base
    for change in ({"NV": nv // 2}, {"KB": 32}, {"KB": 256}, {"NB": 256}, {"NB": 512}):
        yield {**base, **change}


def _fit_strip(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    lanes = target.vector_width
    batch, _, n, _ = shape.extents
    nv = min(recipe["NV"], n // lanes)
    nr = nv * lanes
    nb = min(max(recipe["NB"] // nr, 1) * nr, _up(n, nr))
    parameters = {"VARIANT": 2, "NV": nv, "NB": nb, "KB": recipe["KB"]}
    return "einsum_cpu_skinny", parameters, batch * -(-n // nb), 1


def _rank_outer(shape: Shape, target: Target) -> Iterator[Recipe]:
    base = {"NV": 4, "NB": 512, "MB": 64}
    yield base
    for change in ({"NB": 2048}, {"NB": 128}, {"MB": 16}, {"MB": 256}):
        yield {**base, **change}


def _fit_outer(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, m, n, _ = shape.extents
    lanes, items = target.vector_width, 4 * target.compute_units
    nv = recipe["NV"] if n >= recipe["NV"] * lanes else 1
    nb = min(max(recipe["NB"] // (nv * lanes), 1) * nv * lanes, _up(n, nv * lanes))
    mb = min(recipe["MB"], max(m * batch // items, 1))
    parameters = {"VARIANT": 3, "NV": nv, "NB": nb, "MB": mb}
    return "einsum_cpu_skinny", parameters, batch * -(-m // mb) * -(-n // nb), 1


# Contraction on GPUs ------------------------------------------------------------------------------


def _rank_gpu(shape: Shape, target: Target) -> Iterator[Recipe]:
    batch, m, n, _ = shape.extents
    wide = {"VW": 4, "TM": 64, "TN": 64, "WM": 16, "WN": 16}
    small = {"VW": 2, "TM": 16, "TN": 16, "WM": 8, "WN": 8}
    # Small tiles where large ones would leave most of the device idle, or mostly be padding.
    large = m > 32 and n > 32 and target.max_work_group >= 256
    large = large and batch * -(-m // 64) * -(-n // 64) >= target.compute_units
    yield wide if large else small
    if target.max_work_group >= 256:
        yield small if large else wide


def _fit_gpu(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, m, n, _ = shape.extents
    groups = batch * -(-m // recipe["TM"]) * -(-n // recipe["TN"])
    return "einsum_gpu", dict(recipe), groups, recipe["WM"] * recipe["WN"]


# Turned views -------------------------------------------------------------------------------------


def _rank_turned(shape: Shape, target: Target) -> Iterator[Recipe]:
    """Tiles of some 8 KiB, in runs of whole cache lines."""
    ti, tj = {1: (64, 64), 2: (64, 64), 4: (32, 64), 8: (32, 32)}[width(shape.ctype)]
    yield {"TI": ti, "TJ": tj}
    for change in ({"TJ": 2 * tj}, {"TI": 2 * ti}, {"TI": ti // 2, "TJ": tj // 2}):
        yield {"TI": ti, "TJ": tj, **change}


def _fit_turned(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, i, j = shape.extents
    ti, tj = recipe["TI"], recipe["TJ"]
    tiles = batch * -(-i // ti) * -(-j // tj)
    each = max(1, tiles // (16 * target.compute_units))
    parameters = {"TI": ti, "TJ": tj, "PITCH": tj + 64 // width(shape.ctype), "TILES": each}
    return "as_strided", parameters, -(-tiles // each), 1


def _rank_turned_gpu(shape: Shape, target: Target) -> Iterator[Recipe]:
    yield {"TI": 32, "TJ": 32, "ROWS": 8}


def _fit_turned_gpu(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, i, j = shape.extents
    ti, tj = recipe["TI"], recipe["TJ"]
    parameters = {**recipe, "PITCH": tj + 1, "TILES": 1}
    return "as_strided", parameters, batch * -(-i // ti) * -(-j // tj), ti * recipe["ROWS"]


_Rank = Callable[[Shape, Target], Iterator[Recipe]]
_Fit = Callable[[Recipe, Shape, Target], _Fitted]
_TEMPLATES: dict[str, tuple[_Rank, _Fit]] = {
    "einsum_cpu tile": (_rank_tile, _fit_tile),
    "einsum_cpu_skinny dot": (_rank_dot, _fit_dot),
    "einsum_cpu_skinny strip": (_rank_strip, _fit_strip),
    "einsum_cpu_skinny outer": (_rank_outer, _fit_outer),
    "einsum_gpu": (_rank_gpu, _fit_gpu),
    "as_strided cpu": (_rank_turned, _fit_turned),
    "as_strided gpu": (_rank_turned_gpu, _fit_turned_gpu),
}
