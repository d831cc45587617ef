"""Selectors, the default device, and what is said where there is no driver."""

from __future__ import annotations

import os
import subprocess
import sys
from operator import attrgetter
from typing import Any

import pytest

import simplegrad as sg
from simplegrad import runtime, settings
from simplegrad.errors import SimplegradError
from simplegrad.runtime import select


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


NO_DRIVER = """
import os, sys, warnings
from simplegrad.runtime import discovery, select
discovery._prepare_linux = lambda found: found.tried.append("/nowhere: no driver registered")
select._list = lambda: []
import simplegrad as sg
"""


def test_selectors(cl_device: Any) -> None:
    infos = [i for i in sg.devices() if i.selector == cl_device.name]
    assert len(infos) == 1
    for selector in (cl_device.name, cl_device.name.upper(), cl_device.name.split(":", 1)[1]):
        with sg.device(selector) as found:
            assert found is cl_device
            assert sg.ones(3).device is cl_device
    number = [i.selector for i in sg.devices()].index(cl_device.name)
    with sg.device(f"opencl:{number}") as found:
        assert found is cl_device


def test_kinds_and_order() -> None:
    infos = sg.devices()
    assert infos[-1].selector == "numpy"
    assert [i.score for i in infos] == sorted((i.score for i in infos), reverse=True)
    for kind in {i.kind for i in infos if i.selector != "numpy"}:
        with sg.device(f"opencl:{kind}") as found:
            assert found.kind == kind


def test_an_unknown_selector_lists_the_devices(one_cl_device: Any) -> None:
    for selector in ("opencl:nonesuch", "opencl:99", "cuda"):
        with pytest.raises(sg.DeviceError) as caught, sg.device(selector):
            pass
        text = str(caught.value)
        assert selector in text
        assert all(i.selector in text for i in sg.devices())


def test_numbers_count_within_their_word(one_cl_device: Any) -> None:
    infos = [i for i in sg.devices() if i.selector != "numpy"]
    for kind in {i.kind for i in infos}:
        for number, info in enumerate(i for i in infos if i.kind == kind):
            assert select.open_device(f"opencl:{kind}:{number}").name == info.selector
        with pytest.raises(sg.DeviceError, match=f"opencl:{kind}:{len(infos)}"):
            select.open_device(f"opencl:{kind}:{len(infos)}")


class Platform:
    def __init__(self, name: str, *devices: Any) -> None:
        self.name, self.devices = name, devices

    def get_devices(self) -> tuple[Any, ...]:
        return self.devices


class Raw:
    driver_version, version = "1", "OpenCL 3.0"

    def __init__(self, name: str, kind: int, shared: bool = True, available: bool = True) -> None:
        self.name, self.type, self.host_unified_memory = name, kind, shared
        self.available = self.compiler_available = available


class FakeCL:
    """PyOpenCL on a machine with many devices."""

    class device_type:
        GPU, CPU = 4, 2

    Error = ValueError

    def get_platforms(self) -> list[Platform]:
        return [
            Platform("Oclgrind", Raw("Oclgrind Simulator", 4)),
            Platform("Intel(R) FPGA Emulation Platform", Raw("Intel(R) FPGA Emulation Device", 2)),
            Platform("Portable Computing Language", Raw("pthread", 2)),
            Platform("Intel(R) OpenCL", Raw("Xeon", 2)),
            Platform("Intel(R) OpenCL Graphics", Raw("UHD", 4)),
            Platform(
                "NVIDIA CUDA", Raw("A", 4, False), Raw("B", 4, False), Raw("C", 4, False, False)
            ),
            Platform("QUALCOMM Snapdragon(TM)", Raw("Adreno", 4)),
        ]


def test_the_ranks_and_selectors_of_a_machine_with_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(select, "_pyopencl", FakeCL)
    monkeypatch.setattr(select, "_infos", None)
    assert [(i.selector, i.name) for i in select.devices()] == [
        ("opencl:nvidia", "A"),
        ("opencl:nvidia:1", "B"),
        ("opencl:intel", "UHD"),
        ("opencl:qualcomm", "Adreno"),
        ("opencl:intel:1", "Xeon"),
        ("opencl:pocl", "pthread"),
        ("opencl:oclgrind", "Oclgrind Simulator"),
        ("opencl:intel:2", "Intel(R) FPGA Emulation Device"),
    ]
    for selector, name in {
        "opencl": "A", "gpu": "A", "opencl:gpu:1": "B", "opencl:gpu:2": "UHD", "nvidia:1": "B",
        "opencl:cpu": "Xeon", "opencl:cpu:1": "pthread", "intel": "UHD", "intel:1": "Xeon",
        "opencl:4": "Xeon", "1": "B", "opencl:intel:0": "UHD",
    }.items():  # fmt: skip
        info = select._match(selector, select.devices())
        assert info is not None and info.name == name, selector
    for selector in ("nvidia:2", "opencl:8", "opencl:amd", "opencl:nvidia:x"):
        assert select._match(selector, select.devices()) is None


