"""Three spirals, one hidden layer: ``python -m simplegrad.examples.spiral``.

Trains a 2-1024-3 network with Adam on 600 points, shows the loss, and saves a picture of what
the network would answer everywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

import numpy as np
from tqdm import tqdm

import simplegrad as sg
from simplegrad import Adam, Tensor


def spirals(rng: np.random.Generator) -> tuple[Any, Any]:
    """Return 600 points of shape (2, 600), and their class, 0 to 2."""
    labels = np.arange(3).repeat(200)
    noise = rng.standard_normal(600) * 0.3
    t = np.linspace(0, 4 * 2 * np.pi, 200).repeat(3) + labels / np.pi + noise
    r = np.tile(np.linspace(0.0, 1, 200), 3)
    return r * np.stack([np.sin(t), np.cos(t)]), labels


class Network:
    """Two layers and their optimiser."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.w0, self.b0 = Tensor(rng.standard_normal((2, 1024))), Tensor(rng.standard_normal(1024))
        self.w1, self.b1 = Tensor(rng.standard_normal((1024, 3))), Tensor(rng.standard_normal(3))
        self.optimizer = Adam([self.w0, self.b0, self.w1, self.b1])

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits, shape (…, 3), of points of shape (…, 2)."""
        hidden = x.einsum("...j,jk->...k", self.w0).add(self.b0).relu()
        return hidden.einsum("...j,jk->...k", self.w1).add(self.b1)

    def step(self, points: Any, one_hot: Any) -> Tensor:
        """Train on all points once; return the loss, which costs no launch to read."""
        out = self(Tensor(points).transpose(1, 0))
        loss = Tensor(one_hot).mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


def picture(network: Network, points: Any, labels: Any, path: str) -> str:
    """Save the decision regions as PNG; return a line that says where, or what is missing."""
    try:
        import matplotlib
    except ImportError:
        return "no picture: matplotlib is missing; run: pip install 'simplegrad[plot]'"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    xy = np.meshgrid(*[np.linspace(-1.5, 1.5, 100)] * 2)
    predicted = network(Tensor(np.dstack(xy))).softmax().data.argmax(axis=-1)
    figure = plt.figure(figsize=(5, 5))
    plt.contourf(*xy, predicted, alpha=0.4)
    plt.scatter(*points, c=labels, s=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return f"picture: {path}"


def train(options: argparse.Namespace) -> None:
    """Train and report."""
    rng = np.random.default_rng(options.seed)
    points, labels = spirals(rng)
    network, one_hot = Network(rng), np.eye(3)[labels]
    loss, began = float("nan"), time.perf_counter()
    bar = tqdm(range(options.epochs), unit="epoch")
    for epoch in bar:
        if epoch == 1:  # the first one compiled
            began = time.perf_counter()
        loss = float(network.step(points, one_hot))
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
    each = (time.perf_counter() - began) / max(options.epochs - 1, 1) * 1e3
    took = f"{each:.2f} ms" if options.epochs > 1 else f"{each:.0f} ms (compilation included)"
    answers = network(Tensor(points).transpose(1, 0)).argmax(axis=-1).numpy()
    print(picture(network, points, labels, options.out))
    with sg.Profile() as profile:
        network.step(points, one_hot)
    print(
        f"{network.w0.device.name}: loss {loss:.4f}, accuracy {(answers == labels).mean():.1%}, "
        f"{took} and {profile.launches} launches a step"
    )


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", help="such as opencl:gpu, opencl:pocl or numpy")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--fusion", choices=("on", "off"), help="the setting's, unless told")
    parser.add_argument("--out", default="spiral.png", help="where the picture goes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    device = sg.device(options.device) if options.device else contextlib.nullcontext()
    fusion = sg.fusion(options.fusion == "on") if options.fusion else contextlib.nullcontext()
    try:
        with device, fusion:
            train(options)
    except sg.SimplegradError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
