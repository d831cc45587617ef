"""Both kernel families on every driver, against the interpreter of the kernel IR."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simplegrad import dtypes, ops
from simplegrad.compiler.ir.kernel import Kernel
from simplegrad.compiler.pipeline import fitted
from simplegrad.compiler.render import cpu, gpu
from simplegrad.compiler.render.assemble import Source, assemble
from simplegrad.compiler.render.ctext import constant
from simplegrad.compiler.target import Target
from simplegrad.runtime import builtins, discovery, probe

sys.path.insert(0, __file__.rpartition("/")[0])
from interpreter import Interpreter

import kernels

discovery.prepare()
cl = pytest.importorskip("pyopencl")

TARGETS = {
    "cpu8": Target("cpu", 8, 2, prefetch=True),
    "cpu16": Target("cpu", 16, 4),
    "gpu": Target("gpu", 4, 2, 256, 32768),
}
CASES = kernels.cases()
FEW = [dtypes.float32, dtypes.bfloat16, dtypes.bool_]
_RTOL = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 2e-5, "float64": 1e-12}


pytestmark = pytest.mark.filterwarnings("ignore::pyopencl.CompilerWarning")

CONTEXTS: list[Any] = []


def _queues() -> dict[str, Any]:
    found = {}
    for platform in sorted(cl.get_platforms(), key=lambda p: str(p.name)):
        for device in platform.get_devices():
            context = cl.Context([device])
            CONTEXTS.append(context)  # Intel's queues do not keep theirs alive
            found[platform.name.split()[0]] = cl.CommandQueue(context)
    return found


QUEUES = _queues()
FIRST = next((driver for driver in QUEUES if "Portable" in driver), next(iter(QUEUES), ""))
BARRIERS = next((driver for driver in QUEUES if "Intel" in driver), FIRST)
"""Who runs kernels with barriers: PoCL takes a second to compile one."""


def bits(dtype: dtypes.DType, data: Any) -> Any:
    """Return data as it stands in a buffer."""
    data = np.asarray(data, dtype.numpy)
    if dtype is dtypes.bfloat16:
        return (data.view(np.uint32) >> 16).astype(np.uint16)
    return data


def unbits(dtype: dtypes.DType, data: Any) -> Any:
    if dtype is dtypes.bfloat16:
        return (data.astype(np.uint32) << 16).view(np.float32)
    return data


def render(kernel_list: list[Kernel], target: Target) -> Source:
    family = cpu if target.family == "cpu" else gpu
    return assemble("test", [family.render(k, fitted(k, target)) for k in kernel_list])


def run(queue: Any, cases: list[kernels.Case], target: Target) -> list[list[Any]]:
    """Render the kernels into one, run it, return the outputs of each."""
    target = replace(target, vector_bytes=probe.vector_bytes(queue.device))
    source = render([kernel for kernel, _ in cases], target)
    program = builtins.build(cl, queue.context, source.text)
    args, outputs = [], []
    for body, number in source.args:
        arg, data = cases[body][0].args[number], cases[body][1][number]
        if arg.role == "scalar":
            kind = {"float": np.float32, "int": np.int32}.get(arg.dtype.compute, arg.dtype.numpy)
            args.append(np.array(data).astype(kind)[()])
            continue
        itemsize = max(arg.size, 1) * arg.dtype.itemsize
        stored = np.full(itemsize, 0x5A, np.uint8) if data is None else bits(arg.dtype, data)
        stored = stored if stored.size else np.zeros(8, np.uint8)
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        args.append(cl.Buffer(queue.context, flags, hostbuf=np.ascontiguousarray(stored)))
        if arg.role == "out":
            outputs.append((body, arg, args[-1]))
    kernel = cl.Kernel(program, source.kernel_name)
    kernel.set_args(*args)
    size, group = (source.global_size,), (source.local_size,)
    cl.enqueue_nd_range_kernel(queue, kernel, size, group).wait()
    results: list[list[Any]] = [[] for _ in cases]
    for body, arg, buffer in outputs:
        kind = np.uint16 if arg.dtype is dtypes.bfloat16 else arg.dtype.numpy
        data = np.empty(arg.size, kind)
        cl.enqueue_copy(queue, data, buffer)
        results[body].append(unbits(arg.dtype, data))
    return results


def expected(case: kernels.Case) -> list[Any]:
    kernel, data = case
    args = [
        np.zeros(arg.size, arg.dtype.numpy) if d is None else np.asarray(d, arg.dtype.numpy)
        for arg, d in zip(kernel.args, data, strict=True)
    ]
    with np.errstate(all="ignore"):
        Interpreter(kernel, args).run()
    return [a for a, arg in zip(args, kernel.args, strict=True) if arg.role == "out"]


def check(case: kernels.Case, got: list[Any]) -> None:
    kernel = case[0]
    outs = [a for a in kernel.args if a.role == "out"]
    floats = [_RTOL[a.dtype.name] for a in kernel.args if a.dtype.is_float]
    rtol = max(floats, default=0)
    if kernel.name == "casts":
        rtol = max(rtol, 1.6e-2 if any(a.dtype is dtypes.bfloat16 for a in outs) else 0)
    for arg, mine, want in zip(outs, got, expected(case), strict=True):
        if arg.dtype.is_float:
            finite = np.abs(want[np.isfinite(want)], dtype=np.float64)
            scale = float(finite.max(initial=0)) if kernel.reductions else 1.0
            np.testing.assert_allclose(mine, want, rtol=rtol, atol=rtol * max(scale, 1))
        else:
            np.testing.assert_array_equal(mine, want)


def _pairs() -> list[tuple[str, str]]:
    """Every family on one driver; short and long vectors on different ones, where there are two."""
    if len(QUEUES) < 2:
        return [(family, FIRST) for family in TARGETS]
    others = [driver for driver in QUEUES if driver != FIRST]
    pairs = [("cpu8", FIRST), ("gpu", FIRST), *[("cpu16", driver) for driver in others]]
    return pairs if BARRIERS == FIRST else [*pairs, ("gpu", BARRIERS)]


def _barriers(kernel: Kernel) -> bool:
    return gpu.render(kernel, TARGETS["gpu"]).local_bytes > 0


@pytest.mark.parametrize(("family", "driver"), _pairs())
def test_cases_side_by_side(family: str, driver: str) -> None:
    """All cases, as many to a program as its parameters allow; those with barriers alone.

    Operations on every type in one family on one driver, on some in the GPU's; elsewhere only
    structures, for the rows of operations run there.
    """
    target = TARGETS[family]
    cases = CASES
    if (family, driver) != (next(iter(TARGETS)), FIRST):
        cases = kernels.structures() | (kernels.operations(FEW) if family == "gpu" else {})
    if family == "gpu" and BARRIERS != FIRST:
        cases = {n: c for n, c in cases.items() if _barriers(c[0]) == (driver == BARRIERS)}
    room = 100 if "Intel" in driver else 30  # parameters; each is a pointer of 8 bytes
    batch: list[str] = []

    def flush() -> None:
        results = run(QUEUES[driver], [cases[n] for n in batch], target)
        for own, got in zip(batch, results, strict=True):
            try:
                check(cases[own], got)
            except AssertionError as error:
                raise AssertionError(f"{own}: {error}") from None
        batch.clear()

    for name, (kernel, data) in cases.items():
        alone = family == "gpu" and _barriers(kernel)
        if batch and (alone or sum(len(cases[n][1]) for n in batch) + len(data) > room):
            flush()
        batch.append(name)
        if alone:
            flush()
    if batch:
        flush()


@pytest.mark.parametrize("driver", QUEUES)
@pytest.mark.parametrize("family", TARGETS)
def test_not_a_number_and_infinity(family: str, driver: str) -> None:
    """NaN wins a max, a min and their positions; of equals the first."""
    random = np.random.default_rng(3)
    rows = random.integers(-3, 4, (40, 300)).astype(np.float32)
    rows[3, 250], rows[3, 20], rows[5, :], rows[7, 299] = np.nan, np.nan, -np.inf, np.inf
    rows[9, :], rows[11, 0] = np.inf, np.nan
    for op in (ops.MAX, ops.MIN, ops.ARGMAX, ops.ARGMIN):
        by_row = kernels.reduced(op, (40, 300), (1,), data=rows.ravel())
        by_column = kernels.reduced(op, (300, 40), (0,), data=rows.T.ravel())
        for case in (by_row, by_column):  # PoCL takes no barriers under a condition
            (got,) = run(QUEUES[driver], [case], TARGETS[family])
            np.testing.assert_array_equal(got[0], op.numpy(rows, axis=1))  # type: ignore[misc]
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, 88.7, -104] * 5, "f4")
    for op in (ops.EXP, ops.LOG, ops.SQRT, ops.RECIPROCAL, ops.SIGN, ops.ISNAN, ops.ISINF):
        case = kernels.arithmetic(op, dtypes.float32, special.size)
        case[1][0] = special
        (got,) = run(QUEUES[driver], [case], TARGETS[family])
        want = expected(case)[0]
        np.testing.assert_allclose(got[0], want, rtol=4e-7, atol=2e-45, err_msg=str(op))


@pytest.mark.parametrize("driver", QUEUES)
@pytest.mark.parametrize("family", TARGETS)
def test_extremes_of_integers(family: str, driver: str) -> None:
    for dtype in (dtypes.int8, dtypes.int16, dtypes.int32, dtypes.int64, dtypes.uint8):
        edge = np.array([dtype.low, dtype.high, 0, 1, -1 if dtype.low else 2, 7], dtype.numpy)
        x, y = (a.ravel() for a in np.meshgrid(edge, edge))
        for op in (ops.ADD, ops.SUB, ops.MUL, ops.FLOOR_DIVIDE, ops.REMAINDER, ops.MAXIMUM):
            case = kernels.arithmetic(op, dtype, x.size)
            case[1][:2] = [x, y]
            (got,) = run(QUEUES[driver], [case], TARGETS[family])
            np.testing.assert_array_equal(got[0], expected(case)[0], err_msg=f"{op} {dtype}")


@pytest.mark.parametrize("driver", QUEUES)
@pytest.mark.parametrize("family", TARGETS)
def test_reductions_of_nothing(family: str, driver: str) -> None:
    for op, want in ((ops.SUM, 0), (ops.PROD, 1), (ops.MAX, -np.inf), (ops.MIN, np.inf)):
        for shape, axes in (((6, 0), (1,)), ((0, 20), (0,)), ((0,), (0,))):
            (got,) = run(QUEUES[driver], [kernels.reduced(op, shape, axes)], TARGETS[family])
            assert (got[0] == want).all(), (op, shape)


def test_same_text_for_equal_input() -> None:
    """The text depends on no hash seed: another process renders it too."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import hashlib, test_render as t, kernels\n"
        "names = ['softmax 40x1024 1', 'padded', 'gather True int64', 'split 1000', 'argmax int64']\n"
        "texts = [t.render([t.CASES[n][0]], v).text for n in names for v in t.TARGETS.values()]\n"
        "print(hashlib.sha256(''.join(texts).encode()).hexdigest())"
    )
    folder = __file__.rpartition("/")[0]
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, folder],
            env={**__import__("os").environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1] != ""


