"""The one table of primitive operations; every other list of operations is derived from it.

A row holds what all floors need to know about an operation: its kind and arity, the dtype of its
result, how NumPy computes it, and how OpenCL C computes it. Shape rules of views and reductions
stand in `graph.infer`, gradients in `autograd.rules`; both are checked against this table.

In the C snippets ``{0} {1} {2}`` are operands and ``{T}`` is the operands' C type, which may be a
vector type: a snippet holds for scalars and vectors alike. `helper` is C source placed before the
kernel once per type; a `lanewise` snippet holds for scalars only, so vectors take it lane by lane.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplegrad.dtypes import DType, bool_, uint32

ELEMENTWISE, REDUCE, VIEW, LEAF, OTHER = "elementwise", "reduce", "view", "leaf", "other"
MADE = "made"  # by the engine only: no row of the table


@dataclass(frozen=True, eq=False, repr=False)
class Op:
    """One primitive operation: a row of the table."""

    name: str
    kind: str
    arity: int = 1
    kinds: str = "buif"
    """Dtype kinds that the operands may have."""
    result: DType | None = None
    """Dtype of the result; None: the dtype of the operands."""
    numpy: Callable[..., Any] | None = None
    c: str = ""
    c_int: str = ""
    """Snippet for integer and bool operands, where it differs from `c`."""
    wraps: bool = False
    """Signed operands are computed as unsigned, since C leaves signed overflow undefined."""
    lanewise: bool = False
    helper: str = ""
    commutes: bool = False
    cost: int = 1
    """Rough cost in multiply-adds, weighed against bytes moved when values are recomputed."""
    identity: Callable[[DType], Any] | None = None
    """Start value of a reduction."""
    differentiable: bool = True

    def __repr__(self) -> str:
        return self.name


OPS: dict[str, Op] = {}


def _row(name: str, kind: str, arity: int = 1, **fields: Any) -> Op:
    op = OPS[name] = Op(name, kind, arity, **fields)
    return op


def _unary(name: str, numpy: Callable[..., Any], c: str, cost: int = 1, **fields: Any) -> Op:
    fields.setdefault("kinds", "f")
    return _row(name, ELEMENTWISE, 1, numpy=numpy, c=c, cost=cost, **fields)


def _binary(name: str, numpy: Callable[..., Any], c: str, cost: int = 1, **fields: Any) -> Op:
    return _row(name, ELEMENTWISE, 2, numpy=numpy, c=c, cost=cost, **fields)


# Elementwise, one operand -----------------------------------------------------------------------

NEG = _unary("neg", np.negative, "-{0}", kinds="uif", wraps=True)
ABS = _unary("abs", np.abs, "", kinds="uif")  # written by `ctext.operation`
SIGN = _unary(
    "sign",
    np.sign,
    "({0} != {0} ? {0} : sign({0}))",
    kinds="uif",
    c_int="(({T})({0} > ({T})0 ? ({T})1 : ({0} == ({T})0 ? ({T})0 : ({T})(-1))))",
    differentiable=False,
)
EXP = _unary("exp", np.exp, "exp({0})", 8)
EXP2 = _unary("exp2", np.exp2, "exp2({0})", 8)
EXPM1 = _unary("expm1", np.expm1, "expm1({0})", 12)
LOG = _unary("log", np.log, "log({0})", 8)
LOG2 = _unary("log2", np.log2, "log2({0})", 8)
LOG1P = _unary("log1p", np.log1p, "log1p({0})", 12)
SQRT = _unary("sqrt", np.sqrt, "sqrt({0})", 4)
RSQRT = _unary("rsqrt", lambda x: 1 / np.sqrt(x), "(({T})1 / sqrt({0}))", 6)
RECIPROCAL = _unary("reciprocal", lambda x: 1 / x, "(({T})1 / {0})", 4)
_ALONE = "{{T}} sg_{0}_{{T}}({{T}} x) {{{{ return {0}(x); }}}}"
"""PoCL 3.0's vector sin, cos and tan give wrong lanes beside a lane of 1e9 or more, or inf."""
SIN = _unary("sin", np.sin, "sg_sin_{T}({0})", 10, helper=_ALONE.format("sin"), lanewise=True)
_APART = "__attribute__((noinline)) " + _ALONE
"""Intel's compiler joins the sine and cosine of a number, and dies if that is a sine itself."""
COS = _unary("cos", np.cos, "sg_cos_{T}({0})", 10, helper=_APART.format("cos"), lanewise=True)
TAN = _unary("tan", np.tan, "sg_tan_{T}({0})", 14, helper=_ALONE.format("tan"), lanewise=True)
ASIN = _unary("asin", np.arcsin, "asin({0})", 14)
ACOS = _unary("acos", np.arccos, "acos({0})", 14)
ATAN = _unary("atan", np.arctan, "atan({0})", 14)
SINH = _unary("sinh", np.sinh, "sinh({0})", 14)
COSH = _unary("cosh", np.cosh, "cosh({0})", 14)
TANH = _unary(  # PoCL 3.0's tanh stays below 1, at inf too
    "tanh",
    np.tanh,
    "({0} > ({T})20 ? ({T})1 : ({0} < ({T})(-20) ? ({T})(-1) : tanh({0})))",
    14,
)
ASINH = _unary("asinh", np.arcsinh, "asinh({0})", 16)
ACOSH = _unary("acosh", np.arccosh, "acosh({0})", 16)
ATANH = _unary("atanh", np.arctanh, "atanh({0})", 16)
ERF = _unary("erf", np.vectorize(math.erf, otypes=[float]), "erf({0})", 16)
FLOOR = _unary("floor", np.floor, "floor({0})", kinds="f", differentiable=False)
CEIL = _unary("ceil", np.ceil, "ceil({0})", kinds="f", differentiable=False)
ROUND = _unary("round", np.rint, "rint({0})", kinds="f", differentiable=False)
TRUNC = _unary("trunc", np.trunc, "trunc({0})", kinds="f", differentiable=False)
ISNAN = _unary("isnan", np.isnan, "isnan({0})", result=bool_, differentiable=False)
ISINF = _unary("isinf", np.isinf, "isinf({0})", result=bool_, differentiable=False)
ISFINITE = _unary("isfinite", np.isfinite, "isfinite({0})", result=bool_, differentiable=False)
INVERT = _unary("invert", np.invert, "", kinds="bui", c_int="~{0}", differentiable=False)
CAST = _row("cast", ELEMENTWISE, 1)

