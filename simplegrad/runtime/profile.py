"""Counting and timing what runs: launches, compilations, bytes, operations, and device time.

How far a kernel is from what the device can do is told against ceilings that were measured on it
(`runtime.ceilings`). Method: S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful
visual performance model", CACM 52(4), 2009.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from simplegrad.compiler.ir.kernel import Kernel
from simplegrad.compiler.ir.work import operations
from simplegrad.compiler.program import Launch
from simplegrad.errors import SimplegradError
from simplegrad.runtime import ceilings, counting, files, roofline
from simplegrad.runtime.ceilings import COPY, FMA, READ, Ceiling
from simplegrad.runtime.counting import Host
from simplegrad.runtime.device import Device
from simplegrad.runtime.program_cache import counters

_MOSTLY_READ = 16
"""A kernel that reads so many times what it writes is held against the reading ceiling."""


@dataclass
class KernelRow:
    """All launches of one kernel on one device: counts, and seconds of device time."""

    name: str
    domain: str
    """Extents of its outer axes, and behind a bar of those it reduces: ``1024x1024|512``."""
    device: Device
    launches: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    operations: int = 0
    """Arithmetic that the kernel's IR asks for; see `compiler.ir.work`."""
    seconds: float = 0.0
    spans: list[tuple[int, int]] = field(default_factory=list)
    """Begin and end of every launch, in nanoseconds of the device's clock."""

    @property
    def bytes_per_s(self) -> float:
        """Bytes read and written per second of device time."""
        return (self.bytes_read + self.bytes_written) / self.seconds if self.seconds else 0.0

    @property
    def operations_per_s(self) -> float:
        """Operations per second of device time."""
        return self.operations / self.seconds if self.seconds else 0.0

    @property
    def memory_bound(self) -> str:
        """Which bandwidth the kernel is held against: ``"copy"`` or ``"read"``."""
        return READ if self.bytes_read > _MOSTLY_READ * self.bytes_written else COPY


@dataclass(frozen=True)
class _Event:
    """One span of the trace, in nanoseconds of the host's clock."""

    row: str
    """``host`` or a device's name."""
    thread: int
    name: str
    began: int
    ended: int
    told: dict[str, Any]


