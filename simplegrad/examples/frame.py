"""What the examples share: the command line, the progress bar, the closing line.

An example is ``python -m simplegrad.examples.NAME`` with ``--device``, ``--epochs``, ``--seed``,
``--fusion off`` and, where there is something to see, ``--out``. Its function ``train`` takes a
`Run` and can be called from other code as well.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

import simplegrad as sg
from simplegrad import Tensor, optim
from simplegrad.runtime import devices


class Run:
    """One training run: its settings, and what it measures.

    `rng` draws the data's order and such on the host; simplegrad's own generator is seeded, too.
    `curve` is the loss of each step. `watched`: somebody sees the bar, and what an example prints.
    """

    def __init__(self, epochs: int, seed: int = 0, out: str = "", watched: bool = False) -> None:
        self.epochs, self.seed, self.out, self.watched = epochs, seed, out, watched
        self.rng = np.random.default_rng(seed)
        sg.random.seed(seed)
        self.curve: list[float] = []
        self.measures: dict[str, float] = {}
        """Figures of quality by name, set by the example: shares of 1, or plain numbers."""
        self.launches: int | None = None
        self._bar = tqdm(total=epochs, unit="epoch", disable=not watched)
        self._epoch, self._times = 0, [0.0]

    def each_epoch(self) -> Iterator[int]:
        """Yield the numbers of the epochs, moving the bar."""
        for epoch in range(self.epochs):
            self._epoch = epoch
            yield epoch
            self._bar.set_postfix(loss=f"{self.curve[-1]:.4f}", refresh=False)
            self._bar.update()
        self._bar.close()

    def step(self, function: Callable[..., Tensor], *args: Any) -> float:
        """Call a function that does one step and returns its loss; time it, read the loss.

        One step of the last epoch is counted instead: its launches.
        """
        count = self._epoch == self.epochs - 1 and self.launches is None
        began = time.perf_counter()
        with sg.Profile() if count else contextlib.nullcontext() as profile:
            loss = float(function(*args))
        if profile is not None:
            self.launches = profile.launches
        if profile is None or len(self._times) == 1:
            self._times.append(time.perf_counter() - began)
        self.curve.append(loss)
        return loss

    @property
    def seconds(self) -> float:
        """The median time of a step; the first, which compiles, counts if there is no other."""
        return median(self._times[2:] or self._times[1:] or [0.0])

    def batches(self, count: int, size: int) -> Iterator[np.ndarray]:
        """Yield indices of all whole batches of `size` out of `count`, in random order."""
        order = self.rng.permutation(count)
        return (order[i : i + size] for i in range(0, count - size + 1, size))

    def closing(self, example: str) -> str:
        """Return the closing line."""
        figures = ", ".join(
            f"{name} {value:.1%}" if name in _SHARES else f"{name} {value:.3g}"
            for name, value in self.measures.items()
        )
        return (
            f"{example} on {devices.current().name}: loss {self.curve[-1]:.4f}, {figures}, "
            f"{self.seconds * 1e3:.2f} ms and {self.launches} launches a step"
        )


_SHARES = ("accuracy", "recognised")


def stepped(optimizer: optim.Optimizer, loss: Tensor) -> Tensor:
    """Do one step of an optimiser down a loss; return the loss, which costs no launch to read."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def main(
    name: str, doc: str | None, train: Callable[[Run], None], epochs: int, out: str = ""
) -> None:
    """Parse the command line, train, and print the closing line.

    `out` is the picture's default path, empty for an example that draws none.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m simplegrad.examples.{name}", description=str(doc).splitlines()[0]
    )
    parser.add_argument("--device", help="such as opencl:gpu, opencl:pocl or numpy")
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--fusion", choices=("on", "off"), help="the setting's, unless told")
    parser.add_argument("--seed", type=int, default=0)
    if out:
        parser.add_argument("--out", default=out, help="where the picture goes")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    device = sg.device(options.device) if options.device else contextlib.nullcontext()
    fusion = sg.fusion(options.fusion == "on") if options.fusion else contextlib.nullcontext()
    try:
        with device, fusion:
            run = Run(options.epochs, options.seed, getattr(options, "out", ""), watched=True)
            train(run)
            print(run.closing(name))
    except sg.SimplegradError as error:
        raise SystemExit(str(error)) from None


def need(module: str) -> Any:
    """Return a module of the extra `examples`; an error that names the package where it lacks."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0].replace("sklearn", "scikit-learn")
        raise sg.SimplegradError(
            f"the package {package} is missing; run: pip install {package}"
        ) from None


def pyplot() -> Any:
    """Return matplotlib.pyplot, drawing to files only; None, with a line, where it is missing."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is missing; run: pip install matplotlib")
        return None
    matplotlib.use("Agg")
    return importlib.import_module("matplotlib.pyplot")


def saved(figure: Any, path: str) -> None:
    """Save a figure, say where, and close it."""
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot().close(figure)
    tqdm.write(f"picture: {path}")
