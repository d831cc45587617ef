"""The roofline picture: what kernels reach, below what their device can do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simplegrad.errors import SimplegradError
from simplegrad.runtime.ceilings import COPY, FMA, READ

_NAMED = 12
"""Kernels that the legend names; the others are grey."""
_LEAST_INTENSITY = 2.0**-6
"""Where kernels that only move bytes are drawn, in operations per byte."""


@dataclass(frozen=True)
class Point:
    """All runs of one kernel: operations, bytes and seconds in total."""

    name: str
    operations: int
    nbytes: int
    seconds: float


def draw(
    path: str | os.PathLike[str], pictures: Sequence[tuple[str, list[Point], Mapping[str, float]]]
) -> None:
    """Save a picture, a panel for each (device, points by time, ceilings per second)."""
    try:
        import matplotlib
    except ImportError:
        raise SimplegradError(
            "Profile.plot: matplotlib is missing; run: pip install matplotlib"
        ) from None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.5 * len(pictures)), layout="constrained")
    FigureCanvasAgg(figure)  # the user's own backend stays as it is
    for i, (name, points, rates) in enumerate(pictures):
        axes = figure.add_subplot(len(pictures), 1, i + 1)
        _panel(axes, name, points, rates, matplotlib.colormaps["tab20"])
    figure.savefig(path, dpi=120)


def _panel(
    axes: Any, name: str, points: list[Point], rates: Mapping[str, float], colours: Any
) -> None:
    ridge = rates[FMA] / rates[COPY]
    places = [max(p.operations / max(p.nbytes, 1), _LEAST_INTENSITY) for p in points]
    low = min(*places, ridge, 0.25) / 2
    high = max(*places, ridge) * 4
    for what, style in ((COPY, "-"), (READ, "--")):
        told = f"{what}, {rates[what] * 1e-9:.1f} GB/s"
        ends = [low, rates[FMA] / rates[what]]
        axes.plot(ends, [x * rates[what] * 1e-9 for x in ends], f"k{style}", lw=1, label=told)
    told = f"multiply-add, {rates[FMA] * 1e-9:.0f} Gop/s"
    axes.plot([ridge, high], [rates[FMA] * 1e-9] * 2, "k-", lw=1.5, label=told)
    total = sum(p.seconds for p in points) or 1.0
    for i, (p, x) in enumerate(zip(points, places, strict=True)):
        # A kernel that only moves bytes stands where its bandwidth would put it.
        rate = x * p.nbytes / p.seconds * 1e-9 if p.seconds else 0.0
        share, named = p.seconds / total, i < _NAMED
        axes.scatter(
            [x], [rate], s=30 + 900 * share, color=colours(i) if named else "0.7", alpha=0.8,
            edgecolors="k", linewidths=0.5, zorder=3,
            label=f"{share:4.0%}  {p.name[:44]}" if named else None,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations per byte",
             ylabel="Gop/s", title=name)  # fmt: skip
    axes.grid(True, which="major", color="0.9")
    legend = axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    for handle in legend.legend_handles:
        if hasattr(handle, "set_sizes"):
            handle.set_sizes([40])
