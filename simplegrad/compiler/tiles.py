"""Which tile a template works in: ranked candidates per device kind and class of shapes.

A *recipe* names what can be chosen freely, such as ``MR=6 NV=2 KB=256 MB=96 NB=128 SPLIT=0``;
fitted to a shape and a device it is a `Tile`, the parameters that the template takes and the size
of its launch. A template offers a few independent *choices*, the best guess first in each. The
first of all serves a device that nobody measured; `Target.tuned` holds what measuring
(`runtime.tuner`) found. A recipe from outside counts only if every choice in it is offered here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from simplegrad.compiler.ir.symbolic import ceil_div, estimate, symbolic
from simplegrad.compiler.target import Target, Winner
from simplegrad.dtypes import width

Recipe = dict[str, int]
"""Parameters chosen freely, in the order in which they are written."""


@dataclass(frozen=True)
class Shape:
    """What decides a tile, beside the device."""

    template: str
    """Template and variant, as in `Body.origin`."""
    extents: tuple[int, ...]
    """(batch, m, n, k) of a contraction, (batch, i, j) of a turned view, (batch, columns, rows, d,
    e) of an attention, (batch, hidden, multiplied, products, lanes) of a recurrence."""
    ctype: str = "float"
    """The C type computed with; on matrix units, what they read: half, bfloat16 or tf32."""
    layout: tuple[int, ...] = ()
    """A_UNIT and B_UNIT of a contraction, and whether its results stand in a row along n."""
    parts: int = 0
    """Parts into which k has been cut already; 0: it is whole."""


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
    choices, _ = _TEMPLATES[shape.template]
    offered = choices(shape, target)
    base: Recipe = {}
    for choice in offered:
        base |= choice[0]
    found: list[Tile] = []
    for recipe in [base, *[{**base, **other} for choice in offered for other in choice[1:]]]:
        tile = _fitted(recipe, shape, target)
        if all(tile.parameters != known.parameters for known in found):
            found.append(tile)
    return found


def choose(shape: Shape, target: Target) -> Tile:
    """Return the tile that a template works in: the tuned one, or the default.

    Extents that stand for any number are taken to be typical; the launch grows with them.
    """
    if any(map(symbolic, shape.extents)):
        tile = choose(replace(shape, extents=tuple(map(estimate, shape.extents))), target)
        return replace(tile, groups=_groups(tile, shape.extents))
    default = candidates(shape, target)[0]
    winner = _winners(target.tuned).get(shape_class(shape))
    if winner is None:
        return default
    if winner.recipe == default.recipe:
        return replace(default, why=f"tuned on {winner.date}: no candidate was clearly faster")
    recipe = _parsed(winner.recipe)
    choices, _ = _TEMPLATES[shape.template]
    offered = choices(shape, target)
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

_Choices = list[list[Recipe]]
"""Independent choices, the best guess first in each."""
_Fitted = tuple[str, dict[str, int], int, int]
"""(template, its parameters, work-groups, work-items of a group)"""


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _each(name: str, *numbers: int) -> list[Recipe]:
    return [{name: number} for number in numbers]


# Long sums ----------------------------------------------------------------------------------------

_LEAST_DEPTH = 1024
"""Shortest part of k that is worth a second stage."""
_MOST_PARTS = 256
_PER_UNIT = 4
"""Work-items that keep a CPU's compute unit busy to the end."""


def _split_choice(shape: Shape, whole: int, target: Target) -> list[Recipe]:
    """Return whether k is cut: SPLIT is the parts, over all tiles, of one compute unit; 0: whole.

    By default it is where the tiles leave compute units idle, and the sums of the parts are little
    beside the operands.
    """
    _, m, n, k = shape.extents
    parts = _parts({"SPLIT": _PER_UNIT}, shape, whole, target)
    small = 8 * parts * m * n <= (m + n) * k
    order = (_PER_UNIT, 0) if parts > 1 and small else (0, _PER_UNIT)
    return _each("SPLIT", *order, 2 * _PER_UNIT)


