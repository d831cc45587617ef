"""The engine as a whole: what is launched, compiled and held, and what happens at its edges."""

from __future__ import annotations

import contextvars
import gc
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Adam, Tensor, settings
from simplegrad.tensor import elementwise, pending

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(64, 96)).astype(np.float32)


def launches(make: Callable[[], Any]) -> int:
    with sg.Profile() as p:
        make().realize()
    return p.launches


ONE_LAUNCH: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "chain": (
        lambda x, w, b: (-(x * x + 1).relu()).exp() * 0.5 - x,
        lambda x, w, b: np.exp(-np.maximum(x * x + 1, 0)) * 0.5 - x,
    ),
    "softmax": (
        lambda x, w, b: x.softmax(),
        lambda x, w, b: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    ),
    "logsoftmax": (
        lambda x, w, b: x.logsoftmax(),
        lambda x, w, b: x - np.log(np.exp(x).sum(-1, keepdims=True)),
    ),
    "layer_norm": (
        lambda x, w, b: x.layer_norm((-1,), w, b),
        lambda x, w, b: (x - x.mean(-1, keepdims=True))
        / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w + b,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_LAUNCH)
def test_one_launch(cl_device: Any, name: str) -> None:
    function, reference = ONE_LAUNCH[name]
    arrays = (ROWS, ROWS[0], ROWS[1])
    x, w, b = (Tensor(a) for a in arrays)
    want = reference(*[a.astype(np.float64) for a in arrays])
    with sg.Profile() as p:
        fused = function(x, w, b).realize()
    assert p.launches == 1
    assert p.bytes_written == ROWS.nbytes
    # Chains of a few float32 operations on numbers near 1.
    np.testing.assert_allclose(fused.numpy(), want, rtol=1e-5, atol=1e-5)
    with sg.fusion(False), sg.Profile() as p:
        unfused = function(x, w, b).realize()
    assert p.launches > 2
    np.testing.assert_allclose(unfused.numpy(), want, rtol=1e-5, atol=1e-5)


class Spiral:
    """The main example, smaller."""

    def __init__(self, hidden: int = 64) -> None:
        rng = np.random.default_rng(1)
        labels = np.arange(3).repeat(50)
        t = np.linspace(0, 4 * 2 * np.pi, 50).repeat(3) + labels / np.pi
        self.x = np.tile(np.linspace(0.0, 1, 50), 3) * np.stack([np.sin(t), np.cos(t)])
        self.y = np.eye(3)[labels]
        shapes = ((2, hidden), (hidden,), (hidden, 3), (3,))
        self.weights = [Tensor(rng.normal(size=s)) for s in shapes]
        self.optim = Adam(self.weights)

    def epoch(self) -> Tensor:
        w0, b0, w1, b1 = self.weights
        out = Tensor(self.x).einsum("ji,jk->ik", w0).add(b0).relu().einsum("ij,jk->ik", w1).add(b1)
        loss = Tensor(self.y).mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return loss


def test_an_epoch_of_the_example(cl_device: Any) -> None:
    with sg.device("numpy"):
        reference = Spiral()
        wanted = [reference.epoch().item() for _ in range(6)]
    model = Spiral()
    losses = [model.epoch().item() for _ in range(3)]
    with sg.Profile() as p:
        for i in range(3):
            model.optim.learning_rate = 0.01 - 0.0001 * i  # no number of a program
            loss = model.epoch()
            losses.append(loss.item())
    assert p.compiles == 0
    assert p.launches <= 3 * 12
    # Three epochs at the same rate: float32 rounding, amplified by Adam's division, stays small.
    np.testing.assert_allclose(losses[:4], wanted[:4], rtol=1e-4)
    with sg.fusion(False):
        unfused = Spiral()
        unfused.epoch()
        with sg.Profile() as q:
            last = unfused.epoch()
        assert q.launches >= 4 * p.launches / 3
        np.testing.assert_allclose(last.item(), wanted[1], rtol=1e-4)


