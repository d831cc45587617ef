"""Sunspots of the next year with an LSTM: ``python -m simplegrad.examples.lstm``.

Trains on the yearly numbers since 1700 (309 years, shipped in statsmodels) but for the last 60,
backward through 200 years at once, and forecasts each of the last 60 from the years before it. The
error is compared with two forecasts that need no network: last year's number, and that of 11 years
ago, the length of the sun's cycle. A picture shows the forecasts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import simplegrad as sg
from simplegrad import Adam, Tensor, nn, optim
from simplegrad.examples import frame

HELD_OUT = 60
"""Years at the end that training never sees."""
WINDOW = 200
"""Years in a row that a gradient flows through."""
BATCH = 8
CYCLE = 11
SCALE = 100.0
"""Sunspots per unit of the network's numbers."""


def sunspots() -> tuple[Any, Any]:
    """Return years and yearly mean sunspot numbers, each (309,)."""
    data = frame.need("statsmodels.datasets.sunspots").load_pandas().data
    return data["YEAR"].to_numpy(int), data["SUNACTIVITY"].to_numpy(np.float32)


class Network(nn.Module):
    """An LSTM, and a line that turns its outputs into a change since the year before."""

    def __init__(self, hidden: int = 32) -> None:
        self.lstm = nn.LSTM(1, hidden)
        self.head = nn.Linear(hidden, 1)

    def __call__(self, x: Any) -> Tensor:
        """Return forecasts (batch, time) of the year after each of `x` (batch, time)."""
        known = Tensor(x, requires_grad=False)
        outputs, _ = self.lstm(known.expand_dims(-1))
        return known.add(self.head(outputs).squeeze(-1))


def train(run: frame.Run) -> None:
    """Train, forecast, compare, draw."""
    years, spots = sunspots()
    known = spots[:-HELD_OUT] / SCALE
    network = Network()
    optimizer = Adam(network.parameters(), optim.cosine(0.01, run.epochs), weight_decay=1e-4)

    def step() -> Tensor:
        starts = run.rng.integers(0, len(known) - WINDOW, BATCH)
        rows = np.stack([known[s : s + WINDOW + 1] for s in starts])
        return frame.stepped(optimizer, nn.mse(network(rows[:, :-1]), rows[:, 1:]))

    for _ in run.each_epoch():
        run.step(step)
    truth = spots[-HELD_OUT:]
    with sg.no_grad():
        forecast = network(spots[None, :-1] / SCALE)[0, -HELD_OUT:].numpy() * SCALE
    for name, guess in {
        "error": forecast,
        "of last year": spots[-HELD_OUT - 1 : -1],
        f"of {CYCLE} years ago": spots[-HELD_OUT - CYCLE : -CYCLE],
    }.items():
        run.measures[name] = float(np.sqrt(np.mean((guess - truth) ** 2)))
    if run.out:
        draw(years, spots, forecast, run.out)


def draw(years: Any, spots: Any, forecast: Any, path: str) -> None:
    """Save the last years with the forecasts of those held out."""
    plt = frame.pyplot()
    if plt is None:
        return
    figure, axis = plt.subplots(figsize=(8, 4))
    shown = HELD_OUT * 2
    axis.plot(years[-shown:], spots[-shown:], color="gray", label="sunspots")
    axis.plot(years[-HELD_OUT:], forecast, color="tab:red", label="forecast a year ahead")
    axis.legend()
    frame.saved(figure, path)


if __name__ == "__main__":
    frame.main("lstm", __doc__, train, epochs=150, out="lstm.png")
