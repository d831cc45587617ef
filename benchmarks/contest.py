"""Libraries side by side: a process each, one computing at a time, in turns.

1. Every contestant makes the same inputs from the same seed, runs once (the cold time), and its
   first answers are compared with NumPy's in float64.
2. In every turn each contestant runs a few times, after one run that is not counted. Before the
   next one starts, no thread of any other may still be running: thread pools spin for a while.
3. A turn's time is the median of its runs, and a ratio is that of two contestants' times in one
   turn: whatever else the machine does meets both alike.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.libraries.numpy_ import Numpy
from benchmarks.libraries.ours_models import Exact
from benchmarks.worker import CHECKED, save_answers
from benchmarks.workload import Workload
from simplegrad.runtime import tuned

PEERS = {
    "numpy": "numpy", "torch": "torch", "torch-compile": "torch", "jax": "jax",
    "tinygrad": "tinygrad", "netcl": "netcl",
}  # fmt: skip
"""The peers, each with the module that must be installed."""

_OF_PEERS = 10.0
"""How much wider a peer's tolerance is: enough to see that it computes the same."""
_SLOW_S, _SLOW_TURNS = 0.5, 3
"""Whoever takes longer for one run takes part in the first turns only."""
_SETTLED_S = 0.5
_POLL_S = 0.001


