"""What a device can do at most: bytes copied, bytes read and multiply-adds, in a second.

Each is a few hand-written kernels, timed by the device's own clock; the fastest variant whose
answer is right is the ceiling. The CPU variants give every work-item one strip, which it goes
through in one or in several places, the GPU variants let neighbouring work-items read neighbouring
vectors. Measured once per device and driver (a few
seconds), and kept in the disk cache. Method: J. McCalpin's STREAM for the bandwidths; for the
multiply-adds, chains that depend on nothing but themselves, as many as hide their latency.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.errors import DeviceError
from simplegrad.runtime import program_cache
from simplegrad.runtime.device import Device

COPY, READ, FMA = KINDS = ("copy", "read", "fma")

BIG = 1 << 24
"""Elements of the float32 arrays that are moved: 64 MiB, beyond most caches."""

_COPY = """
__kernel void copy_strips(__global const float{w} *x, __global float{w} *y, int n) {{
  int each = (n + get_global_size(0) - 1) / get_global_size(0);
  int first = get_global_id(0) * each, last = min(first + each, n);
  for (int i = first; i < last; i++) y[i] = x[i];
}}
__kernel void copy_streams(__global const float{w} *x, __global float{w} *y, int n) {{
  int each = (n + get_global_size(0) - 1) / get_global_size(0);
  int i = get_global_id(0) * each, last = min(i + each, n), half_ = max(last - i, 0) / 2;
  for (int end = i + half_; i < end; i++) {{ y[i] = x[i]; y[i + half_] = x[i + half_]; }}
  for (i += half_; i < last; i++) y[i] = x[i];
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
__kernel void read_streams(__global const float{w} *x, __global float{w} *y, int n) {{
  int each = (n + get_global_size(0) - 1) / get_global_size(0);
  int i = get_global_id(0) * each, last = min(i + each, n), part = max(last - i, 0) / 4;
  float{w} a = 0, b = 0, c = 0, d = 0;
  for (int end = i + part; i < end; i++) {{
    a += x[i]; b += x[i + part]; c += x[i + 2 * part]; d += x[i + 3 * part];
  }}
  for (i += 3 * part; i < last; i++) a += x[i];
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

_FMA = """
#pragma OPENCL FP_CONTRACT ON
__kernel void fma_chains(__global const float{w} *x, __global float{w} *y, int n) {{
  const float{w} half_ = x[0] * 0.0f + 0.5f, one = half_ + half_;
  float{w} {declared};
  for (int i = 0; i < n; i++) {{
    {stepped}
  }}
  y[get_global_id(0)] = {summed};
}}
"""
"""Every chain goes to 2, the fixed point of a/2 + 1; the factors are no constants to fold."""

_STEPS = {"cpu": 1 << 18, "gpu": 1 << 12}
_BYTES_PER_ELEMENT = {COPY: 8, READ: 4}
_REPEAT = 5


@dataclass(frozen=True)
class Variant:
    """One kernel to try: which loop, floats per vector, work-items, their groups, and chains."""

    loop: str
    width: int
    items: int
    group: int
    chains: int = 0


@dataclass(frozen=True)
class Ceiling:
    """The most of one kind: `rate` in bytes (copy: read and written) or operations per second."""

    what: str
    rate: float
    variant: Variant


_known: dict[str, dict[str, Ceiling]] = {}


def measured(device: Device) -> dict[str, Ceiling]:
    """Return the ceilings of an OpenCL device by kind: from memory, from disk, or by running.

    Raises `DeviceError` where a variant gives a wrong answer.
    """
    known = _known.get(device.identity)
    if known is None:
        key = program_cache.key_of("ceilings", _COPY, _READ, _FMA, device.identity)
        known = _read(program_cache.get("ceilings", key))
        if known is None:
            known = {what: Meter(device, what).best() for what in KINDS}
            kept = json.dumps({what: asdict(ceiling) for what, ceiling in known.items()})
            program_cache.put("ceilings", key, kept.encode())
        _known[device.identity] = known
    return known


def _read(kept: bytes | None) -> dict[str, Ceiling] | None:
    if kept is None:
        return None
    return {
        what: Ceiling(what, entry["rate"], Variant(**entry["variant"]))
        for what, entry in json.loads(kept).items()
    }


class Meter:
    """Runs the variants of one kind on arrays of its own."""

    def __init__(self, device: Device, what: str) -> None:
        self._device, self.what = device, what
        self.size = min(BIG, device.limits.max_alloc_bytes // 4)
        self._host = np.random.default_rng(0).standard_normal(self.size).astype(np.float32)
        self._source = device.from_host(self._host, dtypes.float32)
        self._target = device.from_host(np.zeros(self.size, np.float32), dtypes.float32)

    def best(self) -> Ceiling:
        """Return the ceiling: that of the fastest variant."""
        tried = [(self._tried(variant), variant) for variant in self._variants()]
        rate, variant = max(tried, key=lambda pair: pair[0])
        return Ceiling(self.what, rate, variant)

    def work(self, variant: Variant, elements: int) -> int:
        """Return the bytes that a run over `elements` float32 moves, or its operations."""
        if self.what == FMA:
            return 2 * variant.width * variant.chains * variant.items * self._steps()
        return _BYTES_PER_ELEMENT[self.what] * elements

    def elements(self, nbytes: int) -> int:
        """Return how many float32 move `nbytes` bytes, at most as many as there are."""
        return min(self.size, nbytes // _BYTES_PER_ELEMENT[self.what])

    def runner(self, variant: Variant, elements: int) -> Callable[[], float]:
        """Return a function that runs a variant over `elements` float32; it returns seconds."""
        device, v = self._device, variant
        kernel = device.compile(self._text(v)).kernel(f"{self.what}_{v.loop}")
        n = self._steps() if self.what == FMA else elements // v.width
        for i, argument in enumerate((self._source.raw, self._target.raw, np.int32(n))):
            kernel.set_arg(i, argument)

        def run() -> float:
            began, ended = device.launch_timed(kernel, (v.items,), (v.group,))
            return float(ended - began) * 1e-9

        return run

    def _steps(self) -> int:
        return _STEPS[self._device.kind]

    def _text(self, v: Variant) -> str:
        vector = str(v.width) if v.width > 1 else ""
        if self.what != FMA:
            return {COPY: _COPY, READ: _READ}[self.what].format(w=vector)
        names = [f"a{i}" for i in range(v.chains)]
        return _FMA.format(
            w=vector,
            declared=", ".join(f"{name} = {i}.0f" for i, name in enumerate(names)),
            stepped=" ".join(f"{name} = {name} * half_ + one;" for name in names),
            summed=" + ".join(names),
        )

    def _variants(self) -> list[Variant]:
        units, gpu = self._device.limits.compute_units, self._device.kind == "gpu"
        if self.what == FMA:
            if gpu:
                return [
                    Variant("chains", width, units * 256 * 8, 256, chains)
                    for width in (1, 2, 4)
                    for chains in (4, 8)
                ]
            return [
                Variant("chains", width, units * per_unit, 1, chains)
                for width in (4, 8, 16)
                for chains in (8, 12)
                for per_unit in (1, 4)
            ]
        if gpu:
            return [
                Variant("grid", width, units * group * per_unit, group)
                for width in (1, 2, 4)
                for group in (128, 256)
                for per_unit in (4, 8, 32)
            ]
        return [
            Variant(loop, width, units * per_unit, 1)
            for loop in ("strips", "streams")
            for width in (4, 8, 16)
            for per_unit in (1, 4, 32, 256)
        ]

    def _tried(self, variant: Variant) -> float:
        """Return the best rate of a variant, once its answer is right."""
        run = self.runner(variant, self.size)
        run()
        got = self._device.to_host(self._target, dtypes.float32, (self.size,))
        if not self._right(variant, got):
            raise DeviceError(
                f"ceilings: {self.what} as {variant} gives a wrong answer on {self._device.name}; "
                "update the driver, or choose another device with SIMPLEGRAD_DEVICE"
            )
        return self.work(variant, self.size) / min(run() for _ in range(_REPEAT))

    def _right(self, v: Variant, got: Any) -> bool:
        if self.what == COPY:
            whole = self.size - self.size % v.width
            return np.array_equal(got[:whole], self._host[:whole])
        parts = got[: v.items * v.width]
        if self.what == FMA:
            return np.allclose(parts, 2 * v.chains)
        error = abs(parts.sum(dtype="f8") - self._host.sum(dtype="f8"))
        return bool(error < 1e-5 * np.abs(self._host).sum(dtype="f8"))
