"""How values are spelled in OpenCL C: types, constants, conversions and operations.

Everything here is text in, text out, for scalars and for vectors of `lanes` elements alike. A
bool computes as int 0 or 1; float16 and bfloat16 compute as float and are rounded by an explicit
CAST and by a store. A float outside the range of the integer it is cast to (NaN included) gives
an unspecified number, as in C and NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from simplegrad.compiler.ir.symbolic import symbolic
from simplegrad.dtypes import DType, bfloat16, bool_, float16, width
from simplegrad.ops import ABS, CAST, ERF, EXP, INVERT, TANH, WHERE, Op

_UNSIGNED = {1: "uchar", 2: "ushort", 4: "uint", 8: "ulong"}
_MASKS = {1: "char", 2: "short", 4: "int", 8: "long"}


def unsigned(ctype: str) -> str:
    """Return the unsigned integer type of a C type's width."""
    return _UNSIGNED[width(ctype)]


def vector(ctype: str, lanes: int) -> str:
    """Return the type of `lanes` elements."""
    return ctype if lanes == 1 else f"{ctype}{lanes}"


def mask_type(ctype: str, lanes: int) -> str:
    """Return the type that a comparison of `ctype` gives."""
    return "int" if lanes == 1 else vector(_MASKS[width(ctype)], lanes)


def lane_names(lanes: int) -> list[str]:
    """Return the component names s0, s1, … of a vector."""
    return [f"s{k:x}" for k in range(lanes)]


def splat(text: str, ctype: str, lanes: int) -> str:
    """Return a scalar repeated in every lane."""
    return text if lanes == 1 else f"({vector(ctype, lanes)})({text})"


def _round_bfloat16(number: float) -> float:
    bits = int(np.float32(number).view(np.uint32))
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return float(np.uint32(bits & 0xFFFFFFFF).view(np.float32))


def constant(number: bool | float, dtype: DType) -> str:
    """Return the number as `dtype` would hold it, exactly.

    >>> from simplegrad.dtypes import float32, int32, uint64
    >>> constant(0.1, float32), constant(-(2**31), int32), constant(7, uint64)
    ('0.1f', '(-2147483647 - 1)', '7ul')
    """
    if symbolic(number):
        return f"({dtype.compute})({number})"
    if dtype.is_float:
        return _float_constant(float(number), dtype)
    if dtype.kind == "b":
        return "1" if number else "0"
    value = int(number)
    suffix = {"uint": "u", "long": "l", "ulong": "ul"}.get(dtype.compute, "")
    if dtype.itemsize < 4:
        return f"({dtype.compute}){value}" if value >= 0 else f"({dtype.compute})({value})"
    if value == dtype.low and value < 0:  # the positive number has no literal
        return f"({value + 1}{suffix} - 1)"
    return f"({value}{suffix})" if value < 0 else f"{value}{suffix}"


def _float_constant(number: float, dtype: DType) -> str:
    double = dtype.compute == "double"
    with np.errstate(over="ignore"):
        if dtype is float16:
            number = float(np.float16(number))
        elif not double:
            number = float(np.float32(number))
    if math.isnan(number):
        return "(double)NAN" if double else "NAN"
    if dtype is bfloat16 and math.isfinite(number):
        number = _round_bfloat16(number)
    if math.isinf(number):
        text = "INFINITY" if number > 0 else "-INFINITY"
        return f"((double){text})" if double else f"({text})"
    text = repr(number) if double else f"{np.float32(number)!s}f"
    return f"({text})" if text.startswith("-") else text


def convert(text: str, source: DType, target: DType, lanes: int) -> tuple[str, list[str]]:
    """Return a value of dtype `source` cast to `target`, and the helpers it needs."""
    if target is bool_:
        if source is bool_:
            return text, []
        zero = splat("0", source.compute, lanes)
        return as_bool(f"({text} != {zero})", source.compute, lanes), []
    to = vector(target.compute, lanes)
    if source.is_float and target.kind in "iu" and target.itemsize < 4:
        # By way of int, which wraps: what does not fit saturates in some drivers' vectors alone.
        text = f"(int){text}" if lanes == 1 else f"convert_{vector('int', lanes)}({text})"
    if source.compute != target.compute:
        text = f"({to}){text}" if lanes == 1 else f"convert_{to}({text})"
    if target in (float16, bfloat16) and source is not target:
        name = f"sg_round_{target.name}_{to}"
        return f"{name}({text})", _rounder(name, target, to, lanes)
    return text, []


def _rounder(name: str, dtype: DType, ctype: str, lanes: int) -> list[str]:
    """Return the helpers that round float to the nearest float16 or bfloat16."""
    n = "" if lanes == 1 else str(lanes)
    if dtype is bfloat16:
        widen = "(uint)" if lanes == 1 else f"convert_uint{n}"
        return [
            bfloat16_store(lanes),
            f"{ctype} {name}({ctype} x) {{\n"
            f"  return as_{ctype}({widen}(sg_bfloat16_{ctype}(x)) << 16);\n}}",
        ]
    return [
        f"{ctype} {name}({ctype} x) {{\n  ushort{n} bits;\n"
        f"  vstore_half{n}_rte(x, 0, (half *)&bits);\n"
        f"  return vload_half{n}(0, (const half *)&bits);\n}}"
    ]


