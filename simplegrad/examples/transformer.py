"""A small causal transformer that writes: ``python -m simplegrad.examples.transformer``.

Learns Python's own language reference (``pydoc_data.topics``, which ships with Python) character by
character, compares its loss on a part held out with the entropy of pairs of characters, and prints
a sample.
"""

from __future__ import annotations

import math
import pydoc_data.topics
from typing import Any

import numpy as np

import simplegrad as sg
from simplegrad import Adam, Tensor, nn, optim
from simplegrad.errors import ShapeError
from simplegrad.examples import frame

CHARACTERS = 300_000
CONTEXT = 64
BATCH = 32
STEPS = 50
"""Steps an epoch."""


def text() -> str:
    """Return the first characters of Python's language reference, in plain ASCII."""
    whole = "\n".join(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics))
    return whole.encode("ascii", "ignore").decode()[:CHARACTERS]


def bigram_entropy(codes: Any, symbols: int) -> float:
    """Return the mean of -log p(character | the one before) in nats, counted over `codes`."""
    pairs = np.zeros((symbols, symbols))
    np.add.at(pairs, (codes[:-1], codes[1:]), 1)
    share = pairs / pairs.sum(axis=1, keepdims=True).clip(1)
    return float(-(pairs[pairs > 0] * np.log(share[pairs > 0])).sum() / pairs.sum())


class Model(nn.Module):
    """Embeddings of characters and places, causal encoder layers, logits of the next character."""

    def __init__(self, symbols: int, width: int = 96, depth: int = 2, heads: int = 4) -> None:
        self.symbols, self.places = nn.Embedding(symbols, width), nn.Embedding(CONTEXT, width)
        self.encoder = nn.TransformerEncoder(depth, width, heads, dropout=0.0, norm_first=True)
        self.head = nn.Linear(width, symbols)
        for table in (self.symbols, self.places):
            table.weight = nn.init.normal(table.weight.shape, 0.02)

    def __call__(self, codes: Any) -> Tensor:
        """Return logits (batch, time, symbols) of what follows each of `codes` (batch, time)."""
        time = codes.shape[1]
        if time > CONTEXT:
            raise ShapeError(
                f"transformer: a sequence of {time} characters is too long; the model has "
                f"{CONTEXT} places, give it the last {CONTEXT}"
            )
        x = self.symbols(codes).add(self.places.weight[:time])
        return self.head(self.encoder(x, causal=True))


def train(run: frame.Run) -> None:
    """Train, compare with pairs of characters, write."""
    letters = sorted(set(text()))
    codes = np.searchsorted(letters, list(text())).astype(np.int32)
    known, held_out = codes[: len(codes) * 9 // 10], codes[len(codes) * 9 // 10 :]
    model = Model(len(letters))
    rate = optim.warmup(optim.cosine(0.003, run.epochs * STEPS), 20)
    optimizer = Adam(model.parameters(), rate)

    def step() -> Tensor:
        rows = windows(known, run.rng.integers(0, len(known) - CONTEXT, BATCH))
        return frame.stepped(optimizer, nn.cross_entropy(model(rows[:, :-1]), rows[:, 1:]))

    for _ in run.each_epoch():
        for _ in range(STEPS):
            run.step(step)
    run.measures["held-out loss"] = tested(model, held_out)
    run.measures["bigram entropy"] = bigram_entropy(codes, len(letters))
    if run.watched:
        print("".join(letters[i] for i in written(model, held_out[:CONTEXT], run.rng, 400)))


def windows(codes: Any, starts: Any) -> Any:
    """Return rows of `CONTEXT` + 1 codes."""
    return np.stack([codes[s : s + CONTEXT + 1] for s in starts])


@sg.no_grad()
def tested(model: Model, codes: Any) -> float:
    """Return the mean loss over windows spread evenly over `codes`."""
    losses = []
    for starts in np.linspace(0, len(codes) - CONTEXT - 1, 8 * BATCH).astype(int).reshape(8, -1):
        rows = windows(codes, starts)
        losses.append(float(nn.cross_entropy(model(rows[:, :-1]), rows[:, 1:])))
    return math.fsum(losses) / len(losses)


@sg.no_grad()
def written(model: Model, prompt: Any, rng: np.random.Generator, count: int) -> list[int]:
    """Return `count` codes that follow `prompt`, each drawn from what the model expects."""
    codes = list(prompt)
    for _ in range(count):
        logits = model(np.asarray([codes[-CONTEXT:]], np.int32))[0, -1]
        share = logits.mul(1.25).softmax().numpy().astype(np.float64)
        codes.append(int(rng.choice(len(share), p=share / share.sum())))
    return codes[len(prompt) :]


if __name__ == "__main__":
    frame.main("transformer", __doc__, train, epochs=12)