def test_constants_are_exact() -> None:
    assert constant(float("inf"), dtypes.float32) == "(INFINITY)"
    assert constant(-(2**63), dtypes.int64) == "(-9223372036854775807l - 1)"
    assert constant(1e-45, dtypes.float32) == "1e-45f"
    assert constant(0.1, dtypes.float16) == "0.099975586f"
    assert constant(2**64 - 1, dtypes.uint64) == "18446744073709551615ul"


def test_prefetch_only_where_the_compiler_knows_it() -> None:
    def asks(case: kernels.Case, prefetch: bool) -> bool:
        body = cpu.render(case[0], Target("cpu", 8, 2, prefetch=prefetch))
        return any("__builtin_prefetch" in line for line in body.lines)

    for case in (kernels.softmax(40, 300), kernels.reduced(ops.SUM, (300, 4096), (0,))):
        assert asks(case, True)
        assert not asks(case, False)
    assert not asks(kernels.chain(5000), True)


def test_the_next_row_is_asked_for_where_a_stage_computes_much() -> None:
    for case, wanted in ((kernels.softmax(40, 1024), True), (kernels.layer_norm(17, 768), False)):
        lines = cpu.render(case[0], Target("cpu", 8, 2, prefetch=True)).lines
        found = [line for line in lines if "__builtin_prefetch" in line]
        assert any(line.rstrip().endswith(", 1, 3);") for line in found)  # what will be written
        assert any(line.rstrip().endswith(", 0, 3);") for line in found) == wanted