def test_printing_the_loss_after_the_step_launches_nothing(one_cl_device: Any) -> None:
    model = Spiral()
    model.epoch()
    loss = model.epoch()
    with sg.Profile() as p:
        loss.item()
    assert p.launches == 0


def test_a_gradient_that_nobody_reads_costs_nothing(one_cl_device: Any) -> None:
    def work(track: bool) -> int:
        x, w = Tensor(ROWS, requires_grad=track), Tensor(ROWS[:8].T)
        (x @ w).tanh().sum().backward()
        return launches(lambda: w.grad)

    assert work(True) == work(False)


def test_repeated_runs_give_the_same_bits(cl_device: Any) -> None:
    def once() -> list[bytes]:
        x, w = Tensor(ROWS), Tensor(ROWS.T)
        y = (x @ w).softmax().sum(0)
        y.square().sum().backward()
        return [t.numpy().tobytes() for t in (y, x.grad, w.grad, sg.scatter_add([0] * 64, x, 1))]

    assert once() == once() == once()


def test_a_long_chain(cl_device: Any) -> None:
    x = Tensor(np.ones(4))
    y = x
    for _ in range(20_000):
        y = y + x
    y.sum().backward()
    assert y.tolist() == [20_001.0] * 4
    assert x.grad.tolist() == [20_001.0] * 4


def test_a_wide_sum(cl_device: Any) -> None:
    leaves = [Tensor(np.full(3, float(i))) for i in range(1000)]
    total = leaves[0]
    for leaf in leaves[1:]:
        total = total + leaf
    total.sum().backward()
    assert total.tolist() == [999 * 500.0] * 3
    sg.realize(*[leaf.grad for leaf in leaves])
    assert all(leaf.grad.tolist() == [1.0] * 3 for leaf in leaves[::100])


def test_explain_holds_the_users_line_and_the_source(cl_device: Any) -> None:
    x = Tensor(ROWS)
    y = (x * 3).exp().sum(1)  # the line looked for
    text = sg.explain(y)
    assert "the line looked for" in text
    assert "test_engine.py" in text
    assert "__kernel" in text
    assert text.startswith("1 launch on")
    assert "boundary" in sg.explain(sg.einsum("ij,kj->ik", x, x).softmax().sum(0))
    with sg.fusion(False):
        assert text != sg.explain(y)
    y.realize()
    assert "nothing to run" in sg.explain(y)


def test_memory_does_not_grow(cl_device: Any) -> None:
    model = Spiral()
    held = []
    for epoch in range(201):
        loss = model.epoch()
        if epoch in (10, 100, 200):
            loss.item()
            gc.collect()
            held.append(cl_device.memory_stats()["in_use_bytes"])
    assert held[0] == held[1] == held[2]


def test_a_gradient_added_to_unread_does_not_grow(one_cl_device: Any) -> None:
    x = Tensor(ROWS)
    for _ in range(2000):
        x.sum().backward()
    assert x.grad[0, 0].item() == 2000


