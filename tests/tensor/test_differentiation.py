"""Tracking, ``.backward()``, ``.grad``, `grad`, `value_and_grad` and tensors as leaves."""

from __future__ import annotations

import gc

import pytest

import simplegrad as sg
from simplegrad import Tensor


def test_what_tracks() -> None:
    x = Tensor([1.0, 2.0])
    assert x.requires_grad
    assert not Tensor([1, 2]).requires_grad
    assert not Tensor([1.0], requires_grad=False).requires_grad
    assert (x + Tensor([1, 2])).requires_grad
    assert x.sum().requires_grad
    assert x.reshape(2, 1).mean(0).requires_grad
    for untracked in (x > 1, x.sign(), x.floor(), x.argmax(), x.cast("int32"), x.detach(), x.data):
        assert not untracked.requires_grad
    assert not (Tensor([1.0], requires_grad=False) * 2).requires_grad
    assert (x.detach() + x).requires_grad
    assert Tensor(x.detach(), requires_grad=True).requires_grad
    with pytest.raises(sg.DTypeError, match="no gradients"):
        Tensor([1], requires_grad=True)


def test_no_grad() -> None:
    x = Tensor([1.0])
    with sg.no_grad():
        assert not (x * 2).requires_grad
        assert not x.softmax().requires_grad
        assert not Tensor([1.0]).requires_grad
        assert Tensor([1.0], requires_grad=True).requires_grad
        with sg.no_grad():
            pass
        assert not (x + x).requires_grad

    @sg.no_grad()
    def f() -> Tensor:
        return x * 2

    assert not f().requires_grad
    assert (x * 2).requires_grad


def test_backward_accumulates() -> None:
    x, y = Tensor([1.0, 2.0]), Tensor([3.0, 4.0])
    x.mul(y).sum().backward()
    assert x.grad.tolist() == [3, 4]
    assert y.grad.tolist() == [1, 2]
    assert not x.grad.requires_grad
    x.mul(2.0).backward([1.0, 10.0])
    assert x.grad.tolist() == [5, 24]
    x.zero_grad()
    assert x.grad is None
    x.mul(x).backward()
    assert x.grad.tolist() == [2, 4]
    x.grad = None
    assert x.grad is None


def test_backward_errors() -> None:
    with pytest.raises(sg.AutogradError, match="tracks no gradients"):
        Tensor([1]).backward()
    with pytest.raises(sg.ShapeError, match="seed"):
        Tensor([1.0, 2.0]).exp().backward(Tensor([1.0]))


def test_only_live_leaves_get_gradients() -> None:
    x = Tensor([1.0])
    loss = Tensor([5.0]).mul(x).sum()
    gc.collect()
    loss.backward()
    assert x.grad.tolist() == [5.0]


def test_a_gradient_nobody_reads_is_not_computed() -> None:
    x, y = Tensor([1.0]), Tensor([2.0])
    x.mul(y).backward()
    assert x.grad._node.buffer is None
    y.grad.numpy()
    assert x.grad._node.buffer is None


def test_unread_gradients_stay_bounded() -> None:
    x = Tensor([1.0])
    for _ in range(50):
        x.mul(2.0).backward()
    depth, node = 0, x.grad._node
    while node.buffer is None and node.srcs:
        depth, node = depth + 1, node.srcs[0]
    assert depth < 12
    assert x.grad.tolist() == [100.0]


def test_grad_of_grad() -> None:
    def cube(x: Tensor) -> Tensor:
        return x * x * x

    assert float(sg.grad(cube)(2.0)) == 12
    assert float(sg.grad(sg.grad(cube))(2.0)) == 12
    assert float(sg.grad(sg.grad(sg.grad(cube)))(2.0)) == 6


def test_create_graph() -> None:
    x = Tensor([2.0])
    (x * x * x).backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    x.grad = None
    first.backward()
    assert x.grad.tolist() == [12.0]


def test_value_and_grad() -> None:
    def loss(w: Tensor, p: dict[str, Tensor], n: int) -> Tensor:
        return (w * p["a"] * n).sum() + p["b"].sum()

    parameters = {"a": Tensor([3.0, 4.0]), "b": Tensor([1.0])}
    value, (dw, dp) = sg.value_and_grad(loss, (0, 1))(Tensor([1.0, 2.0]), parameters, 2)
    assert float(value) == 23
    assert dw.tolist() == [6, 8]
    assert dp["a"].tolist() == [2, 4]
    assert dp["b"].tolist() == [1]
    (value, aux), g = sg.value_and_grad(lambda x: (x * x, "more"), has_aux=True)(3.0)
    assert (float(value), aux, float(g)) == (9, "more", 6)
    assert float(sg.grad(lambda x: Tensor(1.0, requires_grad=False))(3.0)) == 0
    with pytest.raises(sg.AutogradError, match="one element"):
        sg.grad(lambda x: x)(Tensor([1.0, 2.0]))
    with pytest.raises(sg.AutogradError, match="argument 1"):
        sg.grad(lambda x: x, 1)(2.0)
    with pytest.raises(sg.AutogradError, match="dtype int64"):
        sg.grad(lambda x: x)(2)


def test_replace_makes_a_fresh_leaf() -> None:
    x = Tensor([1.0, 2.0])
    y = x * 3.0
    before = x._node
    with sg.no_grad():
        x._replace((x - 1.0)._node)
    assert before.holders == 0
    assert x._node.holders == 1 and x.requires_grad
    assert x.tolist() == [0, 1]
    with pytest.warns(RuntimeWarning, match="backward reached no tensor.*compute it again"):
        y.sum().backward()
    x.mul(2.0).sum().backward()
    # What was recorded before leads to the old value, which is nobody's any more.
    assert x.grad.tolist() == [2, 2]


def test_holders() -> None:
    x = Tensor([1.0])
    node = x._node
    y = x.reshape(1)
    assert node.holders == 2
    del x, y
    assert node.holders == 0


def test_device_of_the_class() -> None:
    here = Tensor.device
    assert Tensor([1.0]).device is here
    Tensor.device = here
    assert sg.Tensor.device is here
