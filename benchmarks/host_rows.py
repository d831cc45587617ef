"""The rows of the group `host`: what Python and the driver take around the kernels.

Each runs in a process of its own (``python -m benchmarks.host_rows NAME``) and prints one line of
JSON: a list of figures, (what, value, unit, note). What is compared is measured in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import simplegrad as sg
from benchmarks.libraries.ours import Ours
from benchmarks.special import host_bytes
from benchmarks.workloads import WORKLOADS
from simplegrad import Adam, Tensor, settings
from simplegrad.compiler import pipeline
from simplegrad.compiler.pipeline import compile_graph
from simplegrad.graph.signature import signature
from simplegrad.runtime import devices, lookup
from simplegrad.runtime.explain_plan import count_operations
from simplegrad.runtime.opencl import OpenCLDevice
from simplegrad.runtime.plan import Plan

Figure = tuple[str, float, str, str]
"""What, its value, the unit, and a note."""
_TURNS = 40
_LARGE = 2**31 + 5000


class Example:
    """The README's example: its data, its network, and one step of it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        labels = np.arange(3).repeat(200)
        t = np.linspace(0, 4 * 2 * np.pi, 200).repeat(3) + labels / np.pi
        t += rng.standard_normal(600) * 0.3
        self.x = np.tile(np.linspace(0.0, 1, 200), 3) * np.stack([np.sin(t), np.cos(t)])
        self.y = np.eye(3)[labels]
        shapes = ((2, 1024), (1024,), (1024, 3), (3,))
        self.parameters = [Tensor(rng.standard_normal(shape)) for shape in shapes]
        self.optimizer = Adam(self.parameters)

    def step(self, x: Any = None, y: Any = None) -> Any:
        """Return the loss of one step; data from the host unless tensors are given."""
        w0, b0, w1, b1 = self.parameters
        x = Tensor(self.x) if x is None else x
        y = Tensor(self.y) if y is None else y
        out = x.einsum("ji,jk->ik", w0).add(b0).relu().einsum("ij,jk->ik", w1).add(b1)
        loss = y.mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


def _plans() -> Plan:
    known = lookup.last.used
    assert known is not None
    return known.plan


def _device() -> OpenCLDevice:
    device = Tensor.device
    if not isinstance(device, OpenCLDevice):
        raise SystemExit("the group host is about OpenCL devices; give --device")
    return device


def operations() -> list[Figure]:
    """Time per recorded operation of the README's example on a plan hit."""
    example = Example()
    for _ in range(20):
        example.step()
    known = lookup.last.used
    assert known is not None
    count = count_operations(known.kinds)
    cpu, wall = [], []
    for _ in range(_TURNS * 5):
        sg.synchronize()
        began, busy = time.perf_counter(), time.thread_time()
        example.step()
        cpu.append(time.thread_time() - busy)
        wall.append(time.perf_counter() - began)
    note = f"README's example, forward, backward and Adam: {count} operations"
    return [
        ("host time per recorded operation, CPU", statistics.median(cpu) / count * 1e6, "us", note),
        ("host time per recorded operation, wall", statistics.median(wall) / count * 1e6, "us",
         "a CPU driver's threads share the cores"),
    ]  # fmt: skip


def jit() -> list[Figure]:
    """Time per launch under `sg.jit` beyond the same kernels enqueued bare."""
    device, example = _device(), Example()
    x, y = (Tensor(a, requires_grad=False) for a in (example.x, example.y))
    weights = Tensor(np.eye(4), requires_grad=False)
    small = Tensor(np.ones((4, 4)), requires_grad=False)

    def products(x: Any) -> Any:
        for _ in range(10):
            x = x @ weights
        return x

    found: list[Figure] = []
    for name, function, arguments in (
        ("README's example", lambda x, y: example.step(x, y).detach(), (x, y)),
        ("ten products of 4x4", products, (small,)),
    ):
        jitted = sg.jit(function)
        plans: list[Plan] = []
        for _ in range(8):
            jitted(*arguments)
            used = _plans()
            plans = [used]
        launches = sum(len(p.program.launches) for p in plans)
        extra = []
        for _ in range(_TURNS):
            ours = _per_call(lambda: jitted(*arguments), 8)  # noqa: B023 - called here
            bare = _per_call(lambda: _enqueue(device, *plans), 8)  # noqa: B023
            extra.append((ours - bare) / launches)
        note = f"{name}, {launches} launches, over bare enqueues in turns"
        found.append(("sg.jit, per launch", statistics.median(extra) * 1e6, "us", note))
    return found


def _enqueue(device: OpenCLDevice, *plans: Plan) -> None:
    for plan in plans:
        device.launch_all(plan.binding.kernels, plan.sizes, plan.groups)


