"""One library in a process of its own, commanded line by line: ``python -m benchmarks.worker``.

Every command is a line of JSON on the standard input, answered by a line of JSON. A library that
prints does so on the standard error. Nothing runs between commands.

    {"do": "load", "workload": NAME, "want": PATH, "tolerance": T}   inputs, first run, answers
    {"do": "run", "runs": N, "warm": true}                           seconds of N runs
    {"do": "profile"}                                                device time (simplegrad only)
    {"do": "drop"}                                                   frees the workload
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from benchmarks import drivers
from benchmarks.libraries.library import Library
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

CHECKED = 3
"""Runs whose answers are compared."""

_SLOW_S = 0.5
_WARM_S = 0.01
"""How long a turn warms up: another process had the cores and their caches before."""

LIBRARIES = {
    "simplegrad": ("benchmarks.libraries.ours", "Ours"),
    "numpy": ("benchmarks.libraries.numpy_", "Numpy"),
    "torch": ("benchmarks.libraries.torch_", "Torch"),
    "torch-compile": ("benchmarks.libraries.torch_", "TorchCompile"),
    "jax": ("benchmarks.libraries.jax_", "Jax"),
    "tinygrad": ("benchmarks.libraries.tinygrad_", "Tinygrad"),
    "netcl": ("benchmarks.libraries.netcl_", "Netcl"),
}


class Worker:
    """Answers commands with one library."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._run: Callable[[], Any] | None = None
        self._workload: Workload | None = None

    def load(self, workload: str, want: str, tolerance: float) -> dict[str, Any]:
        """Make the inputs, run once (the cold time), and compare this and two more answers."""
        chosen = next(w for w in WORKLOADS if w.name == workload)
        self.drop()
        arrays = chosen.inputs()
        began = time.perf_counter()
        run = self.library.make(chosen, arrays)
        made = time.perf_counter() - began
        error, times = 0.0, []
        for answer in load_answers(want):
            _, seconds, result = self._timed(run)
            times.append(seconds)
            error = max(error, self._error(result, answer))
            if not error <= tolerance:
                raise ValueError(f"wrong by {error:.1e} of the largest answer")
            del result
            if len(times) > 1 and times[-1] > _SLOW_S and not self.library.keeps_state(chosen):
                break  # the same answer again would take longer than it tells
        self._run, self._workload = run, chosen
        return {"cold_ms": (made + times[0]) * 1e3, "warm_ms": min(times[1:]) * 1e3, "error": error}

    def run(self, runs: int, warm: bool) -> dict[str, Any]:
        """Return host and wall seconds of each run; `warm`: after some that are not counted."""
        run = self._run
        if run is None:
            raise ValueError("no workload is loaded")
        until = time.perf_counter() + _WARM_S
        while warm:
            self._timed(run)
            warm = time.perf_counter() < until
        host, wall = [], []
        for _ in range(runs):
            recorded, done, result = self._timed(run)
            host.append(recorded)
            wall.append(done)
            del result
        return {"host": host, "wall": wall}

    def profile(self) -> dict[str, Any]:
        """Return what the library knows of one run beside its wall time."""
        if self._workload is None or self._run is None:
            raise ValueError("no workload is loaded")
        return self.library.profile(self._run, self._workload)

    def drop(self) -> dict[str, Any]:
        """Forget the workload."""
        self._run = None
        gc.collect()
        return {}

    def _timed(self, run: Callable[[], Any]) -> tuple[float, float, Any]:
        """Return the seconds until the call returned, until the result was there, and it."""
        began = time.perf_counter()
        result = run()
        recorded = time.perf_counter()
        self.library.wait(result)
        return recorded - began, time.perf_counter() - began, result

    def _error(self, result: Any, want: list[Any]) -> float:
        """Return the largest error of any part over the largest number of that part."""
        parts = result if isinstance(result, (tuple, list)) else (result,)
        error = 0.0
        for part, right in zip(parts, want, strict=False):
            got = np.asarray(self.library.to_numpy(part))
            if got.size != right.size:
                raise ValueError(f"shape {got.shape}, not {right.shape}")
            largest = float(np.abs(right).max()) or 1.0
            error = max(error, float(np.abs(got.reshape(right.shape) - right).max()) / largest)
        return error


def save_answers(path: str, runs: list[list[Any]]) -> None:
    """Write the right answers of the first runs, each a list of arrays."""
    np.savez(path, **{f"{i}_{j}": a for i, run in enumerate(runs) for j, a in enumerate(run)})


def load_answers(path: str) -> list[list[Any]]:
    """Return the right answers of the first runs; one for all of them is given to each."""
    with np.load(path) as file:
        runs: dict[int, list[Any]] = {}
        for name in sorted(file.files, key=lambda n: [int(k) for k in n.split("_")]):
            runs.setdefault(int(name.split("_")[0]), []).append(file[name])
    every = list(runs.values())
    return every if len(every) > 1 else every * CHECKED


def open_library(name: str) -> Library:
    """Return a library, imported now."""
    module, kind = LIBRARIES[name]
    made: Library = getattr(importlib.import_module(module), kind)()
    return made


def main() -> None:
    """Open the library, say which versions it has, and answer until the input ends."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker")
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--platform", default="", help="OpenCL platform for tinygrad and netcl")
    options = parser.parse_args()
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not stand among the replies
    try:
        if options.platform:
            drivers.alone(options.platform)
        worker = Worker(open_library(options.library))
        _reply(replies, {"versions": worker.library.versions()})
    except Exception as error:
        _reply(replies, {"error": told(error)})
        return
    for line in sys.stdin:
        command = json.loads(line)
        do = getattr(worker, command.pop("do"))
        try:
            _reply(replies, do(**command))
        except Exception as error:
            _reply(replies, {"error": told(error)})


def told(error: Exception) -> str:
    """Return an error's kind and first line, short enough for a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def _reply(replies: TextIO, answer: dict[str, Any]) -> None:
    replies.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
