"""The models of the examples as workloads: names and shapes of their parameters, and inputs.

Inputs are what a step gets, then the parameters in the order of the tables here, whose names are
those of ``torch.nn``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.workload import Shape, Workload

Table = dict[str, Shape]

SYMBOLS, CONTEXT, WIDTH = 90, 64, 96
"""Characters, places and width of the `transformer` example."""
WORDS, PLACES, BERT_WIDTH, DEPTH, HEADS = 30522, 512, 384, 6, 12
"""Of all-MiniLM-L6-v2."""


def _encoder(depth: int, width: int, hidden: int) -> Table:
    table: Table = {}
    for i in range(depth):
        own: Table = {
            "self_attn.in_proj_weight": (3 * width, width), "self_attn.in_proj_bias": (3 * width,),
            "self_attn.out_proj.weight": (width, width), "self_attn.out_proj.bias": (width,),
            "linear1.weight": (hidden, width), "linear1.bias": (hidden,),
            "linear2.weight": (width, hidden), "linear2.bias": (width,),
            "norm1.weight": (width,), "norm1.bias": (width,),
            "norm2.weight": (width,), "norm2.bias": (width,),
        }  # fmt: skip
        table |= {f"encoder.layers.{i}.{name}": shape for name, shape in own.items()}
    return table


CNN: Table = {
    "layers.0.weight": (16, 1, 3, 3), "layers.0.bias": (16,),
    "layers.3.weight": (32, 16, 3, 3), "layers.3.bias": (32,),
    "layers.7.weight": (64, 128), "layers.7.bias": (64,),
    "layers.10.weight": (10, 64), "layers.10.bias": (10,),
}  # fmt: skip
LSTM: Table = {
    "lstm.weight_ih_l0": (256, 1), "lstm.weight_hh_l0": (256, 64),
    "lstm.bias_ih_l0": (256,), "lstm.bias_hh_l0": (256,),
    "head.weight": (1, 64), "head.bias": (1,),
}  # fmt: skip
TRANSFORMER: Table = {
    "symbols.weight": (SYMBOLS, WIDTH), "places.weight": (CONTEXT, WIDTH),
    **_encoder(2, WIDTH, 4 * WIDTH), "encoder.norm.weight": (WIDTH,), "encoder.norm.bias": (WIDTH,),
    "head.weight": (SYMBOLS, WIDTH), "head.bias": (SYMBOLS,),
}  # fmt: skip
BERT: Table = {
    "words.weight": (WORDS, BERT_WIDTH), "places.weight": (PLACES, BERT_WIDTH),
    "kinds.weight": (2, BERT_WIDTH), "norm.weight": (BERT_WIDTH,), "norm.bias": (BERT_WIDTH,),
    **_encoder(DEPTH, BERT_WIDTH, 4 * BERT_WIDTH),
}  # fmt: skip


def named(table: Table, arrays: Any) -> dict[str, Any]:
    """Return parameters by name, in float32 where they come as such."""
    return dict(zip(table, arrays, strict=True))


def _inputs(table: Table, data: Callable[[Any], list[Any]]) -> Callable[[], list[Any]]:
    def make() -> list[Any]:
        rng = np.random.default_rng(0)
        arrays = data(rng)
        for name, shape in table.items():
            values = rng.standard_normal(shape, np.float32)
            fan = np.prod(shape[1:]) if len(shape) > 1 else 100
            scale = np.float32(1 / np.sqrt(fan))
            arrays.append(values * scale + np.float32("norm" in name and "weight" in name))
        return arrays

    return make


def _digits(rng: Any) -> list[Any]:
    return [rng.random((64, 1, 8, 8), np.float32), rng.integers(0, 10, 64).astype(np.int32)]


def _series(rng: Any) -> list[Any]:
    return [rng.standard_normal((32, 51, 1), np.float32)]


def _text(rng: Any) -> list[Any]:
    return [rng.integers(0, SYMBOLS, (32, CONTEXT + 1)).astype(np.int32)]


def _sentences(rng: Any) -> list[Any]:
    tokens = rng.integers(0, WORDS, (32, 32)).astype(np.int32)
    return [tokens, np.arange(32) < rng.integers(8, 33, (32, 1))]


MODELS = [
    Workload("cnn step", "cnn_step", _inputs(CNN, _digits), 1e-3),
    Workload("lstm step of 50", "lstm_step", _inputs(LSTM, _series), 1e-3),
    Workload("transformer step", "transformer_step", _inputs(TRANSFORMER, _text), 1e-3),
    Workload("bert forward of 32", "bert_forward", _inputs(BERT, _sentences), 1e-4),
]
