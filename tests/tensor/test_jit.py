"""`jit`: replays give what calls give, and what they could not repeat works otherwise or raises."""

from __future__ import annotations

import collections
import functools
import re
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import SGD, Adam, Tensor

DATA = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
RATE = 2.0


class Setup:
    factor = 3.0


pytestmark = pytest.mark.usefixtures("one_cl_device")


def calls(function: Callable[..., Any]) -> tuple[Callable[..., Any], list[int]]:
    """Return `function` under jit, and how often its Python ran."""
    count: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    jitted = sg.jit(counted)

    def call(*args: Any, **kwargs: Any) -> Any:
        before = sg.cache_stats()["plans"]["hits"], sg.cache_stats()["plans"]["scheduled"]
        result = jitted(*args, **kwargs)
        after = sg.cache_stats()["plans"]["hits"], sg.cache_stats()["plans"]["scheduled"]
        count.append(after != before)  # a replay looks up nothing
        return result

    return call, count


def leaf(data: Any = DATA) -> Tensor:
    return Tensor(data, requires_grad=False)


def test_replays_give_fresh_results() -> None:
    call, recorded = calls(lambda x, y: (x * y + 1.0, [x.sum(0)], {"z": y, "n": 3}))
    results = []
    for i in range(5):
        x, y = leaf(DATA + i), leaf(DATA * i)
        results.append(call(x, y))
    for i, (first, (second,), rest) in enumerate(results):  # an earlier one is not overwritten
        np.testing.assert_allclose(first.numpy(), (DATA + i) * (DATA * i) + 1, rtol=1e-5)
        np.testing.assert_allclose(second.numpy(), (DATA + i).sum(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(rest["z"].numpy(), DATA * i)
        assert rest["n"] == 3
    assert recorded[:2] == [True, True]
    assert recorded[2:] == [False] * 3


def test_lists_dictionaries_and_arrays_are_inputs() -> None:
    call, recorded = calls(lambda xs, named, array: xs[0] + xs[1][0] * named["w"] + array)
    for i in range(5):
        got = call([leaf(DATA * i), (leaf(DATA),)], {"w": leaf(DATA + i)}, DATA - i)
        np.testing.assert_allclose(
            got.numpy(), DATA * i + DATA * (DATA + i) + DATA - i, rtol=1e-4, atol=1e-5
        )
    assert not any(recorded[2:])


def test_the_same_tensor_twice_is_not_one_argument() -> None:
    call, _ = calls(lambda x, y: x - y)
    x = leaf()
    for _ in range(3):
        assert not call(x, x).numpy().any()
    np.testing.assert_allclose(call(x, leaf(DATA * 3)).numpy(), -2 * DATA, rtol=1e-5)


def test_another_signature_is_another_recording() -> None:
    call, _ = calls(lambda x, n, flag=False: (x * n).exp() if flag else x * n)
    for _ in range(3):
        for n in (1, 2.5, 2.0, True):
            np.testing.assert_allclose(call(leaf(), n).numpy(), DATA * n, rtol=1e-6)
            np.testing.assert_allclose(call(leaf(DATA[:2]), n).numpy(), DATA[:2] * n, rtol=1e-6)
            got = call(leaf(), n, flag=True).numpy()
            np.testing.assert_allclose(got, np.exp(DATA * n), rtol=1e-4)
        assert call(leaf((DATA * 10).astype(np.int32)), 2).dtype is sg.int32


# What a function captures -------------------------------------------------------------------------


def test_captured_numbers_lists_and_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"n": 1.0, "list": [leaf(DATA), leaf(DATA)], "flag": False}
    factor = 1.0

    def work(x: Tensor) -> Tensor:
        total = x * state["n"] * factor * RATE * Setup.factor
        for t in state["list"]:
            total = total + t
        return total.exp() if state["flag"] else total

    def want() -> Any:
        sum_ = DATA * state["n"] * factor * RATE * Setup.factor
        sum_ = sum_ + sum(t.numpy() for t in state["list"])
        return np.exp(sum_) if state["flag"] else sum_

    call, _ = calls(work)

    def check() -> None:
        for _ in range(4):
            np.testing.assert_allclose(call(leaf()).numpy(), want(), rtol=1e-4, atol=1e-5)

    check()
    state["n"] = 2.0
    check()
    factor = 0.5
    check()
    monkeypatch.setitem(globals(), "RATE", 3.0)
    check()
    monkeypatch.setattr(Setup, "factor", 1.0)
    check()
    state["list"][1] = leaf(DATA * 7)
    check()
    state["list"].append(leaf(DATA))
    check()
    state["flag"] = True
    check()


def test_writes_to_captured_tensors() -> None:
    """A running mean in an attribute."""

    class Model:
        mean = None

    model = Model()
    model.mean = leaf(np.zeros(5))

    def update(x: Tensor) -> Tensor:
        model.mean = model.mean * 0.5 + x.sum(0) * 0.5
        return x - model.mean

    call, recorded = calls(update)
    want = np.zeros(5)
    for i in range(6):
        got = call(leaf(DATA + i))
        want = want * 0.5 + (DATA + i).sum(0) * 0.5
        np.testing.assert_allclose(model.mean.numpy(), want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.numpy(), DATA + i - want, rtol=1e-4, atol=1e-4)
    assert not any(recorded[3:])


class Net:
    def __init__(self, optimizer: Callable[..., Any]) -> None:
        rng = np.random.default_rng(1)
        self.w, self.b = Tensor(rng.normal(size=(5, 4))), Tensor(np.zeros(4))
        self.optim = optimizer([self.w, self.b])

    def step(self, x: Any, y: Any) -> Tensor:
        loss = ((x @ self.w + self.b).tanh() - y).square().mean()
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return loss


@pytest.mark.parametrize(
    "optimizer",
    [
        Adam,
        lambda p: SGD(p, learning_rate=lambda step: 0.1 / (step + 1), momentum=0.9),
        lambda p: sg.AdamW(p, learning_rate=0.01),
        sg.RMSprop,
    ],
    ids=["adam", "scheduled", "adamw", "rmsprop"],
)
def test_training_steps(optimizer: Any) -> None:
    y = np.ones((6, 4), np.float32)
    plain, net = Net(optimizer), Net(optimizer)
    call, recorded = calls(net.step)
    for i in range(9):
        want = plain.step(leaf(DATA + i % 2), leaf(y)).item()
        got = call(leaf(DATA + i % 2), leaf(y))
        assert got.item() == pytest.approx(want, rel=1e-5), i
        np.testing.assert_allclose(net.w.numpy(), plain.w.numpy(), rtol=1e-4, atol=1e-6)
        if i == 6 and not callable(plain.optim.learning_rate):
            for x in (plain, net):
                x.optim.learning_rate *= 0.5  # read by every call
    assert not any(recorded[4:])
    assert net.optim.steps == plain.optim.steps == 9
    state, wanted = net.optim.state_dict(), plain.optim.state_dict()
    for ours, theirs in zip(state.values(), wanted.values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # Outside, the parameters are what they always were.
    loss = (leaf() @ net.w).sum()
    net.optim.zero_grad()
    loss.backward()
    assert net.w.grad.shape == (5, 4)
    net.w._replace(leaf(np.zeros((5, 4)))._node)
    assert call(leaf(), leaf(y)).item() != 0
    np.testing.assert_allclose(net.w.numpy(), 0, atol=1)


def test_a_gradient_that_no_call_reads_is_not_there() -> None:
    net = Net(Adam)
    step = sg.jit(net.step)
    for _ in range(5):
        step(leaf(), leaf(np.ones((6, 4))))
    with pytest.raises(sg.JitError, match="return the gradient from the function"):
        net.w.grad.numpy()
    with pytest.raises(sg.DeviceError, match="nowhere"):
        (net.w.grad + net.w).numpy()
    step(leaf(), leaf(np.ones((6, 4))))
    net.optim.zero_grad()
    net.step(leaf(), leaf(np.ones((6, 4))))
    assert np.isfinite(net.w.grad.numpy()).all()


def test_gradients_that_add_up() -> None:
    """Without a step in the function, what backward leaves is what the function is for."""
    w = Tensor(DATA)

    def work(x: Tensor) -> None:
        (x * w * w).sum().backward()

    call, recorded = calls(work)
    for i in range(6):
        call(leaf(DATA + i))
        want = sum(2 * (DATA + k) * DATA for k in range(i + 1))
        np.testing.assert_allclose(w.grad.numpy(), want, rtol=1e-4, atol=1e-4)
    assert not any(recorded[4:])


def test_random_draws_go_on() -> None:
    def draw(x: Tensor) -> Any:
        return x + sg.random.uniform((6, 5), requires_grad=False), sg.random.permutation(9)

    call, recorded = calls(draw)
    sg.random.seed(7)
    want = [draw(leaf()) for _ in range(6)]
    want = [(a.numpy(), b.numpy()) for a, b in want]
    sg.random.seed(7)
    for first, second in want:
        got = call(leaf())
        np.testing.assert_array_equal(got[0].numpy(), first)
        np.testing.assert_array_equal(got[1].numpy(), second)
    assert not any(recorded[2:])
    sg.random.seed(7)
    np.testing.assert_array_equal(call(leaf())[0].numpy(), want[0][0])


def test_grad_inside() -> None:
    call, recorded = calls(lambda x: sg.grad(lambda v: (v * v * v).sum())(x))
    for i in range(4):
        np.testing.assert_allclose(call(Tensor(DATA + i)).numpy(), 3 * (DATA + i) ** 2, rtol=1e-4)
    assert not any(recorded[2:])


def test_inside_another_and_on_other_devices() -> None:
    inner = sg.jit(lambda x: x * 2)
    call, recorded = calls(lambda x: inner(x) + 1)
    for i in range(4):
        np.testing.assert_allclose(call(leaf(DATA + i)).numpy(), (DATA + i) * 2 + 1, rtol=1e-5)
    assert not any(recorded[2:])
    with sg.device("numpy"):
        np.testing.assert_array_equal(inner(leaf()).numpy(), DATA * 2)


def test_what_jit_promises_holds_on_numpy() -> None:
    """Captured numbers, lists of arguments, earlier results, writes, branches; arguments alike."""
    state: dict[str, Any] = {"n": 2.0, "flag": False}

    @sg.jit
    def work(xs: list[Any], array: Any) -> Tensor:
        state["mean"] = state["mean"] * 0.5 + xs[0].mean(0)
        total = (xs[0] * state["n"] + xs[1]) * array.sum()  # a method that arrays have too
        return -total if state["flag"] else total.relu()

    with sg.device("numpy"):
        x, array, mean, results = Tensor(DATA), np.full(3, 2.0, np.float32), np.zeros(5), []
        state["mean"] = leaf(mean)
        for i in range(6):
            state |= {"n": 1.0 + i, "flag": i % 2 == 1}
            want = (DATA * (1.0 + i) + DATA * i) * 6
            results.append((work([x, leaf(DATA * i)], array), -want if i % 2 else want.clip(0)))
            mean = mean * 0.5 + DATA.mean(0)
            np.testing.assert_allclose(state["mean"].numpy(), mean, rtol=1e-4, atol=1e-6)
        for got, want in results:
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)
            assert not got.requires_grad  # arguments arrive untracked, as on other devices
        assert type(sg.jit(lambda a: a)(array)) is Tensor
        with pytest.raises(sg.JitError, match="an argument of type set"):
            sg.jit(lambda x: x)({1, 2})


# What is refused ----------------------------------------------------------------------------------


class Counter:
    def __init__(self) -> None:
        self.n = 0

    def count(self, x: Tensor) -> Tensor:
        self.n += 1
        return x * 2


W = np.ones(5)
LOSSES: list[Any] = []
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "a value read": (lambda x: x * x.sum().item(), "reads a value on the host"),
    "a branch on a value": (lambda x: x if x.sum() > 0 else -x, "reads a value on the host"),
    "data of the host": (lambda x: x + W, "takes data from the host"),
    "a count": (Counter().count, "changes a value of the host .*'n'"),
    "a list that grows": (lambda x: LOSSES.append(x.sum()), "changes a value of the host"),
    "an odd result": (lambda x: object(), "result of type object"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    function, expected = REFUSED[name]
    with pytest.raises(sg.JitError, match=expected):
        sg.jit(function)(leaf())
    np.testing.assert_array_equal((leaf() * 2).numpy(), DATA * 2)  # nothing is left behind


def test_an_optimiser_made_inside_is_refused() -> None:
    w = Tensor(np.ones(5))
    with pytest.raises(sg.JitError, match=r"makes Adam, whose state lasts.*make it outside"):
        sg.jit(lambda x: x * Adam([w]).rate)(leaf())


def test_a_result_that_tracks_is_refused() -> None:
    w = Tensor(DATA)
    with pytest.raises(sg.JitError, match=r"tracks gradients of a tensor outside.*detach\(\)"):
        sg.jit(lambda x: x * w)(leaf())
    got = sg.jit(lambda x: (x * w).detach())(leaf())
    np.testing.assert_allclose(got.numpy(), DATA * DATA, rtol=1e-6)


def test_numbers_from_nowhere_are_refused() -> None:
    step = sg.jit(lambda x: x * time.perf_counter())
    for _ in range(3):
        step(leaf())
    with pytest.raises(sg.JitError, match=r"a number was .* and is") as caught:
        step(leaf())
    before, after = map(float, re.findall(r"[\d.]*\d\.\d+", str(caught.value))[:2])
    assert before < after


def test_an_odd_argument_is_refused() -> None:
    with pytest.raises(sg.JitError, match="an argument of type set"):
        sg.jit(lambda x: x)({1, 2})


def test_an_error_inside_leaves_no_recording_open() -> None:
    def work(x: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        sg.jit(work)(leaf())
    assert leaf().sum().item() == pytest.approx(DATA.sum(), rel=1e-4)


class _Slotted:
    __slots__ = ("k",)


def _seen_elsewhere() -> dict[str, tuple[Any, Any]]:
    """Functions that read a 1.0 in unusual places, and what puts a 5.0 there."""
    module, slotted, queue = types.ModuleType("elsewhere"), _Slotted(), collections.deque([1.0])
    numbers = {"k": 1.0}
    module.k = slotted.k = 1.0  # type: ignore[attr-defined]
    return {
        "module": (lambda x: x * module.k, lambda: setattr(module, "k", 5.0)),
        "slots": (lambda x: x * slotted.k, lambda: setattr(slotted, "k", 5.0)),
        "deque": (lambda x: x * queue[0], lambda: queue.__setitem__(0, 5.0)),
        "partial": (
            functools.partial(lambda d, x: x * d["k"], numbers),
            lambda: numbers.update(k=5.0),
        ),
    }


@pytest.mark.parametrize("place", _seen_elsewhere())
def test_numbers_in_unusual_places_are_watched(one_cl_device: Any, place: str) -> None:
    function, change = _seen_elsewhere()[place]
    replayed, x = sg.jit(function), sg.ones((3,))
    assert [float(replayed(x)[0]) for _ in range(4)] == [1.0] * 4
    change()
    assert [float(replayed(x)[0]) for _ in range(4)] == [5.0] * 4


def test_an_iterator_that_the_function_draws_from_is_refused(one_cl_device: Any) -> None:
    numbers = iter(range(100))
    with pytest.raises(sg.errors.JitError, match="sees a range_iterator"):
        sg.jit(lambda x: x * next(numbers))(sg.ones((3,)))
