"""Three spirals, one hidden layer: ``python -m simplegrad.examples.spiral``.

Trains a 2-1024-3 network with Adam on 600 points, shows the loss, and saves a picture of what
the network would answer everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad import Adam, Tensor
from simplegrad.examples import frame


def spirals(rng: np.random.Generator) -> tuple[Any, Any]:
    """Return 600 points of shape (2, 600), and their class, 0 to 2."""
    labels = np.arange(3).repeat(200)
    noise = rng.standard_normal(600) * 0.3
    t = np.linspace(0, 4 * 2 * np.pi, 200).repeat(3) + labels / np.pi + noise
    r = np.tile(np.linspace(0.0, 1, 200), 3)
    return r * np.stack([np.sin(t), np.cos(t)]), labels


class Network:
    """Two layers and their optimiser, without `simplegrad.nn`."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.w0, self.b0 = Tensor(rng.standard_normal((2, 1024))), Tensor(rng.standard_normal(1024))
        self.w1, self.b1 = Tensor(rng.standard_normal((1024, 3))), Tensor(rng.standard_normal(3))
        self.optimizer = Adam([self.w0, self.b0, self.w1, self.b1])

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, shape (…, 3), of points of shape (…, 2)."""
        hidden = x.einsum("...j,jk->...k", self.w0).add(self.b0).relu()
        return hidden.einsum("...j,jk->...k", self.w1).add(self.b1)

    def step(self, points: Any, one_hot: Any) -> Tensor:
        """Train on all points once; return the loss."""
        out = self(Tensor(points).transpose(1, 0))
        loss = Tensor(one_hot).mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
        return frame.stepped(self.optimizer, loss)


def train(run: frame.Run) -> None:
    """Train, test on the training points, draw."""
    points, labels = spirals(run.rng)
    network, one_hot = Network(run.rng), np.eye(3)[labels]
    for _ in run.each_epoch():
        run.step(network.step, points, one_hot)
    answers = network(Tensor(points).transpose(1, 0)).argmax(axis=-1).numpy()
    run.measures["accuracy"] = float((answers == labels).mean())
    if run.out:
        draw(network, points, labels, run.out)


def draw(network: Network, points: Any, labels: Any, path: str) -> None:
    """Save the decision regions."""
    plt = frame.pyplot()
    if plt is None:
        return
    xy = np.meshgrid(*[np.linspace(-1.5, 1.5, 100)] * 2)
    predicted = network(Tensor(np.dstack(xy))).softmax().data.argmax(axis=-1)
    figure = plt.figure(figsize=(5, 5))
    plt.contourf(*xy, predicted, alpha=0.4)
    plt.scatter(*points, c=labels, s=8)
    frame.saved(figure, path)


if __name__ == "__main__":
    frame.main("spiral", __doc__, train, epochs=100, out="spiral.png")
