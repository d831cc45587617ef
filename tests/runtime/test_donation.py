"""Memory of inputs that die becomes that of results; whoever can still see it keeps his values."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import SGD, Adam, Tensor, settings
from simplegrad.errors import OutOfMemory
from simplegrad.graph.prune import live_leaf
from simplegrad.runtime import donation, lookup

N = 4096
START = np.random.default_rng(0).normal(size=(N,)).astype(np.float32)
SHAPED = START.reshape(64, 64)


def memory(tensor: Any) -> Any:
    """Return what stands for the driver's memory of a tensor."""
    return tensor.realize()._node.buffer.raw


# What dies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["cpu", "gpu"])
def test_a_running_value_stays_where_it_is(cl_device: Any, kernels: str) -> None:
    with settings.override(kernels=kernels):
        x = sg.asarray(START)
        first = memory(x)
        for _ in range(3):
            x = (x * 0.5 + 1.0).exp().log()
            assert memory(x) is first
        want = ((START * 0.5 + 1) * 0.5 + 1) * 0.5 + 1
        np.testing.assert_allclose(x.numpy(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [Adam, lambda p: SGD(p, momentum=0.9)], ids=["Adam", "SGD"])
def test_a_step_writes_over_parameters_and_state(cl_device: Any, make: Any) -> None:
    w = Tensor(SHAPED)
    optim = make([w])
    x = Tensor(SHAPED.T, requires_grad=False)
    seen = []
    for _ in range(4):
        (x @ w).tanh().sum().backward()
        optim.step()
        optim.zero_grad()
        seen.append([w._node.buffer.raw, *[n.buffer.raw for n in optim.state[0]]])
    assert seen[1:] == seen[:-1] or seen[2:] == seen[1:-1]  # the state stands nowhere at first


def test_unread_gradients_keep_what_they_need_alone(cl_device: Any) -> None:
    """Labels that want a gradient need the last values; inputs need the first weights, too."""

    def train(reads: int, which: str) -> tuple[list[Any], list[Any]]:
        rng = np.random.default_rng(1)
        v, w = (Tensor(rng.normal(size=(64, 64)) * 0.1) for _ in range(2))
        optim, gradients, seen = Adam([v, w], learning_rate=0.1), [], []
        for step in range(6):
            x = Tensor(SHAPED, requires_grad=which == "inputs")
            y = Tensor(SHAPED.T)
            out = (x @ v).tanh() @ w
            loss = (out.logsoftmax() * y).sum()
            optim.zero_grad()
            loss.backward()
            optim.step()
            seen.append(getattr(v._node.buffer, "raw", None))
            if step >= reads:
                gradients += [t.grad.numpy() for t in (y, x) if t.grad is not None]
        return gradients, seen

    for which in ("labels", "inputs"):
        for reads in (2, 5):
            found, seen = train(reads, which)
            if cl_device.runs_kernels:
                assert (seen[3] is seen[4] is seen[5]) == (which == "labels"), which
            with sg.device("numpy"):
                want, _ = train(reads, which)
            assert len(found) == len(want)
            for a, b in zip(found, want, strict=True):
                np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("other", ["operand", "number"])
def test_what_is_left_to_read_is_told_apart_in_graphs_of_one_plan(
    one_cl_device: Any, other: str
) -> None:
    """Losses whose plans are one, though what nobody reads in them differs: the gradient of `y`
    is made of another operand, or is another result of its stencil."""
    w = Tensor(SHAPED)
    optim = SGD([w], learning_rate=1e-2)
    for step in range(8):
        y = Tensor(SHAPED.T)
        before, d = w.numpy(), Tensor(SHAPED + step, requires_grad=False)
        with sg.no_grad():
            c, z = w * 3 if other == "operand" else Tensor(SHAPED * 2), Tensor(SHAPED - step)
        late, e = step >= 4, y
        for _ in range(6 if late and other == "number" else 0):
            e = e + z
        by = z if other == "number" else c if late else d
        optim.zero_grad()
        (((w * w) * c) * d + e * by).sum().backward()
        want = before * 3 if by is c else by.numpy()
        del c, d, e, by
        optim.step()
        np.testing.assert_allclose(y.grad.numpy(), want, rtol=1e-4, err_msg=str(step))


def test_peak_of_a_step_is_parameters_state_and_gradients(one_cl_device: Any) -> None:
    w = Tensor(np.zeros((1024, 1024), np.float32))
    optim = Adam([w])
    x = Tensor(np.ones((2, 1024)), requires_grad=False)
    pool = one_cl_device.pool
    gc.collect()
    others = pool.in_use_bytes - x._node.nbytes - w._node.nbytes
    for _ in range(4):
        pool.peak_bytes = pool.in_use_bytes
        optim.zero_grad()
        (x @ w).square().sum().backward()
        optim.step()
    assert pool.peak_bytes - others < 4.1 * w.nbytes


def test_an_input_read_as_a_whole_serves_after_its_last_reader(cl_device: Any) -> None:
    x = Tensor(SHAPED, requires_grad=False)
    first = memory(x)
    y = x @ x
    z = (y @ y).realize()
    assert memory(z) is not first
    z = (x @ x) @ (x @ x)
    del x, y
    assert memory(z) is first
    np.testing.assert_allclose(
        z.numpy(), np.linalg.matrix_power(SHAPED, 4), rtol=1e-2, atol=1e-1
    )  # fmt: skip


# What does not ------------------------------------------------------------------------------------


def _view(w: Any) -> Callable[[], Any]:
    row = w.detach()[3]
    return lambda: row.numpy() - SHAPED[3]


def _realized_view(w: Any) -> Callable[[], Any]:
    whole = w.detach().reshape(N).realize()
    return lambda: whole.numpy() - START


def _alias(w: Any) -> Callable[[], Any]:
    other = Tensor(w)
    return lambda: other.numpy() - SHAPED


def _data(w: Any) -> Callable[[], Any]:
    data = w.data
    return lambda: data.numpy() - SHAPED


def _exported(w: Any) -> Callable[[], Any]:
    array = np.asarray(w)
    return lambda: array - SHAPED


def _dlpack(w: Any) -> Callable[[], Any]:
    array = np.from_dlpack(w.detach())
    return lambda: array - SHAPED


def _pending(w: Any) -> Callable[[], Any]:
    later = (w * 2.0).sum(axis=1)
    return lambda: later.numpy() - (SHAPED * 2).sum(1)


def _node(w: Any) -> Callable[[], Any]:
    node = w._node
    return lambda: sg.Tensor(np.zeros(1)).numpy() * (node is None)


HOLDERS = [_view, _realized_view, _alias, _data, _exported, _dlpack, _pending, _node]


@pytest.mark.parametrize("hold", HOLDERS)
def test_who_holds_a_parameter_keeps_its_values(cl_device: Any, hold: Any) -> None:
    if hold is _dlpack and not cl_device.limits.host_memory:
        pytest.skip("DLPack shares memory of CPU devices only")
    w = Tensor(SHAPED)
    optim = Adam([w], learning_rate=0.1)
    for turn in range(2):
        if turn:
            w = Tensor(SHAPED)
            optim = Adam([w], learning_rate=0.1)
        memory(w)
        difference = hold(w)
        before = w._node
        optim.zero_grad()
        (w * w).sum().backward()
        optim.step()
        assert memory(w) is not before.buffer.raw
        del before
        assert np.abs(w.numpy() - SHAPED).max() > 0.05
        np.testing.assert_allclose(difference(), 0, atol=1e-5)


def test_a_graph_that_goes_on_from_the_middle_keeps_its_inputs(cl_device: Any) -> None:
    """Nobody holds the hidden layer or the parameter, but a pending value needs both."""
    for _ in range(3):
        w, x = Tensor(SHAPED), sg.asarray(SHAPED)
        optim = Adam([w], learning_rate=0.1)
        memory(w)
        hidden = x @ w
        later = hidden.detach() * 3.0
        loss = hidden.square().sum()
        del hidden
        loss.backward()
        optim.step()
        np.testing.assert_allclose(later.numpy(), SHAPED @ SHAPED * 3, rtol=1e-3, atol=1e-3)


def test_a_history_that_another_leaf_needs_keeps_its_inputs(cl_device: Any) -> None:
    for _ in range(3):
        w, x = Tensor(SHAPED), Tensor(SHAPED.T)
        optim = Adam([w], learning_rate=0.1)
        memory(w)
        loss = (x @ w).sum()
        loss.backward()
        optim.step()
        x.zero_grad()
        loss.backward()  # through the parameter as it was
        np.testing.assert_allclose(
            x.grad.numpy(), np.broadcast_to(SHAPED.sum(1), (64, 64)), rtol=1e-3, atol=1e-3
        )


def test_a_gradient_that_waits_reads_what_is_kept(cl_device: Any) -> None:
    """The labels live and track: their gradient needs the output, and not the parameter."""
    w = Tensor(SHAPED)
    optim = Adam([w], learning_rate=0.1)
    labels, seen = Tensor(np.eye(64)), []
    for _ in range(4):
        out = Tensor(SHAPED.T) @ w
        want = (SHAPED.T @ w.numpy()).astype(float)
        loss = labels.mul(out.logsoftmax()).sum()
        optim.zero_grad()
        labels.zero_grad()
        loss.backward()
        optim.step()
        seen.append(w._node.buffer.raw)
        want -= want.max(axis=1, keepdims=True)
        want -= np.log(np.exp(want).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(labels.grad.numpy(), want, rtol=1e-3, atol=1e-3)
    assert seen[2] is seen[3]


def test_state_that_somebody_took_keeps_its_values(cl_device: Any) -> None:
    w = Tensor(SHAPED)
    optim = Adam([w])
    for _ in range(2):
        optim.zero_grad()
        (w * w).sum().backward()
        optim.step()
    taken = optim.state[0]
    before = [sg.runtime.realize.to_numpy(n) for n in taken]
    optim.step()
    for node, want in zip(taken, before, strict=True):
        np.testing.assert_array_equal(sg.runtime.realize.to_numpy(node), want)


def test_memory_of_a_users_array_is_never_written(cl_device: Any) -> None:
    mine = SHAPED.copy()
    x = sg.asarray(mine, copy=False)
    x = (x * 2.0).realize()
    np.testing.assert_array_equal(mine, SHAPED)
    np.testing.assert_array_equal(x.numpy(), SHAPED * 2)


@pytest.mark.parametrize("shape", [(7,), (13, 37), (64, 65), (3, 5, 7)])
def test_odd_lengths(cl_device: Any, shape: tuple[int, ...]) -> None:
    """Where a tail is computed in a vector that overlaps the one before, nothing is written over."""
    start = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    x, want = sg.asarray(start), start
    for _ in range(4):
        x, want = (x * 1.5 + 0.25).realize(), want * np.float32(1.5) + np.float32(0.25)
    np.testing.assert_allclose(x.numpy(), want, rtol=1e-5)


def test_a_step_that_fails_leaves_everything_as_it_was(one_cl_device: Any) -> None:
    w = Tensor(SHAPED)
    optim = Adam([w])
    wide = Tensor(np.ones((64, 50_000)), requires_grad=False)
    (w * w).sum().backward()
    optim.step()
    state = [sg.runtime.realize.to_numpy(n) for n in optim.state[0]]
    values = w.numpy()
    optim.zero_grad()
    loss = (w @ wide).square().sum()
    loss.backward()
    cap = one_cl_device.pool.in_use_bytes + 1
    with settings.override(memory_cap=cap), pytest.raises(OutOfMemory):
        optim.step()
    np.testing.assert_array_equal(w.numpy(), values)
    for node, want in zip(optim.state[0], state, strict=True):
        np.testing.assert_array_equal(sg.runtime.realize.to_numpy(node), want)
    w.zero_grad()
    (w * w).sum().backward()  # still a leaf
    np.testing.assert_allclose(w.grad.numpy(), 2 * values, rtol=1e-6)


@pytest.mark.parametrize(("kernels", "seed"), [*[("cpu", i) for i in range(3)], ("gpu", 4)])
def test_random_programs_with_random_holders(cl_device: Any, kernels: str, seed: int) -> None:
    """Values are replaced, held, viewed and dropped at random; each must stay what it was."""
    rng = np.random.default_rng(seed)
    with settings.override(kernels=kernels):
        pairs = [_pair(rng) for _ in range(4)]
        held: list[tuple[Any, Any]] = []
        for _ in range(40 if kernels == "cpu" else 20):
            i, j = rng.integers(0, 4, 2)
            pairs[i] = _step(int(rng.integers(0, 8)), pairs[i], pairs[j])
            chance = rng.random()
            if chance < 0.15:
                held.append(pairs[j])
            elif chance < 0.25:
                held.append((pairs[i][0].T.realize(), pairs[i][1].T))
            elif chance < 0.35:
                held.append((np.asarray(pairs[i][0]), pairs[i][1]))
            elif chance < 0.6:
                sg.realize(*[t for t, _ in pairs])
            elif chance < 0.7 and held:
                held.pop(int(rng.integers(0, len(held))))
        for got, want in [*pairs, *held]:
            np.testing.assert_allclose(np.asarray(got), want, rtol=2e-3, atol=2e-3)


def _pair(rng: Any) -> tuple[Any, Any]:
    array = rng.normal(size=(24, 24)).astype(np.float32)
    return sg.asarray(array), array


def _step(kind: int, a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
    (x, x0), (y, y0) = a, b
    if kind < 3:
        return (x * 0.5 + y * 0.25).tanh(), np.tanh(x0 * 0.5 + y0 * 0.25)
    if kind == 3:
        return x + y.T * 0.1, x0 + y0.T * 0.1
    if kind == 4:
        return (x @ y) * 0.02 + x, (x0 @ y0) * 0.02 + x0
    if kind == 5:
        return x - x.mean(axis=0) + y.sum(axis=1, keepdims=True) * 0.01, (
            x0 - x0.mean(0) + y0.sum(1, keepdims=True) * np.float32(0.01)
        )  # fmt: skip
    if kind == 6:
        return x.flip(0) * 0.5 + x, x0[::-1] * 0.5 + x0
    return y * 1.0, y0 * 1.0


def test_plans_from_disk_know_it_too(one_cl_device: Any, tmp_path: Any) -> None:
    with settings.override(cache_dir=str(tmp_path)):
        for _ in range(2):
            lookup.forget()
            x = sg.asarray(START)
            first = memory(x)
            x = x * 0.5 + 1.0
            assert memory(x) is first


def test_a_long_chain_is_looked_at_once(
    one_cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was computed unasked on the way is not walked again for every plan after it."""
    calls = 0

    def counted(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        return live_leaf(*args)

    monkeypatch.setattr(donation, "live_leaf", counted)
    found = []
    for length in (4000, 8000):
        calls = 0
        x = Tensor(np.ones(4, np.float32))
        y = x
        for _ in range(length):
            y = y + x
        y.sum().backward()
        assert x.grad.tolist() == [length + 1] * 4
        found.append(calls)
    assert found[1] < 2.5 * found[0]