# Elementwise, two operands ----------------------------------------------------------------------

ADD = _binary("add", np.add, "({0} + {1})", kinds="uif", wraps=True, commutes=True)
SUB = _binary("sub", np.subtract, "({0} - {1})", kinds="uif", wraps=True)
MUL = _binary("mul", np.multiply, "({0} * {1})", kinds="uif", wraps=True, commutes=True)
DIV = _binary("div", np.divide, "({0} / {1})", 4, kinds="f")
FLOOR_DIVIDE = _binary(
    "floor_divide",
    np.floor_divide,
    "sg_floor_divide_{T}({0}, {1})",
    8,
    kinds="uif",
    lanewise=True,
    differentiable=False,
    helper="""
{T} sg_floor_divide_{T}({T} a, {T} b) {{  /* as NumPy's divmod: exact where a / b rounds */
  {T} m = fmod(a, b);
  if (b == 0) return a / b;
  {T} d = (a - m) / b;
  if (m != 0 && ((b < 0) != (m < 0))) d -= ({T})1;
  if (d == 0) return copysign(({T})0, a / b);
  {T} f = floor(d);
  return d - f > ({T})0.5 ? f + ({T})1 : f;
}}|
{T} sg_floor_divide_{T}({T} a, {T} b) {{  /* x / 0 is 0, as NumPy has it; low / -1 wraps */
  if (b == 0) return 0;
  if (({T})(-1) < 0 && b == ({T})(-1)) return ({T})(({U})0 - ({U})a);
  {T} q = a / b;
  return (q * b != a && ((a < 0) != (b < 0))) ? q - 1 : q;
}}""",
)
REMAINDER = _binary(
    "remainder",
    np.remainder,
    "sg_remainder_{T}({0}, {1})",
    8,
    kinds="uif",
    lanewise=True,
    helper="""
{T} sg_remainder_{T}({T} a, {T} b) {{
  {T} m = fmod(a, b);
  if (m == 0) return copysign(({T})0, b);
  return ((b < 0) != (m < 0)) ? m + b : m;
}}|
{T} sg_remainder_{T}({T} a, {T} b) {{
  if (b == 0 || (({T})(-1) < 0 && b == ({T})(-1))) return 0;
  {T} m = a % b;
  return (m != 0 && ((m < 0) != (b < 0))) ? m + b : m;
}}""",
)


