"""Programs built with our own declarations of the built-in functions, on PoCL."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import OPENCL

import simplegrad as sg
from simplegrad.runtime import builtins

cl = pytest.importorskip("pyopencl")


@pytest.fixture
def pocl() -> Any:
    names = [name for name in OPENCL if "pocl" in name]
    if not names:
        pytest.skip("no PoCL here; pip install '.[cpu]'")
    with sg.device(names[0]) as device:
        yield device


EVERY_FORM = """
__kernel void every_form(__global float *y, __global half *h, __global int *n) {
  __local float shared[4];
  size_t i = get_global_id(0) + get_local_id(0) * get_local_size(0);
  shared[i] = exp(y[i]) + fma(y[i], 2.0f, 1.0f) + atan2(y[i], 1.0f);
  barrier(CLK_LOCAL_MEM_FENCE);
  float4 wide = max(vload4(0, y), (float4)2.0f) + clamp(vload4(0, y), (float4)0.0f, (float4)1.0f);
  vstore_half_rte(shared[i], 0, h);
  n[0] = convert_int_rtz(vload_half(0, h)) + isnan(y[0]) + (int)abs(n[0]) + clz(n[0]);
  n[1] = (int)mul_hi((ulong)1 << 63, 4ul) + all(isfinite(wide));
  vstore4(wide, 0, y);
}
"""


def test_declared_functions_are_the_drivers_own(pocl: Any) -> None:
    def run(build: Any) -> list[Any]:
        y, h, n = np.arange(4, dtype=np.float32), np.zeros(1, np.float16), np.array([-3, 0], "i4")
        flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
        buffers = [cl.Buffer(pocl.context, flags, hostbuf=a) for a in (y, h, n)]
        build().every_form(pocl.queue, (1,), (1,), *buffers)
        for array, buffer in zip((y, h, n), buffers, strict=True):
            cl.enqueue_copy(pocl.queue, array, buffer)
        return [y.tolist(), h.tolist(), n.tolist()]

    source = EVERY_FORM.replace("all(isfinite(wide))", "isfinite(wide.x)")
    own = run(lambda: builtins.build(cl, pocl.context, source))
    assert not builtins.undeclared
    assert own == run(lambda: cl.Program(pocl.context, source).build(cache_dir=False))
    assert own[0] == [2.0, 3.0, 3.0, 4.0]


def test_what_is_not_declared_is_built_with_the_header(pocl: Any) -> None:
    source = EVERY_FORM.replace("every_form", "unknown_form")
    program = builtins.build(cl, pocl.context, source)  # `all` is not in the tables
    assert program.unknown_form
    assert builtins.undeclared.pop() == source


def test_lines_of_messages_are_the_sources(pocl: Any) -> None:
    assert builtins.declarations("exp(x)\n").endswith("\n#line 1\n")
    assert "double" not in builtins.declarations("exp(x)")
    assert builtins.declarations("exp(double)").startswith("#pragma OPENCL EXTENSION cl_khr_fp64")
    assert builtins.declarations("int lengths;") == "\n#line 1\n"


def test_names_that_templates_put_together() -> None:
    assert "vload16(" in builtins.declarations("#define VLOAD JOIN(vload, VW)")
