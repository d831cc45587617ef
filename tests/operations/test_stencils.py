"""What is stamped is what would have been made: the same graph, the same tracking, other operands.

A stencil is learned from the second graph of its structure and stamped from the third on.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from test_gradients import ROWS, Row

import simplegrad as sg
from simplegrad import Tensor, dtypes, ops
from simplegrad.autograd import backward
from simplegrad.graph import stencil
from simplegrad.graph.node import Node, topological
from simplegrad.graph.signature import signature
from simplegrad.optim import optimizers
from simplegrad.tensor import stamped

X = np.random.default_rng(0).normal(size=(3, 4))


@pytest.fixture(autouse=True)
def stamps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Empty tables, and how many nodes were stamped, or folded, each time."""
    monkeypatch.setattr(stamped, "_table", stencil.Table())
    monkeypatch.setattr(backward, "_sweeps", stencil.Table())
    monkeypatch.setattr(optimizers, "_updates", stencil.Table())
    found: list[int] = []
    for name in ("stamp", "fold"):
        monkeypatch.setattr(stencil.Stencil, name, _noted(name, found))
    return found


def _noted(name: str, found: list[int]) -> Any:
    plain = getattr(stencil.Stencil, name)

    def method(self: Any, *args: Any) -> list[Node]:
        if name == "stamp" or self._piece is not None:
            found.append(len(self.steps))
        return plain(self, *args)

    return method


def described(*tensors: Tensor) -> Any:
    """Return all that a plan depends on, what tracks, and the numbers in the graph."""
    nodes = stencil.unfolded([t._node for t in tensors])
    order = topological(nodes, realized=True)
    flags = [
        (n.tracks, n.leaf is None, n.line is None, n.device, n.value, n.depth, n.unread)
        for n in order
    ]
    return signature([n for n in nodes if n.buffer is None])[1], flags


def of_row(row: Row) -> list[Tensor]:
    leaves = [Tensor(a) for a in row.arrays]
    result = row.function(*leaves)
    result.backward(sg.ones(result.shape))
    return [result, *[x.grad for x in leaves]]