POW = _binary(
    "pow",
    np.power,
    "pow({0}, {1})",
    24,
    kinds="uif",
    c_int="sg_pow_{T}({0}, {1})",
    lanewise=True,
    helper="""|
{T} sg_pow_{T}({T} a, {T} b) {{  /* by squaring, modulo the word */
  if (b < 0) return a == 1 ? 1 : (a == ({T})(-1) ? (b % 2 ? a : 1) : 0);
  {U} r = 1, x = ({U})a;
  for ({U} e = ({U})b; e; e >>= 1) {{ if (e & 1) r *= x; x *= x; }}
  return ({T})r;
}}""",
)
MAXIMUM = _binary(
    "maximum",
    np.maximum,
    "((({0} > {1}) | ({0} != {0})) ? {0} : {1})",
    c_int="({0} > {1} ? {0} : {1})",
)
MINIMUM = _binary(
    "minimum",
    np.minimum,
    "((({0} < {1}) | ({0} != {0})) ? {0} : {1})",
    c_int="({0} < {1} ? {0} : {1})",
)
ATAN2 = _binary("atan2", np.arctan2, "atan2({0}, {1})", 20, kinds="f")
HYPOT = _binary("hypot", np.hypot, "hypot({0}, {1})", 10, kinds="f")
EQUAL = _binary("equal", np.equal, "{0} == {1}", result=bool_, commutes=True, differentiable=False)
NOT_EQUAL = _binary(
    "not_equal", np.not_equal, "{0} != {1}", result=bool_, commutes=True, differentiable=False
)
LESS = _binary("less", np.less, "{0} < {1}", result=bool_, differentiable=False)
LESS_EQUAL = _binary("less_equal", np.less_equal, "{0} <= {1}", result=bool_, differentiable=False)
GREATER = _binary("greater", np.greater, "{0} > {1}", result=bool_, differentiable=False)
GREATER_EQUAL = _binary(
    "greater_equal", np.greater_equal, "{0} >= {1}", result=bool_, differentiable=False
)
_BITS: dict[str, Any] = {"kinds": "bui", "differentiable": False}
AND = _binary("bitwise_and", np.bitwise_and, "", c_int="({0} & {1})", commutes=True, **_BITS)
OR = _binary("bitwise_or", np.bitwise_or, "", c_int="({0} | {1})", commutes=True, **_BITS)
XOR = _binary("bitwise_xor", np.bitwise_xor, "", c_int="({0} ^ {1})", commutes=True, **_BITS)
_BITS["kinds"] = "ui"
# OpenCL C takes a shift count modulo the word; NumPy shifts everything out.
SHIFT_LEFT = _binary(
    "shift_left",
    np.left_shift,
    "",
    c_int="sg_shift_left_{T}({0}, {1})",
    lanewise=True,
    helper="""|
{T} sg_shift_left_{T}({T} a, {T} b) {{
  return ({U})b >= sizeof({T}) * 8 ? ({T})0 : ({T})(({U})a << b);
}}""",
    **_BITS,
)
SHIFT_RIGHT = _binary(
    "shift_right",
    np.right_shift,
    "",
    c_int="sg_shift_right_{T}({0}, {1})",
    lanewise=True,
    helper="""|
{T} sg_shift_right_{T}({T} a, {T} b) {{
  return ({U})b >= sizeof({T}) * 8 ? (a < 0 ? ({T})(-1) : ({T})0) : ({T})(a >> b);
}}""",
    **_BITS,
)


