"""Every candidate tile of the contraction templates gives NumPy's numbers, edges included."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings
from simplegrad.compiler import tiles
from simplegrad.compiler.target import Target, Winner
from simplegrad.compiler.tiles import Shape
from simplegrad.runtime import lookup

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("layout", "subscripts"),
    [((1, 2, 1), "ik,kj->ij"), ((2, 2, 1), "ki,kj->ij"), ((1, 1, 1), "ik,jk->ij")],
)
def test_gpu_tiles(one_cl_device: Any, layout: tuple[int, ...], subscripts: str) -> None:
    """Sizes that divide nothing: whole tiles, edges of both sides, a last step cut short."""
    m, n, k = 270, 150, 67
    a = RNG.standard_normal((m, k)).astype(np.float32)
    b = RNG.standard_normal((k, n)).astype(np.float32)
    x = Tensor(a if subscripts[0] == "i" else a.T.copy(), requires_grad=False)
    y = Tensor(b if subscripts[3] == "k" else b.T.copy(), requires_grad=False)
    with settings.override(kernels="gpu"):
        target = lookup.target_of(one_cl_device)
        shape = Shape("einsum_gpu", (1, m, n, k), layout=layout)
        before, recipes = one_cl_device.tuned, [t.recipe for t in tiles.candidates(shape, target)]
        assert len(recipes) >= 5
        for recipe in recipes if subscripts == "ik,kj->ij" else recipes[::3]:
            name = tiles.shape_class(shape)
            one_cl_device.tuned = frozenset([Winner(name, recipe, 1.0, "2026-11-24")])
            try:
                result = (sg.einsum(subscripts, x, y) + 1).relu()
                text = sg.explain(result)
                got = result.numpy()
            finally:
                one_cl_device.tuned = before
            assert f"tile {recipe}" in text
            np.testing.assert_allclose(got, np.maximum(a @ b + 1, 0), rtol=1e-4, atol=1e-4)


def test_half_storage_and_doubles(one_cl_device: Any) -> None:
    a, b = RNG.integers(-3, 4, (140, 70)), RNG.integers(-3, 4, (70, 133))
    with settings.override(kernels="gpu"):
        for dtype in ("bfloat16", "float64"):
            x, y = (Tensor(v.astype(np.float32), dtype=dtype) for v in (a, b))
            want = Tensor((a @ b).astype(np.float32)).cast(dtype).numpy()
            np.testing.assert_array_equal((x @ y).numpy(), want)


def test_little_local_memory_means_one_buffer() -> None:
    shape = Shape("einsum_gpu", (1, 4096, 4096, 4096))
    target = replace(Target("gpu"), compute_units=20, local_bytes=16 << 10)
    assert tiles.choose(shape, target).parameters["BUFFERS"] == 1
    roomy = replace(target, local_bytes=48 << 10)
    assert tiles.choose(shape, roomy).parameters["BUFFERS"] == 2
    assert tiles.choose(shape, roomy).parameters["TM"] == 128


@pytest.mark.parametrize("shape", [(131, 531, 500), (40, 90, 3001), (40, 90, 64)])
def test_the_next_panel_of_a_large_factor_is_asked_for(
    one_cl_device: Any, shape: tuple[int, int, int]
) -> None:
    """Sizes that divide nothing: panels cut short, and a last block of k."""
    m, k, n = shape
    a, b = RNG.normal(size=(m, k)), RNG.normal(size=(k, n))
    x, y = (Tensor(v, requires_grad=False) for v in (a, b))
    lookup.forget()  # kernels for all shapes
    with settings.override(kernels="cpu"):
        got = (x @ y).numpy()
    known = lookup.last.used
    assert known is not None
    (launch,) = known.plan.program.launches
    asked = one_cl_device.limits.prefetch and n > 64
    assert ("#define AHEAD_B" in launch.source.text) == asked
    np.testing.assert_allclose(got, a @ b, rtol=1e-3, atol=1e-3)
