"""The examples' models in tinygrad, every step under TinyJit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tinygrad import Context, Tensor, TinyJit
from tinygrad.nn.optim import Adam

from benchmarks import models
from benchmarks.libraries.library import Library, maker

State = dict[str, Any]


class TinygradModels(Library):
    """Training steps with Adam, and BERT's forward pass."""

    @maker
    def cnn_step(self, images: Any, labels: Any, *params: Any) -> Callable[[], Any]:
        state = _placed(models.CNN, params)
        return _step(state, _digits, images, labels)

    @maker
    def lstm_step(self, series: Any, *params: Any) -> Callable[[], Any]:
        known, coming = (np.ascontiguousarray(s) for s in (series[:, :-1], series[:, 1:]))
        return _step(_placed(models.LSTM, params), _series, known, coming)

    @maker
    def transformer_step(self, codes: Any, *params: Any) -> Callable[[], Any]:
        known, coming = (np.ascontiguousarray(c) for c in (codes[:, :-1], codes[:, 1:]))
        return _step(_placed(models.TRANSFORMER, params), _characters, known, coming)

    @maker
    def bert_forward(self, tokens: Any, mask: Any, *params: Any) -> Callable[[], Any]:
        state = _placed(models.BERT, params)
        forward = TinyJit(lambda words, seen: _bert(state, words, seen).realize())
        words, seen = Tensor(tokens).realize(), Tensor(mask).realize()
        return lambda: forward(words, seen)


def _placed(table: models.Table, params: Any) -> State:
    return {n: Tensor(p).realize() for n, p in models.named(table, params).items()}


def _step(state: State, loss_of: Callable[[State, Any, Any], Any], *data: Any) -> Callable[[], Any]:
    optimizer = Adam(list(state.values()), lr=0.001, eps=1e-7)

    def step(x: Any, y: Any) -> Any:
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = loss_of(state, x, y)
            loss.backward()
            return loss.realize(*optimizer.schedule_step())

    jitted = TinyJit(step)
    x, y = (Tensor(d).realize() for d in data)
    return lambda: jitted(x, y)


def _digits(state: State, x: Any, y: Any) -> Any:
    for i in (0, 3):
        name = f"layers.{i}."
        x = x.conv2d(state[name + "weight"], state[name + "bias"], padding=1).relu().max_pool2d()
    x = _linear(state, x.flatten(1), "layers.7").relu()
    return _linear(state, x, "layers.10").sparse_categorical_crossentropy(y)


def _series(state: State, x: Any, y: Any) -> Any:
    batch, time, _ = x.shape
    bias = state["lstm.bias_ih_l0"] + state["lstm.bias_hh_l0"]
    given = x @ state["lstm.weight_ih_l0"].T + bias
    h = c = Tensor.zeros(batch, 64)
    outputs = []
    for t in range(time):
        gates = given[:, t] + h @ state["lstm.weight_hh_l0"].T
        write, keep, new, show = gates.chunk(4, 1)
        c = keep.sigmoid() * c + write.sigmoid() * new.tanh()
        h = show.sigmoid() * c.tanh()
        outputs.append(h)
    out = _linear(state, Tensor.stack(*outputs, dim=1), "head")
    return (out - y).square().mean()


def _characters(state: State, x: Any, y: Any) -> Any:
    x = state["symbols.weight"][x] + state["places.weight"]
    for i in range(2):
        at = f"encoder.layers.{i}."
        x = x + _attention(state, _norm(state, x, at + "norm1", 1e-5), at, 4, None)
        inner = _linear(state, _norm(state, x, at + "norm2", 1e-5), at + "linear1")
        x = x + _linear(state, inner.gelu(approximate="none"), at + "linear2")
    out = _linear(state, _norm(state, x, "encoder.norm", 1e-5), "head")
    return out.flatten(0, 1).sparse_categorical_crossentropy(y.flatten())


def _bert(state: State, tokens: Any, mask: Any) -> Any:
    time = tokens.shape[1]
    x = state["words.weight"][tokens] + state["places.weight"][:time] + state["kinds.weight"][0]
    x = _norm(state, x, "norm", 1e-12)
    for i in range(models.DEPTH):
        at = f"encoder.layers.{i}."
        mixed = _attention(state, x, at, models.HEADS, mask.reshape(-1, 1, 1, time))
        x = _norm(state, x + mixed, at + "norm1", 1e-12)
        inner = _linear(state, x, at + "linear1").gelu(approximate="none")
        x = _norm(state, x + _linear(state, inner, at + "linear2"), at + "norm2", 1e-12)
    weights = mask.unsqueeze(-1).float()
    mean = (x * weights).sum(1) / weights.sum(1)
    return mean / mean.square().sum(1, keepdim=True).sqrt()


def _linear(state: State, x: Any, name: str) -> Any:
    return x.linear(state[f"{name}.weight"].T, state[f"{name}.bias"])


def _norm(state: State, x: Any, name: str, eps: float) -> Any:
    return x.layernorm(eps=eps) * state[f"{name}.weight"] + state[f"{name}.bias"]


def _attention(state: State, x: Any, at: str, heads: int, mask: Any) -> Any:
    batch, time, width = x.shape
    weight, bias = (state[f"{at}self_attn.in_proj_{part}"] for part in ("weight", "bias"))
    parts = x.linear(weight.T, bias).reshape(batch, time, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = parts[0], parts[1], parts[2]
    mixed = q.scaled_dot_product_attention(k, v, attn_mask=mask, is_causal=mask is None)
    mixed = mixed.transpose(1, 2).reshape(batch, time, width)
    return _linear(state, mixed, at + "self_attn.out_proj")
