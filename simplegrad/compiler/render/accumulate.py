"""Reductions as text: start values, steps, and folds in a fixed order.

An accumulator is one C variable, or two for ARGMAX and ARGMIN: the best value so far and its
position. Where a float is NaN it wins, and of equals the first, as in NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

from simplegrad import ops
from simplegrad.compiler.ir.kernel import Reduction
from simplegrad.compiler.render.ctext import constant, convert, mask_type, operation, vector
from simplegrad.dtypes import DType, width

_STEPS = {ops.SUM: ops.ADD, ops.PROD: ops.MUL, ops.MAX: ops.MAX, ops.MIN: ops.MIN}


@dataclass(frozen=True)
class Part:
    """One C variable of an accumulator."""

    ctype: str
    start: str


def is_position(reduction: Reduction) -> bool:
    """Whether the result is a position, ARGMAX or ARGMIN."""
    return reduction.op not in _STEPS


def parts(reduction: Reduction, int_type: str, first: str = "0") -> list[Part]:
    """Return the variables of an accumulator; `first` is the first position looked at."""
    assert reduction.op.identity is not None, reduction.op
    dtype = _value_dtype(reduction)
    value = Part(dtype.compute, constant(reduction.op.identity(dtype), dtype))
    return [value, Part(int_type, first)] if is_position(reduction) else [value]


def _value_dtype(reduction: Reduction) -> DType:
    return reduction.value.dtype if is_position(reduction) else reduction.dtype


def operand(reduction: Reduction, text: str, lanes: int) -> str:
    """Return a value in the type that the accumulator holds."""
    dtype = _value_dtype(reduction)
    return convert(text, reduction.value.dtype, dtype, lanes)[0]


def result(reduction: Reduction, names: list[str], int_type: str, lanes: int) -> str:
    """Return the reduction's result from its finished accumulator."""
    if not is_position(reduction):
        return names[0]
    ctype = reduction.dtype.compute
    if ctype == int_type:
        return names[1]
    return f"({ctype}){names[1]}" if lanes == 1 else f"convert_{ctype}{lanes}({names[1]})"


def step(
    reduction: Reduction,
    names: list[str],
    new: list[str],
    int_type: str,
    lanes: int,
    ordered: bool = True,
) -> list[str]:
    """Return the statements that take `new` into the accumulator `names`.

    `ordered`: positions come in rising order, so that of equals the older one stays.
    """
    if not is_position(reduction):
        dtype = reduction.dtype
        text = operation(_STEPS[reduction.op], dtype, dtype, [names[0], new[0]], lanes)[0]
        return [f"{names[0]} = {text};"]
    dtype = reduction.value.dtype
    sign = ">" if reduction.op is ops.ARGMAX else "<"
    (a, i), (b, j) = names, new
    take, tie = f"({b} {sign} {a})", f"({b} == {a})"
    if dtype.is_float:
        take = f"({take} | (({b} != {b}) & ({a} == {a})))"
        tie = f"({tie} | (({b} != {b}) & ({a} != {a})))"
    mask, wide = mask_type(dtype.compute, lanes), mask_type(int_type, lanes)
    if not ordered:
        earlier = f"({j} < {i})"
        if lanes > 1 and mask != wide:
            earlier = f"convert_{mask}({earlier})"
        take = f"({take} | ({tie} & {earlier}))"
    narrow = "take" if lanes == 1 or mask == wide else f"convert_{wide}(take)"
    return [
        f"{{ const {mask} take = {take};",
        f"  {names[1]} = {narrow} ? {j} : {i};",
        f"  {names[0]} = take ? {b} : {a}; }}",
    ]


def fold(
    reduction: Reduction, names: list[list[str]], int_type: str, lanes: int, prefix: str
) -> tuple[list[str], list[str]]:
    """Return statements that fold vector accumulators into one scalar one, and its variables.

    Pairs of accumulators first, then halves of the vector: the same tree in every run.
    """
    lines: list[str] = []
    while len(names) > 1:
        half = len(names) // 2
        for a, b in zip(names[:half], names[half:], strict=True):
            lines += step(reduction, a, b, int_type, lanes, ordered=False)
        names = names[:half]
    own, types = names[0], [p.ctype for p in parts(reduction, int_type)]
    while lanes > 1:
        lanes //= 2
        halves: list[list[str]] = []
        for side in ("lo", "hi") if lanes > 1 else ("s0", "s1"):
            fresh = [f"{prefix}_{side}{lanes}_{n}" for n in range(len(own))]
            for name, ctype, whole in zip(fresh, types, own, strict=True):
                # The .s0 and .s1 of a vector of two are its halves.
                lines.append(f"{vector(ctype, lanes)} {name} = {whole}.{side};")
            halves.append(fresh)
        lines += step(reduction, halves[0], halves[1], int_type, lanes, ordered=False)
        own = halves[0]
    return lines, own


def nbytes(reduction: Reduction, int_type: str) -> int:
    """Return the bytes of one accumulator."""
    return sum(width(p.ctype) for p in parts(reduction, int_type))
