"""Which OpenCL devices there are, and which one a selector means."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
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

    A GPU with its own memory comes before one that shares the host's. Among CPU drivers Intel's
    runtime comes first: a launch and its wait take it a sixth to a tenth of PoCL's time.
    """
    global _infos
    with _lock:
        if _infos is None:
            discovery.prepare()
            _infos = _numbered(sorted(_list(), key=lambda d: -d.score))
        return list(_infos)


def _list() -> list[DeviceInfo]:
    """Return all OpenCL devices as the drivers list them, with selectors that are not unique."""
    result: list[DeviceInfo] = []
    try:
        cl = _pyopencl()
    except ImportError as error:
        discovery.prepare().tried.append(
            f"PyOpenCL cannot be imported: {error}; run: pip install --force-reinstall pyopencl"
        )
        return result
    try:
        platforms = cl.get_platforms()
    except cl.Error:
        return result
    for platform in platforms:
        vendor = _vendor(platform.name)
        if vendor == "pocl" and not discovery.prepare().pocl_links:
            continue
        try:
            raws = [d for d in platform.get_devices() if d.available and d.compiler_available]
        except cl.Error:
            continue
        for raw in raws:
            kind = "gpu" if raw.type & cl.device_type.GPU else "cpu"
            driver = f"{platform.name} {raw.driver_version}".strip()
            score = _score(kind, vendor, raw.name, bool(raw.host_unified_memory))
            name = raw.name.strip()
            result.append(
                DeviceInfo(f"opencl:{vendor}", kind, name, driver, raw.version, score, raw)
            )
    return result


def _numbered(found: list[DeviceInfo]) -> list[DeviceInfo]:
    """Return the records with a number behind the selector of a vendor's second device on."""
    counts: dict[str, int] = {}
    result = []
    for info in found:
        number = counts.get(info.selector, 0)
        counts[info.selector] = number + 1
        unique = f"{info.selector}:{number}" if number else info.selector
        result.append(replace(info, selector=unique))
    return result


def _vendor(platform: str) -> str:
    """Return the short name of a platform; of an unknown one the first word.

    >>> _vendor("Intel(R) OpenCL Graphics"), _vendor("QUALCOMM Snapdragon(TM)"), _vendor("")
    ('intel', 'qualcomm', 'other')
    """
    lower = platform.lower()
    known = next((v for k, v in _VENDORS.items() if k in lower), "")
    return known or next(iter(re.findall("[a-z]+", lower)), "other")


def _score(kind: str, vendor: str, name: str, shared: bool) -> int:
    """Return the rank of a device; `shared`: it has no memory of its own.

    >>> _score("gpu", "nvidia", "H100", False) > _score("gpu", "intel", "UHD", True)
    True
    >>> _score("cpu", "pocl", "EPYC", True) > _score("gpu", "oclgrind", "Simulator", True)
    True
    """
    emulator = vendor == "oclgrind" or "emulat" in name.lower()
    if emulator:
        return -100
    return {"gpu": 220 - 20 * shared, "cpu": 100}[kind] + 10 * (vendor == "intel")


def open_device(selector: str) -> OpenCLDevice:
    """Return the device of ``opencl``, ``opencl:gpu``, ``opencl:intel``, ``opencl:1`` …

    A number alone counts all devices, best first; ``opencl:cpu:1`` is the second of the CPUs,
    ``opencl:pocl:1`` the second of PoCL's. The word ``opencl:`` may be left out. One object per
    device and process. Raises `DriverNotFound` where there is no OpenCL device at all,
    `DeviceError` where none matches.
    """
    found = devices()
    if not found:
        tried = "; ".join(discovery.prepare().tried)
        raise DriverNotFound(
            f"no OpenCL driver; tried: {tried}. Next: pip install {discovery.POCL} "
            f"{discovery.INTEL}, or python -m simplegrad doctor"
        )
    info = _match(selector, found)
    if info is None:
        names = ", ".join([*[d.selector for d in found], "numpy"])
        raise DeviceError(
            f"device: there is no {selector!r} here; there are {names}. The packages "
            f"{discovery.POCL}, and {discovery.INTEL}, are drivers for CPUs; "
            "python -m simplegrad doctor says what was looked for"
        )
    with _lock:
        device = _open.get(info.selector)
        if device is None:
            device = _open[info.selector] = OpenCLDevice(_pyopencl(), info.raw, info.selector)
        return device


def opened() -> list[OpenCLDevice]:
    """Return the devices in use so far."""
    return list(_open.values())


def _match(selector: str, found: list[DeviceInfo]) -> DeviceInfo | None:
    name = selector.lower().removeprefix("opencl").removeprefix(":")
    if not name:
        return found[0]
    word, _, number = name.rpartition(":")
    if not number.isdigit():
        word, number = name, "0"
    same = [d for d in found if not word or word in (d.kind, d.selector.split(":")[1])]
    return same[int(number)] if int(number) < len(same) else None


def _pyopencl() -> Any:
    """Import PyOpenCL: the one place, after `discovery` has told the loader of all drivers."""
    import pyopencl

    return pyopencl


def driver_error() -> type[Exception]:
    """Return the class of what drivers raise; only after `devices` has found one."""
    error: type[Exception] = _pyopencl().Error
    return error
