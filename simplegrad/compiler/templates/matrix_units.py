"""Products for matrix units: which ones ``kernels/einsum_mma.cl`` takes, and in what form.

The instructions read 16-bit floats (or float32 rounded to tf32, where the user allows fast math),
so both factors must be plain loads of one such dtype, widened or not: then the template moves
their bits as they are, and the sums are float as everywhere.
"""

from __future__ import annotations

from dataclasses import replace

from simplegrad import ops, settings
from simplegrad.compiler.ir.axes import walk
from simplegrad.compiler.ir.kernel import APPLY, LOAD, Kernel, Value
from simplegrad.dtypes import bfloat16, float16, float32, uint16, uint32

KINDS = {float16: "half", bfloat16: "bfloat16", float32: "tf32"}
"""How the template's KIND 0, 1 and 2 are called, by dtype of the factors."""


def as_bits(kernel: Kernel, a: Value, b: Value) -> tuple[Kernel, Value, Value, str] | None:
    """Return a product's kernel and factors as loads of bits, with the kind; None if unfit."""
    a_load, b_load = _plain(a), _plain(b)
    if a_load is None or b_load is None or a_load.dtype is not b_load.dtype:
        return None
    dtype = a_load.dtype
    if dtype is float32 and not settings.current().fast_math:
        return None
    arguments = {a_load.arg, b_load.arg}
    if any(v.form == LOAD and v.arg in arguments for v in walk([o.value for o in kernel.outputs])):
        return None  # the epilogue needs it as it is
    bits = uint32 if dtype is float32 else uint16
    args = tuple(
        replace(arg, dtype=bits) if i in arguments else arg for i, arg in enumerate(kernel.args)
    )
    a_bits, b_bits = replace(a_load, dtype=bits), replace(b_load, dtype=bits)
    (reduction,) = kernel.reductions
    product = replace(reduction.value, srcs=(a_bits, b_bits))
    new = replace(kernel, args=args, reductions=(replace(reduction, value=product),))
    return new, a_bits, b_bits, KINDS[dtype]


def _plain(value: Value) -> Value | None:
    """Return the load of a 16-bit or float32 array that a factor is, zero outside its guards."""
    if value.form == APPLY and value.op is ops.CAST and value.dtype is float32:
        (value,) = value.srcs
    fit = value.form == LOAD and value.dtype in KINDS and value.number == 0
    return value if fit else None
