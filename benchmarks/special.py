"""What is not a time of one run: memory over 10,000 epochs, deep graphs, and the import.

Each runs in a process of its own: ``python -m benchmarks.special memory --device opencl:pocl``
prints one line of JSON. `python -m benchmarks --only memory` does that and reports it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import simplegrad as sg
from benchmarks.libraries.ours import Ours
from benchmarks.workloads import WORKLOADS
from simplegrad import Tensor


def host_bytes() -> int:
    """Return the memory of this process that is in RAM; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory() -> dict[str, Any]:
    """Train the README's example for 10,000 epochs; memory then must be that of epoch 10."""
    train = _spiral()
    device: Any = Tensor.device
    stops = (10, 100, 1000, 10_000)
    seen: dict[str, dict[str, int]] = {}
    for epoch in range(1, stops[-1] + 1):
        float(train())
        if epoch in stops:
            sg.synchronize()
            gc.collect()
            seen[str(epoch)] = {**device.memory_stats(), "host_bytes": host_bytes()}
    first, last = seen["10"], seen["10000"]
    growth = {name: last[name] / first[name] - 1 for name in first if first[name]}
    return {"name": "memory", "epochs": seen, "growth": growth}


def _spiral() -> Callable[[], Any]:
    workload = next(w for w in WORKLOADS if w.family == "spiral")
    return Ours().make(workload, workload.inputs())


def deep() -> dict[str, Any]:
    """Time chains and wide sums, backward included, at a quarter, a half and all of the size."""
    shapes = {"chain": (25_000, 50_000, 100_000), "wide": (1250, 2500, 5000)}
    functions = {"chain": _chain, "wide": _wide}
    result: dict[str, Any] = {"name": "deep"}
    for name, function in functions.items():
        for n in shapes[name]:
            for state in ("cold", "warm"):  # the first one compiles
                began = time.perf_counter()
                function(n)
                result[f"{name} {n} {state}"] = time.perf_counter() - began
        small, large = shapes[name][0], shapes[name][-1]
        # 1 where time is linear in the nodes, 4 where it is quadratic.
        growth = result[f"{name} {large} warm"] / result[f"{name} {small} warm"]
        result[f"{name} growth"] = growth / (large / small)
    return result


def _chain(n: int) -> None:
    """Check x + x + … n times: n + 1 times x, with gradient n + 1."""
    x = Tensor(np.ones(100))
    y = x
    for _ in range(n):
        y = y + x
    y.sum().backward()
    _equal(y, n + 1)
    _equal(x.grad, n + 1)


def _wide(n: int) -> None:
    """Check the sum of n tensors: every one of them has gradient 1."""
    xs = [Tensor(np.full(100, float(i))) for i in range(n)]
    total = xs[0]
    for x in xs[1:]:
        total = total + x
    total.sum().backward()
    _equal(total, n * (n - 1) / 2)
    for x in xs:
        _equal(x.grad, 1)


def _equal(got: Any, want: float) -> None:
    if not np.all(np.asarray(got) == want):
        raise SystemExit(f"deep: {np.asarray(got)[0]} where {want} is right")


_IMPORT = """
import sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
print(time.perf_counter() - wall, time.process_time() - cpu, "pyopencl" in sys.modules)
"""


def imports() -> dict[str, Any]:
    """Time ``import simplegrad`` in fresh processes, and how much of it is NumPy's.

    The first is not counted: it may have to write the byte code, as an installation does.
    """
    result: dict[str, Any] = {"name": "import"}
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    for module in ("numpy", "simplegrad"):
        wall, cpu = [], []
        for turn in range(10):
            command = [sys.executable, "-c", _IMPORT.format(module=module)]
            told = subprocess.run(
                command, capture_output=True, text=True, check=True, env=environment
            ).stdout
            seconds, busy, driver = told.split()
            if not turn:
                continue
            wall.append(float(seconds))
            cpu.append(float(busy))
        result[f"{module}_s"] = statistics.median(wall)
        result[f"{module}_cpu_s"] = statistics.median(cpu)
        result["touches_driver"] = driver == "True"
    return result


SPECIAL: dict[str, Callable[[], dict[str, Any]]] = {
    "memory": memory, "deep": deep, "import": imports,
}  # fmt: skip


def run_apart(name: str, device: str) -> dict[str, Any]:
    """Return the result of one of them, run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.special", name]
    command += ["--device", device] if device else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: failed, see above")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Parse the command line, run one, print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.special")
    parser.add_argument("name", choices=SPECIAL)
    parser.add_argument("--device", default="")
    options = parser.parse_args()
    with sg.device(options.device) if options.device else contextlib.nullcontext():
        print(json.dumps(SPECIAL[options.name]()))


if __name__ == "__main__":
    main()
