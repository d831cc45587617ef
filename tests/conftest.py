"""What all tests share: a private cache folder, the verifier on, and every device here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

_CACHE = tempfile.TemporaryDirectory(prefix="simplegrad-tests-")
os.environ["SIMPLEGRAD_CACHE_DIR"] = _CACHE.name

import simplegrad as sg  # noqa: E402 - the settings read the environment at first use
from simplegrad import settings  # noqa: E402

OPENCL = [info.selector for info in sg.devices() if info.selector != "numpy"]
NO_DRIVER = "no OpenCL device here; pip install 'simplegrad[cpu]'"


@pytest.fixture(scope="session", autouse=True)
def _verified() -> Iterator[None]:
    with settings.override(verify=True):
        yield


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
    """The best OpenCL device, in force: for what does not depend on the driver."""
    if not OPENCL:
        pytest.skip(NO_DRIVER)
    with sg.device(OPENCL[0]) as found:
        yield found


@pytest.fixture(params=[True, False], ids=["fused", "unfused"])
def fused(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Fusion on and off."""
    with sg.fusion(request.param):
        yield request.param