def bfloat16_store(lanes: int) -> str:
    """Return the helper that rounds float to the bits of a bfloat16, NaN kept NaN."""
    f, u = vector("float", lanes), vector("uint", lanes)
    s = vector("ushort", lanes)
    narrow = f"({s})" if lanes == 1 else f"convert_{s}"
    return (
        f"{s} sg_bfloat16_{f}({f} x) {{  /* to nearest even */\n  {u} bits = as_{u}(x);\n"
        f"  {u} near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;\n"
        f"  return {narrow}(isnan(x) ? ((bits >> 16) | 0x40u) : near);\n}}"
    )


def as_bool(text: str, ctype: str, lanes: int) -> str:
    """Return the int 0 or 1 of a comparison of `ctype` operands."""
    if lanes == 1:
        return text
    # A comparison of vectors gives 0 or -1 in the width of its operands.
    return f"(-{text})" if width(ctype) == 4 else f"(-convert_int{lanes}({text}))"


def as_mask(text: str, ctype: str, lanes: int) -> str:
    """Return a selection mask for `ctype` vectors from int 0 or 1."""
    if lanes == 1:
        return text
    wide = mask_type(ctype, lanes)
    return f"(-{text})" if width(ctype) == 4 else f"(-convert_{wide}({text}))"


def operation(
    op: Op, dtype: DType, source: DType, texts: list[str], lanes: int, scalar_test: bool = False
) -> tuple[str, list[str]]:
    """Return the text of one operation and the helpers that stand before the kernel.

    `dtype` is that of the result, `source` that of the first operand. A `scalar_test` says that
    the condition of a WHERE is a scalar although its other operands are vectors.
    """
    if op is CAST:
        return convert(texts[0], source, dtype, lanes)
    if op is WHERE:
        test = texts[0] if scalar_test else as_mask(texts[0], dtype.compute, lanes)
        return f"({test} ? {texts[1]} : {texts[2]})", []
    ctype = vector(source.compute, lanes)
    if op is ABS and source.is_float:  # the sign bit cleared: PoCL's fabs() is a real call
        mask = "0x7ffffffffffffffful" if source.compute == "double" else "0x7fffffffu"
        bits = vector(_UNSIGNED[width(source.compute)], lanes)
        return f"as_{ctype}(as_{bits}({texts[0]}) & {mask})", []
    if op is ABS:  # abs() gives the unsigned type; low wraps to itself
        if source.kind == "u":
            return texts[0], []
        return (f"({ctype})abs({texts[0]})" if lanes == 1 else f"as_{ctype}(abs({texts[0]}))"), []
    if op is INVERT and source is bool_:
        return f"({texts[0]} ^ 1)", []
    return _snippet(op, source, texts, lanes)


def _snippet(op: Op, source: DType, texts: list[str], lanes: int) -> tuple[str, list[str]]:
    ctype = vector(source.compute, lanes)
    snippet = op.c if source.is_float else op.c_int or op.c
    if op.wraps and not source.is_float:
        return _wrapping(snippet, source, texts, lanes), []
    unsigned = vector(_UNSIGNED[width(source.compute)], lanes)
    text = snippet.format(*texts, T=ctype, U=unsigned)
    helpers = _helpers(op, source, snippet, len(texts), lanes) if "sg_" in snippet else []
    if op.result is bool_:
        text = as_bool(f"({text})", source.compute, lanes)
    return text, helpers


def exponential(text: str, lanes: int) -> tuple[str, list[str]]:
    """Return e to a float on a CPU: faster than the drivers' own, to 1.3 units in the last place.

    x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 in two parts, the first exact in products with n; a
    polynomial of Cephes' expf in r. Where 2**n p is a normal number in all lanes, n is added to
    the exponent of p; elsewhere 2**n goes in as two factors.
    """
    f, i = vector("float", lanes), vector("int", lanes)
    name = f"sg_exp_{f}"
    # Bits compared as integers: |x| <= 87, and NaN is greater. PoCL's fabs() is a real call.
    tests = [f"  {i} normal{lanes} = (as_{i}(x) & 0x7fffffff) <= 0x42ae0000;  /* |x| <= 87 */"]
    while lanes > 1:
        lanes //= 2
        lo, hi = ("lo", "hi") if lanes > 1 else ("s0", "s1")
        whole, half = f"normal{lanes * 2}", vector("int", lanes)
        tests.append(f"  {half} normal{lanes} = {whole}.{lo} & {whole}.{hi};")
    test = "\n".join(tests)
    helper = f"""{f} {name}({f} x) {{
  {f} shifted = x * 1.44269504f + 12582912.0f;  /* the low bits now hold n */
  {f} whole = shifted - 12582912.0f;
  {f} r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
  {f} p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + (r + 1.0f);
{test}
  if (normal1) return as_{f}(as_{i}(p) + (as_{i}(shifted) << 23));
  {i} n = as_{i}(shifted) - 0x4b400000, half_n = n >> 1;
  p = p * as_{f}((half_n + 127) << 23) * as_{f}((n - half_n + 127) << 23);
  p = x > 88.8f ? ({f})(INFINITY) : p;
  return x < -104.0f ? ({f})(0.0f) : p;
}}"""
    return f"{name}({text})", [helper]


