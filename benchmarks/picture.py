"""The picture of a table: simplegrad's times, and how many times as fast it is as each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_MARKERS = "osD^vPX"


def write(path: Path, result: dict[str, Any]) -> str:
    """Draw the medians, with quartiles; return a line that says where, or what is missing."""
    rows = result["rows"]
    if not rows:
        return "no picture: nothing was timed"
    try:
        import matplotlib
    except ImportError:
        return "no picture: matplotlib is missing; run: pip install matplotlib"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    first, *others = result["contestants"]
    path.parent.mkdir(parents=True, exist_ok=True)
    figure, panels = plt.subplots(
        1, 2 if others else 1, figsize=(13 if others else 8, 0.3 * len(rows) + 1.8), sharey=True,
        squeeze=False, layout="constrained", width_ratios=[2, 3] if others else [1],
    )  # fmt: skip
    _times(panels[0, 0], rows, first)
    if others:
        _ratios(panels[0, 1], rows, first, others)
    panels[0, 0].set_ylim(len(rows) - 0.4, -0.6)  # shared by both panels
    figure.suptitle(_title(result), fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return f"picture: {path}"


def _title(result: dict[str, Any]) -> str:
    """Return what ran where: the driver's platform and device, and the peers' versions."""
    platform, *_, device, version = (result["driver"].split("|") + [""] * 3)[:4]
    versions = [f"{k} {v}" for c in result["contestants"].values() for k, v in c.items()]
    peers = [v for v in dict.fromkeys(versions) if v.split()[0] not in ("device", "kind", "driver")]
    return f"{platform}, {device}, {version}; {', '.join(peers)}; {result['cores']} cores"


def _times(axes: Any, rows: list[dict[str, Any]], first: str) -> None:
    """Draw a bar a workload: the wall time, and within it the device's."""
    entries = [row["entries"][first] for row in rows]
    places = range(len(rows))
    wall = [e["median_ms"] for e in entries]
    axes.barh(places, wall, 0.7, color="#b8cbe6", label="wall time")
    device = [min(e.get("device_ms", 0), e["median_ms"]) for e in entries]
    if any(device):
        axes.barh(places, device, 0.35, color="#2f5d9e", label="of which the device's")
    for place, entry in enumerate(entries):
        told = f" {entry['median_ms']:.3g}"
        if "of_ceiling" in entry:
            told += f", {entry['of_ceiling']:.0%} of {rows[place]['ceiling']}"
        elif rows[place]["flops"]:
            told += f", {entry['gflops']:.0f} GFLOP/s"
        axes.text(entry["median_ms"], place, told, va="center", fontsize=7)
    axes.set_yticks(places, [row["name"] for row in rows], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(wall) / 3, max(wall) * 20)  # room for what is written behind the bars
    axes.set_xlabel(f"{first}, ms")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncol=2, fontsize=7)


def _ratios(axes: Any, rows: list[dict[str, Any]], first: str, others: list[str]) -> None:
    """Draw a mark for each other contestant: right of the line, simplegrad is the faster one."""
    for number, label in enumerate(others):
        found = [(i, row["ratios"][label]) for i, row in enumerate(rows) if label in row["ratios"]]
        shift = (number - (len(others) - 1) / 2) * 0.6 / len(others)
        middle = [r["median"] for _, r in found]
        below = [max(r["median"] - r["p25"], 0) for _, r in found]
        above = [max(r["p75"] - r["median"], 0) for _, r in found]
        axes.errorbar(
            middle, [i + shift for i, _ in found], xerr=(below, above), label=label, ms=5,
            fmt=_MARKERS[number % len(_MARKERS)], lw=1, mec="k", mew=0.3,
        )  # fmt: skip
    axes.axvline(1, color="k", lw=1)
    for place in range(len(rows)):
        axes.axhline(place + 0.5, color="0.92", lw=0.8, zorder=0)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    ticks = [s * 10.0**e for e in range(-3, 5) for s in steps if low <= s * 10.0**e <= high]
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(True, axis="x", color="0.85", lw=0.8)
    axes.set_xlabel(f"how many times as fast {first} is; bars: quartiles of the turns' own ratios")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
