"""No data race and no access outside a buffer, under oclgrind's interpreter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import dataclasses
import numpy as np
import simplegrad as sg
from simplegrad import Tensor, nn
from simplegrad.runtime import lookup, selftest

rng = np.random.default_rng(0)
x = rng.normal(size=(6, 10)).astype(np.float32)
w = rng.normal(size=(10, 5)).astype(np.float32)
long = rng.normal(size={long}).astype(np.float32)
image = rng.normal(size=(3, 2, 3, 4)).astype(np.float32)
kernel = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
cases = {{
    "elementwise": lambda: (Tensor(x) * 2 + 1).tanh(),
    "row reduce": lambda: Tensor(x).sum(1),
    "column reduce": lambda: Tensor(x).max(0),
    "full reduce": lambda: Tensor(long).sum(),
    "softmax": lambda: Tensor(x).softmax(),
    "matmul": lambda: Tensor(x) @ Tensor(w),
    "conv2d": lambda: Tensor(image).conv2d(Tensor(kernel), 1),
    "gather": lambda: Tensor(x)[[3, 0, 4, 3]],
    "scatter": lambda: sg.scatter_add([1, 0, 1, 2, 1, 0][: len(x)], Tensor(x), 3),
    "as_strided": lambda: Tensor(x).as_strided((4, 3, 5), (10, 2, 1)),
    "cumsum": lambda: Tensor(x).cumsum(1),
}}
a = rng.normal(size=(27, 33)).astype(np.float32)
b = rng.normal(size=(33, 21)).astype(np.float32)
square = rng.normal(size=(130, 140)).astype(np.float32)
templates = {{
    "kernels/einsum": lambda: (Tensor(a) @ Tensor(b)).relu(),
    "kernels/as_strided": lambda: -Tensor(square).T,
    "kernels/scatter_add": lambda: sg.scatter_add(
        np.arange(len(long[:450])) % 39, Tensor(long[:450]), 40
    ),
}}
rows = [Tensor(rng.normal(size=(n, 8)).astype(np.float32)) for n in (33, 35, 35, 33)]


def gradients():
    for x in rows[:3]:
        x.grad = None
    out = sg.scaled_dot_product_attention(*rows[:3], is_causal=True)
    (out * rows[3]).sum().backward()
    return sg.concat([out, *[x.grad for x in rows[:3]]])


def recurrence():
    layer, numbers = nn.GRU(2, 5), np.random.default_rng(1)
    layer.load_state_dict(
        {{n: numbers.normal(size=t.shape).astype(np.float32) for n, t in layer.state_dict().items()}}
    )
    sequence = Tensor(x.reshape(-1, 5, 2), requires_grad=True)
    out, _ = layer(sequence)
    (out * out).sum().backward()
    return sg.concat([v.reshape(-1) for v in (out, sequence.grad, layer.weight_hh_l0.grad)])


templates["kernels/attention"] = gradients
templates["kernels/scan"] = recurrence
cases.update(templates)


def run(device):
    with sg.device(device):
        return {{name: case().numpy() for name, case in cases.items()}}


def compare():
    wanted = run("numpy")
    for name, got in run("opencl:oclgrind").items():
        np.testing.assert_allclose(got, wanted[name], rtol=1e-4, atol=1e-3, err_msg=name)


with sg.device("opencl:oclgrind") as device:
    device.verdicts.update(dict.fromkeys(selftest.CASES, True))  # too long for the interpreter
    for name, case in templates.items():
        assert name in sg.explain(case()), name
    if {family!r} == "gpu":  # the template for matrix units, its instruction emulated
        device.limits = dataclasses.replace(device.limits, mma="emulated")
        halves = [v.astype(np.float16) for v in (a, b)]
        product = lambda: Tensor(halves[0]).cast("float32") @ Tensor(halves[1]).cast("float32")
        assert "kernels/einsum_mma" in sg.explain(product())
        want = halves[0].astype(np.float32) @ halves[1].astype(np.float32)
        np.testing.assert_allclose(product().numpy(), want, rtol=1e-4, atol=1e-3)
        device.limits = dataclasses.replace(device.limits, mma="")
compare()
del cases["full reduce"]  # two stages, and long
x, image, a, square, long = x[:5], image[:2], a[:25], square[:99], long[:440]
compare()  # these shapes are not compiled in
assert sum(len(f.programs) for f in lookup._families.values()) >= len(cases) - 1
print("done")
"""


RACE = """
import simplegrad as sg
with sg.device("opencl:oclgrind") as device:
    buffer = device.allocate(256)
    source = "__kernel void race(__global int *x) { x[0] = get_global_id(0); }"
    kernel = device.compile(source).kernel("race")
    kernel.set_arg(0, buffer.raw)
    device.launch(kernel, (8,), (4,))
    device.synchronize()
"""


@pytest.mark.skipif(not shutil.which("oclgrind"), reason="oclgrind is not installed")
def test_a_race_would_be_seen(tmp_path: Path) -> None:
    log = tmp_path / "log"
    subprocess.run(
        ["oclgrind", "--data-races", "--log", str(log), sys.executable, "-c", RACE],
        check=True, timeout=100, env={**os.environ, "SIMPLEGRAD_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert "data race" in log.read_text()


@pytest.mark.skipif(not shutil.which("oclgrind"), reason="oclgrind is not installed")
@pytest.mark.parametrize("family", ["cpu", "gpu"])
def test_no_data_race(family: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "SIMPLEGRAD_KERNELS": family,
        "SIMPLEGRAD_CACHE_DIR": str(tmp_path / "cache"),
    }
    # Long enough for two stages; the interpreter runs some 100,000 instructions a second.
    script = SCRIPT.format(long=70_000 if family == "cpu" else 20_000, family=family)
    # Inlined, the templates' functions hold an intrinsic that oclgrind does not know.
    done = subprocess.run(
        ["oclgrind", "--build-options", "-cl-opt-disable", "--data-races", "--log", str(log),
         sys.executable, "-c", script],
        capture_output=True, text=True, timeout=280, env=environment,
    )  # fmt: skip
    said = log.read_text() if log.exists() else ""
    assert not said.strip(), said[:4000]
    assert done.returncode == 0, done.stderr[-4000:]
    assert "done" in done.stdout
