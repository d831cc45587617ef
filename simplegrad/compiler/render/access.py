"""How one element, or a vector of neighbours, is read from and written to a buffer.

float16 and bfloat16 are storage only: they are widened to float by the load and rounded to the
nearest even by the store. A bool is stored as uchar 0 or 1.
"""

from __future__ import annotations

from simplegrad.compiler.render.ctext import bfloat16_store, vector
from simplegrad.dtypes import DType, bfloat16, bool_, float16, width


def parameter(name: str, role: str, dtype: DType, alone: bool = True) -> str:
    """Return the declaration of a kernel parameter; `alone`: no other one shares its memory."""
    if role == "scalar":
        return f"const {dtype.compute} {name}"
    const = "const " if role == "in" else ""
    pointer = "*restrict " if alone else "*"
    return f"__global {const}{dtype.storage} {pointer}{name}"


def neighbours(space: str, ctype: str, lanes: int, pointer: str) -> str:
    """Return the vector of `lanes` elements that stand from a pointer on, wherever it points.

    PoCL 3.0 calls a function for each vloadn and vstoren; this is one instruction. The type that
    it needs is `unaligned`.
    """
    return f"*({space} {ctype}{lanes}_at *)({pointer})"


def unaligned(ctype: str, lanes: int) -> str:
    """Return the helper that declares a vector type aligned as its elements are."""
    bytes_ = width(ctype)
    return f"typedef {ctype}{lanes} {ctype}{lanes}_at __attribute__((aligned({bytes_})));"


def read(dtype: DType, name: str, place: str, lanes: int) -> str:
    """Return the expression that reads `lanes` elements from element `place` on."""
    if dtype is float16:
        return f"vload_half({place}, {name})" if lanes == 1 else (
            f"vload_half{lanes}(0, {name} + {place})"
        )  # fmt: skip
    if lanes == 1:
        return f"SG_BFLOAT16({name}[{place}])" if dtype is bfloat16 else f"{name}[{place}]"
    text = neighbours("__global const", dtype.storage, lanes, f"{name} + {place}")
    if dtype is bfloat16:
        return f"as_float{lanes}(convert_uint{lanes}({text}) << 16)"
    return f"convert_int{lanes}({text})" if dtype is bool_ else text


def write(dtype: DType, name: str, place: str, text: str, lanes: int) -> tuple[str, list[str]]:
    """Return the statement that writes `lanes` elements, and the helpers it needs."""
    if dtype is float16:
        if lanes == 1:
            return f"vstore_half_rte({text}, {place}, {name});", []
        return f"vstore_half{lanes}_rte({text}, 0, {name} + {place});", []
    helpers = []
    if dtype is bfloat16:
        text = f"sg_bfloat16_{vector('float', lanes)}({text})"
        helpers.append(bfloat16_store(lanes))
    if lanes == 1:
        return f"{name}[{place}] = {text};", helpers
    if dtype is bool_:
        text = f"convert_uchar{lanes}({text})"
    helpers.append(unaligned(dtype.storage, lanes))
    place = neighbours("__global", dtype.storage, lanes, f"{name} + {place}")
    return f"{place} = {text};", helpers