BESIDE = {
    "four": (kernels.reduced(ops.SUM, (64, 50), (1,)), 4),
    "four of two axes": (kernels.reduced(ops.MAX, (3, 64, 41), (2,)), 4),
    "four, and another axis": (kernels.reduced(ops.SUM, (7, 64, 20), (0, 2)), 4),
    "two": (kernels.reduced(ops.PROD, (66, 33), (1,)), 2),
    "odd": (kernels.reduced(ops.SUM, (67, 33), (1,)), 1),
    "few": (kernels.reduced(ops.SUM, (16, 50), (1,)), 1),
    "position": (kernels.reduced(ops.ARGMAX, (64, 50), (1,)), 1),
    "parts": (kernels.split_sum(64 * 40, 40), 4),
    "parts, the last one shorter": (kernels.split_sum(64 * 40 - 3, 40), 1),
}


@pytest.mark.parametrize("name", BESIDE)
def test_rows_are_read_side_by_side(name: str) -> None:
    case, count = BESIDE[name]
    target = TARGETS["cpu8"]
    text = "\n".join(cpu.render(case[0], target).lines)
    assert [f" + {i})" in text for i in (1, 3)] == [count > 1, count > 3]
    check(case, run(QUEUES[FIRST], [case], target)[0])


@pytest.mark.parametrize("n", [20, 5_000, 16_384, 16_391, 100_003])
def test_long_blocks_are_computed_in_two_places(n: int) -> None:
    case = kernels.broadcast(1, n)
    text = "\n".join(cpu.render(case[0], TARGETS["cpu8"]).lines)
    assert ("apart" in text) == (n >= 5_000)
    check(case, run(QUEUES[FIRST], [case], TARGETS["cpu8"])[0])
