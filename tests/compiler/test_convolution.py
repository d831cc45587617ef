"""Convolutions as contractions: values over axes made of runs, gradients that store no windows."""

from __future__ import annotations

from typing import Any

import conftest
import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings
from simplegrad.runtime import lookup

# (images, weights, options): lines of 62 and 7 end inside a vector, 16 do not; a long k is cut.
CASES = {
    "padded": ((4, 8, 16, 16), (12, 8, 3, 3), {"padding": 1}),
    "unpadded": ((2, 5, 20, 64), (6, 5, 3, 3), {}),
    "short lines": ((8, 16, 7, 7), (24, 16, 3, 3), {"padding": 1}),
    "lines of four": ((16, 8, 4, 4), (12, 8, 3, 3), {"padding": 1}),
    "of each channel": ((2, 8, 16, 18), (8, 1, 3, 3), {"padding": 1, "groups": 8}),
    "strided": ((4, 8, 17, 19), (16, 8, 3, 3), {"padding": 1, "stride": 2}),
    "dilated": ((3, 8, 20, 21), (16, 8, 3, 3), {"padding": 2, "dilation": 2}),
    "grouped": ((4, 8, 16, 18), (16, 4, 3, 3), {"padding": 1, "groups": 2}),
    "one by one": ((4, 16, 14, 14), (32, 16, 1, 1), {}),
    "patches": ((3, 5, 17, 24), (8, 5, 4, 3), {"stride": (4, 5), "padding": (0, 1)}),
    "rectangular": ((2, 6, 18, 33), (8, 6, 5, 2), {}),
}


def _values(arrays: list[Any], options: dict[str, Any], device: Any) -> list[Any]:
    """Return result, gradient of the images and gradient of the weights."""
    with sg.device(device):
        x, w = (Tensor(a) for a in arrays)
        y = x.conv2d(w, **options)
        y.backward(Tensor(np.cos(np.arange(y.size)).reshape(y.shape), requires_grad=False))
        return [np.asarray(v) for v in (y.detach(), x.grad, w.grad)]


FEW = ["padded", "short lines", "strided", "one by one"]
"""Those that other drivers than the first meet."""


@pytest.mark.parametrize("name", CASES)
def test_values_are_numpys(name: str, cl_device: Any) -> None:
    if cl_device.name != conftest.OPENCL[0] and name not in FEW:
        pytest.skip("this driver has read such lines in other cases")
    *shapes, options = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    found = _values(arrays, options, cl_device)
    for got, want in zip(found, _values(arrays, options, "numpy"), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5 * np.abs(want).max())


@pytest.mark.parametrize("wanted", ["x", "w"])
def test_a_gradient_is_one_sum_and_stores_no_windows(wanted: str, one_cl_device: Any) -> None:
    rng = np.random.default_rng(0)
    x, w = Tensor(rng.standard_normal((8, 16, 32, 32))), Tensor(rng.standard_normal((16, 16, 3, 3)))
    y = x.conv2d(w, padding=1)
    seed = Tensor(rng.standard_normal(y.shape), requires_grad=False)
    sg.realize(y, seed)
    y.backward(seed)
    gradient = {"x": x, "w": w}[wanted].grad
    with sg.Profile() as p:
        sg.realize(gradient)
    # A weight's gradient sums over so many positions that the sum may be cut: two stages.
    assert p.launches <= {"x": 1, "w": 2}[wanted]
    operands = sum(4 * t.size for t in (x, w, y, seed))
    assert p.peak_bytes <= 1.1 * (operands + 4 * gradient.size)


