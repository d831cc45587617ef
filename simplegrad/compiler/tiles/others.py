"""Tiles of turned views, attentions and recurrences."""

from __future__ import annotations

from simplegrad.compiler.target import Target
from simplegrad.compiler.tiles.recipes import Choices, Fitted, Recipe, Shape, Templates, each, up
from simplegrad.dtypes import width

# Turned views -------------------------------------------------------------------------------------


def _turned_choices(shape: Shape, target: Target) -> Choices:
    """Tiles of some 8 KiB, in runs of whole cache lines."""
    ti, tj = {1: (64, 64), 2: (64, 64), 4: (32, 64), 8: (32, 32)}[width(shape.ctype)]
    return [each("TI", ti, 2 * ti, ti // 2), each("TJ", tj, 2 * tj, tj // 2)]


def _fit_turned(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, i, j = shape.extents
    ti, tj = recipe["TI"], recipe["TJ"]
    tiles = batch * -(-i // ti) * -(-j // tj)
    each = max(1, tiles // (16 * target.compute_units))
    parameters = {"TI": ti, "TJ": tj, "PITCH": tj + 64 // width(shape.ctype), "TILES": each}
    return "as_strided", parameters, -(-tiles // each), 1


def _turned_gpu_choices(shape: Shape, target: Target) -> Choices:
    return [[{"TI": 32, "TJ": 32, "ROWS": 8}]]


def _fit_turned_gpu(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, i, j = shape.extents
    ti, tj = recipe["TI"], recipe["TJ"]
    parameters = {**recipe, "PITCH": tj + 1, "TILES": 1}
    return "as_strided", parameters, batch * -(-i // ti) * -(-j // tj), ti * recipe["ROWS"]


# Attention ----------------------------------------------------------------------------------------


def _attention_choices(shape: Shape, target: Target) -> Choices:
    """Register tiles of 12 or 16 sums; blocks of rows that stay in the L1 cache."""
    few = target.vector_width <= 8
    tiles = ((6, 2), (4, 3)) if few else ((8, 2), (12, 2), (8, 3))
    return [
        [{"MR": mr, "NV": nv} for mr, nv in tiles],
        [{"CB": cb} for cb in (64, 32, 128)],
        [{"RB": rb} for rb in (48, 24, 96)],
    ]


def _fit_attention(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, columns, rows = shape.extents[:3]
    nv = min(recipe["NV"], -(-columns // target.vector_width))
    nr, mr = nv * target.vector_width, recipe["MR"]
    cb = min(max(recipe["CB"] // nr, 1) * nr, up(columns, nr))
    while cb > nr and batch * -(-columns // cb) < 4 * target.compute_units:
        cb -= nr
    parameters = {"MR": mr, "NV": nv, "CB": cb, "RB": min(up(recipe["RB"], mr), up(rows, mr))}
    return "attention_cpu", parameters, batch * -(-columns // cb), 1


def _attention_gpu_choices(shape: Shape, target: Target) -> Choices:
    """The tiles whose columns, rows and weights fit the local memory, largest first."""
    *_, d, e = shape.extents
    fitting = []
    for tc, tr in ((32, 32), (32, 16), (16, 16), (16, 8), (8, 8)):
        elements = (tc + tr) * (d + e + 2) + 2 * tr * (tc + 1) + 2 * max(tc, tr)
        if elements * width(shape.ctype) <= target.local_bytes or tc == tr == 8:
            fitting.append({"SIDE": 8, "TC": tc, "TR": tr})
    return [fitting]


def _fit_attention_gpu(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, columns = shape.extents[:2]
    groups = batch * -(-columns // recipe["TC"])
    return "attention_gpu", dict(recipe), groups, recipe["SIDE"] ** 2


# Recurrences --------------------------------------------------------------------------------------


def _scan_choices(shape: Shape, target: Target) -> Choices:
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
    return [tiles, each("ITEMS", 1, 2)]


def _fit_scan(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch = shape.extents[0]
    rows = -(-batch // (target.compute_units * recipe["ITEMS"]))
    mr = min(recipe["MR"], rows)
    bb = up(rows, mr)
    return "scan_cpu", {"MR": mr, "NV": recipe["NV"], "BB": bb}, -(-batch // bb), 1


def _scan_gpu_choices(shape: Shape, target: Target) -> Choices:
    """A work-item a hidden unit; more rows a group share what is read of the matrix."""
    batch, _, _, products, _ = shape.extents
    most = max(-(-batch // target.compute_units), 1)
    rows = [bb for bb in (4, 2, 1, 8) if bb <= min(most, 32 // products)] or [1]
    return [each("BB", *rows), each("DC", 64, 256)]


def _fit_scan_gpu(recipe: Recipe, shape: Shape, target: Target) -> Fitted:
    batch, hidden, multiplied, *_ = shape.extents
    group = min(1 << (hidden - 1).bit_length(), 256, 1 << (target.max_work_group.bit_length() - 1))
    bb, dc = recipe["BB"], min(recipe["DC"], up(hidden * multiplied, 32))
    return "scan_gpu", {"WG": group, "BB": bb, "DC": dc}, -(-batch // bb), group


TEMPLATES: Templates = {
    "as_strided cpu": (_turned_choices, _fit_turned),
    "as_strided gpu": (_turned_gpu_choices, _fit_turned_gpu),
    "attention_cpu": (_attention_choices, _fit_attention),
    "attention_gpu": (_attention_gpu_choices, _fit_attention_gpu),
    "scan_cpu": (_scan_choices, _fit_scan),
    "scan_gpu": (_scan_gpu_choices, _fit_scan_gpu),
}
