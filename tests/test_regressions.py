"""Faults that were found once, each by a program as short as it gets."""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings
from simplegrad.errors import ShapeError, SimplegradError
from simplegrad.runtime import probe


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_a_huge_lane_leaves_its_neighbours_alone(cl_device: Any, name: str) -> None:
    x = np.array([0.0015, 1e9, 1e-5, np.inf] + [1.0] * 12, np.float32)
    with sg.device(cl_device), np.errstate(invalid="ignore"):
        got = getattr(Tensor(x), name)().numpy()
        np.testing.assert_allclose(got, getattr(np, name)(x), rtol=1e-5, atol=1e-6)


def test_settings_of_one_thread_are_its_own() -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with settings.override(fusion=False):
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=hold)
    before = settings.current().fusion
    thread.start()
    inside.wait(5)
    assert settings.current().fusion is before
    leave.set()
    thread.join()
    assert settings.current().fusion is before


def test_an_override_ends_with_its_block() -> None:
    before = settings.current()
    with settings.override(fusion=not before.fusion):
        with settings.override(memory_cap=1):
            assert settings.current().fusion is not before.fusion
        assert settings.current().memory_cap == before.memory_cap
    assert settings.current() == before


@pytest.mark.parametrize("subscripts", ["iij,jk->ik", "ijx,jk->ik", "ij,jk->ki", "aij,jk->k"])
def test_einsum_the_second_time(subscripts: str) -> None:
    """A call that comes to one node is remembered; one that needs more steps must not be."""
    shapes = {"i": 3, "j": 4, "k": 5, "x": 1, "a": 2}
    terms = subscripts.split("->")[0].split(",")
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal([shapes[c] for c in t]).astype(np.float32) for t in terms]
    with sg.device("numpy"):
        for _ in range(2):
            got = sg.einsum(subscripts, *[Tensor(a) for a in arrays]).numpy()
            np.testing.assert_allclose(got, np.einsum(subscripts, *arrays), rtol=1e-5, atol=1e-5)


def test_an_unknown_kernel_family() -> None:
    with pytest.raises(SimplegradError, match=r"banana.*neither"):
        settings.Settings.from_environment({"SIMPLEGRAD_KERNELS": "banana"})


def test_zero_dimensional_bfloat16(cl_device: Any) -> None:
    with sg.device(cl_device):
        assert np.asarray(Tensor([1.5, 2.0], dtype="bfloat16").sum()).shape == ()


def test_an_empty_argmax() -> None:
    with sg.device("numpy"):
        assert sg.zeros((0, 3)).argmax(1).numpy().shape == (0,)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Tensor([1.0, 2.0]).repeat(-1),
        lambda: Tensor([1.0, 2.0]).repeat([1, 2], 5),
        lambda: Tensor([1.0]).tile(-1),
        lambda: Tensor([1]).one_hot(-3),
        lambda: Tensor([1.0]).sum(0.5),
        lambda: Tensor([1.0]).diagonal(),
        lambda: sg.random.normal((-1,)),
    ],
)
def test_bad_extents_and_axes(call: Callable[[], Any]) -> None:
    with pytest.raises((ShapeError, sg.ArgumentError)):
        call()


def test_explain_names_every_operation(one_cl_device: Any) -> None:
    with sg.device(one_cl_device):
        x = Tensor(np.ones(8, np.float32))
        text = str(sg.explain((x * x).exp() + x.softmax()))
    rows = [line for line in text.splitlines() if line.startswith("  ") and line[2] != " "]
    ops = {line.split()[0] for line in rows}
    assert {"mul", "exp", "add", "max", "sum", "reciprocal"} <= ops
    assert all("test_regressions.py" in line for line in rows if "boundary:" not in line)


def test_gathered_rows_are_summed_in_strips(cl_device: Any) -> None:
    """Where a gather decides the place, nothing is fetched ahead."""
    x = np.random.default_rng(0).standard_normal((50, 64, 256)).astype(np.float32)
    rows = np.array([3, 7, 49, 0])
    with sg.device(cl_device):
        got = Tensor(x, requires_grad=False).take(Tensor(rows), 0).sum(1).numpy()
    np.testing.assert_allclose(got, x[rows].sum(1), rtol=1e-4, atol=1e-4)


def test_a_plan_tells_minus_zero_from_zero(cl_device: Any) -> None:
    with sg.device(cl_device):
        x = Tensor(np.ones(4, np.float32), requires_grad=False)
        signs = [np.signbit(x.mul(v).numpy()[0]) for v in (0.0, -0.0, 0.0, 2.0, 2.0, -2.0)]
    assert signs == [False, True, False, False, False, True]


def test_a_sum_of_two_products_never_stands_in_memory(one_cl_device: Any) -> None:
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((300, 2), (2, 500)))
    with sg.device(one_cl_device):
        x, w = Tensor(a, requires_grad=False), Tensor(b, requires_grad=False)
        sg.realize(x, w)
        with sg.Profile() as p:
            got = (x.einsum("ij,jk->ik", w).relu() * 2.0).sum(axis=0).numpy()
    assert p.bytes_written < 300 * 500 * 4 / 8
    np.testing.assert_allclose(got, (np.maximum(a @ b, 0) * 2).sum(0), rtol=1e-4, atol=1e-4)


