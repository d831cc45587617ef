"""The group `host`: ``python -m benchmarks.host``, what there is around the kernels.

Prints a line per figure, beside what is aimed at, and writes them to a JSON file like that of the
workloads. Every row runs in processes of its own; see `host_rows` for what each one does.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import simplegrad as sg
from benchmarks.host_rows import ROWS

_RESULTS = Path(__file__).resolve().parent / "results"
_LIMIT_S = 300
_AIMS = {
    "host time per recorded operation, CPU": 5.0,
    "sg.jit, per launch": 2.0,
    "two operations beyond the bare launch": 25.0,
    "scheduling and rendering, per node": 0.3,
    "first loss, nothing cached": 4.0,
    "first loss, all cached": 0.8,
    "peak memory over PyTorch's": 1.1,
    "loop, device memory at step 10,000 over step 10": 1.05,
    "loop, host memory at step 10,000 over step 10": 1.05,
    "1,000 batch sizes, compilations per kernel": 2.0,
    "1,000 batch sizes, time over a known size's": 1.2,
}
"""By the beginning of a figure's name: the most that it should be."""

_DATA = """
import time
began = time.perf_counter()
import numpy as np
rng = np.random.default_rng(0)
labels = np.arange(3).repeat(200)
x = rng.standard_normal((600, 2)).astype("float32")
y = np.eye(3, dtype="float32")[labels]
shapes = ((2, 1024), (1024,), (1024, 3), (3,))
parameters = [rng.standard_normal(s).astype("float32") for s in shapes]
"""
_FIRST_LOSS = {
    "simplegrad": """
from simplegrad import Adam, Tensor
w0, b0, w1, b1 = tensors = [Tensor(p) for p in parameters]
optimizer = Adam(tensors)
out = Tensor(x).einsum("ij,jk->ik", w0).add(b0).relu().einsum("ij,jk->ik", w1).add(b1)
loss = Tensor(y).mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
optimizer.zero_grad()
loss.backward()
optimizer.step()
print(float(loss), time.perf_counter() - began)
""",
    "jax.jit": """
import jax, jax.numpy as jnp
def loss_of(parameters):
    w0, b0, w1, b1 = parameters
    out = jax.nn.relu(x @ w0 + b0) @ w1 + b1
    return -(y * jax.nn.log_softmax(out)).sum(1).mean()
@jax.jit
def step(p, m, v, t):
    loss, g = jax.value_and_grad(loss_of)(p)
    m = [0.9 * a + 0.1 * b for a, b in zip(m, g)]
    v = [0.999 * a + 0.001 * b * b for a, b in zip(v, g)]
    c, d = 1 - 0.9**t, 1 - 0.999**t
    return loss, [a - 0.01 * (b / c) / (jnp.sqrt(e / d) + 1e-7) for a, b, e in zip(p, m, v)], m, v
p = [jnp.asarray(a) for a in parameters]
zeros = [jnp.zeros_like(a) for a in p]
loss, p, m, v = step(p, zeros, zeros, 1.0)
print(float(loss), time.perf_counter() - began)
""",
    "torch.compile": """
import torch
tensors = [torch.from_numpy(p).requires_grad_() for p in parameters]
optimizer = torch.optim.Adam(tensors, lr=0.01, eps=1e-7)
@torch.compile
def loss_of(x, y, w0, b0, w1, b1):
    out = torch.relu(x @ w0 + b0) @ w1 + b1
    return -(y * torch.log_softmax(out, 1)).sum(1).mean()
loss = loss_of(torch.from_numpy(x), torch.from_numpy(y), *tensors)
loss.backward()
optimizer.step()
print(float(loss), time.perf_counter() - began)
""",
}
_MODULES = {"simplegrad": "simplegrad", "jax.jit": "jax", "torch.compile": "torch"}
_TINYGRAD = """
import sys, time, statistics
from tinygrad import Device, Tensor, TinyJit
x, y = Tensor(list(map(float, range(16)))).realize(), Tensor([1.0] * 16).realize()
def work(x, y): return (x * y + 1.0).realize()
for name, function in (("without", work), ("with", TinyJit(work))):
    spent = []
    for _ in range(120):
        began = time.perf_counter()
        function(x, y)
        Device[Device.DEFAULT].synchronize()
        spent.append(time.perf_counter() - began)
    print(name, statistics.median(spent[20:]) * 1e6)
"""


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    """Return the last lines that a process printed; raises `SystemExit` with what it said.

    Byte code is kept, as installed packages keep it.
    """
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(environment or {})},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])[:80]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _row(name: str, device: str) -> list[list[Any]]:
    command = [sys.executable, "-m", "benchmarks.host_rows", name]
    told = _run([*command, *(["--device", device] if device else [])])
    found: list[list[Any]] = json.loads(told.splitlines()[-1])
    return found


