"""Data types: how each is stored, what it computes in, and how types promote.

Promotion follows the Python array API standard (2025.12), section "Type Promotion Rules".
Mixed integer and floating operands, which the standard leaves open, give the floating type;
Python scalars take the other operand's type where its kind allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from simplegrad.errors import DTypeError

_KIND_ORDER = {"b": 0, "u": 1, "i": 1, "f": 2}


@dataclass(frozen=True, eq=False, repr=False)
class DType:
    """One data type; compared by identity, since there is one object per type."""

    name: str
    kind: str
    """``b`` bool, ``u`` unsigned, ``i`` signed, ``f`` floating."""
    itemsize: int
    """Bytes an element takes in a buffer."""
    numpy: Any
    """The NumPy dtype of host copies (bfloat16 travels as float32)."""
    storage: str
    """OpenCL C type of a buffer element."""
    compute: str
    """OpenCL C type of a value in a register; bool computes as int 0 or 1."""
    low: Any
    high: Any

    def __repr__(self) -> str:
        return f"simplegrad.{self.name}"

    def __str__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return of, (self.name,)

    @property
    def is_float(self) -> bool:
        """Whether the type is floating."""
        return self.kind == "f"

    def rounded(self, value: float) -> float:
        """Return the number of a 16-bit float type next to `value`; of others, the value."""
        if not self.is_float or self.itemsize != 2:
            return value
        with np.errstate(over="ignore"):  # beyond the range is infinity, without a word
            if self.name == "float16":
                return float(np.float16(value))
            bits = int(np.float32(value).view(np.uint32))
        if value != value:
            return value
        bits += 0x7FFF + (bits >> 16 & 1)  # to nearest, ties to even
        return float(np.uint32(bits & 0xFFFF0000).view(np.float32))


def _int(bits: int, signed: bool, ctype: str) -> DType:
    name = f"{'' if signed else 'u'}int{bits}"
    info = np.iinfo(name)
    kind = "i" if signed else "u"
    low, high = int(info.min), int(info.max)
    return DType(name, kind, bits // 8, np.dtype(name), ctype, ctype, low, high)


def _float(name: str, size: int, host: str, storage: str, compute: str) -> DType:
    inf = float("inf")
    return DType(name, "f", size, np.dtype(host), storage, compute, -inf, inf)


bool_ = DType("bool", "b", 1, np.dtype(bool), "uchar", "int", False, True)
int8 = _int(8, True, "char")
int16 = _int(16, True, "short")
int32 = _int(32, True, "int")
int64 = _int(64, True, "long")
uint8 = _int(8, False, "uchar")
uint16 = _int(16, False, "ushort")
uint32 = _int(32, False, "uint")
uint64 = _int(64, False, "ulong")
float16 = _float("float16", 2, "float16", "half", "float")
bfloat16 = _float("bfloat16", 2, "float32", "ushort", "float")
float32 = _float("float32", 4, "float32", "float", "float")
float64 = _float("float64", 8, "float64", "double", "double")

_INTEGERS = (int8, int16, int32, int64, uint8, uint16, uint32, uint64)
ALL = (bool_, *_INTEGERS, float16, bfloat16, float32, float64)
_BY_NAME = {d.name: d for d in ALL}
_BY_NUMPY = {d.numpy: d for d in ALL if d is not bfloat16}
_PYTHON = {bool: bool_, int: int64, float: float32}

default_int = int64
_default_float = float32


def default_float() -> DType:
    """Return the dtype that Python floats and float64 host data take in ``Tensor(x)``."""
    return _default_float


def set_default_float(dtype: Any) -> None:
    """Set the default float dtype, process-wide."""
    global _default_float
    dtype = of(dtype)
    if not dtype.is_float:
        raise DTypeError(f"set_default_float: {dtype} is not a floating dtype")
    _default_float = dtype


def of(dtype: Any) -> DType:
    """Return the `DType` for a `DType`, a name, a NumPy dtype or a Python type."""
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str) and dtype in _BY_NAME:
        return _BY_NAME[dtype]
    if dtype is bool or dtype is int or dtype is float:
        return _default_float if dtype is float else _PYTHON[dtype]
    try:
        return _BY_NUMPY[np.dtype(dtype)]
    except (TypeError, ValueError, KeyError):
        raise DTypeError(
            f"dtype: {dtype!r} is not a dtype; the dtypes are {', '.join(_BY_NAME)}"
        ) from None


_FLOATS = {
    frozenset((float16, bfloat16)): float32,
    frozenset((float16, float32)): float32,
    frozenset((bfloat16, float32)): float32,
    frozenset((float16, float64)): float64,
    frozenset((bfloat16, float64)): float64,
    frozenset((float32, float64)): float64,
}


def _promote_pair(a: DType, b: DType) -> DType:
    if a is b:
        return a
    if a.kind == "b" or b.kind == "b":
        return b if a.kind == "b" else a
    if a.is_float or b.is_float:
        return _FLOATS[frozenset((a, b))] if a.is_float and b.is_float else (a if a.is_float else b)
    if a.kind == b.kind:
        return a if a.itemsize >= b.itemsize else b
    signed, unsigned = (a, b) if a.kind == "i" else (b, a)
    if signed.itemsize > unsigned.itemsize:
        return signed
    if unsigned.itemsize == 8:
        raise DTypeError(
            "result_type: int64 and uint64 have no common type; cast one with .astype(...)"
        )
    return _BY_NAME[f"int{unsigned.itemsize * 16}"]


_PROMOTE: dict[tuple[DType, DType], DType] = {}


def promote(a: DType, b: DType) -> DType:
    """Return the common type of two arrays; raises `DTypeError` where there is none.

    >>> promote(int8, uint8)
    simplegrad.int16
    >>> promote(float16, bfloat16)
    simplegrad.float32
    """
    found = _PROMOTE.get((a, b))
    if found is None:
        found = _PROMOTE[a, b] = _promote_pair(a, b)
    return found


def promote_scalar(array: DType, scalar: bool | int | float) -> DType:
    """Return the type in which a Python scalar meets an array of dtype `array`.

    >>> promote_scalar(float16, 2.0)
    simplegrad.float16
    >>> promote_scalar(int32, 0.5)
    simplegrad.float32
    """
    kind = {bool: "b", int: "i", float: "f"}[type(scalar)]
    if _KIND_ORDER[kind] <= _KIND_ORDER[array.kind]:
        return array
    return _default_float if kind == "f" else default_int


_WIDTHS = {
    "char": 1,
    "uchar": 1,
    "short": 2,
    "ushort": 2,
    "half": 2,
    "int": 4,
    "uint": 4,
    "float": 4,
}


def width(ctype: str) -> int:
    """Return the bytes of one scalar of an OpenCL C type, that of a register or of a buffer."""
    return _WIDTHS.get(ctype, 8)