@dataclass
class Contestant:
    """One process: a library under a label, with what its environment adds."""

    label: str
    library: str
    environment: dict[str, str] = field(default_factory=dict)
    platform: str = ""
    """The OpenCL platform of tinygrad and netcl."""
    limit_s: float = 60
    """Seconds after which an answer is waited for no longer."""
    versions: dict[str, str] = field(default_factory=dict)
    process: Any = None
    caches: Path = Path()

    def start(self, caches: Path) -> str:
        """Start the process with caches of its own; return what went wrong, or nothing.

        What `python -m simplegrad tune` found for this user stays in force.
        """
        self.stop()
        self.caches = caches
        environment = _environment(caches / self.label)
        if self.library == "simplegrad" and (found := tuned.everything()):
            tuned.write(Path(environment["SIMPLEGRAD_CACHE_DIR"]) / "tuned.json", found)
        command = [sys.executable, "-m", "benchmarks.worker", self.library]
        command += ["--platform", self.platform] if self.platform else []
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **environment, **self.environment},
        )  # fmt: skip
        answer = self._answer()
        self.versions = answer.get("versions", {})
        return str(answer.get("error", ""))

    def tell(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return the answer; ``error`` in it says what went wrong.

        A process that died, or was killed since it gave no answer in time, is started anew.
        """
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            answer: dict[str, Any] = {"error": f"the process is gone: {error}"}
        else:
            answer = self._answer()
        if self.process.poll() is not None:
            self.start(self.caches)
        return answer

    def _answer(self) -> dict[str, Any]:
        late = threading.Timer(self.limit_s, self.process.kill)
        late.start()
        line = self.process.stdout.readline()
        late.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self.process.wait()
        if code == -signal.SIGKILL:
            return {"error": f"no answer within {self.limit_s:g} s"}
        return {"error": f"the process ended with {code}"}

    def stop(self) -> None:
        """End the process: its input ends, and where that does not help, it is killed."""
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def busy(self) -> bool:
        """Return whether any of its threads is running or ready to run."""
        for stat in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            try:
                state = stat.read_text().rpartition(")")[2].split()[0]
            except (OSError, IndexError):
                continue
            if state == "R":
                return True
        return False


def _environment(caches: Path) -> dict[str, str]:
    """Return the variables that give a process caches of its own, and all cores."""
    cores = str(os.cpu_count() or 1)
    names = ("SIMPLEGRAD_CACHE_DIR", "POCL_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    for name in names:
        (caches / name.lower()).mkdir(parents=True, exist_ok=True)
    return {
        **{name: str(caches / name.lower()) for name in names},
        "CACHEDB": str(caches / "tinygrad.db"), "DEV": "CL", "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": cores,
    }  # fmt: skip


def missing(peer: str) -> str:
    """Return why a peer cannot take part here, or nothing."""
    if importlib.util.find_spec(PEERS[peer]) is None:
        return f"{peer} is not installed; run: pip install {PEERS[peer]}"
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if peer == "torch-compile" and not any(c and shutil.which(c) for c in compilers):
        return "torch-compile needs a C++ compiler, g++ or clang++"
    return ""


class References:
    """Answers in float64, computed once and kept in files for all processes.

    NumPy's; of whole models those of simplegrad's own NumPy device.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._numpy, self._models = folder, Numpy(), Exact()

    def of(self, workload: Workload) -> str:
        """Return the file of a workload's answers."""
        arrays = [a.astype(np.float64) for a in workload.inputs()]
        library = self._numpy if hasattr(self._numpy, workload.family) else self._models
        run = library.make(workload, arrays)
        runs = []
        for _ in range(CHECKED if library.keeps_state(workload) else 1):
            result = run()
            parts = result if isinstance(result, tuple) else (result,)
            runs.append([np.asarray(p).astype(np.float32) for p in parts])
        path = self._folder / f"answers-{abs(hash(workload.name))}.npz"
        save_answers(str(path), runs)
        return str(path)


def contest(
    workload: Workload, contestants: list[Contestant], want: str, turns: int, repeat: int,
    budget_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Return the figures of one workload; the first contestant is what the others stand beside.

    `budget_s` bounds the seconds of one contestant's turn, but for one run; `repeat` its runs.
    """
    entries: dict[str, dict[str, Any]] = {}
    for c in contestants:
        settle(contestants)
        tolerance = workload.tolerance * (1 if c.library == "simplegrad" else _OF_PEERS)
        entries[c.label] = c.tell(
            "load", workload=workload.name, want=want, tolerance=tolerance
        )  # fmt: skip
    able = [c for c in contestants if "warm_ms" in entries[c.label]]
    times: dict[str, list[float]] = {c.label: [] for c in able}
    hosts: dict[str, list[float]] = {c.label: [] for c in able}
    profiles: dict[str, list[dict[str, Any]]] = {c.label: [] for c in able}
    for turn in range(turns):
        for c in able:
            warm_s = entries[c.label]["warm_ms"] * 1e-3
            if warm_s > _SLOW_S and turn >= _SLOW_TURNS:
                continue
            runs = max(1, min(repeat, int(budget_s / warm_s)))
            settle(contestants)
            told = c.tell("run", runs=runs, warm=runs > 1)
            if "wall" not in told:
                raise SystemExit(f"{workload.name} ({c.label}): {told}")
            times[c.label].append(statistics.median(told["wall"]))
            hosts[c.label].append(statistics.median(told["host"]))
            if c.library == "simplegrad":
                profiles[c.label].append(c.tell("profile"))
    row: dict[str, Any] = {
        "name": workload.name, "traffic": workload.traffic, "flops": workload.flops,
        "ceiling": workload.ceiling, "entries": entries, "ratios": {},
    }  # fmt: skip
    for c in able:
        entry = entries[c.label]
        entry |= spread(times[c.label])
        entry["gflops"] = workload.flops / entry["median_ms"] / 1e6
        entry["gbytes_per_s"] = workload.traffic / entry["median_ms"] / 1e6
        if c.library == "simplegrad":
            entry["host_ms"] = statistics.median(hosts[c.label]) * 1e3
            entry |= _medians(profiles[c.label])
    first = contestants[0].label
    for c in able:
        if c.label != first and first in times:
            row["ratios"][c.label] = paired(times[c.label], times[first])
    for c in contestants:
        c.tell("drop")
    return row


def settle(contestants: list[Contestant]) -> None:
    """Wait until no contestant has a thread that runs, half a second at most."""
    if not Path("/proc/self/task").is_dir():
        time.sleep(0.02)
        return
    until = time.perf_counter() + _SETTLED_S
    while any(c.busy() for c in contestants) and time.perf_counter() < until:
        time.sleep(_POLL_S)


def spread(seconds: list[float]) -> dict[str, float]:
    """Return the median, the quartiles and the least of some times, in milliseconds."""
    p25, median, p75 = np.percentile(seconds, (25, 50, 75))
    named = {"median_ms": median, "p25_ms": p25, "p75_ms": p75, "min_ms": min(seconds)}
    return {name: float(value) * 1e3 for name, value in named.items()}


def paired(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Return the quartiles of each turn's own ratio: what slowed a whole turn down is left out.

    Of the turns that both took part in, which are the first ones.
    """
    turns = [a / b for a, b in zip(slow, fast, strict=False)]
    p25, median, p75 = np.percentile(turns, (25, 50, 75))
    return {"median": float(median), "p25": float(p25), "p75": float(p75)}


def _medians(profiles: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of times and shares, and the last of what is counted."""
    result: dict[str, Any] = {}
    for name, last in profiles[-1].items():
        values = [p[name] for p in profiles]
        result[name] = statistics.median(values) if isinstance(last, float) else last
    return result
