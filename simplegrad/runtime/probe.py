"""What a driver really computes: small kernels, compiled, run and checked against known values.

Extension strings lie in both directions: NVIDIA computes with `half` and lists no `cl_khr_fp16`,
other drivers list doubles that they compute as floats. What is listed is run once, in one program
where the driver takes all of it, and the answer is kept in the disk cache per device and driver.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from simplegrad.errors import DeviceError
from simplegrad.runtime import builtins, program_cache

_ITEMS = 8
_EXTENSION = "#ifdef {0}\n#pragma OPENCL EXTENSION {0} : enable\n#endif\n"
_HEAD = "__kernel void probe_{}(__global const float *x, __global float *y) {{\n"


@dataclass(frozen=True)
class _Probe:
    """A kernel body over x = 0, 1 … 63 that writes `expected` to y[0]."""

    body: str
    expected: float
    extension: str = ""
    items: int = _ITEMS
    """Work-items that run it, in one group."""

    def source(self, name: str) -> str:
        """Return the text of its kernel."""
        head = _EXTENSION.format(self.extension) if self.extension else ""
        alone = "__attribute__((reqd_work_group_size(1, 1, 1)))\n" if self.items == 1 else ""
        return f"{head}{alone}{_HEAD.format(name)}{self.body}\n}}\n"


def _mma(shape: str, a: str, b: str, first: int) -> str:
    """Return the statement that multiplies constant words into four numbers of c."""
    results = ", ".join(f'"+f"(c[{first + i}])' for i in range(4))
    four = ", ".join(['"r"(' + a + ")"] * 4)
    return (
        f'asm volatile("mma.sync.aligned.{shape} {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, '
        f'{{%8, %9}}, {{%0, %1, %2, %3}};" : {results} : {four}, "r"({b}), "r"({b}));\n'
    )


_PROBES = {
    "basic": _Probe(
        "float16 v = *(__global const float16 *)x; v = v * v + 1.0f;\n"
        "long n = (long)x[3] * 4000000007L;\n"  # 12000000021, over 32 bits
        "y[0] = v.s0 + v.sf + (float)(n % 1000003L);",
        1 + 226 + 12000000021 % 1000003,
    ),
    "fp64": _Probe(  # 1 + 2^-39 is 1 where doubles are floats in disguise
        "double d = (double)x[1] + (double)x[2] * 0x1p-40;\n"
        "y[0] = (float)((d - 1.0) * 0x1p39 + sqrt((double)x[4]));",
        3.0,
        "cl_khr_fp64",
    ),
    "fp16": _Probe(
        "half h = (half)x[3]; h = h * h + (half)1.0f;\ny[0] = (float)h;", 10.0, "cl_khr_fp16"
    ),
    "subgroups": _Probe(
        "float n = sub_group_reduce_add(1.0f);\n"
        "if (get_global_id(0) == 0) y[0] = n == (float)get_sub_group_size() ? x[5] : 0.0f;",
        5.0,
        "cl_khr_subgroups",
    ),
    # 16 products of 1 and 2 in half and in bfloat16, 8 in tf32, added to 0.5; a warp at once
    "mma": _Probe(
        "float c[12]; for (int i = 0; i < 12; ++i) c[i] = x[1] * 0.5f;\n"
        + _mma("m16n8k16.row.col.f32.f16.f16.f32", "0x3c003c00", "0x40004000", 0)
        + _mma("m16n8k16.row.col.f32.bf16.bf16.f32", "0x3f803f80", "0x40004000", 4)
        + _mma("m16n8k8.row.col.f32.tf32.tf32.f32", "0x3f800000", "0x40000000", 8)
        + "if (get_global_id(0) == 0) y[0] = c[0] + c[7] + c[9];",
        32.5 + 32.5 + 16.5,
        items=32,
    ),
    "prefetch": _Probe("__builtin_prefetch(x + 7, 0);\ny[0] = x[7];", 7.0),
    # Intel's compiler (2026.22) makes vectors of this loop and loses all of them but the rest.
    "differences": _Probe(
        "float left = 0; const int n = 5 * (int)x[4];\n"
        "for (int i = 0; i < n; ++i) left = left - x[i];\n"
        "y[0] = left;",
        -190.0,
        items=1,
    ),
}


@dataclass(frozen=True)
class Capabilities:
    """What the device computes rightly."""

    fp64: bool
    fp16: bool
    subgroups: bool
    prefetch: bool
    """Whether the compiler takes clang's ``__builtin_prefetch``; asked of CPUs only."""
    host_memory: bool
    """Whether kernels work in the host's memory, where it stands; asked of CPUs only."""
    differences: bool = True
    """Whether a loop that only subtracts floats gives all of them; asked of CPUs only."""
    mma: bool = False
    """Whether inline PTX reaches matrix units; asked of NVIDIA only."""


def capabilities(cl: Any, raw: Any, context: Any, queue: Any, identity: str) -> Capabilities:
    """Return what a device can do, from the cache or by running; raises `DeviceError`.

    The error is for a driver that gets vectors or 64-bit integers wrong, which all kernels use.
    """
    sources = [_ADDRESSES, *[p.source(n) for n, p in _PROBES.items()]]
    key = program_cache.key_of("probe", identity, *sources)
    known = program_cache.get("probes", key)
    if known is not None:
        with suppress(ValueError, TypeError):
            return Capabilities(**json.loads(known))
    names = _worth_running(raw)
    works = _run(cl, raw, context, queue, names)
    if not any(works.values()):  # one refused kernel refuses the program: each by itself
        works = {n: _run(cl, raw, context, queue, [n])[n] for n in names}
    if not works["basic"]:
        raise DeviceError(
            f"open: {identity} gives wrong results for float16 vectors or 64-bit integers; update "
            "the driver, or choose another device with SIMPLEGRAD_DEVICE"
        )
    works["host_memory"] = bool(raw.type & 2) and _shares_memory(cl, context, queue)
    found = Capabilities(*[works.get(n, n == "differences") for n in Capabilities.__annotations__])
    program_cache.put("probes", key, json.dumps(asdict(found)).encode())
    return found


