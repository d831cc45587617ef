"""Optimisers against the same formulas in NumPy; schedules, clipping, state; nothing recompiled."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import conftest
import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, optim
from simplegrad.errors import AutogradError, ShapeError

Formula = Callable[[Any, Any, dict[str, Any], int, float], Any]
STEPS = 5


@pytest.fixture
def _numpy() -> Iterator[None]:
    with sg.device("numpy"):
        yield


def sgd(momentum: float = 0, nesterov: bool = False, decay: float = 0) -> Formula:
    def formula(p: Any, g: Any, s: dict[str, Any], t: int, rate: float) -> Any:
        g = g + decay * p
        if momentum:
            s["v"] = momentum * s.get("v", 0) + g
            g = g + momentum * s["v"] if nesterov else s["v"]
        return p - rate * g

    return formula


def adam(eps: float, decay: float = 0, decoupled: float = 0) -> Formula:
    def formula(p: Any, g: Any, s: dict[str, Any], t: int, rate: float) -> Any:
        g = g + decay * p
        p = p - rate * decoupled * p
        s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
        s["v"] = 0.999 * s.get("v", 0) + 0.001 * g * g
        mean, square = s["m"] / (1 - 0.9**t), s["v"] / (1 - 0.999**t)
        return p - rate * mean / (np.sqrt(square) + eps)

    return formula


def rmsprop(p: Any, g: Any, s: dict[str, Any], t: int, rate: float) -> Any:
    s["v"] = 0.99 * s.get("v", 0) + 0.01 * g * g
    return p - rate * g / (np.sqrt(s["v"]) + 1e-8)


CASES: dict[str, tuple[Callable[[Any], optim.Optimizer], Formula, float]] = {
    "sgd": (lambda p: optim.SGD(p), sgd(), 0.01),
    "momentum": (lambda p: optim.SGD(p, 0.1, momentum=0.9), sgd(0.9), 0.1),
    "nesterov": (lambda p: optim.SGD(p, 0.1, 0.8, True), sgd(0.8, True), 0.1),
    "sgd decay": (lambda p: optim.SGD(p, 0.1, weight_decay=0.3), sgd(0, False, 0.3), 0.1),
    "adam": (lambda p: optim.Adam(p), adam(1e-7), 0.01),
    "adam decay": (lambda p: optim.Adam(p, 0.1, weight_decay=0.2), adam(1e-7, 0.2), 0.1),
    "adamw": (lambda p: optim.AdamW(p, 0.1), adam(1e-8, 0, 0.01), 0.1),
    "rmsprop": (lambda p: optim.RMSprop(p), rmsprop, 0.01),
}
START = np.array([[1.0, -2.0], [0.5, 3.0]]), np.array([0.3, -0.7])


def loss_of(a: Any, b: Any) -> Any:
    return (a * a + 0.1 * a * b).sum() / 2 + (a + b).tanh().mean()


def slopes_of(a: Any, b: Any) -> tuple[Any, Any]:
    e = (1 - np.tanh(a + b) ** 2) / 4
    return a + 0.05 * b + e, (0.05 * a + e).sum(0)


@pytest.mark.parametrize("where", ["numpy", *conftest.OPENCL[:1]])
@pytest.mark.parametrize("name", CASES)
def test_against_the_formula(name: str, where: str) -> None:
    make, formula, rate = CASES[name]
    with sg.device(where):
        params = [Tensor(a) for a in START]
        optimizer = make(params)
        want, states = list(START), [{}, {}]
        for t in range(1, STEPS + 1):
            optimizer.zero_grad()
            loss_of(*params).backward()
            optimizer.step()
            slopes = slopes_of(*want)
            want = [formula(p, g, s, t, rate)
                    for p, g, s in zip(want, slopes, states, strict=True)]  # fmt: skip
        for p, w in zip(params, want, strict=True):
            # float32: a few units in the last place (6e-8) a step, amplified by 1 / sqrt(v)
            np.testing.assert_allclose(p.numpy(), w, rtol=1e-5, atol=1e-6)
            assert p.dtype is sg.float32


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_compiled_when_numbers_change(name: str, one_cl_device: Any) -> None:
    """The rate passes through values of other numbers, which makes no two of them one."""
    params = [Tensor(a) for a in START]
    optimizer = CASES[name][0](params)
    rates = [0.01, 0.02, 0.9, 0.999, 0.1, 0.5, 0.0, 0.001]
    optimizer.learning_rate = lambda step: rates[step]
    for i in range(len(rates)):
        with sg.Profile() as profile:
            optimizer.zero_grad()
            loss_of(*params).backward()
            optimizer.step()
            params[0].numpy()
        if i > 0:
            assert profile.compiles == 0, f"step {i}"


def test_a_step_of_many_parameters_is_a_few_launches(one_cl_device: Any) -> None:
    params = [Tensor(np.full(8 + i % 3, float(i))) for i in range(40)]
    optimizer = optim.Adam(params)
    for _ in range(3):
        for p in params:
            p.grad = Tensor(np.ones(p.shape), requires_grad=False).realize()
        with sg.Profile() as profile:
            optimizer.step()
            params[0].numpy()
    assert profile.launches <= 5


@pytest.mark.usefixtures("_numpy")
def test_parameters_become_fresh_leaves() -> None:
    p = Tensor([1.0, 2.0])
    optimizer = optim.SGD([p], 0.5)
    before = p * 3
    before.sum().backward()
    optimizer.step()
    assert p.tolist() == [-0.5, 0.5]
    assert p.requires_grad
    assert before.tolist() == [3, 6]  # recorded before: the values of then
    optimizer.zero_grad()
    assert p.grad is None
    with pytest.warns(RuntimeWarning, match="backward reached no tensor"):
        before.sum().backward()  # leads to the parameter no more
    assert p.grad is None
    (p * p).sum().backward()
    assert p.grad.tolist() == [-1, 1]


@pytest.mark.usefixtures("_numpy")
def test_history_of_earlier_steps_is_freed() -> None:
    p = Tensor([1.0, 2.0])
    optimizer = optim.Adam([p])
    old = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        optimizer.step()
        old.append(weakref.ref(p._node))
    del loss
    gc.collect()
    assert [r() is None for r in old] == [True, True, True, False]
    assert p._node.srcs == ()


@pytest.mark.usefixtures("_numpy")
def test_a_parameter_without_gradient_stays() -> None:
    used, idle = Tensor([1.0]), Tensor([1.0])
    optimizer = optim.Adam([used, idle], 0.1)
    node = idle._node
    (used * 2).sum().backward()
    optimizer.step()
    assert idle._node is node
    assert used.item() == pytest.approx(0.9)


@pytest.mark.usefixtures("_numpy")
def test_only_leaves_and_each_once() -> None:
    p = Tensor([1.0])
    with pytest.raises(
        AutogradError, match=r"SGD: parameter 1, float32 of shape \(1,\), is not a leaf"
    ):
        optim.SGD([p, p * 2])
    with pytest.raises(AutogradError, match="not a leaf"):
        optim.SGD([Tensor([1.0], requires_grad=False)])
    with pytest.raises(AutogradError, match=r"parameter 1 .* twice"):
        optim.Adam([p, p])


# State --------------------------------------------------------------------------------------------


def trained(steps: int, optimizer: optim.Optimizer) -> list[Any]:
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(*optimizer.params).backward()
        optimizer.step()
    return [p.numpy() for p in optimizer.params]


@pytest.mark.usefixtures("_numpy")
@pytest.mark.parametrize("name", CASES)
def test_state_goes_on_where_it_was_saved(name: str) -> None:
    make = CASES[name][0]
    whole = make([Tensor(a) for a in START])
    half = make([Tensor(a) for a in START])
    want = trained(6, whole)
    middle = trained(3, half)
    other = make([Tensor(a) for a in middle])
    saved = half.state_dict()
    assert all(isinstance(v, (int, np.ndarray)) for v in saved.values())
    other.load_state_dict(saved)
    for got, w in zip(trained(3, other), want, strict=True):
        np.testing.assert_array_equal(got, w)


@pytest.mark.usefixtures("_numpy")
def test_state_that_does_not_fit_is_listed_and_nothing_is_taken() -> None:
    optimizer = optim.Adam([Tensor(a) for a in START])
    trained(1, optimizer)
    good = optimizer.state_dict()
    bad = {**good, "0.mean": np.zeros(3), "7.mean": np.zeros(2)}
    del bad["1.square"], bad["steps"]
    with pytest.raises(ShapeError, match=r"7\.mean belongs.*steps is missing.*parameter 0 has "
                       r"shape \(2, 2\).*parameter 1 lacks"):  # fmt: skip
        optimizer.load_state_dict(bad)
    np.testing.assert_equal(optimizer.state_dict(), good)


# Schedules and clipping ---------------------------------------------------------------------------


def test_schedules() -> None:
    assert [optim.constant(0.5)(i) for i in (0, 99)] == [0.5, 0.5]
    assert [optim.step_decay(1.0, 2, 0.5)(i) for i in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert [optim.exponential(8.0, 0.5)(i) for i in range(4)] == [8, 4, 2, 1]
    cosine = optim.cosine(1.0, 4, 0.2)
    assert [cosine(i) for i in (0, 2, 4, 9)] == pytest.approx([1, 0.6, 0.2, 0.2])
    warm = optim.warmup(optim.constant(2.0), 4)
    assert [warm(i) for i in range(6)] == [0.5, 1, 1.5, 2, 2, 2]


@pytest.mark.usefixtures("_numpy")
def test_a_schedule_sees_the_steps_done() -> None:
    p = Tensor([0.0])
    optimizer = optim.SGD([p], optim.exponential(1.0, 0.5))
    for want in (-1.0, -1.5, -1.75):
        p.grad = Tensor([1.0], requires_grad=False)
        optimizer.step()
        assert p.item() == want


def test_clipping(device: Any) -> None:
    a, b = Tensor([3.0, 0.0]), Tensor([[4.0]])
    (a * a / 2).sum().backward()
    (b * b / 2).sum().backward()
    norm = optim.clip_norm([a, b, Tensor([1.0])], 1.0)
    assert norm.item() == 5
    np.testing.assert_allclose(a.grad.numpy(), [0.6, 0], rtol=1e-5)
    np.testing.assert_allclose(b.grad.numpy(), [[0.8]], rtol=1e-5)
    optim.clip_norm([a, b], 2.0)  # shorter already
    np.testing.assert_allclose(b.grad.numpy(), [[0.8]], rtol=1e-5)
    optim.clip_value([a, b, Tensor([1.0])], 0.7)
    np.testing.assert_allclose(a.grad.numpy(), [0.6, 0], rtol=1e-5)
    np.testing.assert_allclose(b.grad.numpy(), [[0.7]], rtol=1e-5)
    with pytest.raises(AutogradError, match=r"call backward\(\) first"):
        optim.clip_norm([Tensor([1.0])], 1.0)


@pytest.mark.usefixtures("_numpy")
def test_clipped_gradients_are_what_a_step_takes() -> None:
    p = Tensor([1.0])
    (p * 100).sum().backward()
    optim.clip_value([p], 0.5)
    optim.SGD([p], 1.0).step()
    assert p.item() == 0.5
    assert math.isfinite(p.grad.item())


@pytest.mark.parametrize("bad", [{"learning_rate": -0.1}, {"learning_rate": math.nan}])
def test_negative_rates_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(sg.SimplegradError, match="learning_rate must be"):
        optim.SGD([Tensor([1.0])], **bad)


def test_negative_decay_is_refused() -> None:
    with pytest.raises(sg.SimplegradError, match="weight_decay must be 0 or more, not -1"):
        optim.AdamW([Tensor([1.0])], weight_decay=-1.0)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(sg.SimplegradError, match="momentum > 0"):
        optim.SGD([Tensor([1.0])], nesterov=True)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        (optim.Adam, {"lr": 0.1}, "^Adam: takes no 'lr'; it takes learning_rate$"),
        (optim.AdamW, {"betas": (0.9, 0.99)}, "^AdamW: takes no 'betas'; it takes beta1, beta2$"),
        (optim.RMSprop, {"eps": 1e-8}, "^RMSprop: takes no 'eps'; it takes epsilon$"),
        (
            optim.SGD, {"dampening": 0.1},
            "^SGD: takes no 'dampening'; it takes params, learning_rate, momentum, nesterov, weight_decay$",
        ),
    ],
)  # fmt: skip
def test_an_unknown_setting_is_told_what_it_is_here(
    kind: Any, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(sg.ArgumentError, match=said):
        kind([Tensor([1.0])], **settings)
    assert issubclass(sg.ArgumentError, TypeError)


@pytest.mark.parametrize(
    ("kind", "name", "value", "said"),
    [
        (optim.SGD, "learning_rate", -1, "^SGD: learning_rate must be 0 or more, not -1$"),
        (optim.SGD, "learning_rate", "a", "^SGD: learning_rate must be a number, not 'a'$"),
        (optim.SGD, "momentum", math.nan, "^SGD: momentum must be 0 or more, not nan$"),
        (optim.Adam, "beta1", 2.0, "^Adam: beta1=2.0 must be at least 0 and less than 1$"),
        (optim.RMSprop, "decay", 1, "^RMSprop: decay=1 must be at least 0 and less than 1$"),
        (optim.AdamW, "lr", 0.1, "^AdamW: has no 'lr'; it has learning_rate$"),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_settings_are_checked_when_they_are_changed(
    kind: Any, name: str, value: Any, said: str
) -> None:
    optimizer = kind([Tensor([1.0])])
    with pytest.raises(sg.ArgumentError, match=said):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name, None) is not value


def test_a_schedule_gives_numbers() -> None:
    def words(step: int) -> Any:
        return "x"

    p = Tensor([1.0])
    p.sum().backward()
    with pytest.raises(sg.ArgumentError, match="learning_rate must be a number, not 'x'"):
        optim.SGD([p], words).step()


@pytest.mark.parametrize("jitted", [False, True], ids=["", "jit"])
def test_momentum_may_begin_later(device: Any, jitted: bool) -> None:
    p, velocity, want = Tensor([1.0, 2.0]), np.zeros(2), np.array([1.0, 2.0])
    sgd = optim.SGD([p], 0.1)

    def step() -> None:
        sgd.zero_grad()
        (p * p).sum().backward()
        sgd.step()

    run = sg.jit(step) if jitted else step
    for i in range(9):
        if i == 4:
            sgd.momentum = 0.9
        run()
        velocity = velocity * (0.9 if i > 4 else 0) + 2 * want
        want = want - 0.1 * velocity
        np.testing.assert_allclose(p.numpy(), want, rtol=1e-5)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_by_itself(device: Any, how: Any) -> None:
    p = Tensor([1.0, 2.0])
    adam = optim.Adam([p], 0.1)

    def step(q: Any, optimizer: Any) -> None:
        optimizer.zero_grad()
        (q * q).sum().backward()
        optimizer.step()

    step(p, adam)
    (other, copied) = how((p, adam))
    assert copied.params[0] is other
    assert copied.steps == 1
    step(other, copied)
    assert p.tolist() != other.tolist()
    step(p, adam)
    np.testing.assert_array_equal(p.numpy(), other.numpy())


def test_a_step_computes_what_it_was_asked_to_compute_along(one_cl_device: Any) -> None:
    w, x = Tensor([1.0, 2.0]), sg.ones(2, requires_grad=False)
    total = x
    optimizer = optim.Adam([w])
    for _ in range(3):
        total, dropped = total + x, total * 3
        w.compute_along(total, dropped)
        del dropped  # nobody holds it: nothing is computed
        w.mul(x).sum().backward()
        optimizer.step()
        with sg.Profile() as profile:
            total.numpy()
        assert profile.launches == 0
    assert total.tolist() == [4.0, 4.0]


def test_a_step_over_two_devices_that_failed_teaches_nothing(one_cl_device: Any) -> None:
    def step(*devices: Any) -> None:
        params = [Tensor(np.ones((3, 7)), device=d) for d in devices]
        sgd = optim.SGD(params, learning_rate=0.5)
        for p in params:
            p.grad = Tensor(np.full((3, 7), 2.0), requires_grad=False, device=p.device)
        sgd.step()
        for p in params:
            np.testing.assert_array_equal(p.numpy(), np.zeros((3, 7)))

    for _ in range(3):
        with pytest.raises(sg.DeviceError, match="to_device"):
            step(one_cl_device, "numpy")
    for _ in range(3):
        step(one_cl_device, one_cl_device)


def test_parameters_that_take_turns(one_cl_device: Any) -> None:
    """Every step trains another subset: what a parameter's update is was recorded before."""
    params = [Tensor(np.ones((4, 5))) for _ in range(4)]
    adam = optim.Adam(params, learning_rate=0.1)
    with sg.device("numpy"):
        copies = [Tensor(np.ones((4, 5))) for _ in range(4)]
        other = optim.Adam(copies, learning_rate=0.1)
    for chosen in ((0, 1), (2,), (1, 3), (0, 1), (0, 1, 2, 3), (0, 1), (3,), (0, 1, 2, 3)) * 2:
        for ps, opt in ((params, adam), (copies, other)):
            opt.zero_grad()
            with sg.device(ps[0].device):
                sum((ps[i] * ps[i] * (i + 1)).sum() for i in chosen).backward()
                opt.step()
    for p, q in zip(params, copies, strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-4)