def test_without_pyopencl_numpy_computes_and_says_why() -> None:
    script = "import sys; sys.modules['pyopencl'] = None\nimport simplegrad as sg\n"
    done = run(script + "print(sg.ones(3).sum().item(), [i.selector for i in sg.devices()])")
    assert done.stdout.strip() == "3.0 ['numpy']", done.stderr
    assert "PyOpenCL cannot be imported" in done.stderr


def test_the_setting_chooses_the_device(one_cl_device: Any) -> None:
    script = "import simplegrad as sg; print(sg.ones(2).device.name)"
    for selector in ("numpy", one_cl_device.name):
        done = run(script, SIMPLEGRAD_DEVICE=selector)
        assert done.stdout.strip() == selector, done.stderr


def test_without_a_driver_numpy_computes_and_says_so() -> None:
    done = run(NO_DRIVER + "print(sg.Tensor([1.0, 2.0]).sum().item(), sg.Tensor(1.0).device.name)")
    assert done.stdout.split() == ["3.0", "numpy"], done.stderr
    assert "RuntimeWarning" in done.stderr
    assert "/nowhere: no driver registered" in done.stderr
    assert "pip install pocl-binary-distribution intel-opencl-rt" in done.stderr


def test_without_a_driver_asking_for_one_is_an_error() -> None:
    script = NO_DRIVER + (
        "try:\n"
        "    with sg.device('opencl:gpu'): pass\n"
        "except sg.DriverNotFound as error: print(error)\n"
    )
    text = run(script).stdout
    assert "/nowhere" in text
    assert "python -m simplegrad doctor" in text


def test_without_a_driver_the_doctor_names_the_next_command() -> None:
    done = run(NO_DRIVER + "from simplegrad.runtime import doctor; print(doctor.report())")
    assert "/nowhere" in done.stdout, done.stderr
    assert "pip install pocl-binary-distribution intel-opencl-rt" in done.stdout


@pytest.mark.parametrize(
    "used",
    ["", "x = Tensor([1.0, 2.0]); x.exp().sum().backward(); x.grad.numpy()", "dir(simplegrad)"],
    ids=["importing", "computing with NumPy", "listing names"],
)
def test_no_driver_and_no_compiler_is_loaded_by(used: str) -> None:
    done = run(
        f"import sys, simplegrad\nfrom simplegrad import Tensor\n"
        f"with simplegrad.device('numpy'): {used or 'pass'}\n"
        "print([m for m in sys.modules if m == 'pyopencl' or m.startswith('simplegrad.compiler')])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_names_that_are_loaded_late_are_listed() -> None:
    assert {*sg.__all__} <= {*dir(sg)}
    with pytest.raises(AttributeError, match="'simplegrad' has no attribute 'explian'"):
        attrgetter("explian")(sg)
    with pytest.raises(AttributeError, match=r"'simplegrad\.runtime' has no attribute 'nothing'"):
        attrgetter("nothing")(runtime)


def test_settings() -> None:
    with pytest.raises(SimplegradError, match=r"SIMPLEGRAD_FUSON is not a setting.*_FUSION"):
        settings.Settings.from_environment({"SIMPLEGRAD_FUSON": "0"})
    with pytest.raises(SimplegradError, match="neither 0 nor 1"):
        settings.Settings.from_environment({"SIMPLEGRAD_FUSION": "maybe"})
    with pytest.raises(SimplegradError, match="not a number of bytes"):
        settings.Settings.from_environment({"SIMPLEGRAD_MEMORY_CAP": "1G"})
    read = settings.Settings.from_environment({"SIMPLEGRAD_DEBUG": "fuse,render", "HOME": "/"})
    assert read.debug == ("fuse", "render")
    before = settings.current()
    with settings.override(fusion=False):
        assert not settings.current().fusion
    assert settings.current() is before


def test_a_build_failure_shows_numbered_source_and_the_log(cl_device: Any) -> None:
    source = "__kernel void good(__global float *x) {\n  x[0] = not_declared;\n}\n"
    with pytest.raises(sg.BuildError) as caught:
        cl_device.compile(source)
    text = str(caught.value)
    assert "   2   x[0] = not_declared;" in text
    assert text.count("not_declared") > 1  # the log names it too
    assert cl_device.name in text
    assert sg.Tensor([1.0]).sum().item() == 1.0