def _worth_running(raw: Any) -> list[str]:
    """Return the probes of what a device lists, or is known to have unlisted.

    Sub-groups are core since OpenCL 2.1: drivers then list only what goes beyond the core, such as
    ``cl_khr_subgroup_shuffle``.
    """
    listed = raw.extensions
    nvidia = "nvidia" in raw.platform.name.lower()
    if nvidia:
        listed += " cl_khr_fp16"
    names = [n for n, p in _PROBES.items() if p.extension.removesuffix("s") in listed]
    cpu = raw.type & 2  # CL_DEVICE_TYPE_CPU
    asked = {"prefetch": cpu, "differences": cpu, "mma": nvidia}
    return [n for n in names if asked.get(n, True)]


def _run(cl: Any, raw: Any, context: Any, queue: Any, names: Sequence[str]) -> dict[str, bool]:
    """Return which probes, built as one program, give the expected value."""
    source = "".join(_PROBES[n].source(n) for n in names)
    try:
        with quiet(cl):
            program = builtins.build(cl, context, source)
    except cl.Error:
        return dict.fromkeys(names, False)
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    x = cl.Buffer(context, flags, hostbuf=np.arange(64, dtype=np.float32))
    works = {}
    for name in names:
        result = np.zeros(_ITEMS, np.float32)
        y = cl.Buffer(context, flags, hostbuf=result)
        try:
            kernel = cl.Kernel(program, f"probe_{name}")
            kernel.set_arg(0, x)
            kernel.set_arg(1, y)
            cl.enqueue_nd_range_kernel(
                queue, kernel, (_PROBES[name].items,), (_PROBES[name].items,)
            )
            cl.enqueue_copy(queue, result, y, is_blocking=True)
        except cl.Error:  # what a compiler let pass may be missing when the kernel is made
            works[name] = False
            continue
        works[name] = bool(result[0] == _PROBES[name].expected)
    return works


_ADDRESSES = """
__kernel void probe_addresses(__global ulong *y, __global const char *a, __global const float *b) {
  y[0] = (ulong)a;
  y[1] = (ulong)b;
  y[2] += (ulong)b[0];
}
"""


def _shares_memory(cl: Any, context: Any, queue: Any) -> bool:
    """Whether a kernel has the host's addresses: of a mapped buffer, and of an array's memory.

    The array starts at an address that is a multiple of 4 bytes and no more, and it is long: short
    ones Intel's runtime uses where they stand, whatever it does with others. What the host writes
    there between two kernels, the second one has to see.
    """
    flags = cl.mem_flags
    array = np.zeros((1 << 18) + 1, np.float32)[1:]
    seen = np.zeros(3, np.uint64)
    try:
        with quiet(cl):
            program = builtins.build(cl, context, _ADDRESSES)
        kernel = cl.Kernel(program, "probe_addresses")
        own = cl.Buffer(context, flags.READ_WRITE, 4096)
        theirs = cl.Buffer(context, flags.READ_WRITE | flags.USE_HOST_PTR, hostbuf=array)
        y = cl.Buffer(context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=seen)
        for i, buffer in enumerate((y, own, theirs)):
            kernel.set_arg(i, buffer)
        for number in (3, 5):
            array[0] = number
            cl.enqueue_nd_range_kernel(queue, kernel, (1,), (1,))
            cl.enqueue_copy(queue, seen, y, is_blocking=True)
        mapped, _ = cl.enqueue_map_buffer(
            queue, own, cl.map_flags.READ, 0, (4096,), np.uint8, is_blocking=True
        )
    except cl.Error:
        return False
    return bool(seen.tolist() == [mapped.ctypes.data, array.ctypes.data, 8])


_AVX512 = (
    "knl", "knm", "skylake-avx512", "cascadelake", "cooperlake", "cannonlake", "icelake-client",
    "icelake-server", "rocketlake", "tigerlake", "sapphirerapids", "emeraldrapids",
    "graniterapids", "graniterapids-d", "znver4", "znver5",
)  # fmt: skip


def vector_bytes(raw: Any) -> int:
    """Return the longest vector that the driver's own functions take rightly, in bytes.

    PoCL compiles kernels for the CPU that its LLVM knows best, which its version names, but takes
    its library of functions by what the CPU can. On an AVX-512 CPU newer than its LLVM the two
    pass vectors of 64 bytes differently: wrong numbers or a crash, so no probe can run it.
    """
    if raw.platform.name != builtins.POCL:
        return 128
    wide = raw.native_vector_width_float >= 16
    return 32 if wide and not raw.version.strip().endswith(_AVX512) else 128


class _Quiet:
    """Warning filters are the process's: the first to enter sets them, the last takes them back."""

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.filters = warnings.catch_warnings()


_quiet = _Quiet()


@contextmanager
def quiet(cl: Any) -> Iterator[None]:
    """Leave out build logs that hold no error: they are the driver's small talk."""
    with _quiet.lock:
        _quiet.inside += 1
        if _quiet.inside == 1:
            _quiet.filters = warnings.catch_warnings()
            _quiet.filters.__enter__()
            warnings.simplefilter("ignore", cl.CompilerWarning)
    try:
        yield
    finally:
        with _quiet.lock:
            _quiet.inside -= 1
            if _quiet.inside == 0:
                _quiet.filters.__exit__(None, None, None)
