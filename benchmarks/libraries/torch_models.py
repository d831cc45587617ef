"""The examples' models in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import models
from benchmarks.libraries.library import Library, maker


class TorchModels(Library):
    """Training steps with Adam, and BERT's forward pass."""

    @maker
    def cnn_step(self, images: Any, labels: Any, *params: Any) -> Callable[[], Any]:
        net = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            torch.nn.Flatten(), torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10),
        )  # fmt: skip
        _fill(net, params)
        x, y = torch.from_numpy(images), torch.from_numpy(labels).long()
        return self._step(net, lambda model: F.cross_entropy(model(x), y))

    @maker
    def lstm_step(self, series: Any, *params: Any) -> Callable[[], Any]:
        net = _Series()
        _fill(net, params)
        x = torch.from_numpy(series)
        return self._step(net, lambda model: F.mse_loss(model(x[:, :-1]), x[:, 1:]))

    @maker
    def transformer_step(self, codes: Any, *params: Any) -> Callable[[], Any]:
        net = _Characters()
        _fill(net, params)
        c = torch.from_numpy(codes).long()
        known, coming = c[:, :-1], c[:, 1:].flatten()
        return self._step(net, lambda model: F.cross_entropy(model(known).flatten(0, 1), coming))

    @maker
    def bert_forward(self, tokens: Any, mask: Any, *params: Any) -> Callable[[], Any]:
        state = {n: torch.from_numpy(p) for n, p in models.named(models.BERT, params).items()}
        words, seen = torch.from_numpy(tokens).long(), torch.from_numpy(mask)
        forward = self.compiled(_bert)

        def run() -> Any:
            with torch.no_grad():
                return forward(state, words, seen)

        return run

    def _step(self, net: Any, loss_of: Callable[[Any], Any]) -> Callable[[], Any]:
        model = self.compiled(net)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.001, eps=1e-7)

        def run() -> Any:
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            optimizer.step()
            return loss

        return run


def _fill(module: Any, params: Any) -> None:
    with torch.no_grad():
        for own, array in zip(module.parameters(), params, strict=True):
            own.copy_(torch.from_numpy(array))


class _Series(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(1, 64, batch_first=True)
        self.head = torch.nn.Linear(64, 1)

    def forward(self, x: Any) -> Any:
        return self.head(self.lstm(x)[0])


class _Characters(torch.nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        width, context = models.WIDTH, models.CONTEXT
        self.symbols = torch.nn.Embedding(models.SYMBOLS, width)
        self.places = torch.nn.Embedding(context, width)
        layer = torch.nn.TransformerEncoderLayer(
            width, 4, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = torch.nn.TransformerEncoder(
            layer, 2, torch.nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.head = torch.nn.Linear(width, models.SYMBOLS)
        self.mask = torch.nn.Transformer.generate_square_subsequent_mask(context)

    def forward(self, codes: Any) -> Any:
        x = self.symbols(codes) + self.places.weight
        return self.head(self.encoder(x, self.mask, is_causal=True))


def _bert(state: dict[str, Any], tokens: Any, mask: Any) -> Any:
    batch, time = tokens.shape
    width, heads = models.BERT_WIDTH, models.HEADS

    def norm(x: Any, name: str) -> Any:
        return F.layer_norm(x, (width,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)

    def linear(x: Any, name: str) -> Any:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    x = state["words.weight"][tokens] + state["places.weight"][:time] + state["kinds.weight"][0]
    x = norm(x, "norm")
    for i in range(models.DEPTH):
        at = f"encoder.layers.{i}."
        own = (state[at + "self_attn.in_proj_weight"], state[at + "self_attn.in_proj_bias"])
        q, k, v = F.linear(x, *own).reshape(batch, time, 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        mixed = mixed.transpose(1, 2).reshape(batch, time, width)
        x = norm(x + linear(mixed, at + "self_attn.out_proj"), at + "norm1")
        inner = F.gelu(linear(x, at + "linear1"))
        x = norm(x + linear(inner, at + "linear2"), at + "norm2")
    weights = mask[..., None].to(x.dtype)
    return F.normalize((x * weights).sum(1) / weights.sum(1), dim=1)
