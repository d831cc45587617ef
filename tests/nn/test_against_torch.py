"""Layers and losses against PyTorch: its state dictionaries load as they are, outputs and
gradients agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, nn

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

RNG = np.random.default_rng(0)


def data(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def torch_lstm(layer: Any, x: Any) -> Any:
    out, (h, c) = layer(x)
    return out + h.sum() + c.sum()


def our_lstm(layer: Any, x: Any) -> Any:
    out, (h, c) = layer(x)
    return out + h.sum() + c.sum()


def recurrent(layer: Any, x: Any) -> Any:
    out, h = layer(x)
    return out + h.sum()


Pair = tuple[Callable[[], Any], Callable[[], Any], Any, Any, Any]


def plain(layer: Any, x: Any) -> Any:
    return layer(x)


LAYERS: dict[str, Pair] = {
    "linear": (
        lambda: nn.Linear(5, 7), lambda: torch.nn.Linear(5, 7), data(3, 2, 5), plain, plain,
    ),
    "conv1d": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        lambda: torch.nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        data(2, 4, 9), plain, plain,
    ),
    "conv2d": (
        lambda: nn.Conv2d(3, 4, (3, 2), padding=1, dilation=(2, 1)),
        lambda: torch.nn.Conv2d(3, 4, (3, 2), padding=1, dilation=(2, 1)),
        data(2, 3, 8, 7), plain, plain,
    ),
    "batch_norm": (
        lambda: nn.BatchNorm(3), lambda: torch.nn.BatchNorm2d(3), data(4, 3, 5, 2), plain, plain,
    ),
    "layer_norm": (
        lambda: nn.LayerNorm((4, 6)), lambda: torch.nn.LayerNorm((4, 6)), data(3, 4, 6),
        plain, plain,
    ),
    "rnn": (
        lambda: nn.RNN(3, 5, bidirectional=True),
        lambda: torch.nn.RNN(3, 5, bidirectional=True, batch_first=True),
        data(2, 4, 3), recurrent, recurrent,
    ),
    "rnn of relu": (
        lambda: nn.RNN(3, 5, nonlinearity="relu"),
        lambda: torch.nn.RNN(3, 5, nonlinearity="relu", batch_first=True),
        data(2, 4, 3), recurrent, recurrent,
    ),
    "lstm": (
        lambda: nn.LSTM(3, 4, layers=2, bidirectional=True),
        lambda: torch.nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
        data(2, 5, 3), our_lstm, torch_lstm,
    ),
    "gru": (
        lambda: nn.GRU(3, 4, layers=2), lambda: torch.nn.GRU(3, 4, 2, batch_first=True),
        data(2, 5, 3), recurrent, recurrent,
    ),
    "attention": (
        lambda: nn.MultiHeadAttention(8, 2),
        lambda: torch.nn.MultiheadAttention(8, 2, batch_first=True),
        data(3, 4, 8), plain, lambda layer, x: layer(x, x, x)[0],
    ),
    "encoder_layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0),
        lambda: torch.nn.TransformerEncoderLayer(8, 2, 16, 0, "gelu", batch_first=True),
        data(3, 4, 8), plain, plain,
    ),
    "causal_encoder_norm_first": (
        lambda: nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0, activation=Tensor.relu, norm_first=True
        ),
        lambda: torch.nn.TransformerEncoderLayer(
            8, 2, 16, 0, batch_first=True, norm_first=True
        ),
        data(3, 4, 8),
        lambda layer, x: layer(x, causal=True),
        lambda layer, x: layer(x, torch.nn.Transformer.generate_square_subsequent_mask(4)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    with sg.device("numpy"):
        check(name)


@pytest.mark.parametrize("name", ["batch_norm", "gru", "attention"])
def test_layer_compiled(name: str, one_cl_device: Any) -> None:
    """The layers whose graphs are more than one operation of the table, compiled."""
    check(name)


def check(name: str) -> None:
    make, make_torch, x, call, call_torch = LAYERS[name]
    theirs, ours = make_torch(), make()
    with torch.no_grad():  # biases that begin as zeros would hide a missing one
        for parameter in theirs.parameters():
            parameter.uniform_(-0.5, 0.5)
    ours.load_state_dict({k: v.numpy() for k, v in theirs.state_dict().items()})
    x_theirs = torch.tensor(x, requires_grad=True)
    out_theirs = call_torch(theirs, x_theirs)
    x_ours = Tensor(x)
    out_ours = call(ours, x_ours)
    weights = np.cos(np.arange(out_ours.size)).reshape(out_ours.shape).astype(np.float32)
    (out_theirs * torch.tensor(weights)).sum().backward()
    (out_ours * weights).sum().backward()
    close = {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(out_ours.numpy(), out_theirs.detach().numpy(), **close)
    np.testing.assert_allclose(x_ours.grad.numpy(), x_theirs.grad.numpy(), **close)
    gradients = dict(theirs.named_parameters())
    assert {n for n, _ in ours.named_parameters()} == set(gradients)
    for key, parameter in ours.named_parameters():
        want = gradients[key].grad.numpy()
        np.testing.assert_allclose(parameter.grad.numpy(), want, **close, err_msg=key)
    after = theirs.state_dict()
    for key, tensor in ours.state_dict().items():  # running averages included
        np.testing.assert_allclose(tensor.numpy(), after[key].numpy(), rtol=1e-5, err_msg=key)
    np.testing.assert_allclose(
        call(ours.eval(), Tensor(x)).numpy(),
        call_torch(theirs.eval(), torch.tensor(x)).detach().numpy(),
        **close,
    )


LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any, Any]] = {
    "cross_entropy": (
        lambda x, y: nn.cross_entropy(x, y, smoothing=0.1),
        lambda x, y: torch.nn.functional.cross_entropy(x, y, label_smoothing=0.1),
        data(6, 5), np.arange(6) % 5,
    ),
    "binary_cross_entropy": (
        nn.binary_cross_entropy, torch.nn.functional.binary_cross_entropy_with_logits,
        data(4, 3) * 30, (data(4, 3) > 0).astype(np.float32),
    ),
    "mse": (nn.mse, torch.nn.functional.mse_loss, data(4, 3), data(4, 3)),
    "l1": (nn.l1, torch.nn.functional.l1_loss, data(4, 3), data(4, 3)),
    "huber": (
        lambda x, y: nn.huber(x, y, 0.7), lambda x, y: torch.nn.functional.huber_loss(x, y, delta=0.7),
        data(4, 3), data(4, 3),
    ),
    "kl_divergence": (
        lambda x, y: nn.kl_divergence(x, y),
        lambda x, y: torch.nn.functional.kl_div(x, y, reduction="batchmean"),
        np.log(np.full((3, 4), 0.25, np.float32)), np.eye(4, dtype=np.float32)[:3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name: str) -> None:
    ours, theirs, x, y = LOSSES[name]
    with sg.device("numpy"):
        mine, its = Tensor(x), torch.tensor(x, requires_grad=True)
        loss, want = ours(mine, y), theirs(its, torch.tensor(y))
        loss.backward()
        want.backward()
        np.testing.assert_allclose(loss.numpy(), want.detach().numpy(), rtol=1e-5)
        np.testing.assert_allclose(mine.grad.numpy(), its.grad.numpy(), rtol=1e-4, atol=1e-6)