@pytest.mark.parametrize("name", ROWS)
def test_the_third_graph_is_the_first(name: str, stamps: list[int]) -> None:
    with sg.device("numpy"):
        graphs = [of_row(ROWS[name]) for _ in range(3)]
        assert stamps
        first, *others = [described(*g) for g in graphs]
        assert others == [first, first]
        for a, b in zip(graphs[0], graphs[2], strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("name", ROWS)
def test_a_folded_graph_is_the_first_once_unfolded(name: str, one_cl_device: Any) -> None:
    graphs = [of_row(ROWS[name]) for _ in range(3)]
    first, *others = [described(*g) for g in graphs]
    assert others == [first, first]


def folded(*tensors: Any) -> bool:
    return any(n.op is ops.PIECE for n in topological([t._node for t in tensors]))


def trained(steps: int, read: Any = lambda *args: None) -> Any:
    """Train two layers; `read` gets the step, the loss, the input and the parameters."""
    rng = np.random.default_rng(1)
    w, b = Tensor(rng.normal(size=(4, 5))), Tensor(np.zeros(5))
    optim = sg.Adam([w, b], learning_rate=0.1)
    for step in range(steps):
        x = Tensor(X)
        loss = (x @ w + b).tanh().square().mean()
        optim.zero_grad()
        loss.backward()
        read(step, loss, x, w, b)
        optim.step()
    return w.numpy(), b.numpy()


def test_folded_steps_are_right_and_compile_nothing(one_cl_device: Any) -> None:
    seen = []

    def read(step: int, loss: Any, x: Any, w: Any, b: Any) -> None:
        seen.append((folded(w.grad, b.grad), sg.cache_stats()["plans"]["scheduled"]))

    found = trained(8, read)
    assert [is_folded for is_folded, _ in seen] == [False] * 2 + [True] * 6
    assert seen[-1][1] == seen[1][1]
    assert "hit" in sg.explain_plan()
    with sg.device("numpy"):
        want = trained(8)
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradients_of_folded_sweeps_can_be_read_one_by_one(one_cl_device: Any) -> None:
    found: list[Any] = []

    def read(step: int, loss: Any, x: Any, w: Any, b: Any) -> None:
        values = [(b.grad * 2 + 1).numpy(), b.grad.numpy(), loss.item(), x.grad.numpy()]
        both = w.grad + w.grad.sum()
        kept = w.grad * 3
        values += [both.numpy(), kept.numpy(), w.grad.numpy()]
        found.append(values)

    trained(4, read)
    ours = found[:]
    del found[:]
    with sg.device("numpy"):
        trained(4, read)
    for mine, theirs in zip(ours, found, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_values_that_only_another_result_reads_are_computed_along(one_cl_device: Any) -> None:
    for step in range(4):
        x, y = Tensor(X), Tensor(X + 1)
        middle = x.tanh()
        (middle * y.exp() * y.exp()).sum().backward()
        assert folded(x.grad) == (step > 1)
        np.testing.assert_allclose(
            x.grad.numpy(), np.exp(X + 1) ** 2 * (1 - np.tanh(X) ** 2), rtol=1e-4
        )
        np.testing.assert_allclose(middle.numpy(), np.tanh(X), rtol=1e-5)
        np.testing.assert_allclose(y.grad.numpy(), 2 * np.tanh(X) * np.exp(X + 1) ** 2, rtol=1e-4)


def test_plans_of_two_forms_share_no_counts(one_cl_device: Any) -> None:
    """The plain graph's leaves may stand where the folded one's do, and yet its nodes do not."""
    data = np.random.default_rng(0).random(1000).astype(np.float32)
    for _ in range(5):
        x = Tensor(data)
        x.exp().exp().sum().backward()
        want = np.exp(np.exp(data)) * np.exp(data) + data
        np.testing.assert_allclose((x.grad + Tensor(data)).numpy(), want, rtol=1e-4)


def test_results_that_differ_by_places_alone_are_told_apart(one_cl_device: Any) -> None:
    """The gradients of a maximum are one program over operands that change places."""
    for _ in range(4):
        x, y = Tensor([1.0, 2.0, 3.0]), Tensor([1.0, 5.0, 0.0])
        x.maximum(y).sum().backward()
        assert x.grad.tolist() == [0.5, 0, 1]
        assert y.grad.tolist() == [0.5, 1, 0]


def test_a_pending_gradient_as_a_seed_is_a_number(one_cl_device: Any) -> None:
    """Whether the sweep that it comes from was folded or not."""
    found = []
    for _ in range(4):
        x = Tensor(X)
        x.exp().exp().sum().backward()
        seed, x.grad = x.grad, None
        x.sin().backward(seed, create_graph=True)
        gradient, x.grad = x.grad, None
        (gradient * gradient).sum().backward()
        found.append(x.grad.numpy())
    for later in found[1:]:
        np.testing.assert_allclose(later, found[0], rtol=1e-5)


def test_nothing_is_folded_where_functions_are_traced(one_cl_device: Any, tmp_path: Any) -> None:
    onnx = pytest.importorskip("simplegrad.onnx", reason="the package onnx is missing")
    p = Tensor(X[0])

    def slope(x: Any) -> Any:
        p.grad = None
        (p * x).exp().exp().sin().sum().backward()
        return p.grad

    for _ in range(4):
        slope(Tensor(X[1])).numpy()
        onnx.export(slope, (Tensor(X[1]),), tmp_path / "slope.onnx")


def test_constants_that_vary_with_shapes_may_be_folded(one_cl_device: Any) -> None:
    """A program for all shapes has them as arguments."""
    for n in (4, 4, 4, 7, 7, 7, 9, 9, 9, 4, 7):
        x = Tensor(np.full((n, 3), 0.5))
        x.tanh().square().mean().backward()
        want = 2 * np.tanh(0.5) / np.cosh(0.5) ** 2 / (3 * n)
        np.testing.assert_allclose(x.grad.numpy(), np.full((n, 3), want), rtol=1e-5)


def test_what_is_folded_is_explained_and_recorded_as_ever(one_cl_device: Any) -> None:
    texts = []

    def read(step: int, loss: Any, x: Any, w: Any, b: Any) -> None:
        texts.append(sg.explain(w.grad, b.grad))

    trained(3, read)
    assert texts[2] == texts[0]
    w, x = Tensor(X), Tensor(X, requires_grad=False)
    optim = sg.SGD([w], learning_rate=0.1)

    @sg.jit
    def jitted(x: Any) -> Any:
        loss = (w.tanh() * x).square().sum()
        optim.zero_grad()
        loss.backward()
        optim.step()
        return loss.detach()

    losses = [jitted(x).item() for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 6


def thrice(make: Any) -> list[Any]:
    return [make() for _ in range(3)]


def test_settings_of_a_composite_are_told_apart() -> None:
    x = Tensor(X)
    for eps in (1e-5, 0.5, 1, True):
        want = (X - X.mean(1, keepdims=True)) / np.sqrt(X.var(1, keepdims=True) + eps)
        for y in thrice(lambda eps=eps: x.layer_norm(-1, eps=eps)):
            np.testing.assert_allclose(y.numpy(), want, rtol=1e-5, atol=1e-6)
    for axis in (0, 1, (0, 1)):
        for y in thrice(lambda axis=axis: x.softmax(axis)):
            np.testing.assert_allclose(y.sum(axis).numpy(), 1, rtol=1e-6)


def test_operands_that_are_one_are_told_apart() -> None:
    x, y = Tensor(X[:, :3]), Tensor(X[:, 1:])
    thrice(lambda: (x @ x, x.mse_loss(x)))  # what is learned reads one operand alone
    for _ in range(3):
        np.testing.assert_allclose((x @ y).numpy(), X[:, :3] @ X[:, 1:], rtol=1e-5)
        np.testing.assert_allclose((x @ x).numpy(), X[:, :3] @ X[:, :3], rtol=1e-5)
        assert x.mse_loss(x).item() == 0 < x.mse_loss(y).item()


def test_numbers_stay_arguments() -> None:
    """A tensor that is a number is an operand: the next one has another value."""
    x = Tensor(X)
    for number in (2.0, 3.0, -0.0, 5.0):
        np.testing.assert_allclose((x + Tensor(number)).numpy(), X + number, rtol=1e-6)
        np.testing.assert_allclose(
            x.layer_norm(-1, bias=Tensor(number)).mean().item(), number, atol=1e-6
        )


def test_what_tracks_follows_operands_and_mode() -> None:
    fixed, free = Tensor(X, requires_grad=False), Tensor(X)
    for _ in range(3):
        assert not (fixed @ fixed.T).requires_grad
        assert (fixed @ free.T).requires_grad
        with sg.no_grad():
            assert not (free @ free.T).requires_grad
        assert free.softmax().requires_grad


def test_gradients_go_to_the_leaves_that_live() -> None:
    for alive in (True, True, True, False, False, False, True):
        x, y = Tensor(X), Tensor(X + 1)
        loss = (x * y).softmax().square().sum()
        kept = [y] if alive else []
        del y
        loss.backward()
        (want,) = [t.grad for t in kept] or [None]
        assert x.grad is not None
        assert (want is not None) == alive


def test_second_derivatives_of_stamped_sweeps() -> None:
    for _ in range(4):
        x = Tensor(X)
        (x * x * x).sum().backward(create_graph=True)
        first = x.grad
        x.grad = None
        first.sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), 6 * X, rtol=1e-5)


def test_the_default_dtype_is_told_apart() -> None:
    half = Tensor(np.ones((3, 4)), dtype="float16")
    thrice(lambda: half.batch_norm(mean=0.5, var=1.0))
    before = sg.default_float()
    sg.set_default_float("float64")
    try:
        assert half.batch_norm(mean=0.5, var=1.0).dtype is dtypes.float64
    finally:
        sg.set_default_float(before)
    assert half.batch_norm(mean=0.5, var=1.0).dtype is dtypes.float32


def test_one_graph_computed_on_the_way_does_not_count(stamps: list[int]) -> None:
    x = Tensor(np.full(5, 1e-3))
    long = x
    for _ in range(998):
        long = long + x
    for t in (x, long):
        t.softmax()
    del stamps[:]
    thrice(x.softmax)
    assert stamps


def test_what_is_larger_than_a_table_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, stamps: list[int]
) -> None:
    monkeypatch.setattr(stencil, "MAX_STEPS", 200)
    for _ in range(4):
        del stamps[:]
        for length in (2, 40):
            y = x = Tensor(np.ones(3))
            for _ in range(length):
                y = y * x
            y.sum().backward()
    assert stamps == [1, 8, 1]  # the sums, and the short sweep between them