def _parts(recipe: Recipe, shape: Shape, whole: int, target: Target) -> int:
    """Return the parts of k; `whole` is the number of tiles where k is not cut."""
    if shape.parts:
        return shape.parts
    wanted = -(-recipe["SPLIT"] * target.compute_units // whole)
    return max(1, min(wanted, shape.extents[3] // _LEAST_DEPTH, _MOST_PARTS))


# Contraction on CPUs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Blocks:
    """How a product is cut into tiles, and what that should cost in vector operations."""

    rows: int
    columns: int
    parts: int
    tiles: int
    cost: float


def _tile_choices(shape: Shape, target: Target) -> _Choices:
    """Register tiles of 12 sums where there are 16 registers, of 24 where there are 32."""
    batch, m, n, _ = shape.extents
    pairs = [(6, 2), (4, 3), (12, 1)] if target.vector_width <= 8 else [(8, 3), (6, 4), (12, 2)]
    split = _split_choice(shape, batch * -(-m // 132) * -(-n // 256), target)
    large = {"MB": 132, "NB": 256, **split[0]}
    registers = [{"MR": mr, "NV": nv} for mr, nv in pairs]
    registers.sort(key=lambda pair: _blocks({**pair, **large}, shape, target).cost)
    return [
        registers, _each("KB", 256, 128, 512), _each("MB", 132, 48, 264), _each("NB", 256, 128, 64),
        split,
    ]  # fmt: skip


def _fit_tile(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    k = shape.extents[3]
    mr, nv = _registers(recipe, shape, target)
    cut = _blocks(recipe, shape, target)
    depth = max(-(-k // cut.parts), 1)
    kb = _up(-(-depth // max(round(depth / recipe["KB"]), 1)), target.vector_width)
    work = cut.rows * cut.columns * depth
    per_item = max(1, min(cut.tiles // (8 * target.compute_units), (1 << 18) // work))
    parameters = {"MR": mr, "NV": nv, "KB": kb, "MB": cut.rows, "NB": cut.columns}
    parameters |= {"TILES_PER_ITEM": per_item, "SPLIT_K": cut.parts}
    return "einsum_cpu", parameters, -(-cut.tiles // per_item), 1


def _registers(recipe: Recipe, shape: Shape, target: Target) -> tuple[int, int]:
    """Return the rows of a register tile, and its vectors per row."""
    _, m, n, _ = shape.extents
    return min(recipe["MR"], m), min(recipe["NV"], -(-n // target.vector_width))


def _blocks(recipe: Recipe, shape: Shape, target: Target) -> _Blocks:
    """Return the cheapest tiles of at most MB rows and NB columns (more, where rows are few).

    They are of equal size as far as it goes: of two compute units that take three tiles of
    unequal height, one waits.
    """
    batch, m, n, k = shape.extents
    mr, nv = _registers(recipe, shape, target)
    nr, units = nv * target.vector_width, target.compute_units
    most_rows = min(max(recipe["MB"] // mr, 1) * mr, _up(m, mr))
    most_columns = max(recipe["NB"], nr) * max(recipe["MB"] // most_rows, 1)
    whole = batch * -(-m // most_rows) * -(-n // most_columns)
    parts = _parts(recipe, shape, whole, target)
    depth = -(-k // parts)
    a_unit, b_unit, _ = shape.layout or (1, 2, 1)
    in_a, in_b = _PACKED_A[a_unit], _PACKED_B[b_unit]
    # Of one element of a register tile and step of k: it also loads a row and a column.
    each = (1 + (mr + nv) / (4 * mr * nv)) * depth / target.vector_width

    def cut(rows: int, columns: int) -> _Blocks:
        rows, columns = _up(-(-m // rows), mr), _up(-(-n // columns), nr)
        tiles = batch * parts * -(-m // rows) * -(-n // columns)
        tile = rows * columns * each
        tile += (rows * in_a + columns * in_b) * depth / target.vector_width
        # An eighth of a tile: units are not equally fast, or start late.
        return _Blocks(rows, columns, parts, tiles, tile * (-(-tiles // units) + 1 / 8))

    found = [
        cut(rows, columns)
        for rows in _numbers_of_blocks(m, most_rows)
        for columns in _numbers_of_blocks(n, most_columns)
    ]
    return min(found, key=lambda blocks: blocks.cost)


_PACKED_A, _PACKED_B = (24.0, 6.0, 6.0), (24.0, 10.0, 6.0)
"""Cost of packing an element, by A_UNIT and B_UNIT, beside a product of two elements."""


def _numbers_of_blocks(extent: int, most: int) -> list[int]:
    """Return into how many blocks of at most `most` an extent may be cut."""
    first = max(-(-extent // most), 1)
    return [first, first + 1, first + 2, first + 3, 2 * first, 4 * first, 8 * first]


def _dot_choices(shape: Shape, target: Target) -> _Choices:
    batch, m, n, _ = shape.extents
    pairs = {
        1: ((4, 2), (2, 4), (8, 1)),
        2: ((2, 2), (4, 1), (1, 4)),
        3: ((2, 2), (4, 1), (1, 4)),
        4: ((2, 1), (1, 2), (3, 1)),
    }[n]
    return [
        [{"MR": mr, "KU": ku} for mr, ku in pairs], _each("KB", 1024, 512, 4096),
        _each("MB", 64, 32), _split_choice(shape, batch * -(-m // pairs[0][0]), target),
    ]  # fmt: skip


def _fit_dot(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, m, _, k = shape.extents
    mr = recipe["MR"]
    parts = _parts(recipe, shape, batch * -(-m // mr), target)
    items = max(4 * target.compute_units // parts, 1)
    mb = min(_up(recipe["MB"], mr), _up(max(m * batch // items, 1), mr), _up(m, mr))
    kb = min(recipe["KB"], _up(k, target.vector_width))
    parameters = {"VARIANT": 1, "MR": mr, "KU": recipe["KU"], "MB": mb, "KB": kb, "SPLIT_K": parts}
    return "einsum_cpu_skinny", parameters, batch * parts * -(-m // mb), 1


def _strip_choices(shape: Shape, target: Target) -> _Choices:
    batch, m, n, _ = shape.extents
    nv = {1: 8, 2: 4, 3: 4, 4: 2}[m]
    return [
        _each("NV", nv, nv // 2), _each("KB", 64, 32, 256), _each("NB", 128, 256, 512),
        _split_choice(shape, batch * -(-n // 128), target),
    ]  # fmt: skip


def _fit_strip(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    lanes = target.vector_width
    batch, _, n, _ = shape.extents
    nv = min(recipe["NV"], n // lanes)
    nr = nv * lanes
    nb = min(max(recipe["NB"] // nr, 1) * nr, _up(n, nr))
    blocks = batch * -(-n // nb)
    parts = _parts(recipe, shape, blocks, target)
    parameters = {"VARIANT": 2, "NV": nv, "NB": nb, "KB": recipe["KB"], "SPLIT_K": parts}
    return "einsum_cpu_skinny", parameters, blocks * parts, 1


def _outer_choices(shape: Shape, target: Target) -> _Choices:
    return [_each("NV", 4), _each("NB", 512, 2048, 128), _each("MB", 64, 16, 256)]


def _fit_outer(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, m, n, _ = shape.extents
    lanes, items = target.vector_width, 4 * target.compute_units
    nv = recipe["NV"] if n >= recipe["NV"] * lanes else 1
    nb = min(max(recipe["NB"] // (nv * lanes), 1) * nv * lanes, _up(n, nv * lanes))
    mb = min(recipe["MB"], max(m * batch // items, 1))
    parameters = {"VARIANT": 3, "NV": nv, "NB": nb, "MB": mb}
    return "einsum_cpu_skinny", parameters, batch * -(-m // mb) * -(-n // nb), 1


# Contraction on GPUs ------------------------------------------------------------------------------


_GPU_TILES = {
    "huge": {"VW": 4, "TM": 128, "TN": 128, "TK": 8, "WM": 16, "WN": 16},
    "tall": {"VW": 4, "TM": 128, "TN": 64, "TK": 16, "WM": 16, "WN": 16},
    "wide": {"VW": 4, "TM": 64, "TN": 64, "TK": 16, "WM": 16, "WN": 16},
    "small": {"VW": 2, "TM": 16, "TN": 16, "TK": 16, "WM": 8, "WN": 8},
}


def _gpu_choices(shape: Shape, target: Target) -> _Choices:
    """The largest tile that is not mostly padding, and leaves no compute unit idle."""
    batch, m, n, _ = shape.extents

    def groups(tile: Recipe) -> int:
        return batch * -(-m // tile["TM"]) * -(-n // tile["TN"])

    def fits(name: str) -> bool:
        tile = _GPU_TILES[name]
        full = 2 * m > tile["TM"] and 2 * n > tile["TN"]
        busy = groups(tile) >= (2 if name == "huge" else 1) * target.compute_units
        return full and busy and target.max_work_group >= 256

    best = next((name for name in ("huge", "wide") if fits(name)), "small")
    names = [best, *[name for name in _GPU_TILES if name != best]]
    if target.max_work_group < 256:
        names = ["small"]
    tiles = [_GPU_TILES[name] for name in names]
    return [tiles, _each("BUFFERS", 2, 1), _split_choice(shape, groups(tiles[0]), target)]


def _fit_gpu(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, m, n, _ = shape.extents
    groups = batch * -(-m // recipe["TM"]) * -(-n // recipe["TN"])
    parts = _parts(recipe, shape, groups, target)
    parameters = {name: number for name, number in recipe.items() if name != "SPLIT"}
    parameters["SPLIT_K"] = parts
    rows = recipe["TM"] + recipe["TN"] + 2 * recipe["VW"]
    if 2 * width(shape.ctype) * recipe["TK"] * rows > target.local_bytes:
        parameters["BUFFERS"] = 1
    return "einsum_gpu", parameters, groups * parts, recipe["WM"] * recipe["WN"]


def _mma_choices(shape: Shape, target: Target) -> _Choices:
    batch, m, n, _ = shape.extents
    tiles = [{"TM": tm, "TN": tn} for tm, tn in ((128, 64), (64, 64), (128, 128), (64, 32))]

    def groups(tile: Recipe) -> int:
        return batch * -(-m // tile["TM"]) * -(-n // tile["TN"])

    order = (0, 1, 3) if min(m, n) > 32 else (3,)
    best = next((i for i in order if groups(tiles[i]) >= target.compute_units), 3)
    tiles.insert(0, tiles.pop(best))
    return [tiles, _split_choice(shape, groups(tiles[0]), target)]


def _fit_mma(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, m, n, _ = shape.extents
    groups = batch * -(-m // recipe["TM"]) * -(-n // recipe["TN"])
    parts = _parts(recipe, shape, groups, target)
    # Vectors of 16 bytes.
    lanes = 4 if shape.ctype == "tf32" else 8
    parameters = {"VW": lanes, "TM": recipe["TM"], "TN": recipe["TN"], "SPLIT_K": parts}
    return "einsum_mma", parameters, groups * parts, 128


# Turned views -------------------------------------------------------------------------------------


def _turned_choices(shape: Shape, target: Target) -> _Choices:
    """Tiles of some 8 KiB, in runs of whole cache lines."""
    ti, tj = {1: (64, 64), 2: (64, 64), 4: (32, 64), 8: (32, 32)}[width(shape.ctype)]
    return [_each("TI", ti, 2 * ti, ti // 2), _each("TJ", tj, 2 * tj, tj // 2)]


def _fit_turned(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, i, j = shape.extents
    ti, tj = recipe["TI"], recipe["TJ"]
    tiles = batch * -(-i // ti) * -(-j // tj)
    each = max(1, tiles // (16 * target.compute_units))
    parameters = {"TI": ti, "TJ": tj, "PITCH": tj + 64 // width(shape.ctype), "TILES": each}
    return "as_strided", parameters, -(-tiles // each), 1


def _turned_gpu_choices(shape: Shape, target: Target) -> _Choices:
    return [[{"TI": 32, "TJ": 32, "ROWS": 8}]]


def _fit_turned_gpu(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, i, j = shape.extents
    ti, tj = recipe["TI"], recipe["TJ"]
    parameters = {**recipe, "PITCH": tj + 1, "TILES": 1}
    return "as_strided", parameters, batch * -(-i // ti) * -(-j // tj), ti * recipe["ROWS"]


# Attention ----------------------------------------------------------------------------------------


def _attention_choices(shape: Shape, target: Target) -> _Choices:
    """Register tiles of 12 or 16 sums; blocks of rows that stay in the L1 cache."""
    few = target.vector_width <= 8
    tiles = ((6, 2), (4, 3)) if few else ((8, 2), (12, 2), (8, 3))
    return [
        [{"MR": mr, "NV": nv} for mr, nv in tiles],
        [{"CB": cb} for cb in (64, 32, 128)],
        [{"RB": rb} for rb in (48, 24, 96)],
    ]


def _fit_attention(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, columns, rows = shape.extents[:3]
    nv = min(recipe["NV"], -(-columns // target.vector_width))
    nr, mr = nv * target.vector_width, recipe["MR"]
    cb = min(max(recipe["CB"] // nr, 1) * nr, _up(columns, nr))
    while cb > nr and batch * -(-columns // cb) < 4 * target.compute_units:
        cb -= nr
    parameters = {"MR": mr, "NV": nv, "CB": cb, "RB": min(_up(recipe["RB"], mr), _up(rows, mr))}
    return "attention_cpu", parameters, batch * -(-columns // cb), 1


def _attention_gpu_choices(shape: Shape, target: Target) -> _Choices:
    """The tiles whose columns, rows and weights fit the local memory, largest first."""
    *_, d, e = shape.extents
    fitting = []
    for tc, tr in ((32, 32), (32, 16), (16, 16), (16, 8), (8, 8)):
        elements = (tc + tr) * (d + e + 2) + 2 * tr * (tc + 1) + 2 * max(tc, tr)
        if elements * width(shape.ctype) <= target.local_bytes or tc == tr == 8:
            fitting.append({"SIDE": 8, "TC": tc, "TR": tr})
    return [fitting]


def _fit_attention_gpu(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, columns = shape.extents[:2]
    groups = batch * -(-columns // recipe["TC"])
    return "attention_gpu", dict(recipe), groups, recipe["SIDE"] ** 2


# Recurrences --------------------------------------------------------------------------------------


def _scan_choices(shape: Shape, target: Target) -> _Choices:
    """Register tiles of some 12 sums; as many rows as keep every compute unit busy."""
    batch, hidden, _, products, lanes = shape.extents
    few = target.vector_width <= 8
    vectors = hidden * products // lanes
    rows = -(-batch // target.compute_units)
    tiles = [
        {"MR": min(mr, rows), "NV": min(nv, vectors)}
        for mr, nv in (((6, 2), (4, 3), (2, 5)) if few else ((8, 3), (6, 4), (4, 6)))
    ]
    if rows < 4:
        most = 12 if few else 24
        tiles.insert(0, {"MR": rows, "NV": min(most // rows, 8, vectors)})
    return [tiles, _each("ITEMS", 1, 2)]


def _fit_scan(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch = shape.extents[0]
    rows = -(-batch // (target.compute_units * recipe["ITEMS"]))
    mr = min(recipe["MR"], rows)
    bb = _up(rows, mr)
    return "scan_cpu", {"MR": mr, "NV": recipe["NV"], "BB": bb}, -(-batch // bb), 1


def _scan_gpu_choices(shape: Shape, target: Target) -> _Choices:
    """A work-item a hidden unit; more rows a group share what is read of the matrix."""
    batch, _, _, products, _ = shape.extents
    most = max(-(-batch // target.compute_units), 1)
    rows = [bb for bb in (4, 2, 1, 8) if bb <= min(most, 32 // products)] or [1]
    return [_each("BB", *rows), _each("DC", 64, 256)]


def _fit_scan_gpu(recipe: Recipe, shape: Shape, target: Target) -> _Fitted:
    batch, hidden, multiplied, *_ = shape.extents
    group = min(1 << (hidden - 1).bit_length(), 256, 1 << (target.max_work_group.bit_length() - 1))
    bb, dc = recipe["BB"], min(recipe["DC"], _up(hidden * multiplied, 32))
    return "scan_gpu", {"WG": group, "BB": bb, "DC": dc}, -(-batch // bb), group


_TEMPLATES: dict[
    str, tuple[Callable[[Shape, Target], _Choices], Callable[[Recipe, Shape, Target], _Fitted]]
] = {
    "einsum_cpu tile": (_tile_choices, _fit_tile),
    "einsum_cpu_skinny dot": (_dot_choices, _fit_dot),
    "einsum_cpu_skinny strip": (_strip_choices, _fit_strip),
    "einsum_cpu_skinny outer": (_outer_choices, _fit_outer),
    "einsum_gpu": (_gpu_choices, _fit_gpu),
    "einsum_mma": (_mma_choices, _fit_mma),
    "as_strided cpu": (_turned_choices, _fit_turned),
    "as_strided gpu": (_turned_gpu_choices, _fit_turned_gpu),
    "attention_cpu": (_attention_choices, _fit_attention),
    "attention_gpu": (_attention_gpu_choices, _fit_attention_gpu),
    "scan_cpu": (_scan_choices, _fit_scan),
    "scan_gpu": (_scan_gpu_choices, _fit_scan_gpu),
}
