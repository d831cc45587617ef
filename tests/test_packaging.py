"""The wheel: built, installed into another folder, used from a third."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import simplegrad as sg

_ROOT = Path(__file__).resolve().parent.parent
_DEVICES = [info.selector for info in sg.devices()]

PRODUCT = """
import sys
import numpy as np
import simplegrad as sg
from simplegrad.compiler.templates.sources import kernel_source

installed, device = sys.argv[1:]
assert sg.__file__.startswith(installed), sg.__file__
a = np.random.default_rng(0).standard_normal((65, 70)).astype(np.float32)
with sg.device(device):
    x = sg.Tensor(a)
    told = sg.explain(x.einsum("ij,kj->ik", x))
    np.testing.assert_allclose((x.einsum("ij,kj->ik", x)).numpy(), a @ a.T, rtol=1e-4, atol=1e-4)
first_lines = [kernel_source(s).splitlines()[0] for s in ("einsum_cpu", "einsum_gpu")]
assert device == "numpy" or any(line in told for line in first_lines), told
print("right")
"""

QUIET = """
import sys
import simplegrad as sg
print(*(m for m in ("pyopencl", "matplotlib", "onnx", "tqdm", "opt_einsum") if m in sys.modules))
"""


def run(*command: str, cwd: Path, path: Path) -> str:
    """Return what a command prints, run in `cwd` with the packages of `path` first."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=200,
        env={**os.environ, "PYTHONPATH": str(path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(_ROOT)]
    run(sys.executable, *build, cwd=folder, path=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the wheel alone was installed into."""
    folder = tmp_path_factory.mktemp("installed")
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(wheel)]
    run(sys.executable, *pip, cwd=folder, path=folder)
    return folder


def test_the_wheel_holds_the_kernels_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    kernels = {f"simplegrad/kernels/{p.name}" for p in (_ROOT / "kernels").glob("*.cl")}
    assert kernels
    assert kernels <= set(names)
    assert "simplegrad/py.typed" in names
    assert {n.split("/")[0].split("-")[0] for n in names} == {"simplegrad"}
    assert f"-{sg.__version__}-" in wheel.name


@pytest.mark.parametrize("device", _DEVICES)
def test_a_template_runs_from_elsewhere(device: str, installed: Path, tmp_path: Path) -> None:
    out = run(
        sys.executable, "-W", "error", "-c", PRODUCT, str(installed), device,
        cwd=tmp_path, path=installed,
    )  # fmt: skip
    assert out.strip() == "right"


def test_the_example_runs_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    example = ["-m", "simplegrad.examples.spiral", "--epochs", "3", "--out", "picture.png"]
    out = run(sys.executable, *example, cwd=tmp_path, path=installed)
    assert "launches a step" in out
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_the_commands_run_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    for command in ("doctor", "devices"):
        out = run(sys.executable, "-m", "simplegrad", command, cwd=tmp_path, path=installed)
        assert all(selector in out for selector in _DEVICES)


def test_a_mistyped_setting_is_named_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simplegrad", "doctor"], cwd=tmp_path, capture_output=True,
        text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(_ROOT), "SIMPLEGRAD_FUSSION": "0"},
    )  # fmt: skip
    assert done.returncode == 1
    assert "SIMPLEGRAD_FUSSION is not a setting" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_import_touches_no_driver(tmp_path: Path) -> None:
    assert run(sys.executable, "-c", QUIET, cwd=tmp_path, path=_ROOT).strip() == ""
