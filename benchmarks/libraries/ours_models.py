"""The examples' models in simplegrad; on its NumPy device, in float64, the reference as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import simplegrad as sg
from benchmarks import models
from benchmarks.libraries.library import Library, maker
from benchmarks.workload import Workload
from simplegrad import Adam, Tensor, nn
from simplegrad.examples import bert, cnn, lstm, transformer


class OursModels(Library):
    """Training steps with Adam, and BERT's forward pass."""

    @maker
    def cnn_step(self, images: Any, labels: Any, *params: Any) -> Callable[[], Any]:
        network = _loaded(cnn.Network(), models.CNN, params).eval()  # without dropout
        whole = labels.astype(np.int32)
        return _step(network, lambda: nn.cross_entropy(network(images), whole))

    @maker
    def lstm_step(self, series: Any, *params: Any) -> Callable[[], Any]:
        network = _loaded(_Series(), models.LSTM, params)
        known, coming = series[:, :-1], series[:, 1:]
        return _step(network, lambda: nn.mse(network(known), coming))

    @maker
    def transformer_step(self, codes: Any, *params: Any) -> Callable[[], Any]:
        model = _loaded(transformer.Model(models.SYMBOLS), models.TRANSFORMER, params)
        known, coming = (c.astype(np.int32) for c in (codes[:, :-1], codes[:, 1:]))
        return _step(model, lambda: nn.cross_entropy(model(known), coming))

    @maker
    def bert_forward(self, tokens: Any, mask: Any, *params: Any) -> Callable[[], Any]:
        shape = bert.Shape(
            models.WORDS, models.PLACES, models.BERT_WIDTH, models.DEPTH, models.HEADS,
            4 * models.BERT_WIDTH,
        )  # fmt: skip
        model = _loaded(bert.Bert(shape), models.BERT, params).eval()
        words, seen = tokens.astype(np.int32), mask.astype(bool)

        def run() -> Any:
            with sg.no_grad():
                return model.embed(words, seen)

        return run


class _Series(lstm.Network):
    """An LSTM of 64, and a line; the example's own adds the year before."""

    def __init__(self) -> None:
        super().__init__(64)

    def __call__(self, x: Any) -> Tensor:
        return self.head(self.lstm(Tensor(x, requires_grad=False))[0])


def _loaded(module: Any, table: models.Table, params: Any) -> Any:
    module.load_state_dict(models.named(table, params))
    return module


def _step(module: Any, loss_of: Callable[[], Tensor]) -> Callable[[], Any]:
    optimizer = Adam(module.parameters(), learning_rate=0.001)

    def run() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        return loss

    return run


class Exact(OursModels):
    """The same on the NumPy device in float64: what libraries are checked against."""

    def make(self, workload: Workload, arrays: list[Any]) -> Callable[[], Any]:
        def exactly(function: Callable[[], Any]) -> Any:
            before = sg.default_float()
            sg.set_default_float("float64")
            try:
                with sg.device("numpy"):
                    return function()
            finally:
                sg.set_default_float(before)

        run = exactly(lambda: super(Exact, self).make(workload, arrays))
        return lambda: exactly(lambda: run().numpy())