def _per_call(call: Callable[[], Any], times: int) -> float:
    sg.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        call()
    spent = time.perf_counter() - began
    sg.synchronize()
    return spent / times


def two_operations() -> list[Figure]:
    """An expression of two operations on 16 numbers, built and waited for."""
    device = _device()
    x = Tensor(np.arange(16), requires_grad=False, dtype="float32")
    y = Tensor(np.ones(16), requires_grad=False)

    def ours() -> None:
        (x * y + 1.0).realize()
        device.synchronize()

    for _ in range(20):
        ours()
    plan = _plans()

    def bare() -> None:
        _enqueue(device, plan)
        device.synchronize()

    own, driver, extra = [], [], []
    for _ in range(_TURNS * 10):
        own.append(_per_call(ours, 5))
        driver.append(_per_call(bare, 5))
        extra.append(own[-1] - driver[-1])
    return [
        ("two operations on 16 numbers", statistics.median(own) * 1e6, "us", "built, waited for"),
        ("bare launch and wait", statistics.median(driver) * 1e6, "us", "in the same turns"),
        ("two operations beyond the bare launch", statistics.median(extra) * 1e6, "us", ""),
    ]  # fmt: skip


def scheduling() -> list[Figure]:
    """Scheduling and rendering of new graphs, without the driver's compiler."""
    device, found = _device(), []
    target = lookup.target_of(device)
    for wanted in (100, 10_000):
        spent = []
        for turn in range(3):
            roots = _network(wanted, 30 + turn)
            order, _, kept = signature([t._node for t in roots])
            pipeline.forget()
            began = time.perf_counter()
            compile_graph(order, kept, target, True)
            spent.append((time.perf_counter() - began) / len(order))
        note = f"layers of {len(order):,} nodes, forward and backward"
        found.append(
            ("scheduling and rendering, per node", statistics.median(spent) * 1e3, "ms", note)
        )
    return found


