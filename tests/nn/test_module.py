"""Modules: names, modes, states; what they refuse."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Adam, Tensor, nn
from simplegrad.errors import IndexOutOfRange, ShapeError


@pytest.fixture(autouse=True)
def _numpy() -> Iterator[None]:
    with sg.device("numpy"):
        yield


class Net(nn.Module):
    def __init__(self) -> None:
        self.first = nn.Linear(3, 4)
        self.more = [nn.BatchNorm(4), {"deep": (nn.Dropout(0.5), nn.Linear(4, 2, bias=False))}]
        self.scale = Tensor([2.0])
        self._hidden = Tensor([1.0])

    def __call__(self, x: Any) -> Tensor:
        norm, rest = self.more
        drop, last = rest["deep"]
        return last(drop(norm(self.first(x)))) * self.scale


NAMES = [
    "first.weight",
    "first.bias",
    "more.0.weight",
    "more.0.bias",
    "more.1.deep.1.weight",
    "scale",
]
BUFFERS = ["more.0.running_mean", "more.0.running_var", "more.0.num_batches_tracked"]


def test_names_go_through_attributes_lists_and_dictionaries() -> None:
    net = Net()
    assert [n for n, _ in net.named_parameters()] == NAMES
    assert set(net.state_dict()) == {*NAMES, *BUFFERS}
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]


def test_what_is_shared_is_named_once() -> None:
    net = Net()
    net.again = net.first
    net.tied = net.more[0].weight
    assert [n for n, _ in net.named_parameters()] == NAMES
    Adam(net.parameters())  # refuses a parameter that stands twice


def test_a_module_inside_itself_ends() -> None:
    net = Net()
    net.me = net
    assert [n for n, _ in net.named_parameters()] == NAMES


def test_modes_reach_everything() -> None:
    net = Net()
    assert net.eval() is net
    assert not any(m.training for _, m in net.named_modules())
    assert all(m.training for _, m in net.train().named_modules())


def test_a_state_is_a_snapshot_and_comes_back() -> None:
    net, x = Net(), np.random.default_rng(0).standard_normal((8, 3))
    before = net.state_dict()
    kept = {k: v.numpy().copy() for k, v in before.items()}
    optimizer = Adam(net.parameters(), 0.1)
    for _ in range(2):
        net.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    assert all(np.array_equal(before[k].numpy(), kept[k]) for k in kept)
    after = net.state_dict()
    changed = {k for k in kept if not np.array_equal(after[k].numpy(), kept[k])}
    assert changed == {*NAMES, *BUFFERS}
    other = Net()
    other.load_state_dict(after)
    assert np.array_equal(other.eval()(x).numpy(), net.eval()(x).numpy())
    assert int(other.state_dict()["more.0.num_batches_tracked"]) == 2


def test_an_optimiser_goes_on_with_loaded_parameters() -> None:
    net = Net()
    optimizer = Adam(net.parameters(), 0.1)
    state = net.state_dict()
    net.load_state_dict({k: np.ones(v.shape, v.dtype.numpy) for k, v in state.items()})
    net(np.ones((4, 3))).sum().backward()
    optimizer.step()
    assert not np.array_equal(net.scale.numpy(), [1.0])


def test_all_that_does_not_fit_is_listed_and_nothing_changes() -> None:
    net = Net()
    state = {k: v.numpy() for k, v in net.state_dict().items()}
    kept = {k: v.copy() for k, v in state.items()}
    del state["first.bias"]
    state["first.weight"] = np.zeros((4, 4))
    state["scale"] = np.zeros(1, int)
    state["unheard"] = np.zeros(2)
    with pytest.raises(ShapeError) as caught:
        net.load_state_dict(state)
    said = str(caught.value)
    assert "first.bias is missing" in said
    assert "unheard is extra" in said
    assert "first.weight has shape (4, 3) here and (4, 4) in the state" in said
    assert "scale is float32 here and of kind 'i' in the state" in said
    assert "Net" in said
    assert all(np.array_equal(v.numpy(), kept[k]) for k, v in net.state_dict().items())


def test_a_copy_has_buffers_that_stay_buffers() -> None:
    net = copy.deepcopy(Net())
    assert [n for n, _ in net.named_parameters()] == NAMES


def test_a_state_takes_the_dtypes_of_the_module() -> None:
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": np.eye(2), "bias": np.zeros(2, np.float16)})
    assert layer.weight.dtype is sg.float32
    assert layer.weight.requires_grad


def test_repr_shows_the_parts() -> None:
    assert repr(nn.Sequential(nn.Linear(2, 3))).splitlines() == [
        "Sequential(", "  0: Linear(", "    weight: float32(3, 2)", "    bias: float32(3,)",
        "  )", ")",
    ]  # fmt: skip


def test_dropout_works_in_training_only() -> None:
    layer, x = nn.Dropout(0.5, sg.random.Generator(0)), np.ones((1000,))
    dropped = layer(x).numpy()
    assert set(np.unique(dropped)) == {0.0, 2.0}
    assert 400 < (dropped == 0).sum() < 600
    assert np.array_equal(layer.eval()(x).numpy(), x)


def test_pooling_strides_by_the_window() -> None:
    x = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    assert nn.MaxPool2d(2)(x).tolist() == [[[[5, 7], [13, 15]]]]
    assert nn.AvgPool2d(2)(x).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    assert nn.MaxPool1d(3, stride=1)(x[:, 0]).shape == (1, 4, 2)
    assert nn.AvgPool1d(2)(x[:, 0]).tolist()[0][0] == [0.5, 2.5]


def test_initialisers_have_the_variance_they_promise() -> None:
    shape, source = (300, 200, 2), sg.random.Generator(1)
    want = {
        "xavier_uniform": 2 / 1000, "xavier_normal": 2 / 1000, "kaiming_uniform": 2 / 400,
        "kaiming_normal": 2 / 400, "truncated_normal": 0.7737,
    }  # fmt: skip
    for name, variance in want.items():
        values = getattr(nn.init, name)(shape, generator=source).numpy()
        assert abs(values.mean()) < 0.01
        np.testing.assert_allclose(values.var(), variance, rtol=0.03, err_msg=name)
    q = nn.init.orthogonal((6, 2, 2), generator=source).numpy().reshape(6, 4)
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-6)


def test_the_same_seed_gives_the_same_network(device: Any) -> None:
    values = []
    for _ in range(2):
        sg.random.seed(5)
        values.append(nn.Linear(3, 3).weight.numpy())
    assert np.array_equal(*values)
    with sg.device("numpy"):
        sg.random.seed(5)
        assert np.array_equal(nn.Linear(3, 3).weight.numpy(), values[0])


def test_running_averages_are_computed_with_the_step(one_cl_device: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4), nn.Linear(4, 1))
    optimizer, x = Adam(net.parameters()), np.random.default_rng(0).standard_normal((16, 3))

    def step() -> None:
        net.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    step(), step()
    norm = net.layers[1]
    with sg.Profile() as profile:
        assert int(norm.num_batches_tracked) == 2
        norm.running_mean.numpy(), norm.running_var.numpy()
    assert profile.launches == 0
    with sg.Profile() as profile:
        step(), step()
    assert profile.compiles == 0


def test_running_averages_without_an_optimiser_stay_bounded() -> None:
    norm = nn.BatchNorm(2)
    x = np.random.default_rng(0).standard_normal((16, 2)).astype(np.float32)
    mean = np.zeros(2)
    for _ in range(40):
        norm(x)
        mean += 0.1 * (x.mean(0) - mean)
        assert norm.running_mean._node.depth < 40
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5)


def test_attention_gradients_by_finite_differences() -> None:
    sg.set_default_float(sg.float64)
    try:
        layer = nn.MultiHeadAttention(4, 2)
        x = np.random.default_rng(0).standard_normal((2, 3, 4))
        mask = np.asarray([[True, True, False], [True, True, True]])

        def loss() -> Tensor:
            return layer(x, mask=mask, causal=True).sin().sum()

        loss().backward()
        weight = layer.in_proj_weight
        gradient, base = weight.grad.numpy(), weight.numpy()
        for place in [(0, 0), (5, 2), (11, 3)]:
            values = []
            for move in (1e-6, -1e-6):
                moved = base.copy()
                moved[place] += move
                layer.in_proj_weight = Tensor(moved)
                values.append(loss().item())
            np.testing.assert_allclose((values[0] - values[1]) / 2e-6, gradient[place], rtol=1e-5)
    finally:
        sg.set_default_float(sg.float32)


def test_masked_places_have_no_influence() -> None:
    layer, x = nn.MultiHeadAttention(4, 2), np.random.default_rng(0).standard_normal((1, 3, 4))
    mask, other = np.asarray([[True, True, False]]), x.copy()
    other[0, 2] = 99
    assert np.array_equal(
        layer(x, mask=mask).numpy()[0, :2], layer(other, mask=mask).numpy()[0, :2]
    )


def test_memory_of_another_length_is_looked_at() -> None:
    layer = nn.MultiHeadAttention(4, 2)
    x, memory = np.ones((2, 3, 4)), np.random.default_rng(0).standard_normal((2, 5, 4))
    assert layer(x, memory).shape == (2, 3, 4)
    same = np.random.default_rng(0).standard_normal((2, 5, 4))
    np.testing.assert_allclose(layer(memory, same).numpy(), layer(memory).numpy(), rtol=1e-5)


def test_a_state_carries_a_sequence_on() -> None:
    for make in (nn.RNN, nn.GRU, nn.LSTM):
        layer, x = make(2, 3, layers=2), np.random.default_rng(0).standard_normal((2, 7, 2))
        whole, last = layer(x)
        first, state = layer(x[:, :4])
        rest, end = layer(x[:, 4:], state)
        both = np.concatenate([first.numpy(), rest.numpy()], axis=1)
        np.testing.assert_allclose(both, whole.numpy(), rtol=1e-4, atol=1e-6)
        pairs = zip(end, last, strict=True) if make is nn.LSTM else [(end, last)]
        for a, b in pairs:
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: nn.Linear(3, 2)(np.ones((4, 5))), ShapeError, r"Linear: takes \(..., 3\), got shape \(4, 5\)"),
        (lambda: nn.LayerNorm(3)(np.ones((4, 5))), ShapeError, "LayerNorm: takes"),
        (lambda: nn.BatchNorm(3)(np.ones((4, 5))), ShapeError, r"BatchNorm: takes \(N, 3, ...\)"),
        (lambda: nn.BatchNorm(3)(np.ones((1, 3))), ShapeError, "larger batch"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ShapeError, "do not divide into 2 groups"),
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((1, 2, 8, 8))), ShapeError, "Conv2d: input"),
        (lambda: nn.MultiHeadAttention(5, 2), ShapeError, "width 5 does not divide into 2"),
        (lambda: nn.MultiHeadAttention(4, 2)(np.ones((2, 4))), ShapeError, "query is"),
        (
            lambda: nn.MultiHeadAttention(4, 2)(np.ones((2, 3, 4)), mask=np.ones((3, 2), bool)),
            ShapeError, r"mask of shape \(3, 2\)",
        ),
        (
            lambda: nn.MultiHeadAttention(4, 2)(np.ones((2, 3, 4)), mask=np.ones((2, 3))),
            sg.DTypeError, "must be bool",
        ),
        (lambda: nn.LSTM(3, 4)(np.ones((2, 5))), ShapeError, "LSTM: takes"),
        (lambda: nn.GRU(3, 4)(np.ones((2, 5, 3)), np.ones((1, 3, 4))), ShapeError, "the state is 1"),
        (lambda: nn.Dropout(1.5), sg.ArgumentError, "p must be between 0 and 1"),
        (lambda: nn.mse(np.ones((3, 1)), np.ones(3)), ShapeError, "mse: an output"),
        (lambda: nn.Embedding(5, 2)([[1, 5]]), IndexOutOfRange, "index 5 .* extent 5"),
        (lambda: nn.Embedding(5, 2)(Tensor([1, 7])), IndexOutOfRange, "index 7"),
        (lambda: nn.cross_entropy(np.ones((2, 3)), [0, 3]), IndexOutOfRange, "labels 0 … 3"),
        (lambda: nn.cross_entropy(np.ones((2, 3)), Tensor([0, 3])), IndexOutOfRange, "labels"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_labels_out_of_range_read_nothing_else_on_a_device(one_cl_device: Any) -> None:
    logits = Tensor(np.zeros((2, 4), np.float32))
    loss = nn.cross_entropy(logits, Tensor([1, 1000]), reduction="none")
    np.testing.assert_allclose(loss.numpy(), [np.log(4), 0], rtol=1e-6)
    with sg.settings.override(check=True), pytest.raises(IndexOutOfRange):
        nn.cross_entropy(logits, Tensor([1, 1000]))
    with sg.settings.override(check=True), pytest.raises(IndexOutOfRange):
        nn.Embedding(5, 2)(Tensor([1, 7]))


def test_forward_is_called_where_it_is_what_a_module_defines() -> None:
    class Doubling(nn.Module):
        def forward(self, x: Any, times: int = 1) -> Any:
            return x * 2 * times

    assert Doubling()(Tensor([1.0]), times=3).tolist() == [6.0]
    with pytest.raises(sg.UnsupportedOp, match="Module: this module computes nothing; define"):
        nn.Module()(1)


def test_a_sequence_has_pytorchs_names() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            self.body = nn.Sequential(nn.Linear(4, 8), sg.relu, nn.Sequential(nn.Linear(8, 2)))

    net = Net()
    assert list(net.state_dict()) == [
        "body.0.weight", "body.0.bias", "body.2.0.weight", "body.2.0.bias",
    ]  # fmt: skip
    assert [name for name, _ in net.named_modules()] == ["", "body", "body.0", "body.2", "body.2.0"]
    net.body.load_state_dict({
        "0.weight": np.ones((8, 4)), "0.bias": np.zeros(8), "2.0.weight": np.ones((2, 8)),
        "2.0.bias": np.zeros(2),
    })  # fmt: skip
    assert net.body(sg.ones((1, 4))).tolist() == [[32, 32]]