def test_concat_of_many_parts_moves_little(one_cl_device: Any) -> None:
    with sg.device(one_cl_device):
        parts = [Tensor(np.full(6, i, np.float32), requires_grad=False) for i in range(150)]
        sg.realize(*parts)
        with sg.Profile() as p:
            got = sg.concat(parts).numpy()
    np.testing.assert_array_equal(got, np.arange(150).repeat(6))
    assert p.bytes_written <= 10 * got.nbytes


def test_a_pass_that_prints_nothing_is_an_error() -> None:
    with pytest.raises(sg.SimplegradError, match=r"\['fus'\] names no pass"):
        sg.settings.Settings(debug=("fus",))


def test_integers_are_averaged_exactly(device: Any) -> None:
    x = np.array([2**30, 1, 1, 1] * 4, np.int32)
    with sg.device(device):
        assert float(Tensor(x).mean()) == np.float32(x.mean())
        assert float(Tensor(np.full(1 << 20, 17, np.int16)).mean()) == 17.0


@pytest.mark.parametrize("name", ["int32", "uint32", "bool", "float32", "int64", "float64"])
def test_casts_between_widths_in_one_kernel(cl_device: Any, name: str) -> None:
    """Vectors of 64 bytes and more crashed PoCL on AVX-512 CPUs that its LLVM does not know."""
    x = (np.arange(1000) % 7).astype(name)
    t = Tensor(x, requires_grad=False)
    assert t.cast("int64").sum().item() == x.astype(np.int64).sum()
    np.testing.assert_array_equal(t.cast("float64").numpy(), x.astype(np.float64))
    wanted = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(t.cast("float64").exp().numpy(), wanted, rtol=1e-14)


def test_a_cpu_that_pocl_does_not_know_gets_short_vectors() -> None:
    pocl = SimpleNamespace(name="Portable Computing Language")
    head = "OpenCL 3.0 PoCL HSTR: pthread-x86_64-unknown-linux-gnu-"
    for cpu, width, most in (("znver3", 16, 32), ("znver3", 8, 128), ("skylake-avx512", 16, 128)):
        raw = SimpleNamespace(platform=pocl, version=head + cpu, native_vector_width_float=width)
        assert probe.vector_bytes(raw) == most, cpu


def test_bincount_of_negative_labels(device: Any) -> None:
    with sg.device(device):
        x = Tensor(np.array([-1, 0, 2]))
        with pytest.raises(sg.IndexOutOfRange, match="-1 is negative"):
            x.bincount()
        np.testing.assert_array_equal(x.bincount(length=4).numpy(), [1, 0, 1, 1])
        rows = x.bincount(weights=[1.0, 2.0, 3.0], length=4)
        np.testing.assert_array_equal(rows.numpy(), [2, 0, 3, 1])


def test_no_room_on_the_host() -> None:
    with sg.device("numpy"):
        x = Tensor(np.ones(1, np.float32)).broadcast_to(1 << 46)
        with pytest.raises(sg.OutOfMemory, match="no room for 281,474,976,710,656 bytes"):
            (x + 1.0).numpy()


def test_reductions_of_constants_without_elements(device: Any) -> None:
    assert sg.ones((0, 3)).sum().item() == 0
    assert sg.ones((0, 3)).prod().item() == 1
    assert np.isnan(sg.ones((0, 3)).mean().item())
    np.testing.assert_array_equal(sg.ones((3, 0)).sum(1).numpy(), np.zeros(3))
    nothing = sg.ones((4, 0)) @ sg.ones((0, 5)) + 1.0
    np.testing.assert_array_equal(nothing.numpy(), np.ones((4, 5)))


def test_errors_name_the_function_that_was_called() -> None:
    x = Tensor(np.ones((2, 3)))
    with pytest.raises(ShapeError, match=r"^softmax: axis 3"):
        x.softmax(3)
    with pytest.raises(ShapeError, match=r"^layer_norm: weight of shape \(4,\)"):
        x.layer_norm(1, Tensor(np.ones(4)))
    with pytest.raises(ShapeError, match="the shape is one argument"):
        sg.zeros(2, 3)


def test_explain_names_the_lines_of_this_graph(one_cl_device: Any) -> None:
    """Not those of an equal graph that was planned before."""
    x = Tensor(np.ones((5, 3), np.float32))
    first = x.exp().sum()
    first.numpy()
    second = x.exp().sum()
    line = inspect.currentframe().f_lineno - 1  # type: ignore[union-attr]
    assert f"test_regressions.py:{line}" in sg.explain(second)
    assert f"test_regressions.py:{line - 2}" not in sg.explain(second)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_numbers_are_rounded_to_16_bits(device: Any, dtype: str) -> None:
    """A number beside a 16-bit array is a number of its dtype, computed with in float32."""
    x = Tensor([0.1, 3.3], dtype=dtype)
    assert (x == 0.1).numpy().tolist() == [True, False]
    assert (sg.full((2,), 0.1, dtype=dtype) == x).numpy().tolist() == [True, False]
    assert (x.pad(1, 0.1) == 0.1).numpy().tolist() == [True, True, False, True]


