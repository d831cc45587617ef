"""Which tile a template works in: ranked candidates per device kind and class of shapes.

A *recipe* names what can be chosen freely, such as ``MR=6 NV=2 KB=256 MB=96 NB=128 SPLIT=0``;
fitted to a shape and a device it is a `Tile`, the parameters that the template takes and the size
of its launch. A template offers a few independent *choices*, the best guess first in each. The
first of all serves a device that nobody measured; `Target.tuned` holds what measuring
(`runtime.tuner`) found. A recipe from outside counts only if every choice in it is offered here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from simplegrad.compiler.ir.symbolic import ceil_div, estimate, symbolic
from simplegrad.compiler.target import Target, Winner
from simplegrad.compiler.tiles import contraction, others
from simplegrad.compiler.tiles.recipes import Choices, Recipe, Shape, Tile

__all__ = ["Shape", "Tile", "candidates", "choose", "combined", "shape_class"]


def candidates(shape: Shape, target: Target) -> list[Tile]:
    """Return the tiles worth measuring, no two of them alike; the first is the default."""
    choices, _ = _TEMPLATES[shape.template]
    offered = choices(shape, target)
    base = _guess(offered)
    found: list[Tile] = []
    for recipe in [base, *[{**base, **other} for choice in offered for other in choice[1:]]]:
        tile = _fitted(recipe, shape, target)
        if all(tile.parameters != known.parameters for known in found):
            found.append(tile)
    return found


def _guess(offered: Choices) -> Recipe:
    """Return the first of every choice."""
    return {name: number for choice in offered for name, number in choice[0].items()}


def combined(default: Tile, better: Sequence[str], target: Target) -> Tile | None:
    """Return the tile that takes of every choice what the first of `better` changes there.

    None where that is the default, or one of `better`.
    """
    base, recipe = _parsed(default.recipe), _parsed(default.recipe)
    choices, _ = _TEMPLATES[default.shape.template]
    for choice in choices(default.shape, target):
        for other in map(_parsed, better):
            own = {name: other[name] for name in choice[0]}
            if not own.items() <= base.items():
                recipe |= own
                break
    tile = _fitted(recipe, default.shape, target)
    return None if tile.recipe in (default.recipe, *better) else tile


def choose(shape: Shape, target: Target) -> Tile:
    """Return the tile that a template works in: the tuned one, or the default.

    Extents that stand for any number are taken to be typical; the launch grows with them.
    """
    if any(map(symbolic, shape.extents)):
        tile = choose(replace(shape, extents=tuple(map(estimate, shape.extents))), target)
        return replace(tile, groups=_groups(tile, shape.extents))
    return _chosen(shape, target)


@lru_cache(maxsize=256)
def _chosen(shape: Shape, target: Target) -> Tile:
    choices, _ = _TEMPLATES[shape.template]
    offered = choices(shape, target)
    default = _fitted(_guess(offered), shape, target)
    winner = _winners(target.tuned).get(shape_class(shape))
    if winner is None:
        return default
    if winner.recipe == default.recipe:
        return replace(default, why=f"tuned on {winner.date}: no candidate was clearly faster")
    recipe = _parsed(winner.recipe)
    if recipe.keys() != {name for choice in offered for name in choice[0]} or not all(
        any(other.items() <= recipe.items() for other in choice) for choice in offered
    ):
        return replace(default, why=f"default; the tuned {winner.recipe} is not offered here")
    how = f"{winner.gain:.2f} times as fast as the default"
    return replace(_fitted(recipe, shape, target), why=f"tuned on {winner.date}: {how}")


def _groups(tile: Tile, extents: tuple[int, ...]) -> int:
    """Return the work-groups that a tile takes for other extents."""
    number = tile.parameters
    rows, columns = ("TI", "TJ") if tile.stem == "as_strided" else ("MB", "NB")
    if "TM" in number:
        rows, columns = "TM", "TN"
    elif "CB" in number or "TC" in number:
        rows, columns = ("CB" if "CB" in number else "TC"), ""
    if "BB" in number:
        return ceil_div(extents[0], number["BB"])
    tiles = extents[0] * number.get("SPLIT_K", 1)
    for extent, name in ((extents[1], rows), (extents[2], columns)):
        tiles *= ceil_div(extent, number[name]) if name in number else 1
    return ceil_div(tiles, number.get("TILES", number.get("TILES_PER_ITEM", 1)))


def _fitted(recipe: Recipe, shape: Shape, target: Target) -> Tile:
    _, fit = _TEMPLATES[shape.template]
    stem, parameters, groups, group_size = fit(recipe, shape, target)
    text = " ".join(f"{name}={number}" for name, number in recipe.items())
    return Tile(shape, text, stem, parameters, groups, group_size)


def _parsed(text: str) -> Recipe:
    pairs = [pair.split("=") for pair in text.split()]
    return {name: int(number) for name, number in pairs}


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


_TEMPLATES = contraction.TEMPLATES | others.TEMPLATES
