"""Which OpenCL devices there are, and which one a selector means."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from simplegrad.errors import DeviceError, DriverNotFound
from simplegrad.runtime import discovery
from simplegrad.runtime.opencl import OpenCLDevice

_VENDORS = {
    "portable computing language": "pocl",
    "intel": "intel",
    "nvidia": "nvidia",
    "amd accelerated": "amd",
    "apple": "apple",
    "rusticl": "rusticl",
    "oclgrind": "oclgrind",
}


@dataclass(frozen=True)
class DeviceInfo:
    """One device: ``selector`` opens it; the highest `score` is the default."""

    selector: str
    kind: str
    name: str
    driver: str
    version: str
    score: int
    raw: Any = None

    @classmethod
    def numpy(cls) -> DeviceInfo:
        """Return the record of the NumPy device."""
        return cls("numpy", "numpy", "NumPy", "numpy", "", 0)


_lock = threading.RLock()
_infos: list[DeviceInfo] | None = None
_open: dict[str, OpenCLDevice] = {}


def devices() -> list[DeviceInfo]:
    """Return all OpenCL devices, best first; GPUs before CPUs, emulators last.

    Among CPU drivers Intel's runtime comes first: it launches six times as fast as PoCL.
    """
    global _infos
    with _lock:
        if _infos is None:
            discovery.prepare()
            _infos = sorted(_list(), key=lambda d: -d.score)
        return list(_infos)


def _list() -> list[DeviceInfo]:
    cl = _pyopencl()
    result: list[DeviceInfo] = []
    try:
        platforms = cl.get_platforms()
    except cl.Error:
        return []
    counts: dict[str, int] = {}
    for platform in platforms:
        vendor = next((v for k, v in _VENDORS.items() if k in platform.name.lower()), "other")
        try:
            raws = platform.get_devices()
        except cl.Error:
            continue
        for raw in raws:
            kind = "gpu" if raw.type & cl.device_type.GPU else "cpu"
            number = counts.get(vendor, 0)
            counts[vendor] = number + 1
            selector = f"opencl:{vendor}" + (f":{number}" if number else "")
            emulator = "emulat" in raw.name.lower() or vendor == "oclgrind"
            score = {"gpu": 200, "cpu": 100}[kind] + 10 * (vendor == "intel") - 190 * emulator
            driver = f"{platform.name} {raw.driver_version}".strip()
            result.append(
                DeviceInfo(selector, kind, raw.name.strip(), driver, raw.version, score, raw)
            )
    return result


def open_device(selector: str) -> OpenCLDevice:
    """Return the device of ``opencl``, ``opencl:gpu``, ``opencl:intel``, ``opencl:1`` …

    One object per device and process. Raises `DriverNotFound` where there is no OpenCL device at
    all, `DeviceError` where none matches.
    """
    found = devices()
    if not found:
        tried = "; ".join(discovery.prepare().tried)
        raise DriverNotFound(
            f"no OpenCL driver; tried: {tried}. Next: pip install 'simplegrad[cpu]', or "
            "python -m simplegrad doctor"
        )
    info = _match(selector, found)
    if info is None:
        names = ", ".join([*[d.selector for d in found], "numpy"])
        raise DeviceError(f"device: there is no {selector!r} here; there are {names}")
    with _lock:
        device = _open.get(info.selector)
        if device is None:
            device = _open[info.selector] = OpenCLDevice(_pyopencl(), info.raw, info.selector)
        return device


def _match(selector: str, found: list[DeviceInfo]) -> DeviceInfo | None:
    name = selector.lower().removeprefix("opencl").removeprefix(":")
    if not name:
        return found[0]
    if name.isdigit():
        return found[int(name)] if int(name) < len(found) else None
    for info in found:
        if info.selector == f"opencl:{name}" or info.kind == name:
            return info
    return None


def _pyopencl() -> Any:
    """Import PyOpenCL: the one place, so that importing simplegrad touches no driver."""
    import pyopencl

    return pyopencl