@pytest.mark.parametrize("index", [(..., [True, False]), ([True, False], ...), (..., [True] * 5)])
def test_masks_beside_an_ellipsis_are_checked(index: tuple[Any, ...]) -> None:
    index = tuple(np.array(i) if isinstance(i, list) else i for i in index)
    x = Tensor(np.arange(12.0).reshape(3, 4))
    with pytest.raises(sg.errors.IndexOutOfRange, match="a mask of shape"):
        x[index]
    mask = np.array([True, False, True, True])
    np.testing.assert_array_equal(x[..., mask].numpy(), x.numpy()[..., mask])


@pytest.mark.parametrize(
    ("data", "dtype", "value"), [([1], "int8", 300), ([1], "int32", 2.7), ([1], "int64", math.nan)]
)
def test_a_padding_that_does_not_fit_is_an_error(data: list[int], dtype: str, value: Any) -> None:
    with pytest.raises(sg.errors.DTypeError, match="pad"):
        Tensor(data, dtype=dtype).pad(1, value)


def test_the_largest_number_is_padded_exactly(device: Any) -> None:
    padded = Tensor([1], dtype="uint64").pad(1, 2**64 - 1).numpy()
    assert padded.tolist() == [2**64 - 1, 1, 2**64 - 1]


def test_softmax_of_nothing(device: Any) -> None:
    x = Tensor(np.zeros((3, 0)))
    assert x.softmax().shape == x.logsoftmax().shape == (3, 0)
    assert x.logsumexp(-1).numpy().tolist() == [-math.inf] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: sg.Adam([1]),
        lambda: sg.Adam([Tensor([1.0])], beta1=2),
        lambda: sg.Adam([Tensor([1.0])], epsilon=-1),
        lambda: sg.RMSprop([Tensor([1.0])], decay=1),
        lambda: sg.realize(1),
        lambda: sg.explain(1),
        lambda: iter(Tensor(1.0)),
        lambda: sg.random.permutation(-3),
        lambda: sg.random.normal((2,), std=-1),
        lambda: sg.fusion("off"),
    ],
)
def test_nonsense_is_refused_by_the_projects_own_errors(wrong: Any) -> None:
    with pytest.raises(sg.errors.SimplegradError):
        wrong()


def test_a_number_is_no_sequence_to_those_who_ask() -> None:
    with pytest.raises(TypeError, match="zero-dimensional"):
        iter(Tensor(1.0))


def test_indices_on_another_device_are_refused_where_they_are_given(cl_device: Any) -> None:
    with sg.device("numpy"):
        indices = Tensor([[0], [1]], dtype="int32")
    with pytest.raises(sg.errors.DeviceError, match="take_along_axis"):
        Tensor([[1.0, 2.0], [3.0, 4.0]]).take_along_axis(indices, 1)


@pytest.mark.parametrize("extent", [20, 27, 100, 1003])
def test_sums_of_negated_floats(extent: int, device: Any) -> None:
    """Intel's compiler makes vectors of a loop of differences, and loses all but the rest."""
    x = np.random.default_rng(0).uniform(1, 2, (3, 2, extent, 2)).astype(np.float32)
    v = x[0, 0, :, 1]
    t, u = Tensor(x), Tensor(v)
    results = {
        "strided": (-t[..., 0]).sum(axis=(0, 2)),
        "scaled": (t[..., 0] * -0.5).sum(axis=-1),
        "plain": (-t[:, :, :, 0].sum(axis=1)).sum(),
        "product": (-t[..., 0]).sum(axis=1) @ u,
        "columns": (-t).sum(axis=2),
        "mean and spread": t[..., 1].neg().var(axis=(0, 2)),
    }
    sg.realize(*results.values())
    y = x.astype(np.float64)
    wanted = [
        -y[..., 0].sum(axis=(0, 2)), -0.5 * y[..., 0].sum(-1), -y[..., 0].sum(),
        -y[..., 0].sum(1) @ v, -y.sum(2), y[..., 1].var(axis=(0, 2)),
    ]  # fmt: skip
    for (name, got), want in zip(results.items(), wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, err_msg=name)


def test_what_has_no_elements_has_a_gradient_of_a_join(device: Any) -> None:
    full, empty = Tensor(np.ones((2, 3), np.float32)), Tensor(np.ones((2, 0), np.float32))
    joined = sg.concat([empty, full, empty], 1)
    joined.mul(2.0).sum().backward()
    np.testing.assert_array_equal(joined.numpy(), np.ones((2, 3)))
    np.testing.assert_array_equal(full.grad.numpy(), np.full((2, 3), 2.0))
    assert empty.grad.shape == (2, 0)
    none = sg.concat([empty[:0], full[:0]], 1)
    assert none.numpy().shape == (0, 3)