def first_loss(device: str) -> Iterator[list[Any]]:
    """Yield how long the first loss of the README's example takes, in new processes."""
    for name, text in _FIRST_LOSS.items():
        if importlib.util.find_spec(_MODULES[name]) is None:
            continue
        if name == "torch.compile" and shutil.which(os.environ.get("CXX", "g++")) is None:
            continue
        cold: list[float] = []
        warm: list[float] = []
        for _ in range(3):
            with tempfile.TemporaryDirectory(prefix="first-loss-") as folder:
                places = ("SIMPLEGRAD_CACHE_DIR", "POCL_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR",
                          "JAX_COMPILATION_CACHE_DIR")  # fmt: skip
                environment = {"JAX_PLATFORMS": "cpu"}
                for place in places:
                    (Path(folder) / place).mkdir(mode=0o700)
                    environment[place] = str(Path(folder) / place)
                if device:
                    environment["SIMPLEGRAD_DEVICE"] = device
                for into in (cold, warm):
                    told = _run([sys.executable, "-c", _DATA + text], environment)
                    into.append(float(told.split()[-1]))
        note = "" if name == "simplegrad" else name
        label = "first loss" if name == "simplegrad" else f"{name}, first loss"
        yield [f"{label}, nothing cached", statistics.median(cold), "s", note]
        yield [f"{label}, all cached", statistics.median(warm), "s", note]


def tinygrad(platform_name: str) -> Iterator[list[Any]]:
    """Yield tinygrad's time for the two operations, over the same driver."""
    if importlib.util.find_spec("tinygrad") is None:
        return
    start = f"from benchmarks import drivers; drivers.alone({platform_name!r})\n"
    told = _run([sys.executable, "-c", start + _TINYGRAD], {"DEV": "CL"})
    for line in told.splitlines():
        name, value = line.split()
        yield [f"tinygrad, two operations {name} its JIT", float(value), "us", ""]


def measure(only: list[str], selector: str) -> dict[str, Any]:
    """Measure the rows and return the result, printing every figure as it comes."""
    with sg.device(selector) if selector else sg.device(sg.Tensor.device) as device:
        described = {"device": device.name, "driver": device.identity}
    result: dict[str, Any] = {
        **described, "group": "host", "machine": platform.machine(), "cores": os.cpu_count(),
        "python": platform.python_version(), "simplegrad": sg.__version__, "figures": [],
    }  # fmt: skip
    print(f"{result['device']}: {result['driver']}")
    for name in [*ROWS, "first-loss", "tinygrad"]:
        if only and name not in only:
            continue
        if name == "first-loss":
            found: Any = first_loss(selector)
        elif name == "tinygrad":
            found = tinygrad(result["driver"].split("|")[0])
        else:
            found = _row(name, selector)
        for what, value, unit, note in found:
            aim = next((a for begin, a in _AIMS.items() if what.startswith(begin)), None)
            figure = {"what": what, "value": value, "unit": unit, "note": note, "aim": aim}
            result["figures"].append(figure)
            print(line(figure), flush=True)
    return result


def line(figure: dict[str, Any]) -> str:
    """Return a figure as a line of the table."""
    aim = "" if figure["aim"] is None else f"at most {figure['aim']:g}"
    return (
        f"{figure['what']:58} {figure['value']:9.3f} {figure['unit']:14} {aim:12} {figure['note']}"
    ).rstrip()


def page(stem: str, result: dict[str, Any]) -> list[str]:
    """Return the lines of a kept result for the page."""
    title = result["driver"].split("|")
    lines = [
        f"### The host side: {title[0]}", "",
        f"{result['cores']} cores, {result['machine']}; simplegrad {result['simplegrad']}, Python "
        f"{result['python']}. [`results/{stem}.json`](results/{stem}.json)", "",
        "| figure | measured | aim, at most | |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for f in result["figures"]:
        aim = "" if f["aim"] is None else f"{f['aim']:g}"
        lines.append(f"| {f['what']} | {f['value']:.3g} {f['unit']} | {aim} | {f['note']} |")
    return [*lines, ""]


def main() -> None:
    """Parse the command line and measure."""
    names = [*ROWS, "first-loss", "tinygrad"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=__doc__)
    parser.add_argument("--device", default="", help="such as opencl:pocl; the best one otherwise")
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="ROW")
    parser.add_argument("--json", type=Path, help="where the figures go (benchmarks/results)")
    options = parser.parse_args()
    result = measure(options.only, options.device)
    path = options.json or _RESULTS / f"{result['device'].replace(':', '-')}-host.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"JSON: {path}")


if __name__ == "__main__":
    main()
