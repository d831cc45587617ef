"""Tiles of contractions, for both device families."""

from __future__ import annotations

from typing import NamedTuple

from simplegrad.compiler.target import Target
from simplegrad.compiler.tiles.recipes import Choices, Fitted, Recipe, Shape, Templates, each, up
from simplegrad.dtypes import width

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
    return each("SPLIT", *order, 2 * _PER_UNIT)


def _parts(recipe: Recipe, shape: Shape, whole: int, target: Target) -> int:
    """Return the parts of k; `whole` is the number of tiles where k is not cut."""
    if shape.parts:
        return shape.parts
    wanted = -(-recipe["SPLIT"] * target.compute_units // whole)
    return max(1, min(wanted, shape.extents[3] // _LEAST_DEPTH, _MOST_PARTS))


# Contraction on CPUs ------------------------------------------------------------------------------


class _Blocks(NamedTuple):
    """How a product is cut into tiles, and what that should cost in vector operations."""

    rows: int
    columns: int
    parts: int
    tiles: int
    cost: float


def _tile_choices(shape: Shape, target: Target) -> Choices:
    """Register tiles of 12 sums where there are 16 registers, of 24 where there are 32."""
    batch, m, n, _ = shape.extents
    pairs = [(6, 2), (4, 3), (12, 1)] if target.vector_width <= 8 else [(8, 3), (6, 4), (12, 2)]
    split = _split_choice(shape, batch * -(-m // 132) * -(-n // 256), target)
    large = {"MB": 132, "NB": 256, **split[0]}
    registers = [{"MR": mr, "NV": nv} for mr, nv in pairs]
    registers.sort(key=lambda pair: _blocks({**pair, **large}, shape, target).cost)
    return [
        registers, each("KB", 256, 128, 512), each("MB", 132, 48, 264), each("NB", 256, 128, 64),
        split,
    ]  # fmt: skip


def _fit_tile(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    k = shape.extents[3]
    mr, nv = _registers(recipe, shape, target)
    cut = _blocks(recipe, shape, target)
    depth = max(-(-k // cut.parts), 1)
    kb = up(-(-depth // max(round(depth / recipe["KB"]), 1)), target.vector_width)
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
    most_rows = min(max(recipe["MB"] // mr, 1) * mr, up(m, mr))
    most_columns = max(recipe["NB"], nr) * max(recipe["MB"] // most_rows, 1)
    whole = batch * -(-m // most_rows) * -(-n // most_columns)
    parts = _parts(recipe, shape, whole, target)
    depth = -(-k // parts)
    a_unit, b_unit, _ = shape.layout or (1, 2, 1)
    in_a, in_b = _PACKED_A[a_unit], _PACKED_B[b_unit]
    # Of one element of a register tile and step of k: it also loads a row and a column.
    each = (1 + (mr + nv) / (4 * mr * nv)) * depth / target.vector_width

    def cut(rows: int, columns: int) -> _Blocks:
        tiles = batch * parts * -(-m // rows) * -(-n // columns)
        tile = rows * columns * each
        tile += (rows * in_a + columns * in_b) * depth / target.vector_width
        # An eighth of a tile: units are not equally fast, or start late.
        return _Blocks(rows, columns, parts, tiles, tile * (-(-tiles // units) + 1 / 8))

    found = [
        cut(rows, columns)
        for rows in _block_sizes(m, most_rows, mr)
        for columns in _block_sizes(n, most_columns, nr)
    ]
    return min(found, key=lambda blocks: blocks.cost)


_PACKED_A, _PACKED_B = (24.0, 6.0, 6.0), (24.0, 10.0, 6.0)
"""Cost of packing an element, by A_UNIT and B_UNIT, beside a product of two elements."""


def _block_sizes(extent: int, most: int, step: int) -> list[int]:
    """Return sizes of equal blocks, multiples of `step`, that an extent may be cut into."""
    first = max(-(-extent // most), 1)
    numbers = (first, first + 1, first + 2, first + 3, 2 * first, 4 * first, 8 * first)
    return list(dict.fromkeys([up(-(-extent // number), step) for number in numbers]))


def _dot_choices(shape: Shape, target: Target) -> Choices:
    batch, m, n, k = shape.extents
    # Rows share what is read of B; three of four sums each only pay where k is long.
    pairs = {
        1: ((4, 2), (2, 4), (8, 1)),
        2: ((4, 1), (2, 2), (1, 4)),
        3: ((4, 1), (2, 2), (1, 4)),
        4: ((3, 1), (2, 1), (1, 2)) if k > 512 else ((2, 1), (1, 2), (3, 1)),
    }[n]
    return [
        [{"MR": mr, "KU": ku} for mr, ku in pairs], each("KB", 4096, 1024, 512),
        each("MB", 64, 32), _split_choice(shape, batch * -(-m // pairs[0][0]), target),
    ]  # fmt: skip


def _fit_dot(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, m, _, k = shape.extents
    mr = recipe["MR"]
    parts = _parts(recipe, shape, batch * -(-m // mr), target)
    items = max(4 * target.compute_units // parts, 1)
    mb = min(up(recipe["MB"], mr), up(max(m * batch // items, 1), mr), up(m, mr))
    kb = min(recipe["KB"], up(k, target.vector_width))
    parameters = {"VARIANT": 1, "MR": mr, "KU": recipe["KU"], "MB": mb, "KB": kb, "SPLIT_K": parts}
    return "einsum_cpu_skinny", parameters, batch * parts * -(-m // mb), 1


def _strip_choices(shape: Shape, target: Target) -> Choices:
    batch, m, n, _ = shape.extents
    nv = {1: 8, 2: 4, 3: 4, 4: 2}[m]
    return [
        each("NV", nv, nv // 2), each("KB", 64, 32, 256), each("NB", 128, 256, 512),
        _split_choice(shape, batch * -(-n // 128), target),
    ]  # fmt: skip


def _fit_strip(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    lanes = target.vector_width
    batch, _, n, _ = shape.extents
    nv = min(recipe["NV"], n // lanes)
    nr = nv * lanes
    nb = min(max(recipe["NB"] // nr, 1) * nr, up(n, nr))
    blocks = batch * -(-n // nb)
    parts = _parts(recipe, shape, blocks, target)
    parameters = {"VARIANT": 2, "NV": nv, "NB": nb, "KB": recipe["KB"], "SPLIT_K": parts}
    return "einsum_cpu_skinny", parameters, blocks * parts, 1


def _outer_choices(shape: Shape, target: Target) -> Choices:
    return [each("NV", 4), each("NB", 512, 2048, 128), each("MB", 64, 16, 256)]


def _fit_outer(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, m, n, _ = shape.extents
    lanes, items = target.vector_width, 4 * target.compute_units
    nv = recipe["NV"] if n >= recipe["NV"] * lanes else 1
    nb = min(max(recipe["NB"] // (nv * lanes), 1) * nv * lanes, up(n, nv * lanes))
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


def _gpu_choices(shape: Shape, target: Target) -> Choices:
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
    return [tiles, each("BUFFERS", 2, 1), _split_choice(shape, groups(tiles[0]), target)]


def _fit_gpu(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, m, n, _ = shape.extents
    groups = batch * -(-m // recipe["TM"]) * -(-n // recipe["TN"])
    parts = _parts(recipe, shape, groups, target)
    parameters = {name: number for name, number in recipe.items() if name != "SPLIT"}
    parameters["SPLIT_K"] = parts
    rows = recipe["TM"] + recipe["TN"] + 2 * recipe["VW"]
    if 2 * width(shape.ctype) * recipe["TK"] * rows > target.local_bytes:
        parameters["BUFFERS"] = 1
    return "einsum_gpu", parameters, groups * parts, recipe["WM"] * recipe["WN"]


def _mma_choices(shape: Shape, target: Target) -> Choices:
    batch, m, n, _ = shape.extents
    tiles = [{"TM": tm, "TN": tn} for tm, tn in ((128, 64), (64, 64), (128, 128), (64, 32))]

    def groups(tile: Recipe) -> int:
        return batch * -(-m // tile["TM"]) * -(-n // tile["TN"])

    order = (0, 1, 3) if min(m, n) > 32 else (3,)
    best = next((i for i in order if groups(tiles[i]) >= target.compute_units), 3)
    tiles.insert(0, tiles.pop(best))
    return [tiles, _split_choice(shape, groups(tiles[0]), target)]


def _fit_mma(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, m, n, _ = shape.extents
    groups = batch * -(-m // recipe["TM"]) * -(-n // recipe["TN"])
    parts = _parts(recipe, shape, groups, target)
    # Vectors of 16 bytes.
    lanes = 4 if shape.ctype == "tf32" else 8
    parameters = {"VW": lanes, "TM": recipe["TM"], "TN": recipe["TN"], "SPLIT_K": parts}
    return "einsum_mma", parameters, groups * parts, 128


TEMPLATES: Templates = {
    "einsum_cpu tile": (_tile_choices, _fit_tile),
    "einsum_cpu_skinny dot": (_dot_choices, _fit_dot),
    "einsum_cpu_skinny strip": (_strip_choices, _fit_strip),
    "einsum_cpu_skinny outer": (_outer_choices, _fit_outer),
    "einsum_gpu": (_gpu_choices, _fit_gpu),
    "einsum_mma": (_mma_choices, _fit_mma),
}