def _philox(counter: Any, stream: Any, key: Any) -> Any:
    """Philox-2x32 with ten rounds: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3"."""
    lo = np.asarray(counter, np.uint32)
    hi = np.broadcast_to(np.asarray(stream, np.uint32), lo.shape)
    key = np.asarray(key, np.uint32).astype(np.uint64)
    for _ in range(10):
        product = lo.astype(np.uint64) * np.uint64(0xD256D193)
        lo, hi = (
            (product >> np.uint64(32)).astype(np.uint32) ^ key.astype(np.uint32) ^ hi,
            product.astype(np.uint32),
        )
        key = (key + np.uint64(0x9E3779B9)) & np.uint64(0xFFFFFFFF)
    return lo


_PHILOX = """
{T} NAME({T} lo, {T} hi, {T} key) {{  /* Philox-2x32-10, Salmon et al. 2011 */
  for (int i = 0; i < 10; ++i) {{
    {T} high = mul_hi(lo, ({T})0xD256D193u), low = lo * ({T})0xD256D193u;
    lo = high ^ key ^ hi;
    hi = low;
    key += ({T})0x9E3779B9u;
  }}
  return lo;
}}"""

RANDOM_BITS = _row(
    "random_bits",
    ELEMENTWISE,
    3,
    kinds="u",
    result=uint32,
    numpy=_philox,
    c="",
    c_int="sg_random_bits_{T}({0}, {1}, {2})",
    cost=60,
    differentiable=False,
    helper="|" + _PHILOX.replace("NAME", "sg_random_bits_{T}"),
)


