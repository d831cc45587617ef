"""Counting and timing what runs: launches, compilations, bytes, and each kernel's device time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

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
    per kernel name).
    """

    def __init__(self) -> None:
        self.launches = self.compiles = self.bytes_read = self.bytes_written = 0
        self.peak_bytes = 0
        self.kernels: dict[str, KernelRow] = {}
        self._devices: dict[int, Device] = {}
        self._events: list[tuple[KernelRow, Any]] = []
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
            self.peak_bytes = max(self.peak_bytes, device.memory_stats()["peak_bytes"])
            if not any(id(device) in p._devices for p in _active):
                device.on_launch = None
        for row, (start, end) in ((r, e) for r, e in self._timed()):
            row.seconds += (end - start) * 1e-9
            row.spans.append((start, end))

    def _timed(self) -> list[tuple[KernelRow, tuple[int, int]]]:
        return [(row, (e.profile.start, e.profile.end)) for row, e in self._events]

    def _add(self, device: Device, launch: Launch) -> None:
        if id(device) not in self._devices:
            self._devices[id(device)] = device
        name = launch.source.kernel_name
        row = self.kernels.setdefault(name, KernelRow(name))
        for counted in (self, row):
            counted.launches += 1
            counted.bytes_read += launch.bytes_read
            counted.bytes_written += launch.bytes_written

    def table(self) -> str:
        """Return a table of the kernels by device time."""
        lines = [f"{'kernel':50} {'launches':>8} {'ms':>9} {'GB/s':>7}"]
        for row in sorted(self.kernels.values(), key=lambda r: -r.seconds):
            rate = (row.bytes_read + row.bytes_written) / row.seconds / 1e9 if row.seconds else 0
            lines.append(f"{row.name:50} {row.launches:8} {row.seconds * 1e3:9.3f} {rate:7.1f}")
        return "\n".join(lines)


def count_launch(device: Device, launch: Launch) -> None:
    """Tell every open profile of a launch (nothing is done where there is none)."""
    for profile in _active:
        profile._add(device, launch)
