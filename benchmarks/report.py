"""The table, the JSON file and the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODES = ("fused", "unfused")
_MB = 1e-6
_COLUMNS = (
    f"{'':26}{'':8}{'median ms':>10} {'(p25 … p75)':>19} {'min':>8} {'device':>8} {'cold':>8} "
    f"{'launches':>8} {'MB read':>8} {'written':>8}  rate"
)


def heading() -> str:
    """Return the names of the columns."""
    return _COLUMNS


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines of one workload."""
    result = []
    for mode in MODES:
        if mode not in row:
            continue
        r = row[mode]
        quartiles = f"({r['p25_ms']:.3f} … {r['p75_ms']:.3f})"
        result.append(
            f"{row['name'] if mode == 'fused' else '':26}{mode:8}{r['median_ms']:10.3f} "
            f"{quartiles:>19} {r['min_ms']:8.3f} {r['device_ms']:8.3f} {r['cold_ms']:8.1f} "
            f"{r['launches']:8} {r['bytes_read'] * _MB:8.1f} {r['bytes_written'] * _MB:8.1f}  "
            f"{_rate(row, r)}"
        )
    if "ratio" in row:
        result.append(
            f"{'':26}fused is {_ratio(row['ratio'])} as fast as unfused, with "
            f"{row['fused']['launches']} launches for {row['unfused']['launches']}"
        )
    if "numpy" in row:
        result.append(
            f"{'':26}{_ratio(row['numpy_ratio'])} as fast as the same steps in NumPy "
            f"({row['numpy']['median_ms']:.3f} ms)"
        )
    return result


def _ratio(r: dict[str, float]) -> str:
    return f"{r['median']:.2f} times ({r['p25']:.2f} … {r['p75']:.2f})"


def _rate(row: dict[str, Any], r: dict[str, Any]) -> str:
    if row["flops"]:
        return f"{r['gflops']:.0f} GFLOP/s"
    if not row["traffic"]:
        return ""
    rate = f"{r['gbytes_per_s']:.1f} GB/s"
    if "of_ceiling" not in r:
        return rate
    what = row["ceiling"]["what"]
    return f"{rate}, {r['of_ceiling']:.0%} of {what}, {r['of_same_size']:.0%} at this size"


def special_lines(row: dict[str, Any]) -> list[str]:
    """Return the lines of a measurement that ran in its own process."""
    if row["name"] == "memory":
        result = ["memory of the spiral example"]
        for epoch, stats in row["epochs"].items():
            told = ", ".join(f"{k} {v:,}" for k, v in stats.items())
            result.append(f"  epoch {epoch:>6}: {told}")
        told = ", ".join(f"{k} {v:+.2%}" for k, v in row["growth"].items())
        return [*result, f"  10 to 10,000: {told}"]
    if row["name"] == "deep":
        return ["deep graphs, forward and backward (growth 1 is linear)"] + [
            f"  {k:18} {v:8.2f}{'' if 'growth' in k else ' s'}"
            for k, v in row.items()
            if k != "name"
        ]
    driver = "touches a driver" if row["touches_driver"] else "touches no driver"
    return [
        f"import simplegrad: {row['simplegrad_s']:.3f} s ({row['simplegrad_cpu_s']:.3f} s of a "
        f"core), of which NumPy {row['numpy_s']:.3f} s ({row['numpy_cpu_s']:.3f}); {driver}"
    ]


def write_json(path: Path, result: dict[str, Any]) -> str:
    """Write everything measured; return a line that says where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return f"JSON: {path}"


def write_picture(path: Path, result: dict[str, Any]) -> str:
    """Draw the medians with their quartiles; return a line that says where, or what is missing."""
    try:
        import matplotlib
    except ImportError:
        return "no picture: matplotlib is missing; run: pip install 'simplegrad[plot]'"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = result["rows"]
    if not rows:
        return "no picture: nothing was timed"
    path.parent.mkdir(parents=True, exist_ok=True)
    modes = [m for m in MODES if m in rows[0]]
    height = 0.8 / len(modes)
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(rows) + 1.4))
    for number, mode in enumerate(modes):
        places = [i + (number - (len(modes) - 1) / 2) * height for i in range(len(rows))]
        medians = [r[mode]["median_ms"] for r in rows]
        below = [max(r[mode]["median_ms"] - r[mode]["p25_ms"], 0) for r in rows]
        above = [max(r[mode]["p75_ms"] - r[mode]["median_ms"], 0) for r in rows]
        axes.barh(places, medians, height, xerr=(below, above), label=mode)
        for place, row, end in zip(places, rows, above, strict=True):
            r = row[mode]
            told = f" {r['median_ms']:.2f} ms, {r['launches']}×"
            if "of_ceiling" in r:
                told += f", {r['of_ceiling']:.0%} of {row['ceiling']['what']}"
            axes.text(r["median_ms"] + end, place, told, va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [r["name"] for r in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * 6)  # room for what is written behind the bars
    axes.set_xlabel("median of the wall time, ms; bars: quartiles; ×: launches")
    axes.set_title(result["driver"], fontsize=9)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return f"picture: {path}"
