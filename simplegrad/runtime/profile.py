"""Counting and timing what runs: launches, compilations, bytes, and each kernel's device time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType

from simplegrad.compiler.pipeline import Launch
from simplegrad.runtime.device import Device
from simplegrad.runtime.program_cache import counters

_active: list[Profile] = []
_lock = threading.Lock()


@dataclass
class KernelRow:
    """All launches of one kernel: count, bytes and seconds of device time."""

    name: str
    launches: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    spans: list[tuple[int, int]] = field(default_factory=list)


class Profile:
    """``with sg.Profile() as p:`` counts and times everything realized inside.

    Attributes: `launches`, `compiles`, `bytes_read`, `bytes_written` (bytes that the kernels'
    buffers hold, from the IR), `peak_bytes` (most device bytes in use), `kernels` (a `KernelRow`
    per kernel name). Devices that run no kernels (``numpy``, one of twelve operations) count
    nothing.
    """

    def __init__(self) -> None:
        self.launches = self.compiles = self.bytes_read = self.bytes_written = 0
        self.peak_bytes = 0
        self.kernels: dict[str, KernelRow] = {}
        self._devices: dict[int, Device] = {}
        self._compiled_before = 0

    def __enter__(self) -> Profile:
        self._compiled_before = counters.compiles
        with _lock:
            _active.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        with _lock:
            _active.remove(self)
        self.compiles = counters.compiles - self._compiled_before
        for device in self._devices.values():
            device.synchronize()

    def _add(self, device: Device, launch: Launch, span: tuple[int, int]) -> None:
        self._devices[id(device)] = device
        self.peak_bytes = max(self.peak_bytes, device.memory_stats()["in_use_bytes"])
        name = launch.source.kernel_name
        row = self.kernels.setdefault(name, KernelRow(name))
        row.seconds += (span[1] - span[0]) * 1e-9
        row.spans.append(span)
        self.launches += 1
        self.bytes_read += launch.bytes_read
        self.bytes_written += launch.bytes_written
        row.launches += 1
        row.bytes_read += launch.bytes_read
        row.bytes_written += launch.bytes_written

    def table(self) -> str:
        """Return a table of the kernels by device time."""
        lines = [f"{'kernel':50} {'launches':>8} {'ms':>9} {'GB/s':>7}"]
        for row in sorted(self.kernels.values(), key=lambda r: -r.seconds):
            rate = (row.bytes_read + row.bytes_written) / row.seconds / 1e9 if row.seconds else 0
            lines.append(f"{row.name:50} {row.launches:8} {row.seconds * 1e3:9.3f} {rate:7.1f}")
        return "\n".join(lines)


def profiling() -> bool:
    """Return whether any profile is open."""
    return bool(_active)


def count_launch(device: Device, launch: Launch, span: tuple[int, int]) -> None:
    """Tell every open profile of a launch that ran from `span[0]` to `span[1]` nanoseconds."""
    for profile in _active:
        profile._add(device, launch, span)