def test_aliases_keep_their_signatures() -> None:
    for alias, name in ((Tensor.log_softmax, "logsoftmax"), (Tensor.mse, "mse_loss")):
        assert inspect.signature(alias) == inspect.signature(getattr(Tensor, name))
        assert alias.__module__ == "simplegrad.tensor.composites"


def test_errors_are_raised_every_time() -> None:
    x = Tensor(X)
    for _ in range(3):
        with pytest.raises(sg.ShapeError, match="matmul"):
            x @ x
        with pytest.raises(sg.ShapeError, match="axis"):
            x.softmax(2)
    thrice(lambda: x.softmax(axis=0))
    with pytest.raises(sg.ShapeError):
        x.softmax(("axis", 0))  # type: ignore[arg-type]
    thrice(lambda: Tensor(X[None, None]).maxpool2d((1, 1)))
    with pytest.raises(sg.ShapeError):
        Tensor(X[None, None]).maxpool2d((1.0, 1.0))


def test_a_value_read_on_the_way_is_left_out(stamps: list[int]) -> None:
    """Nodes with values, or data of their own, are made anew."""

    @stamped.stamped
    def read(x: Any) -> Tensor:
        y = x.exp()
        y.realize()
        return y * 2

    @stamped.stamped
    def with_data(x: Any) -> Tensor:
        return x + Tensor(np.ones(4), requires_grad=False)

    for x in thrice(lambda: Tensor(X)):
        np.testing.assert_allclose(read(x).numpy(), np.exp(X) * 2, rtol=1e-6)
        np.testing.assert_allclose(with_data(x).numpy(), X + 1, rtol=1e-6)
    assert all(n <= 2 for n in stamps)  # sums of two shapes, inside


def test_lines_are_those_of_the_call(one_cl_device: Any) -> None:
    del one_cl_device
    lines = [Tensor(X).softmax()._node.where for _ in range(3)]
    assert len(set(lines)) == 1
    assert __file__ in lines[0]


def test_a_full_table_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stencil, "MAX_STEPS", 10)
    for rows in range(1, 9):
        for y in thrice(lambda rows=rows: Tensor(np.ones((rows, 3))).softmax()):
            np.testing.assert_allclose(y.numpy(), 1 / 3, rtol=1e-6)
    assert stamped._table._steps <= 10


def test_ints_take_the_plain_way() -> None:
    for _ in range(3):
        assert Tensor([1, 2]).softmax().dtype is dtypes.float32
        assert (Tensor([[1, 2]]) @ Tensor([[1], [2]])).tolist() == [[5]]