# Sizes that the pool hardly rounds up; the last number: launches of the gradient of the images.
MEMORY = {
    "padded": ((8, 16, 32, 32), (24, 16, 3, 3), {"padding": 1}, 1),
    "strided": ((8, 16, 32, 32), (64, 16, 3, 3), {"padding": 1, "stride": 2}, 0),
    "dilated": ((8, 16, 32, 32), (16, 16, 3, 3), {"padding": 2, "dilation": 2}, 1),
    "grouped": ((8, 16, 32, 32), (32, 4, 3, 3), {"padding": 1, "groups": 4}, 1),
    "grouped, strided": (
        (8, 16, 32, 32),
        (64, 4, 3, 3),
        {"padding": 1, "groups": 4, "stride": 2},
        0,
    ),
    "of each channel": ((8, 32, 32, 32), (32, 1, 3, 3), {"padding": 1, "groups": 32}, 1),
    "patches": ((8, 16, 32, 32), (64, 16, 2, 2), {"stride": 2}, 1),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_operands_and_result(name: str, one_cl_device: Any) -> None:
    """Forward, and both gradients but that of images under overlapping windows with a stride."""
    *shapes, options, launches = MEMORY[name]
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.standard_normal(s)) for s in shapes)
    sg.realize(x, w)
    before = sg.memory_stats()["in_use_bytes"]
    with sg.Profile() as p:
        y = x.conv2d(w, **options)
        sg.realize(y)
    assert p.peak_bytes - before <= 1.1 * 4 * y.size
    seed = Tensor(rng.standard_normal(y.shape), requires_grad=False)
    sg.realize(seed)
    y.backward(seed)
    for leaf in (x, w) if launches else (w,):
        before = sg.memory_stats()["in_use_bytes"]
        with sg.Profile() as p:
            sg.realize(leaf.grad)
        assert p.peak_bytes - before <= 4 * leaf.size + 0.1 * 4 * (x.size + w.size + y.size)
        assert leaf is w or p.launches == launches


def test_sums_that_somebody_reads_are_not_joined(cl_device: Any) -> None:
    """The windows' gradients are a live tensor: its value is kept, and both are right."""
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    a, b = Tensor(x), Tensor(np.ones((3, 4), np.float32), requires_grad=False)
    inner = a.einsum("nchw,cf->nfhw", b)
    outer = inner.pad(((0, 0), (0, 0), (1, 1), (1, 1))).window_view((3, 3), 1).sum(axis=(-2, -1))
    sg.realize(outer, inner)
    with sg.device("numpy"):
        want = Tensor(x).einsum("nchw,cf->nfhw", Tensor(np.ones((3, 4), np.float32)))
        padded = want.pad(((0, 0), (0, 0), (1, 1), (1, 1)))
        sums = np.asarray(padded.window_view((3, 3), 1).sum(axis=(-2, -1)).detach())
    np.testing.assert_allclose(np.asarray(inner.detach()), np.asarray(want.detach()), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(outer.detach()), sums, rtol=1e-4, atol=1e-5)


def _tiles(leaf: str, *shapes: tuple[int, ...]) -> tuple[list[str], list[str]]:
    """Return the tiles, and the lines, that a convolution's gradient is computed in."""
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.standard_normal(s)) for s in shapes)
    y = x.conv2d(w, padding=1)
    y.backward(Tensor(rng.standard_normal(y.shape), requires_grad=False))
    with sg.Profile() as p:
        sg.realize({"x": x, "w": w}[leaf].grad)
    assert lookup.last.used is not None
    bodies = [launch.source for launch in lookup.last.used.plan.program.launches]
    assert len(bodies) == p.launches
    text = "\n".join(b.text for b in bodies).split("\n")
    return [n for n in text if n.startswith("#define") and "_UNIT" in n], text


@pytest.mark.parametrize("leaf", ["x", "w"])
def test_images_of_another_size_are_read_in_the_same_vectors(leaf: str, one_cl_device: Any) -> None:
    """Lines and pixels are no parameters, whatever sizes there were before; batches are."""
    lookup.forget()
    with settings.override(cache=False):
        first, _ = _tiles(leaf, (4, 32, 32, 32), (32, 32, 3, 3))
        second, _ = _tiles(leaf, (4, 16, 28, 28), (24, 16, 3, 3))
        _tiles(leaf, (3, 16, 28, 28), (24, 16, 3, 3))
        with sg.Profile() as p:
            third, text = _tiles(leaf, (7, 16, 28, 28), (24, 16, 3, 3))
    assert first == second == third
    assert f"#define {'N' if leaf == 'x' else 'K'}_RUN 28" in text
    assert leaf == "w" or "#define K_RUN 3" in text  # windows inside channels, as they are stored
    assert p.compiles == 0