def _network(nodes: int, width: int) -> list[Any]:
    """Return the loss and gradients of a network that takes about so many nodes."""
    layers = max(nodes // 22, 1)
    widths = [width + i % 5 for i in range(layers + 1)]
    parameters = [
        (Tensor(np.zeros((m, n))), Tensor(np.zeros(n))) for m, n in itertools.pairwise(widths)
    ]
    total = Tensor(np.zeros(1), requires_grad=False).sum()
    # Several networks side by side: a chain of a thousand operations is computed unasked.
    for first in range(0, layers, 20):
        x = Tensor(np.ones((16, width + first % 5)), requires_grad=False)
        for w, b in parameters[first : first + 20]:
            x = ((x @ w) + b).tanh() * 0.5
        total = total + x.mean()
    total.backward()
    return [total, *[p.grad for pair in parameters for p in pair]]


def peak() -> list[Figure]:
    """Peak device memory of the training steps, PyTorch's counted by storage."""
    from benchmarks.torch_memory import peak_bytes

    device, found = _device(), list[Figure]()
    for name in ("spiral epoch", "classifier step", "transformer encoder layer"):
        workload = next(w for w in WORKLOADS if w.name == name)
        gc.collect()
        before = device.pool.in_use_bytes
        library = Ours()
        step = library.make(workload, workload.inputs())
        for _ in range(4):
            device.synchronize()
            device.pool.peak_bytes = device.pool.in_use_bytes
            result = step()
            library.wait(result)  # gradients that are asked for are computed now
        ours = device.pool.peak_bytes - before
        del step, result
        theirs = peak_bytes(workload)
        found.append((f"peak memory, {name}", ours / 2**20, "MiB", ""))
        found.append((f"peak memory over PyTorch's, {name}", ours / theirs, "times",
                      f"PyTorch {theirs / 2**20:.2f} MiB"))  # fmt: skip
    return found


def loop() -> list[Figure]:
    """Memory of a loop that never reads, never zeroes a gradient, and keeps a running total."""
    device, example = _device(), Example()
    watched = Tensor(np.ones((2, 1)), requires_grad=True)
    x = Tensor(example.x, requires_grad=False)
    total = Tensor(0.0, requires_grad=False)
    found: list[Figure] = []
    seen = {}
    for number in range(1, 10_001):
        loss = example.step(x * watched)
        total = total + loss.detach()
        if number in (10, 1000, 10_000):
            gc.collect()
            seen[number] = device.pool.in_use_bytes, host_bytes()
            found.append((f"loop, device memory at step {number:,}", seen[number][0] / 2**20,
                          "MiB", ""))  # fmt: skip
    for i, what in enumerate(("device", "host")):
        growth = seen[10_000][i] / seen[10][i]
        found.append((f"loop, {what} memory at step 10,000 over step 10", growth, "times", ""))
    if not np.isfinite(float(total)):
        raise SystemExit("loop: the running total is no number")
    return found


def batches() -> list[Figure]:
    """A thousand batch sizes of one model: compilations per kernel, and time."""
    rng = np.random.default_rng(0)
    shapes = ((784, 512), (512,), (512, 10), (10,))
    tensors = [Tensor(rng.standard_normal(s) * 0.05) for s in shapes]
    optimizer = Adam(tensors, learning_rate=0.001)
    x = rng.standard_normal((1002, 784)).astype(np.float32)
    labels = np.eye(10, dtype=np.float32)[rng.integers(0, 10, 1002)]

    def timed(n: int) -> float:
        sg.synchronize()
        began = time.perf_counter()
        w0, b0, w1, b1 = tensors
        out = (Tensor(x[:n]) @ w0 + b0).relu() @ w1 + b1
        loss = Tensor(labels[:n]).mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        sg.synchronize()
        return time.perf_counter() - began

    sizes = [int(n) for n in rng.permutation(1000) + 2]
    (Tensor(x[:5]) @ tensors[0]).realize()  # a template's self-test is no kernel of the model
    before = sg.cache_stats()["programs"]["compiled"]
    for n in (sizes[0], sizes[1]):
        timed(n)
    kernels = len(_plans().program.launches)
    ratios = []
    for n in sizes[2:]:
        new, *_, known = [timed(n) for _ in range(4)]
        ratios.append(new / known)
    compiled = sg.cache_stats()["programs"]["compiled"] - before
    return [
        ("1,000 batch sizes, compilations per kernel", compiled / kernels, "",
         f"{kernels} kernels"),
        ("1,000 batch sizes, time over a known size's", statistics.median(ratios), "times",
         "the first step of a size over the fourth"),
    ]  # fmt: skip


def large() -> list[Figure]:
    """An int8 array of more than 2^31 elements."""
    began = time.perf_counter()
    x = (sg.arange(_LARGE) % 101).cast("int8")
    right = x.sum().item() == _LARGE // 101 * 5050 + sum(range(_LARGE % 101))
    right = right and x[-4:].numpy().tolist() == [i % 101 for i in range(_LARGE - 4, _LARGE)]
    if not right:
        raise SystemExit("large: wrong answers")
    spent = time.perf_counter() - began
    return [("int8 array of 2^31 + 5,000 elements", spent, "s", "made, summed, sliced: right")]


def threads() -> list[Figure]:
    """Two threads that run and build at once, beside one that does the work of both."""
    examples = [Example() for _ in range(2)]

    def run(*mine: Example) -> Callable[[], None]:
        def work() -> None:
            for e in mine:
                for _ in range(10):
                    e.step()

        return work

    def build(*numbers: int) -> Callable[[], None]:
        def work() -> None:
            with settings.override(cache=False):
                for number in numbers:
                    _unlike(number).realize()

        return work

    _together([run(*examples)])
    running, building = [], []
    for turn in range(15):
        pair = [[run(*examples)], [run(e) for e in examples]]
        alone, both = (_together(p) for p in pair)
        running.append(alone / both)
        first = 8 * turn
        pair = [[build(*range(first, first + 4))],
                [build(first + 4, first + 5), build(first + 6, first + 7)]]  # fmt: skip
        alone, both = (_together(p) for p in pair)
        building.append(alone / both)
    return [
        ("two threads run, over one", statistics.median(running), "times as fast", ""),
        ("two threads build, over one", statistics.median(building), "times as fast", ""),
    ]


def _unlike(number: int) -> Any:
    """Return a value whose graph is unlike that of any other number."""
    x = Tensor(np.ones((40, 33)), requires_grad=False)
    for _ in range(4):
        number, kind = divmod(number, 4)
        x = [x.exp, x.tanh, x.square, x.abs][kind]()
        x = x - x.mean(axis=1, keepdims=True)
    return x


def _together(works: Sequence[Callable[[], Any]]) -> float:
    """Return how long some functions take, each in a thread of its own."""
    sg.synchronize()
    own = [threading.Thread(target=w) for w in works]
    began = time.perf_counter()
    for thread in own:
        thread.start()
    for thread in own:
        thread.join()
    sg.synchronize()
    return time.perf_counter() - began


ROWS: dict[str, Callable[[], list[Figure]]] = {
    "operations": operations, "jit": jit, "two-operations": two_operations,
    "scheduling": scheduling, "peak": peak, "loop": loop, "batches": batches, "large": large,
    "threads": threads,
}  # fmt: skip


def main() -> None:
    """Parse the command line, measure one row, print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_rows")
    parser.add_argument("name", choices=ROWS)
    parser.add_argument("--device", default="")
    options = parser.parse_args()
    if options.device:
        devices.set_current(options.device)  # in force for all that follows
    with contextlib.redirect_stdout(sys.stderr):
        found = ROWS[options.name]()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
