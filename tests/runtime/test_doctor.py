"""The doctor's report: every device, every failure in words, the next command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import simplegrad as sg
from simplegrad import settings
from simplegrad.errors import DeviceError
from simplegrad.runtime import discovery, doctor, select
from simplegrad.runtime.discovery import Discovery


def test_every_device_and_its_limits(one_cl_device: Any) -> None:
    text = doctor.report()
    for info in sg.devices():
        assert info.selector in text
        assert info.name in text or info.selector == "numpy"
    limits = one_cl_device.limits
    assert f"{limits.max_parameter_bytes} bytes of arguments" in text
    assert f"work-groups to {limits.max_work_group}" in text
    assert ("fp64" in text) == any(select.open_device(i.selector).limits.fp64
                                   for i in select.devices())  # fmt: skip
    assert "pyopencl " in text
    for line in discovery.prepare().tried:
        assert line in text
    assert f"In force: {sg.devices()[0].selector}" in text
    assert "Next command" not in text
    with settings.override(device="numpy"):
        assert "In force: numpy" in doctor.report()


def test_a_device_that_fails_does_not_hide_the_others(
    one_cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = select.devices()
    open_device = select.open_device

    def fail(selector: str) -> Any:
        if selector == infos[0].selector:
            raise DeviceError("the driver is broken")
        return open_device(selector)

    monkeypatch.setattr(select, "open_device", fail)
    text = doctor.report()
    assert "cannot be opened: the driver is broken" in text
    assert all(i.selector in text for i in infos)

    def fail_in_the_driver(selector: str) -> Any:
        raise select.driver_error()("CONTEXT_FAILED")

    monkeypatch.setattr(select, "open_device", fail_in_the_driver)
    assert doctor.report().count("cannot be opened: CONTEXT_FAILED") == len(infos)


def test_a_library_that_does_not_load_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"no library")
    found = Discovery(["tried"], {"broken.icd": str(broken)})
    monkeypatch.setattr(discovery, "prepare", lambda: found)
    monkeypatch.setattr(select, "devices", list)
    text = doctor.report()
    assert f"{broken}: cannot be loaded: " in text
    assert "Next command: pip install pocl-binary-distribution intel-opencl-rt" in text
    assert "In force: numpy" in text


def test_the_state_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(select, "devices", list)
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with settings.override(cache_dir=str(blocked)):
        assert f"Cache: {blocked} (does not work" in doctor.report()
    with settings.override(cache_dir=str(tmp_path / "new")):
        assert "(not made yet)" in doctor.report()
        assert not (tmp_path / "new").exists()


def test_without_pyopencl_the_doctor_still_reports() -> None:
    script = (
        "import sys; sys.modules['pyopencl'] = None\n"
        "from simplegrad.runtime import doctor; print(doctor.report())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "PyOpenCL cannot be imported" in done.stdout, done.stderr
    assert "pip install --force-reinstall pyopencl" in done.stdout
