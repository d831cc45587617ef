"""Handwritten digits out of noise: ``python -m simplegrad.examples.gan``.

A generator and a discriminator (Goodfellow et al., 2014) learn from scikit-learn's 1,797 digits of
8 by 8 pixels. A grid of samples is saved every few epochs. At the end a classifier trained on the
real digits looks at samples: how many it recognises, and how many classes it finds among them.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

import simplegrad as sg
from simplegrad import Adam, Tensor, nn, optim
from simplegrad.examples import cnn, frame

NOISE = 16
BATCH = 64
SHOW_EVERY = 20
"""Epochs between two pictures."""
SURE = 0.9
"""From this probability on a sample counts as recognised."""


def generator() -> nn.Sequential:
    """Return a network from (n, `NOISE`) to images (n, 64) of -1 … 1."""
    return nn.Sequential(
        nn.Linear(NOISE, 128), nn.BatchNorm(128), Tensor.relu,
        nn.Linear(128, 128), nn.BatchNorm(128), Tensor.relu,
        nn.Linear(128, 64), Tensor.tanh,
    )  # fmt: skip


def discriminator() -> nn.Sequential:
    """Return a network from images (n, 64) to logits (n, 1): above 0, real."""
    return nn.Sequential(
        nn.Linear(64, 128), _leaky, nn.Linear(128, 128), _leaky, nn.Linear(128, 1),
    )  # fmt: skip


def _normal(*shape: int) -> Tensor:
    return sg.random.normal(shape, requires_grad=False)


def _leaky(x: Tensor) -> Tensor:
    return x.leaky_relu(0.2)


class Pair:
    """Both networks and their optimisers, for a number of steps."""

    def __init__(self, steps: int) -> None:
        self.generator, self.discriminator = generator(), discriminator()
        rate = optim.cosine(0.002, steps, 0.0002)
        self._forward = Adam(self.generator.parameters(), rate, beta1=0.5)
        self._against = Adam(self.discriminator.parameters(), rate, beta1=0.5)
        self._blur = optim.cosine(0.3, steps)

    def step(self, real: Any) -> Tensor:
        """Train both on a batch of real images (n, 64); return the discriminator's loss.

        The discriminator sees real and false images through noise that fades during training, lest
        it learn the finite set of real ones by heart (Sønderby et al., 2017); its targets for real
        ones are 0.9 instead of 1 (Salimans et al., 2016).
        """
        fake = self.generator(_normal(len(real), NOISE))
        both = sg.concat([Tensor(real, requires_grad=False), fake.detach()])
        blur = self._blur(self._against.steps)
        target = np.repeat([0.9, 0.0], len(real))[:, None].astype(np.float32)
        judged = self.discriminator(both.add(_normal(*both.shape).mul(blur)))
        loss = frame.stepped(self._against, nn.binary_cross_entropy(judged, target))
        judged = self.discriminator(fake.add(_normal(*fake.shape).mul(blur)))
        frame.stepped(self._forward, nn.binary_cross_entropy(judged, np.ones(judged.shape)))
        return loss

    def samples(self, noise: Any) -> np.ndarray:
        """Return images (n, 64) of 0 … 1."""
        with sg.no_grad():
            images: np.ndarray = self.generator.eval()(Tensor(noise)).numpy()
        self.generator.train()
        return (images + 1) / 2


def train(run: frame.Run) -> None:
    """Train, draw every few epochs, and let a classifier judge."""
    images, labels, _, _ = cnn.digits(run.rng)
    real = images.reshape(len(images), -1) * 2 - 1
    pair, shown = (
        Pair(run.epochs * (len(real) // BATCH)),
        run.rng.standard_normal((64, NOISE)).astype(np.float32),
    )
    for epoch in run.each_epoch():
        for batch in run.batches(len(real), BATCH):
            run.step(pair.step, real[batch])
        if run.out and (epoch + 1) % SHOW_EVERY == 0:
            draw(pair.samples(shown), f"-{epoch + 1}".join(os.path.splitext(run.out)))
    samples = pair.samples(run.rng.standard_normal((500, NOISE)))
    judge = cnn.Network()
    cnn.fit(frame.Run(15, run.seed), judge, images, labels)
    with sg.no_grad():
        shares = judge.eval()(samples.reshape(-1, 1, 8, 8)).softmax().numpy()
    sure = shares.max(axis=1) >= SURE
    run.measures["recognised"] = float(sure.mean())
    run.measures["classes"] = float(len(set(shares.argmax(axis=1)[sure])))
    if run.out:
        draw(pair.samples(shown), run.out)


def draw(images: Any, path: str) -> None:
    """Save a grid of 8 by 8 images."""
    plt = frame.pyplot()
    if plt is None:
        return
    grid = np.pad(images.reshape(8, 8, 8, 8), ((0, 0), (0, 0), (1, 1), (1, 1)))
    figure = plt.figure(figsize=(5, 5))
    plt.imshow(grid.transpose(0, 2, 1, 3).reshape(80, 80), cmap="gray")
    plt.axis("off")
    frame.saved(figure, path)


if __name__ == "__main__":
    frame.main("gan", __doc__, train, epochs=160, out="gan.png")
