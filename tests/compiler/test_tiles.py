"""Candidate tiles: every one is something that its template takes, and covers the result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simplegrad.compiler import tiles
from simplegrad.compiler.target import Target, Winner
from simplegrad.compiler.tiles import Shape

TARGETS = {
    "cpu8": Target("cpu", 8, 2),
    "cpu4": Target("cpu", 4, 64),
    "cpu16": Target("cpu", 16, 2),
    "gpu": Target("gpu", 4, 20, 1024, 48 << 10),
    "small gpu": Target("gpu", 4, 2, 64, 16 << 10),
}
EXTENTS = [(1, 512, 512, 512), (1, 1000, 777, 333), (64, 32, 48, 64), (1, 7, 5, 100_000)]
SHAPES = {
    "einsum_cpu tile": EXTENTS,
    "einsum_cpu_skinny dot": [(1, 600, n, 1000) for n in (1, 2, 3, 4)] + [(300, 5, 1, 40)],
    "einsum_cpu_skinny strip": [(1, m, 777, 333) for m in (1, 2, 3, 4)] + [(50, 2, 64, 10)],
    "einsum_cpu_skinny outer": [(1, 333, n, k) for n, k in ((17, 1), (4096, 2), (600, 4))],
    "einsum_gpu": EXTENTS,
    "einsum_mma": EXTENTS[:3],
    "as_strided cpu": [(1, 257, 300), (64, 64, 64)],
    "as_strided gpu": [(1, 257, 300), (64, 64, 64)],
    "attention_cpu": [(64, 512, 512, 64, 64), (1, 7, 129, 20, 80), (2, 33, 1, 8, 8)],
    "attention_gpu": [(64, 512, 512, 64, 64), (1, 7, 129, 20, 80), (2, 33, 1, 100, 100)],
    "scan_cpu": [(32, 64, 1, 4, 8), (1, 8, 4, 1, 4), (7, 5, 1, 3, 4), (1, 1, 1, 1, 1)],
    "scan_gpu": [(32, 64, 1, 4, 1), (1, 8, 4, 1, 1), (7, 5, 1, 3, 1), (1, 1, 1, 1, 1)],
}
CASES = [
    (name, extents, target)
    for name, shapes in SHAPES.items()
    for extents in shapes
    for target in TARGETS
    if ("gpu" in target) == ("gpu" in name or "mma" in name)
    # `as_strided.match` asks for 256 work-items; matrix units come with large groups
    and (target != "small gpu" or name == "einsum_gpu")
]


def test_every_template_is_tested() -> None:
    assert SHAPES.keys() == tiles._TEMPLATES.keys()


@pytest.mark.parametrize(("name", "extents", "target"), CASES)
def test_candidates_fit_their_template(name: str, extents: tuple[int, ...], target: str) -> None:
    device = TARGETS[target]
    shape = Shape(name, extents)
    found = tiles.candidates(shape, device)
    assert found[0] == tiles.choose(shape, device)
    parameters = [tile.parameters for tile in found]
    assert len({tuple(p.items()) for p in parameters}) == len(found)
    for tile in found:
        assert tile.stem == name.split()[0]
        assert tile.groups > 0 and 0 < tile.group_size <= device.max_work_group
        assert all(number > 0 for number in tile.parameters.values()), tile
        _check(tile.parameters, extents, device.vector_width, tile.groups)


def _check(p: dict[str, int], extents: tuple[int, ...], lanes: int, groups: int) -> None:
    """What the heads of the templates ask for, and a launch that reaches every result."""
    if "TI" in p:
        batch, i, j = extents
        assert p["PITCH"] >= p["TJ"]
        assert groups * p["TILES"] >= batch * -(-i // p["TI"]) * -(-j // p["TJ"])
        return
    if "BB" in p:
        batch, hidden, _, products, own = extents
        assert groups == -(-batch // p["BB"])
        assert "MR" not in p or p["BB"] % p["MR"] == 0
        assert p.get("NV", 1) * own <= products * hidden
        return
    if "TC" in p:
        batch, columns, *_ = extents
        assert p["TC"] % p["SIDE"] == p["TR"] % p["SIDE"] == 0
        assert max(p["TC"], p["TR"]) <= p["SIDE"] ** 2
        assert groups == batch * -(-columns // p["TC"])
        return
    if "CB" in p:
        batch, columns, *_ = extents
        assert p["CB"] % (p["NV"] * lanes) == p["RB"] % p["MR"] == 0
        assert groups >= batch * -(-columns // p["CB"])
        return
    batch, m, n, _ = extents
    batch *= p.get("SPLIT_K", 1)
    if "TM" in p and "TK" not in p:
        assert p["TM"] % 32 == p["TN"] % 16 == 0
        assert p["TM"] * 32 % (p["VW"] * 128) == p["TN"] * 32 % (p["VW"] * 128) == 0
        assert groups == batch * -(-m // p["TM"]) * -(-n // p["TN"])
        return
    if "TM" in p:
        assert p["TM"] % (p["WM"] * p["VW"]) == p["TN"] % (p["WN"] * p["VW"]) == 0
        assert groups == batch * -(-m // p["TM"]) * -(-n // p["TN"])
        assert p["TK"] % p["VW"] == 0
        assert p["BUFFERS"] * 4 * p["TK"] * (p["TM"] + p["TN"] + 2 * p["VW"]) <= 48 << 10
        return
    rows, columns = -(-m // p.get("MB", m)), -(-n // p.get("NB", n))
    assert groups * p.get("TILES_PER_ITEM", 1) >= batch * rows * columns
    assert p.get("MB", 0) % p.get("MR", 1) == 0
    assert p.get("NB", 0) % (p.get("NV", 1) * lanes) == 0
    if p.get("VARIANT") == 2:
        assert n >= p["NV"] * lanes
    if "KB" in p and p.get("VARIANT") != 2:
        assert p["KB"] % lanes == 0


def test_a_winner_is_taken_where_it_is_offered() -> None:
    shape, target = Shape("einsum_cpu tile", (1, 512, 512, 512)), TARGETS["cpu8"]
    name = tiles.shape_class(shape)
    recipe = "MR=4 NV=3 KB=512 MB=48 NB=64 SPLIT=8"
    tuned = replace(target, tuned=frozenset([Winner(name, recipe, 1.25, "2026-11-24")]))
    tile = tiles.choose(shape, tuned)
    assert (tile.recipe, tile.parameters["MR"], tile.parameters["KB"]) == (recipe, 4, 512)
    assert tile.why == "tuned on 2026-11-24: 1.25 times as fast as the default"
    # Another shape of the class has the same winner, a shape of another class has not.
    assert tiles.choose(replace(shape, extents=(1, 500, 520, 490)), tuned).recipe == recipe
    assert tiles.choose(replace(shape, extents=(1, 100, 512, 512)), tuned).recipe != recipe
    assert tiles.choose(replace(shape, layout=(2, 2, 1)), tuned).recipe != recipe


def test_tiles_fill_the_columns() -> None:
    """Of a register tile's shapes the default is one that computes few columns for nothing."""
    for n, nv in ((48, 3), (64, 4), (1024, 4), (96, 3), (32, 2)):
        tile = tiles.choose(Shape("einsum_cpu tile", (1, 512, n, 512)), TARGETS["cpu16"])
        assert tile.parameters["NV"] == nv


@pytest.mark.parametrize("extents", [(1, 128, 512, 784), (1, 256, 256, 256), (1, 784, 512, 128)])
@pytest.mark.parametrize("target", ["cpu8", "cpu16"])
def test_tiles_share_the_rows_fairly(extents: tuple[int, ...], target: str) -> None:
    """No tile is left with few rows or columns, and every unit gets as many tiles."""
    tile = tiles.choose(Shape("einsum_cpu tile", extents, layout=(1, 2, 1)), TARGETS[target])
    _, m, n, k = extents
    for extent, name in ((m, "MB"), (n, "NB"), (k, "KB")):
        size = tile.parameters[name]
        last = extent - (-(-extent // size) - 1) * size
        assert last > 0.8 * size, (name, size)
    assert tile.groups % TARGETS[target].compute_units == 0
