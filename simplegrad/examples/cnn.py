"""Handwritten digits with convolutions: ``python -m simplegrad.examples.cnn``.

Trains on four fifths of scikit-learn's 1,797 digits of 8 by 8 pixels, tests on the last fifth, and
saves a picture of test digits with the answers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import simplegrad as sg
from simplegrad import Adam, Tensor, nn, optim
from simplegrad.examples import frame

BATCH = 64
NOISE = 0.15
"""Deviation of what is added to the pixels of 0 … 1: else 1,438 images are soon known by heart."""


def digits(rng: np.random.Generator) -> tuple[Any, Any, Any, Any]:
    """Return training images (n, 1, 8, 8) of 0 … 1 with labels, and a fifth held out for tests."""
    data = frame.need("sklearn.datasets").load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    order = rng.permutation(len(images))
    test, train = order[: len(order) // 5], order[len(order) // 5 :]
    return images[train], data.target[train], images[test], data.target[test]


class Network(nn.Module):
    """Two convolutions, each pooled, and two layers on top."""

    def __init__(self) -> None:
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), Tensor.relu, nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), Tensor.relu, nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(128, 64), Tensor.relu, nn.Dropout(0.25), nn.Linear(64, 10),
        )  # fmt: skip

    def __call__(self, images: Any) -> Tensor:
        """Return logits (n, 10) of images (n, 1, 8, 8)."""
        return self.layers(images)  # type: ignore[no-any-return]

    def answers(self, images: Any) -> np.ndarray:
        """Return the most likely digit of each image."""
        with sg.no_grad():
            return self.eval()(images).argmax(-1).numpy()


def fit(run: frame.Run, network: Network, images: Any, labels: Any) -> None:
    """Train a network for the epochs of a run."""
    rate = optim.cosine(0.004, run.epochs * (len(images) // BATCH))
    optimizer = Adam(network.train().parameters(), learning_rate=rate)

    def step(batch: Any) -> Tensor:
        seen = images[batch]
        seen = seen + sg.random.normal(seen.shape, std=NOISE)
        return frame.stepped(optimizer, nn.cross_entropy(network(seen), labels[batch]))

    for _ in run.each_epoch():
        for batch in run.batches(len(images), BATCH):
            run.step(step, batch)


def train(run: frame.Run) -> None:
    """Train, test, draw."""
    images, labels, test_images, test_labels = digits(run.rng)
    network = Network()
    fit(run, network, images, labels)
    answers = network.answers(test_images)
    run.measures["accuracy"] = float((answers == test_labels).mean())
    if run.out:
        draw(test_images, test_labels, answers, run.out)


def draw(images: Any, labels: Any, answers: Any, path: str) -> None:
    """Save the digits answered wrongly, then others, each with its answer."""
    plt = frame.pyplot()
    if plt is None:
        return
    first = np.argsort(answers == labels, kind="stable")[:40]
    figure, axes = plt.subplots(4, 10, figsize=(8, 4))
    for axis, i in zip(axes.flat, first, strict=False):
        axis.imshow(images[i, 0], cmap="gray_r")
        right = answers[i] == labels[i]
        axis.set_title(str(answers[i]), color="green" if right else "red", fontsize=9)
    for axis in axes.flat:
        axis.axis("off")
    frame.saved(figure, path)


if __name__ == "__main__":
    frame.main("cnn", __doc__, train, epochs=50, out="cnn.png")