@dataclass(frozen=True)
class _Rational:
    """f(x) = x P(x²) / Q(x²) for |x| < edge, beyond ±1 to the last bit; highest powers first.

    Fitted to the least relative error by iteratively weighted least squares.
    """

    edge: float
    above: tuple[float, ...]
    below: tuple[float, ...]


_ERF = _Rational(
    3.92,
    (2.050078329e-6, 2.848830364e-4, 3.765642927e-3, 5.274880003e-2, 1.904071080e-1, 1.128379146),
    (3.809163948e-5, 1.162541352e-3, 1.496926796e-2, 1.141093699e-1, 5.020766467e-1, 1.0),
)
_TANH = _Rational(
    9.02,
    (1.331921491e-8, 2.058359591e-5, 3.494041954e-3, 1.337972429e-1, 0.9999999790),
    (7.762081459e-7, 3.283103145e-4, 2.587110172e-2, 4.671303953e-1, 1.0),
)


def _odd(name: str, fit: _Rational, text: str, lanes: int) -> tuple[str, list[str]]:
    """Return an odd function of floats on a CPU, to 5e-7 of the result.

    PoCL computes its own lane by lane.
    """
    f, edge = vector("float", lanes), f"{fit.edge}f"
    name = f"sg_{name}_{f}"
    helper = f"""{f} {name}({f} x) {{
  {f} inside = x > {edge} ? ({f})({edge}) : x < -{edge} ? ({f})(-{edge}) : x;  /* NaN stays NaN */
  {f} t = inside * inside;
  {f} {_horner("p", fit.above)};
  {f} {_horner("q", fit.below)};
  {f} y = inside * p / q;
  y = ((x > {edge}) | (y > 1.0f)) ? ({f})(1.0f) : y;
  return ((x < -{edge}) | (y < -1.0f)) ? ({f})(-1.0f) : y;
}}"""
    return f"{name}({text})", [helper]


def _horner(name: str, coefficients: tuple[float, ...]) -> str:
    """Return statements that give a polynomial in t."""
    first, *rest = (f"{c!r}f" for c in coefficients)
    steps = [f"{name} = {name} * t + {c}" for c in rest[1:]]
    return ";\n  ".join([f"{name} = {first} * t + {rest[0]}", *steps])


OWN: dict[Op, Callable[[str, int], tuple[str, list[str]]]] = {
    EXP: exponential, ERF: partial(_odd, "erf", _ERF), TANH: partial(_odd, "tanh", _TANH),
}  # fmt: skip
"""Functions of floats that are faster on CPUs than the drivers' own, by text and lanes."""


def _wrapping(snippet: str, source: DType, texts: list[str], lanes: int) -> str:
    """Return arithmetic modulo the word: C leaves overflow of signed numbers undefined."""
    ctype = vector(source.compute, lanes)
    if lanes == 1:
        # Short types would promote to int, whose products may overflow.
        wide = "ulong" if source.itemsize == 8 else "uint"
        return f"({ctype})({snippet.format(*[f'({wide}){t}' for t in texts])})"
    if source.kind == "u":
        return snippet.format(*texts)
    unsigned = vector(_UNSIGNED[source.itemsize], lanes)
    return f"as_{ctype}({snippet.format(*[f'as_{unsigned}({t})' for t in texts])})"


def _helpers(op: Op, source: DType, snippet: str, arity: int, lanes: int) -> list[str]:
    floats, _, ints = op.helper.partition("|")
    template = (floats if source.is_float else ints).strip("\n")
    own = 1 if op.lanewise else lanes
    ctype, unsigned = source.compute, _UNSIGNED[width(source.compute)]
    helpers = [template.format(T=vector(ctype, own), U=vector(unsigned, own))]
    if own != lanes:
        helpers.append(_lane_by_lane(snippet, ctype, arity, lanes))
    return helpers


def _lane_by_lane(snippet: str, ctype: str, arity: int, lanes: int) -> str:
    """Return a vector form of a scalar helper."""
    names, wide = "abc"[:arity], vector(ctype, lanes)
    head = snippet.format(*names, T=wide, U="").partition("(")[0]
    params = ", ".join(f"{wide} {n}" for n in names)
    calls = [snippet.format(*[f"{n}.{s}" for n in names], T=ctype, U="") for s in lane_names(lanes)]
    body = ",\n    ".join(calls)
    return f"{wide} {head}({params}) {{\n  return ({wide})(\n    {body});\n}}"
