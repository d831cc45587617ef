"""What the device can do at most: the bandwidth of a copy and of a read, measured in the same run.

Each is a few hand-written kernels; the fastest variant, found once on 16M float32 and checked
against NumPy, is the ceiling. The CPU variants give every work-item one strip, the GPU variants
let neighbouring work-items read neighbouring vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplegrad import dtypes

BIG = 1 << 24
"""Elements of the arrays on which variants are compared: 64 MiB, beyond most caches."""

_COPY = """
__kernel void copy_strips(__global const float{w} *x, __global float{w} *y, int n) {{
  int each = (n + get_global_size(0) - 1) / get_global_size(0);
  int first = get_global_id(0) * each, last = min(first + each, n);
  for (int i = first; i < last; i++) y[i] = x[i];
}}
__kernel void copy_grid(__global const float{w} *x, __global float{w} *y, int n) {{
  for (int i = get_global_id(0); i < n; i += get_global_size(0)) y[i] = x[i];
}}
"""

_READ = """
__kernel void read_strips(__global const float{w} *x, __global float{w} *y, int n) {{
  int each = (n + get_global_size(0) - 1) / get_global_size(0);
  int i = get_global_id(0) * each, last = min(i + each, n);
  float{w} a = 0, b = 0, c = 0, d = 0;
  for (; i + 3 < last; i += 4) {{ a += x[i]; b += x[i + 1]; c += x[i + 2]; d += x[i + 3]; }}
  for (; i < last; i++) a += x[i];
  y[get_global_id(0)] = (a + b) + (c + d);
}}
__kernel void read_grid(__global const float{w} *x, __global float{w} *y, int n) {{
  int i = get_global_id(0), step = get_global_size(0);
  float{w} a = 0, b = 0, c = 0, d = 0;
  for (; i + 3 * step < n; i += 4 * step) {{
    a += x[i]; b += x[i + step]; c += x[i + 2 * step]; d += x[i + 3 * step];
  }}
  for (; i < n; i += step) a += x[i];
  y[get_global_id(0)] = (a + b) + (c + d);
}}
"""

_SOURCES = {"copy": _COPY, "read": _READ}
_BYTES_PER_ELEMENT = {"copy": 8, "read": 4}


@dataclass(frozen=True)
class Variant:
    """One kernel to try: which loop, floats per vector, work-items, and their groups."""

    loop: str
    width: int
    items: int
    group: int


class Ceiling:
    """The fastest copy (``"copy"``) or read (``"read"``) of a device."""

    def __init__(self, device: Any, what: str) -> None:
        self._device, self.what = device, what
        host = np.random.default_rng(0).standard_normal(BIG).astype(np.float32)
        self._source = device.from_host(host, dtypes.float32)
        self._target = device.from_host(np.zeros(BIG, np.float32), dtypes.float32)
        self.variant = min(self._variants(), key=lambda v: self._tried(v, host))
        self.gbytes_per_s = self.nbytes(BIG) / self._best(self.runner(BIG)) / 1e9

    def nbytes(self, elements: int) -> int:
        """Return how many bytes `elements` float32 stand for: once in, for a copy once out too."""
        return _BYTES_PER_ELEMENT[self.what] * elements

    def elements(self, nbytes: int) -> int:
        """Return how many float32 move `nbytes` bytes, at most as many as there are."""
        return min(BIG, nbytes // _BYTES_PER_ELEMENT[self.what])

    def _variants(self) -> list[Variant]:
        units = self._device.limits.compute_units
        if self._device.kind == "gpu":
            return [
                Variant("grid", width, units * group * per_unit, group)
                for width in (1, 2, 4)
                for group in (128, 256)
                for per_unit in (4, 8, 32)
            ]
        return [
            Variant("strips", width, units * per_unit, 1)
            for width in (4, 8, 16)
            for per_unit in (1, 4, 32, 256)
        ]

    def runner(self, elements: int, variant: Variant | None = None) -> Callable[[], float]:
        """Return a function that runs the kernel on the first `elements`; it returns seconds."""
        device, v = self._device, variant or self.variant
        program = device.compile(_SOURCES[self.what].format(w=v.width if v.width > 1 else ""))
        kernel = program.kernel(f"{self.what}_{v.loop}")
        arguments = (self._source.raw, self._target.raw, np.int32(elements // v.width))
        for i, argument in enumerate(arguments):
            kernel.set_arg(i, argument)

        def run() -> float:
            began, ended = device.launch_timed(kernel, (v.items,), (v.group,))
            return float(ended - began) * 1e-9

        return run

    def _tried(self, variant: Variant, host: Any) -> float:
        """Return the best time of a variant in seconds, once its answer is right."""
        run = self.runner(BIG, variant)
        run()
        got = self._device.to_host(self._target, dtypes.float32, (BIG,))
        if self.what == "copy":
            right = np.array_equal(got, host)
        else:
            parts = got[: variant.items * variant.width].sum(dtype="f8")
            right = abs(parts - host.sum(dtype="f8")) < 1e-5 * np.abs(host).sum(dtype="f8")
        if not right:
            raise SystemExit(f"{self.what}: {variant} gives a wrong answer")
        return self._best(run)

    @staticmethod
    def _best(run: Callable[[], float], repeat: int = 7) -> float:
        return min(run() for _ in range(repeat))


def measure(device: Any) -> dict[str, Ceiling]:
    """Return both ceilings of an OpenCL device; none of a device without kernels."""
    if not device.identity or not hasattr(device, "compile"):
        return {}
    return {what: Ceiling(device, what) for what in _SOURCES}