def test_data_that_only_pending_work_holds_is_bounded(
    one_cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running total that nobody reads: computed by bytes, long before its length matters."""
    array, most = np.ones((128, 256), np.float32), 1 << 19
    for module in (pending, elementwise):
        monkeypatch.setattr(module, "MAX_HELD_BYTES", most)
    total = Tensor(0.0, requires_grad=False)
    gc.collect()
    before, held = one_cl_device.memory_stats()["in_use_bytes"], []
    for i in range(20):
        total = total + Tensor(array * i, requires_grad=False).mean()
        held.append(one_cl_device.memory_stats()["in_use_bytes"] - before)
    assert most // 2 < max(held) <= most + 2 * array.nbytes
    assert total.item() == sum(range(20))


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "without gradients"])
def test_a_running_total_of_numbers_keeps_few_of_them(one_cl_device: Any, detach: bool) -> None:
    """Each has memory of its own, a hundred times what it needs."""
    x, total, launches = Tensor(ROWS, requires_grad=detach), Tensor(0.0, requires_grad=False), []
    gc.collect()
    before = one_cl_device.memory_stats()["in_use_bytes"]
    for i in range(200):
        loss = (x * i).sum()
        loss.realize()
        with sg.Profile() as p:
            total = total + (loss.detach() if detach else loss)
        launches.append(p.launches)
        del loss
    held = one_cl_device.memory_stats()["in_use_bytes"] - before
    assert held <= 20 * 256
    assert sum(launches) <= 200 / 14
    np.testing.assert_allclose(total.item(), ROWS.sum() * sum(range(200)), rtol=1e-5)


def test_looking_for_numbers_to_gather_takes_linear_time(
    one_cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of numbers that a list holds has none to gather, however often one looks."""
    numbers = [Tensor(float(i), requires_grad=False) * 1.0 for i in range(900)]
    sg.realize(*numbers)
    seen = []
    real = pending.topological

    def counted(*args: Any, **options: Any) -> Any:
        seen.append(real(*args, **options))
        return seen[-1]

    monkeypatch.setattr(pending, "topological", counted)
    total = sum(numbers, Tensor(0.0, requires_grad=False))
    assert len(seen) >= 1
    assert sum(map(len, seen)) <= 4 * len(numbers)
    assert total.item() == sum(range(900))


def test_numbers_that_somebody_holds_are_added_in_one_launch(one_cl_device: Any) -> None:
    numbers = [Tensor(float(i), requires_grad=False) * 1.0 for i in range(100)]
    sg.realize(*numbers)
    with sg.Profile() as p:
        assert sum(numbers, Tensor(0.0)).item() == sum(range(100))
    assert p.launches == 1


def test_a_new_number_compiles_nothing(cl_device: Any) -> None:
    x = Tensor(ROWS)
    (x * 0.1 + 7).realize()
    with sg.Profile() as p:
        got = (x * 0.2 + 9).numpy()
    assert p.compiles == 0
    assert p.launches == 1
    np.testing.assert_allclose(got, ROWS * np.float32(0.2) + 9, rtol=1e-6)


def test_numbers_of_equal_value_are_not_merged(cl_device: Any) -> None:
    x = Tensor([1.0, 2.0])

    def scaled(a: float, b: float) -> list[float]:
        return ((x * a).exp() - (x * b).exp()).tolist()

    assert scaled(0.5, 0.5) == [0, 0]
    np.testing.assert_allclose(scaled(0.5, 1.0), np.exp([0.5, 1.0]) - np.exp([1.0, 2.0]), rtol=1e-5)
    a, b = Tensor([1.0, 2.0]), Tensor([1.0, 2.0])
    y = a * 2 - b * 2
    assert y.tolist() == [0, 0]
    y.sum().backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([2, 2], [-2, -2])


def test_a_result_that_a_tensor_holds_is_kept(one_cl_device: Any) -> None:
    x = Tensor(ROWS)
    y = x.exp()
    y.sum().realize()
    assert launches(lambda: y) == 0


def test_mixed_devices_raise(one_cl_device: Any) -> None:
    x = Tensor(ROWS)
    with sg.device("numpy"):
        y = Tensor(ROWS)
    with pytest.raises(
        sg.DeviceError, match=f"numpy.*{one_cl_device.name}|{one_cl_device.name}.*numpy"
    ):
        x + y
    assert (x + y.to_device(one_cl_device)).device is one_cl_device


def test_fast_math_and_fusion_have_plans_of_their_own(one_cl_device: Any) -> None:
    x = Tensor([1.0, 2.0, 3.0])
    results = []
    for changes in ({}, {"fusion": False}, {"fast_math": True}, {}):
        with settings.override(**changes):
            results.append((x.exp() / 3).sum().item())
    # The fast exp of a driver errs by about 1e-4.
    np.testing.assert_allclose(results, results[0], rtol=1e-3)


def test_eight_threads(cl_device: Any) -> None:
    """Threads that share programs and plans, each with numbers of its own."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(8)

    def work(number: int) -> None:
        try:
            with sg.device(cl_device):
                barrier.wait()
                for i in range(12):
                    data = np.random.default_rng(number * 100 + i).normal(size=(16, 8 + i % 3))
                    x = Tensor(data)
                    y = (x * float(number)).exp().sum(1)
                    y.sum().backward()
                    want = np.exp(data * number)
                    np.testing.assert_allclose(y.numpy(), want.sum(1), rtol=1e-4)
                    np.testing.assert_allclose(x.grad.numpy(), want * number, rtol=1e-4)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures, failures[0]


def test_threads_share_one_lazy_graph(one_cl_device: Any) -> None:
    x = Tensor(ROWS)
    shared = (x * 2).exp()
    results: list[Any] = [None] * 8

    def work(i: int) -> None:
        results[i] = (shared.sum(i % 2) * (i + 1)).numpy()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, got in enumerate(results):
        want = np.exp(2 * ROWS.astype(np.float64)).sum(i % 2) * (i + 1)
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_told_apart(one_cl_device: Any) -> None:
    x = Tensor(ROWS).realize()
    x.sum().item()
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child = os.fork()
    if child == 0:
        said = ""
        for attempt in (lambda: x.numpy(), lambda: (x + 1).exp().numpy(), lambda: x.sum().item()):
            try:
                attempt()
                said += "no error;"
            except sg.DeviceError as error:
                said += f"{error};"
            except BaseException as error:
                said += f"{type(error)};"
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said.count("does not survive a fork") == 3, said
    assert x.sum().item() == pytest.approx(ROWS.sum(), rel=1e-4)


def test_lazy_tensors_compute_nothing(one_cl_device: Any) -> None:
    with sg.Profile() as p:
        y = (Tensor(ROWS) @ Tensor(ROWS.T)).softmax()
        assert y.shape == (64, 64)
    assert p.launches == 0


def test_a_profile_counts_bytes_and_times(cl_device: Any) -> None:
    x = Tensor(ROWS)
    with sg.Profile() as p:
        (x + 1).realize()
    assert (p.bytes_read, p.bytes_written) == (ROWS.nbytes, ROWS.nbytes)
    assert p.peak_bytes >= 2 * ROWS.nbytes
    row = next(iter(p.kernels.values()))
    assert row.seconds > 0
    assert row.name in p.table()


def test_peak_bytes_are_those_inside_the_profile(cl_device: Any) -> None:
    with sg.device(cl_device):
        sg.realize(sg.zeros(1 << 20) + 1.0)  # 4 MiB that are gone before the profile opens
        x = sg.asarray(np.ones(1 << 10, np.float32))
        with sg.Profile() as p:
            y = x * 2.0
            sg.realize(y)
        stats = sg.memory_stats()
    assert 2 * 4096 <= p.peak_bytes <= stats["peak_bytes"]
    assert p.peak_bytes < stats["in_use_bytes"] + (1 << 20)


def test_an_assigned_device_is_that_of_all_threads(one_cl_device: Any) -> None:
    """A block's device is that of its thread alone, also where one is assigned inside."""

    def elsewhere() -> str:
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(Tensor.device.name))
        thread.start()
        thread.join()
        return str(seen[0])

    before = elsewhere()
    with sg.device(one_cl_device):
        Tensor.device = "numpy"
        assert Tensor.device.name == "numpy"
        assert elsewhere() == before
        Tensor.device = None
        Tensor.device = "numpy"
    assert elsewhere() == before
    context = contextvars.Context()  # outside of the block that the fixtures open
    try:
        context.run(setattr, Tensor, "device", "numpy")
        assert elsewhere() == "numpy"
    finally:
        context.run(setattr, Tensor, "device", None)
    assert elsewhere() == before
