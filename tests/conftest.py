"""What all tests share: a private cache folder, the verifier on, and every device here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share the folder of who started them
    _CACHE = tempfile.TemporaryDirectory(prefix="simplegrad-tests-")
    os.environ["SIMPLEGRAD_CACHE_DIR"] = _CACHE.name

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its idle threads spin, beside the workers

import simplegrad as sg
from simplegrad import settings
from simplegrad.runtime import builtins

# PoCL first: what needs one device only takes it, for its compiler is the quickest.
OPENCL = sorted(
    (info.selector for info in sg.devices() if info.selector != "numpy"),
    key=lambda selector: "pocl" not in selector,
)
NO_DRIVER = "no OpenCL device here; pip install '.[cpu]'"


def pytest_xdist_auto_num_workers() -> int | None:
    """One more than there are cores: workers wait for linkers and for threads of drivers."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cores or 1) + 1


@pytest.fixture(scope="session", autouse=True)
def _verified() -> Iterator[None]:
    with settings.override(verify=True):
        yield
    assert not builtins.undeclared, f"built with the whole header:\n{builtins.undeclared[0]}"


@pytest.fixture(scope="module", autouse=True)
def _bounded() -> Iterator[None]:
    """Programs take some megabytes each: a file of tests leaves few of them behind."""
    yield
    if sg.cache_stats()["programs"]["entries"] > 200:
        sg.clear_caches()


@pytest.fixture(params=["numpy", *OPENCL])
def device(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every device, one after the other, in force."""
    with sg.device(request.param) as found:
        yield found


@pytest.fixture(
    params=OPENCL or [pytest.param("", marks=pytest.mark.skip(reason=NO_DRIVER))],
)
def cl_device(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Every OpenCL device, one after the other, in force."""
    with sg.device(request.param) as found:
        yield found


@pytest.fixture
def one_cl_device() -> Iterator[Any]:
    """One OpenCL device, in force: for what does not depend on the driver."""
    if not OPENCL:
        pytest.skip(NO_DRIVER)
    with sg.device(OPENCL[0]) as found:
        yield found


@pytest.fixture(params=[True, False], ids=["fused", "unfused"])
def fused(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Fusion on and off."""
    with sg.fusion(request.param):
        yield request.param


@dataclass(frozen=True)
class Way:
    """One way to compute: a device, fused or not, with the device's own kernels or the other."""

    selector: str
    fused: bool = True
    kernels: str = ""

    def __str__(self) -> str:
        how = "fused" if self.fused else "unfused"
        return "-".join([self.selector, *([how] if self.selector != "numpy" else []),
                         *([self.kernels] if self.kernels else [])])  # fmt: skip

    @contextmanager
    def in_force(self) -> Iterator[Any]:
        """Compute this way in a ``with`` block."""
        with (
            sg.device(self.selector) as found,
            sg.fusion(self.fused),
            settings.override(kernels=self.kernels),
        ):
            yield found

    def has(self, dtype: Any) -> bool:
        """Whether the device has a dtype."""
        with sg.device(self.selector) as found:
            return dtype is not sg.float64 or self.selector == "numpy" or found.limits.fp64


CL_WAYS = [Way(name, fused) for name in OPENCL for fused in (True, False)]
GPU_WAYS = [Way(name, True, "gpu") for name in OPENCL[:1]]
"""The GPU family of kernels, forced on one device."""
WAYS = [Way("numpy"), *CL_WAYS, *GPU_WAYS]


@pytest.fixture(params=WAYS, ids=str)
def way(request: pytest.FixtureRequest) -> Iterator[Way]:
    """Every way to compute, one after the other, in force."""
    with request.param.in_force():
        yield request.param