def _feistel(index: Any, size: Any, key: Any) -> Any:
    index, n, key = (np.asarray(v, np.uint32) for v in (index, size, key))
    n = np.broadcast_to(n, index.shape)
    half = np.maximum((np.ceil(np.log2(np.maximum(n, 2).astype(np.float64))) + 1) // 2, 1)
    half = half.astype(np.uint32)
    mask = (np.uint32(1) << half) - np.uint32(1)

    def rounds(x: Any) -> Any:
        left, right = x >> half, x & mask
        for i in range(8):
            mixed = _philox(right, np.full_like(right, i), key) & mask
            left, right = right, left ^ mixed
        return (left << half) | right

    x = rounds(index)
    while (outside := x >= n).any():
        x = np.where(outside, rounds(x), x)
    return x


PERMUTE_INDEX = _row(
    "permute_index",
    ELEMENTWISE,
    3,
    kinds="u",
    result=uint32,
    numpy=_feistel,
    c="",
    c_int="sg_permute_index_{T}({0}, {1}, {2})",
    lanewise=True,
    cost=600,
    differentiable=False,
    helper="|"
    + _PHILOX.replace("NAME", "sg_feistel_mix")
    + """
/* A bijection on [0, n): eight Feistel rounds on the next even power of two, walked until the
   image falls inside; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002. */
uint sg_permute_index_uint(uint x, uint n, uint key) {{
  uint bits = 32 - clz((n > 2 ? n : 2) - 1), half_bits = (bits + 1) / 2;
  uint mask = (1u << half_bits) - 1;
  do {{
    uint left = x >> half_bits, right = x & mask;
    for (uint i = 0; i < 8; ++i) {{
      uint mixed = sg_feistel_mix(right, i, key) & mask, old = right;
      right = left ^ mixed;
      left = old;
    }}
    x = (left << half_bits) | right;
  }} while (x >= n);
  return x;
}}""",
)

# 2 atanh(s) / s in s², and sin(πz/2) / z in z²; the highest power first.
_LOG = [2 / k for k in range(21, 0, -2)]
_SINE = [
    (-1) ** k * (math.pi / 2) ** (2 * k + 1) / math.factorial(2 * k + 1) for k in range(10, -1, -1)
]


def _box_muller(u: Any, v: Any) -> Any:
    """√(-2 log u) cos(2πv) for u in (0, 1] and v in [0, 1).

    Sums and products only, so that every device gives the same bits.
    Box and Muller, "A note on the generation of random normal deviates", 1958.
    """
    if u.itemsize == 2:
        return _box_muller(u.astype(np.float32), v.astype(np.float32)).astype(u.dtype)
    one = u.dtype.type
    mantissa, exponent = np.frexp(u)
    small = mantissa < one(math.sqrt(0.5))
    m = np.where(small, mantissa * one(2), mantissa)
    e = np.where(small, exponent - 1, exponent).astype(u.dtype)
    f = m - one(1)
    below = one(2) + f
    r = one(0.989) - one(0.2425) * below
    for _ in range(4):  # Newton: 1 / below
        r = r * (one(2) - below * r)
    s = f * r
    log = e * one(math.log(2)) + s * _horner(_LOG, s * s)
    x = one(-2) * log
    word, magic = (np.uint64, 0x5FE6EB50C2B537A9) if u.itemsize == 8 else (np.uint32, 0x5F3759DF)
    y = (word(magic) - (np.ascontiguousarray(x).view(word) >> word(1))).view(u.dtype)
    y = y.reshape(x.shape)
    for _ in range(4):  # Newton: 1 / √x
        y = y * (one(1.5) - one(0.5) * x * y * y)
    z = np.abs(one(4) * v - one(2)) - one(1)
    return x * y * (z * _horner(_SINE, z * z))


def _horner(coefficients: list[float], x: Any) -> Any:
    total = x.dtype.type(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + x.dtype.type(c)
    return total


def _horner_c(name: str, coefficients: list[float], x: str) -> str:
    steps = "".join(f"  {name} = {name} * {x} + ({{T}}){c!r};\n" for c in coefficients[1:])
    return f"  {{T}} {name} = ({{T}}){coefficients[0]!r};\n{steps}"


BOX_MULLER = _binary(
    "box_muller",
    _box_muller,
    "sg_box_muller_{T}({0}, {1})",
    120,
    kinds="f",
    lanewise=True,
    differentiable=False,
    helper="""
{T} sg_box_muller_{T}({T} u, {T} v) {{  /* sums and products only: the same bits everywhere */
  #pragma OPENCL FP_CONTRACT OFF
  const int shift = sizeof({T}) == 8 ? 52 : 23, bias = sizeof({T}) == 8 ? 1023 : 127;
  {U} bits = as_{U}(u);
  int e = (int)(bits >> shift) - bias;
  {T} m = as_{T}((bits & ((({U})1 << shift) - 1)) + (({U})bias << shift));
  if (m >= ({T})ROOT2) {{ m *= ({T})0.5; e += 1; }}
  {T} f = m - ({T})1, below = ({T})2 + f, r = ({T})0.989 - ({T})0.2425 * below;
  for (int i = 0; i < 4; ++i) r = r * (({T})2 - below * r);
  {T} s = f * r, s2 = s * s;
LOGPOLY  {T} x = ({T})(-2) * (({T})e * ({T})LN2 + s * log_);
  {U} magic = sizeof({T}) == 8 ? ({U})0x5FE6EB50C2B537A9ul : ({U})0x5F3759DFul;
  {T} y = as_{T}(magic - (as_{U}(x) >> 1));
  for (int i = 0; i < 4; ++i) y = y * (({T})1.5 - ({T})0.5 * x * y * y);
  {T} z = ({T})4 * v - ({T})2;
  z = (z < 0 ? -z : z) - ({T})1;
  {T} z2 = z * z;
SINEPOLY  return x * y * (z * sine);
}}""".replace("LOGPOLY", _horner_c("log_", _LOG, "s2"))
    .replace("SINEPOLY", _horner_c("sine", _SINE, "z2"))
    .replace("ROOT2", repr(math.sqrt(2)))
    .replace("LN2", repr(math.log(2))),
)

WHERE = _row("where", ELEMENTWISE, 3, numpy=np.where, c="({0} ? {1} : {2})")

# Reductions over the axes in `arg`; the reduced axes leave the shape -----------------------------

SUM = _row("sum", REDUCE, 1, kinds="uif", numpy=np.sum, c="({0} + {1})", identity=lambda d: 0)
PROD = _row("prod", REDUCE, 1, kinds="uif", numpy=np.prod, c="({0} * {1})", identity=lambda d: 1)
# {0} is an accumulator: only the inner choice, an instruction of CPUs, waits for the last step.
MAX = _row(
    "max", REDUCE, 1, numpy=np.max, c="({1} != {1} ? {1} : ({0} < {1} ? {1} : {0}))",
    c_int=MAXIMUM.c_int, identity=lambda d: d.low,
)  # fmt: skip
MIN = _row(
    "min", REDUCE, 1, numpy=np.min, c="({1} != {1} ? {1} : ({0} > {1} ? {1} : {0}))",
    c_int=MINIMUM.c_int, identity=lambda d: d.high,
)  # fmt: skip
ARGMAX = _row("argmax", REDUCE, 1, numpy=np.argmax, identity=lambda d: d.low, differentiable=False)
ARGMIN = _row("argmin", REDUCE, 1, numpy=np.argmin, identity=lambda d: d.high, differentiable=False)

# Views: index arithmetic, no work of their own ---------------------------------------------------

RESHAPE = _row("reshape", VIEW)  # arg: shape
PERMUTE = _row("permute", VIEW)  # arg: axes
EXPAND = _row("expand", VIEW)  # arg: shape; axes of extent 1 are repeated
SLICE = _row("slice", VIEW)  # arg: (start, extent, step) per axis; a negative step flips
PAD = _row("pad", VIEW)  # arg: ((before, after, between) per axis, fill value)
AS_STRIDED = _row("as_strided", VIEW)  # arg: (shape, strides, offset), elements of the flat operand

# Leaves -----------------------------------------------------------------------------------------

BUFFER = _row("buffer", LEAF, 0)  # data on a device
SCALAR = _row("scalar", LEAF, 0)  # a number that is a kernel argument, never part of a key
CONST = _row("const", LEAF, 0)  # a number that is part of the program; arg: the number
IOTA = _row("iota", LEAF, 0)  # arg: extent; the numbers 0 … extent-1

# The rest ---------------------------------------------------------------------------------------

EINSUM = _row("einsum", OTHER, 2, kinds="uif")  # arg: (left, right, output), tuples of indices
TAKE = _row("take", OTHER, 2)  # arg: axis; operands x and integer indices, clamped to the axis
SCATTER_ADD = _row("scatter_add", OTHER, 2, kinds="uif")  # arg: extent; indices (n,), rows (n, …)
CUMSUM = _row("cumsum", OTHER, 1, kinds="uif")  # arg: axis
CONCAT = _row("concat", OTHER, -1)  # arg: axis; operands of one dtype, equal off the axis
SCAN = _row("scan", OTHER, -1, kinds="f")  # arg: a `graph.scan.Step`, which says what operands are


# What the compiler makes of others (`compiler.attention`): no user's graph holds these ------------

ATTENTION = Op("attention", MADE, -1, kinds="f")
"""arg: (part, letters of the softmax, operand subscripts …, output); see `compiler.attention`."""
GIVEN = Op("given", LEAF, 0)
"""A number that a kernel's template brings; arg: which. Of an attention's expressions 0 is a score
and 1 the gradient after its softmax; of a step's, products come first, then states."""


def of_kind(kind: str) -> frozenset[Op]:
    """Return all rows of one kind."""
    return frozenset(op for op in OPS.values() if op.kind == kind)


# Stencils that are not stamped yet (`graph.stencil`) ---------------------------------------------

PIECE = Op("piece", MADE, -1, differentiable=False)  # arg: the stencil
PART = Op("part", MADE, differentiable=False)  # arg: which of the piece's results
