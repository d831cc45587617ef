"""How one workload is measured.

1. The first run, compilation included, is the cold time.
2. The answers of this and two more runs are compared with NumPy's; a wrong one ends everything.
3. One run under a profile counts launches, compilations and bytes, and takes the device's time.
4. Fused runs, unfused runs, the device's ceiling and NumPy's steps then take turns, so that
   whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import simplegrad as sg
from benchmarks.case import Case, Workload
from benchmarks.ceilings import BIG, Ceiling

_CHECKED = 3


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the median, the quartiles and the least of some times, in milliseconds."""
    p25, median, p75 = np.percentile(seconds, (25, 50, 75))
    named = {"median_ms": median, "p25_ms": p25, "p75_ms": p75, "min_ms": min(seconds)}
    return {name: float(value) * 1e3 for name, value in named.items()}


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds from the first recorded operation to the device's end, and the result."""
    sg.synchronize()
    began = time.perf_counter()
    result = run()
    if isinstance(result, sg.Tensor):
        sg.realize(result)
    sg.synchronize()
    return time.perf_counter() - began, result


def timed_recorded(run: Callable[[], Any]) -> float:
    """Return the seconds that a recorded result takes to its end: look-up, kernels and the wait."""
    result = run()
    sg.synchronize()
    began = time.perf_counter()
    sg.realize(result)
    sg.synchronize()
    return time.perf_counter() - began


def measure(
    workload: Workload, repeat: int, modes: dict[str, bool], ceilings: dict[str, Ceiling]
) -> dict[str, Any]:
    """Return the figures of one workload; `modes` names the values of the fusion switch."""
    row: dict[str, Any] = {
        "name": workload.name, "traffic": workload.traffic, "flops": workload.flops,
    }  # fmt: skip
    runs: dict[str, Callable[[], float]] = {}
    cases: dict[str, Case] = {}
    for mode, fusion in modes.items():
        case = workload.make()
        row[mode] = _first(workload, case, mode, fusion)
        cases[mode] = case
        runs[mode] = _in_mode(case, fusion, lambda run: timed(run)[0])
    if workload.beside_numpy:
        want = workload.make().want
        runs["numpy"] = lambda: timed(want)[0]
    ceiling = ceilings.get(workload.ceiling)
    if ceiling is not None:
        elements = ceiling.elements(workload.traffic)
        whole, same = ceiling.runner(BIG), ceiling.runner(elements)
        # The large copy goes first: what a run before it left in the caches is gone.
        runs["ceiling"] = lambda: timed(whole)[0]
        for mode in modes:
            runs[f"{mode} recorded"] = _in_mode(cases[mode], modes[mode], timed_recorded)
        runs["same_size"] = lambda: timed(same)[0]
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeat):
        for name, run in runs.items():
            times[name].append(run())
    for mode in modes:
        row[mode] |= spread(times[mode])
        seconds = statistics.median(times[mode])
        row[mode]["gbytes_per_s"] = workload.traffic / seconds / 1e9
        row[mode]["gflops"] = workload.flops / seconds / 1e9
        if ceiling is not None:
            for name, n in (("same_size", elements), ("ceiling", BIG)):
                turns = _ratio(times[name], times[f"{mode} recorded"])["median"]
                row[mode][f"of_{name}"] = turns * workload.traffic / ceiling.nbytes(n)
    if ceiling is not None:
        row["ceiling"] = {"what": ceiling.what, **spread(times["ceiling"])}
    if workload.beside_numpy:
        row["numpy"] = spread(times["numpy"])
        row["numpy_ratio"] = _ratio(times["numpy"], times[next(iter(modes))])
    if len(modes) > 1:
        row["ratio"] = _ratio(times["unfused"], times["fused"])
    return row


def _ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Return the quartiles of each turn's own ratio: what slowed a whole turn down is left out."""
    turns = [a / b for a, b in zip(slow, fast, strict=True)]
    p25, median, p75 = np.percentile(turns, (25, 50, 75))
    return {"median": float(median), "p25": float(p25), "p75": float(p75)}


def _in_mode(
    case: Case, fusion: bool, timer: Callable[[Callable[[], Any]], float]
) -> Callable[[], float]:
    def run() -> float:
        with sg.fusion(fusion):
            return timer(case.run)

    return run


def _first(workload: Workload, case: Case, mode: str, fusion: bool) -> dict[str, Any]:
    """Return the cold time, the largest error and the counts of one warm run."""
    error = cold = 0.0
    with sg.fusion(fusion):
        for i in range(_CHECKED):
            seconds, result = timed(case.run)
            cold = cold if i else seconds
            got, want = np.asarray(result), np.asarray(case.want())
            if got.shape != want.shape:
                raise SystemExit(f"{workload.name} ({mode}): shape {got.shape}, not {want.shape}")
            largest = float(np.abs(want).max()) or 1.0
            error = max(error, float(np.abs(got - want).max()) / largest)
            if not error <= workload.tolerance:
                raise SystemExit(
                    f"{workload.name} ({mode}): wrong by {error:.1e} of the largest answer, "
                    f"more than {workload.tolerance:.0e}"
                )
            del result
        with sg.Profile() as p:
            timed(case.run)
        case.want()  # a case whose runs build on each other stays in step
    return {
        "cold_ms": cold * 1e3,
        "error": error,
        "launches": p.launches,
        "compiles_warm": p.compiles,
        "bytes_read": p.bytes_read,
        "bytes_written": p.bytes_written,
        "peak_bytes": p.peak_bytes,
        "device_ms": sum(k.seconds for k in p.kernels.values()) * 1e3,
    }
