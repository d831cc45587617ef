"""Recurrences as one kernel forward and one backward: right at all sizes, in both families."""

from __future__ import annotations

from typing import Any

import conftest
import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, nn, ops, settings
from simplegrad.autograd.scan_rule import adjoint
from simplegrad.compiler.target import Target
from simplegrad.compiler.templates import scan as template
from simplegrad.errors import UnsupportedOp
from simplegrad.graph.node import topological
from simplegrad.graph.scan import scan as make_scan
from simplegrad.graph.scan import unrolled
from simplegrad.runtime import program_cache
from simplegrad.tensor.core import wrap
from simplegrad.tensor.scan import scan, step_of

RNG = np.random.default_rng(0)
CELLS = [
    # layer, (batch, time, hidden)
    (nn.LSTM, (1, 1, 1)),
    (nn.RNN, (1, 3, 2)),
    (nn.LSTM, (5, 4, 20)),
    (nn.GRU, (3, 2, 33)),
    (nn.RNN, (2, 70, 8)),
]


def trained(layer: Any, x: Any, weight: Any) -> list[Any]:
    """Return the outputs, the last state, and the gradients of weights and input."""
    given = Tensor(x, requires_grad=True)
    for parameter in layer.parameters():
        parameter.grad = None
    out, last = layer(given)
    states = last if isinstance(last, tuple) else (last,)
    loss = (out * Tensor(weight, requires_grad=False)).sum()
    for state in states:
        loss = loss + (state * state).sum()
    loss.backward()
    results = [out, *states, given.grad, *[p.grad for p in layer.parameters()]]
    sg.realize(*results)
    return [r.numpy() for r in results]


def compare(got: list[Any], want: list[Any], rtol: float) -> None:
    for mine, right in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, right, rtol=rtol, atol=rtol * max(abs(right).max(), 1))


def check(make: Any, sizes: tuple[int, int, int]) -> Any:
    """Compare a device with NumPy; return the profile."""
    batch, time, hidden = sizes
    x = RNG.standard_normal((batch, time, 3)).astype(np.float32)
    weight = RNG.standard_normal((batch, time, hidden)).astype(np.float32)
    layer = make(3, hidden)
    own = layer.state_dict()
    with sg.Profile() as profile:
        got = trained(layer, x, weight)
    with sg.device("numpy"):
        other = make(3, hidden)
        other.load_state_dict({name: Tensor(t.numpy()) for name, t in own.items()})
        compare(got, trained(other, x, weight), 2e-5)
    return profile


@pytest.mark.parametrize(("make", "sizes"), CELLS, ids=str)
def test_cells(cl_device: Any, make: Any, sizes: tuple[int, int, int]) -> None:
    profile = check(make, sizes)
    scans = [r.launches for name, r in profile.kernels.items() if name.startswith("k_scan")]
    assert sum(scans) == 2  # forward and backward


@pytest.mark.parametrize(("make", "sizes"), CELLS[2:4], ids=str)
def test_gpu_kernels(cl_device: Any, make: Any, sizes: tuple[int, int, int]) -> None:
    if "pocl" in cl_device.name and make is nn.LSTM and len(conftest.OPENCL) > 1:
        pytest.skip("PoCL compiles barriers slowly: the other cell will do")
    with settings.override(kernels="gpu"):
        check(make, sizes)
        assert "scan_gpu.cl" in sg.explain(make(2, 8)(np.ones((2, 3, 2)))[0])


def test_launches_do_not_grow_with_time(one_cl_device: Any) -> None:
    layer = nn.LSTM(2, 8)
    for time in (3, 90):
        with sg.no_grad(), sg.Profile() as profile:
            layer(np.ones((2, time, 2), np.float32))[0].numpy()
        assert profile.launches <= 4


