"""``python -m simplegrad doctor``: what was tried, what was found, what to do next."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform

from simplegrad import settings
from simplegrad.errors import DeviceError
from simplegrad.runtime import discovery, program_cache, select


def report() -> str:
    """Return a text for people; opens every device once, and survives those that fail."""
    devices = select.devices()
    found = discovery.prepare()
    lines = [f"simplegrad on Python {platform.python_version()}, {_versions()}"]
    lines.append("Drivers that were looked for:")
    lines += [f"  {line}" for line in found.tried]
    lines += [f"  {line}" for line in _refused(found.entries)]
    lines.append("Devices, best first:")
    for info in devices:
        lines += _device(info)
    lines.append("  numpy                the reference device, always there")
    chosen = settings.current().device or (devices[0].selector if devices else "numpy")
    lines.append(f"In force: {chosen}")
    lines.append(f"Cache: {program_cache.cache_folder()} ({program_cache.state()})")
    if not devices:
        packages = f"{discovery.POCL} {discovery.INTEL}"
        lines.append(f"No OpenCL device. Next command: pip install {packages}")
    return "\n".join(lines)


def _versions() -> str:
    names = ("numpy", "pyopencl", "pocl-binary-distribution", "intel-opencl-rt")
    parts = []
    for name in names:
        try:
            parts.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            parts.append(f"{name} not installed")
    return ", ".join(parts)


def _refused(entries: dict[str, str]) -> list[str]:
    """Return what the dynamic loader says of the entries' libraries that it cannot load."""
    lines = []
    for text in entries.values():
        try:
            ctypes.CDLL(text, mode=os.RTLD_LAZY)
        except OSError as error:
            lines.append(f"{text}: cannot be loaded: {error}")
    return lines


def _device(info: select.DeviceInfo) -> list[str]:
    head = f"  {info.selector:20} {info.kind:4} {info.name}  ({info.driver})"
    try:
        limits = select.open_device(info.selector).limits
    except (DeviceError, select.driver_error()) as error:
        return [head, f"{'':22} cannot be opened: {error}"]
    able = [n for n in ("fp64", "fp16", "subgroups", "prefetch") if getattr(limits, n)]
    return [
        head,
        f"{'':22} {limits.compute_units} compute units, {limits.global_bytes / 2**30:.1f} GiB, "
        f"arrays to {limits.max_alloc_bytes / 2**30:.1f} GiB",
        f"{'':22} work-groups to {limits.max_work_group}, {limits.local_bytes / 1024:.0f} KiB of "
        f"local memory, {limits.max_parameter_bytes} bytes of arguments, "
        f"computes with {', '.join(able) or 'float32 only'}",
    ]
