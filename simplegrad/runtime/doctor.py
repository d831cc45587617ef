"""``python -m simplegrad doctor``: what was tried, what was found, what to do next."""

from __future__ import annotations

import os

from simplegrad import settings
from simplegrad.runtime import discovery, select


def report() -> str:
    """Return a text for people; opens every device once."""
    found = discovery.prepare()
    lines = ["Drivers that were looked for:"]
    devices = select.devices()
    lines += [f"  {line}" for line in found.tried]
    lines.append("Devices, best first:")
    for info in devices:
        lines.append(f"  {info.selector:20} {info.kind:4} {info.name}  ({info.driver})")
        limits = select.open_device(info.selector).limits
        lines.append(
            f"{'':22} {limits.compute_units} compute units, {limits.global_bytes / 2**30:.1f} GiB, "
            f"arrays to {limits.max_alloc_bytes / 2**30:.1f} GiB, "
            f"float64 {'yes' if limits.fp64 else 'no'}"
        )
    lines.append("  numpy                the reference device, always there")
    folder = settings.cache_folder()
    writable = os.access(folder if folder.exists() else folder.parent, os.W_OK)
    state = "writable" if writable else "not writable: compiled kernels are not kept"
    lines.append(f"Cache: {folder} ({state})")
    if not devices:
        lines.append("No OpenCL device. Next command: pip install 'simplegrad[cpu]'")
    return "\n".join(lines)