def test_lengths_share_a_program(one_cl_device: Any) -> None:
    layer = nn.GRU(2, 8)
    wanted = RNG.standard_normal((7, 40, 2)).astype(np.float32)
    compiled = []
    for batch, time in ((4, 9), (3, 12), (5, 31), (7, 40)):
        before = program_cache.counters.compiles
        got = trained(layer, wanted[:batch, :time], np.ones((batch, time, 8), np.float32))
        compiled.append(program_cache.counters.compiles - before)
    assert compiled[2:] == [0, 0]
    with sg.device("numpy"):
        other = nn.GRU(2, 8)
        other.load_state_dict({n: Tensor(t.numpy()) for n, t in layer.state_dict().items()})
        compare(got, trained(other, wanted, np.ones((7, 40, 8), np.float32)), 2e-5)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [("float16", 4e-3), ("bfloat16", 4e-2), ("float64", 1e-12)]
)
def test_dtypes(cl_device: Any, dtype: str, rtol: float) -> None:
    """States are rounded to the dtype at each step, as they are where steps stand alone."""
    if dtype == "float64" and not cl_device.limits.fp64:
        pytest.skip("this device has no float64")
    step = step_of(lambda p, c, x: [(p[0] + x[0]).tanh(), c[1] * 0.5 + p[1]], 2, 2, 1, True)
    arrays = [RNG.standard_normal(s) * 0.5 for s in ((9, 18), (5, 9), (5, 9), (6, 5, 9))]

    def run() -> Any:
        matrix, first, second, x = (Tensor(a, dtype=dtype) for a in arrays)
        lines, ends = scan(step, matrix, [first, second], [x])
        sum(x.astype("float32").sum() for x in (*lines, *ends)).backward()
        return [x.numpy().astype(np.float64) for x in (*lines, *ends, matrix.grad, first.grad)]

    got = run()
    with sg.device("numpy"):
        compare(got, run(), rtol)


@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_what_its_steps_are(device: Any, reverse: bool) -> None:
    """The unrolled form, which serves where a template is not to be trusted, gives the same."""
    step = step_of(lambda p, c, x: [p[0] * x[0] + c[1], c[0].maximum(x[1])], 1, 2, 2, reverse)
    step = step.with_results((*step.results, 0))  # the product is emitted
    shapes = ((5, 5), (3, 5), (3, 5), (4, 3, 5), (4, 3, 5))
    tensors = [Tensor(RNG.standard_normal(s), requires_grad=False) for s in shapes]
    nodes = [t._node for t in tensors]
    node = make_scan(step, nodes[0], nodes[1:3], nodes[3:])
    want = wrap(unrolled(node)).numpy()
    assert want.shape == (3, 5, 3, 5)
    np.testing.assert_allclose(wrap(node).numpy(), want, rtol=1e-5, atol=1e-5)


def test_a_template_that_fails_is_unrolled(one_cl_device: Any) -> None:
    layer = nn.LSTM(2, 4)
    x = RNG.standard_normal((2, 3, 2)).astype(np.float32)
    want = layer(x)[0].numpy()
    node = next(n for n in topological([layer(x)[0]._node]) if n.op is ops.SCAN)
    assert template.fits(node, Target("cpu", 8, 2))
    assert not template.fits(node, Target("cpu", 8, 2, distrusted=frozenset({"scan_cpu"})))
    np.testing.assert_allclose(wrap(unrolled(node)).numpy()[0, 1:].swapaxes(0, 1), want, 1e-5, 1e-6)


def test_what_the_backward_pass_reads_is_kept(one_cl_device: Any) -> None:
    """Hyperbolic tangents are emitted for it, and only where there will be one."""
    layer = nn.LSTM(2, 4)

    def fields() -> int:
        out = layer(np.ones((2, 3, 2), np.float32))[0]
        return next(n for n in topological([out._node]) if n.op is ops.SCAN).shape[0]

    assert fields() == 2 + 5
    with sg.no_grad():
        assert fields() == 2
    step = step_of(nn.LSTM.cell, 4, 2, 4).saving()
    made = adjoint(step, (0,)).step
    assert "tanh" not in [name for name, *_ in made.program]
    assert (made.multiplied, made.products, made.carried) == (4, 1, 5)
    assert made.reverse
    assert len(made.results) == 5  # gates and the cell: gradients of inputs are those of the gates


def test_a_step_is_elementwise() -> None:
    with pytest.raises(UnsupportedOp, match="a step is elementwise"):
        step_of(lambda p, c, x: [p[0].sum(0).broadcast_to(1, 1, 1) + x[0]], 1, 1, 1)


def test_explain_names_template_and_tile(one_cl_device: Any) -> None:
    told = sg.explain(nn.RNN(2, 16)(np.ones((8, 5, 2)))[0])
    assert "kernels/scan_cpu.cl" in told
    assert "tile MR=" in told
