"""Measure workloads on a device, and fused against unfused in one run.

Inputs are filled, answers are checked against NumPy before anything is timed, the first run
(compiling included) stands apart from the later ones, and fused and unfused take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import simplegrad as sg
from benchmarks.workloads import WORKLOADS, Workload


def _run(function: Callable[[], Any]) -> float:
    sg.synchronize()
    began = time.perf_counter()
    result = function()
    sg.realize(result)
    sg.synchronize()
    return time.perf_counter() - began


def _spread(times: list[float]) -> dict[str, float]:
    quarters = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return {
        "median_ms": statistics.median(times) * 1e3,
        "p25_ms": quarters[0] * 1e3,
        "p75_ms": quarters[2] * 1e3,
        "min_ms": min(times) * 1e3,
    }


def measure(workload: Workload, repeat: int, compare: bool) -> dict[str, Any]:
    """Return the figures of one workload."""
    modes = {"fused": True, "unfused": False} if compare else {"fused": True}
    function, want = workload.make()
    row: dict[str, Any] = {"name": workload.name}
    times: dict[str, list[float]] = {mode: [] for mode in modes}
    for mode, fusion in modes.items():
        with sg.fusion(fusion):
            cold = _run(function)
            if want is not None:
                got = np.asarray(function())
                scale = float(np.abs(want).max()) or 1.0
                error = float(np.abs(got - want).max()) / scale
                if not error < 1e-4:
                    raise SystemExit(f"{workload.name} ({mode}): wrong by {error:.1e}")
            _run(function)
            with sg.Profile() as profile:
                _run(function)
            row[mode] = {
                "cold_ms": cold * 1e3,
                "launches": profile.launches,
                "bytes_read": profile.bytes_read,
                "bytes_written": profile.bytes_written,
            }
    for _ in range(repeat):
        for mode, fusion in modes.items():
            with sg.fusion(fusion):
                times[mode].append(_run(function))
    for mode in modes:
        row[mode] |= _spread(times[mode])
        seconds = row[mode]["median_ms"] * 1e-3
        row[mode]["gbytes_per_s"] = workload.traffic / seconds / 1e9
        row[mode]["gflops"] = workload.flops / seconds / 1e9
    if compare:
        row["speedup"] = row["unfused"]["median_ms"] / row["fused"]["median_ms"]
    return row


def _print(row: dict[str, Any], copy: float) -> None:
    for mode in ("fused", "unfused"):
        if mode not in row:
            continue
        r = row[mode]
        share = f"{r['gbytes_per_s'] / copy:5.0%} of copy" if r["gbytes_per_s"] and copy else ""
        rate = f"{r['gflops']:6.1f} GFLOP/s" if r["gflops"] else share
        spread = f"{r['p25_ms']:.3f} … {r['p75_ms']:.3f}"
        print(
            f"{row['name']:16} {mode:8} {r['median_ms']:10.3f} ms  ({spread})  cold "
            f"{r['cold_ms']:8.1f} ms  {r['launches']:4} launches  {rate}"
        )
    if "speedup" in row:
        print(f"{'':16} fused is {row['speedup']:.2f} times as fast")


def _plot(rows: list[dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.4 * len(rows) + 1))
    places = np.arange(len(rows))
    for shift, mode in ((-0.2, "fused"), (0.2, "unfused")):
        if all(mode in r for r in rows):
            axes.barh(places + shift, [r[mode]["median_ms"] for r in rows], 0.4, label=mode)
    axes.set_yticks(places, [r["name"] for r in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("median, ms")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="", help="such as opencl:gpu or opencl:pocl")
    parser.add_argument("--compare", choices=("fusion",), help="fused against unfused")
    parser.add_argument("--only", nargs="*", default=[], help="words that names must contain")
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", metavar="PATH")
    parser.add_argument("--plot", metavar="PATH")
    options = parser.parse_args()
    chosen = [
        w for w in WORKLOADS if not options.only or any(word in w.name for word in options.only)
    ]
    rows: list[dict[str, Any]] = []
    copy = 0.0
    with sg.device(options.device) if options.device else contextlib.nullcontext():
        device = sg.Tensor.device
        print(f"{device.name}: {device.identity}, NumPy {np.__version__}")
        for workload in chosen:
            row = measure(workload, options.repeat, options.compare == "fusion")
            if workload.name.startswith("copy"):
                copy = row["fused"]["gbytes_per_s"]
            rows.append(row)
            _print(row, copy)
    if options.json:
        result = {
            "device": device.name,
            "driver": device.identity,
            "machine": platform.machine(),
            "rows": rows,
        }
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    if options.plot:
        _plot(rows, options.plot)


if __name__ == "__main__":
    main()