class Profile:
    """``with sg.Profile() as p:`` counts and times everything realized inside.

    Every kernel is waited for before the next one starts, so that its time is its own.

    Attributes: `launches`, `compiles`, `bytes_read`, `bytes_written` (bytes that the kernels'
    buffers hold, from the IR), `operations` (arithmetic, from the IR), `peak_bytes` (most device
    bytes in use), `kernels` (a `KernelRow` per kernel by name; a second kernel of a name has
    ``#2`` behind it), `interpreted` (operations by device and name, where a device runs them one by
    one: ``numpy``, and those of twelve operations; the other figures are of kernels only).
    """

    def __init__(self) -> None:
        self.launches = self.compiles = self.bytes_read = self.bytes_written = 0
        self.operations = self.peak_bytes = 0
        self.kernels: dict[str, KernelRow] = {}
        self.interpreted: dict[str, Counter[str]] = {}
        self._rows: dict[tuple[int, str, str], KernelRow] = {}
        self._names: Counter[str] = Counter()
        self._devices: dict[int, Device] = {}
        self._compiled_before = 0
        self._events: list[_Event] = []
        self._began = time.perf_counter_ns()

    def __enter__(self) -> Profile:
        self._compiled_before = counters.compiles
        self._began = time.perf_counter_ns()
        counting.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        counting.end(self)
        self.compiles = counters.compiles - self._compiled_before
        for device in self._devices.values():
            device.synchronize()

    def __repr__(self) -> str:
        seconds = sum(row.seconds for row in self.kernels.values())
        one_by_one = sum(map(Counter.total, self.interpreted.values()))
        others = f", {one_by_one} operations one by one without kernels" if one_by_one else ""
        return (
            f"<Profile: {self.launches} launches of {len(self.kernels)} kernels in "
            f"{seconds * 1e3:.3f} ms, {self.compiles} compiles, "
            f"{self.bytes_read} bytes read, {self.bytes_written} written, "
            f"at most {self.peak_bytes} in use{others}>"
        )

    def _add_launch(
        self, device: Device, launch: Launch, span: tuple[int, int], host: Host
    ) -> None:
        """Count a launch that ran from `span[0]` to `span[1]` nanoseconds of the device's clock."""
        self._devices[id(device)] = device
        self.peak_bytes = max(self.peak_bytes, device.memory_stats()["in_use_bytes"])
        kernels = launch.settled()
        row = self._row(device, launch, kernels)
        done = sum(map(operations, kernels))
        row.seconds += (span[1] - span[0]) * 1e-9
        row.spans.append(span)
        for counted in (self, row):
            counted.launches += 1
            counted.bytes_read += launch.bytes_read
            counted.bytes_written += launch.bytes_written
            counted.operations += done
        told = {
            "bytes_read": launch.bytes_read, "bytes_written": launch.bytes_written,
            "operations": done, "work_items": launch.source.global_size,
        }  # fmt: skip
        thread, began, ended = host
        # The device's clock has an epoch of its own; the wait for a kernel ended when it did.
        shift = ended - span[1]
        self._events += [
            _Event("host", thread, f"launch {row.name}", began, ended, {}),
            _Event(device.name, 0, row.name, max(span[0] + shift, began), ended, told),
        ]

    def _add_interpreted(self, device: Device, names: Iterable[str]) -> None:
        """Count operations that a device without kernels computes."""
        self.interpreted.setdefault(device.name, Counter()).update(names)

    def _add_host(self, name: str, host: Host) -> None:
        """Note what the host did."""
        thread, began, ended = host
        self._events.append(_Event("host", thread, name, began, ended, {}))

    def _row(self, device: Device, launch: Launch, kernels: tuple[Kernel, ...]) -> KernelRow:
        name, domain = launch.source.kernel_name, " ".join(map(_domain, kernels))
        key = (id(device), launch.source.text, domain)  # one text may serve many sizes
        row = self._rows.get(key)
        if row is None:
            self._names[name] += 1
            if self._names[name] > 1:
                name += f"#{self._names[name]}"
            row = self._rows[key] = self.kernels[name] = KernelRow(name, domain, device)
        return row

    def _by_time(self) -> list[KernelRow]:
        return sorted(self.kernels.values(), key=lambda r: -r.seconds)

    def table(self) -> str:
        """Return a table of the kernels by device time, with shares of the device's ceilings.

        Rates are of the bytes and operations that the IR tells; the shares are of a copy (of a
        read, for kernels that write next to nothing) of arrays beyond the caches, so a kernel
        on data in the caches may show more than 100%, and of multiply-adds in float32. The first
        table of a device measures its ceilings, a few seconds, and keeps them in the cache.
        Devices without kernels have a line each: which operations they ran, untimed.
        """
        lines = [_told(device, self._ceilings(device)) for device in self._devices.values()]
        for name, ran in self.interpreted.items():
            counts = ", ".join(f"{op} {count}" for op, count in ran.most_common())
            lines.append(f"{name} runs no kernels, which alone are timed; its operations: {counts}")
        if not self.kernels:
            return "\n".join(lines) or "nothing was computed inside the with block"
        lines.append(
            f"{'kernel':36} {'domain':20} {'launches':>8} {'ms':>9} {'time':>5} {'MB':>9} "
            f"{'GB/s':>7} {'of':>4} {'':4} {'Mop':>9} {'Gop/s':>7} {'of fma':>6}"
        )
        total = sum(row.seconds for row in self.kernels.values())
        for row in self._by_time():
            limits, bound = self._ceilings(row.device), row.memory_bound
            moved = row.bytes_read + row.bytes_written
            lines.append(
                f"{row.name[:36]:36} {row.domain[:20]:20} {row.launches:8} "
                f"{row.seconds * 1e3:9.3f} {row.seconds / total if total else 0:5.0%} "
                f"{moved * 1e-6:9.3f} {row.bytes_per_s * 1e-9:7.1f} "
                f"{row.bytes_per_s / limits[bound].rate:4.0%} {bound:4} "
                f"{row.operations * 1e-6:9.2f} {row.operations_per_s * 1e-9:7.1f} "
                f"{row.operations_per_s / limits[FMA].rate:6.0%}"
            )
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Save a roofline picture of the kernels; the suffix of `path` says which format.

        Across: operations per byte. Up: operations per second, below the ceilings measured on
        the device. A kernel's area is its share of the time. Needs matplotlib; raises
        `SimplegradError` without it, or where nothing was profiled.
        """
        if not self.kernels:
            raise SimplegradError(
                "Profile.plot: no kernel was run; realize something on an OpenCL device inside "
                "the with block"
            )
        pictures = []
        for device in self._devices.values():
            points = [
                roofline.Point(
                    f"{r.name} {r.domain}", r.operations, r.bytes_read + r.bytes_written, r.seconds
                )
                for r in self._by_time()
                if r.device is device
            ]
            rates = {what: c.rate for what, c in self._ceilings(device).items()}
            pictures.append((device.name, points, rates))
        roofline.draw(path, pictures)

    def save_trace(self, path: str | os.PathLike[str]) -> None:
        """Save JSON for Chrome's trace viewer (chrome://tracing, or ui.perfetto.dev).

        One process for the host, with a row per thread (compilations and launches), and one per
        device with its kernels. Times are microseconds since the profile began; a kernel ends
        where the host saw it end. Format: the Trace Event Format, complete events.
        """
        rows = ["host", *dict.fromkeys(e.row for e in self._events if e.row != "host")]
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "process_name", "pid": i, "tid": 0, "args": {"name": row}}
            for i, row in enumerate(rows)
        ]
        threads: dict[int, int] = {}
        for e in self._events:
            events.append({
                "ph": "X", "name": e.name, "pid": rows.index(e.row),
                "tid": threads.setdefault(e.thread, len(threads)) if e.row == "host" else 0,
                "ts": (e.began - self._began) / 1e3, "dur": (e.ended - e.began) / 1e3,
                "args": e.told,
            })  # fmt: skip
        document = {"traceEvents": events, "displayTimeUnit": "ms"}
        files.replace("Profile.save_trace", path, json.dumps(document).encode() + b"\n")

    @staticmethod
    def _ceilings(device: Device) -> dict[str, Ceiling]:
        return ceilings.measured(device)


def _told(device: Device, limits: dict[str, Ceiling]) -> str:
    return (
        f"{device.name}: copies {limits[COPY].rate * 1e-9:.1f} GB/s, reads "
        f"{limits[READ].rate * 1e-9:.1f} GB/s, multiply-adds {limits[FMA].rate * 1e-9:.0f} Gop/s"
    )


def _domain(kernel: Kernel) -> str:
    outer, reduce = (
        "x".join(str(axis.extent) for axis in axes) for axes in (kernel.outer, kernel.reduce)
    )
    return f"{outer or 1}|{reduce}" if reduce else outer or "1"
