"""Shape and dtype of a primitive operation's result; errors are raised where it is written.

Everything here works on shapes and dtypes only, so that the result can be interned per kind of
node and checked again by the verifier.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from simplegrad import dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.errors import DTypeError, IndexOutOfRange, ShapeError, VerifyError
from simplegrad.ops import Op

Shape = tuple[int, ...]


def size_of(shape: Shape) -> int:
    """Return the number of elements."""
    n = 1
    for extent in shape:
        n *= extent
    return n


def broadcast_shapes(name: str, *shapes: Shape) -> Shape:
    """Return the common shape of NumPy-style broadcasting; `name` is named in the error."""
    rank = max(map(len, shapes))
    result = [1] * rank
    for shape in shapes:
        for i, extent in enumerate(shape, rank - len(shape)):
            if extent != 1:
                if result[i] not in (1, extent):
                    raise ShapeError(
                        f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast: "
                        f"axis {i - rank} is {result[i]} in one and {extent} in another; "
                        "reshape one, or insert an axis of extent 1"
                    )
                result[i] = extent
    return tuple(result)


def infer(op: Op, arg: Any, ins: Sequence[tuple[Shape, DType]]) -> tuple[Shape, DType]:
    """Return (shape, dtype) of ``op(arg)`` over operands given as (shape, dtype).

    Operands of elementwise operations must already have one shape and one dtype: broadcasting and
    promotion are explicit nodes, put there by the tensor floor.
    """
    if op.arity >= 0 and op.arity != len(ins):
        raise VerifyError(f"{op}: takes {op.arity} operands, got {len(ins)}")
    if ins and op is not ops.WHERE and op is not ops.TAKE and op is not ops.SCATTER_ADD:
        _check_kinds(op, ins)
    rule: _Rule = _RULES.get(op, _elementwise)
    return rule(op, arg, ins)


def _check_kinds(op: Op, ins: Sequence[tuple[Shape, DType]]) -> None:
    for _, dtype in ins:
        if dtype.kind not in op.kinds:
            raise DTypeError(
                f"{op}: does not take {dtype}; cast the operand with .astype(...) first"
            )


def _elementwise(op: Op, arg: Any, ins: Sequence[tuple[Shape, DType]]) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    for other in ins[1:]:
        if other != ins[0]:
            raise VerifyError(f"{op}: operands differ, {[(s, str(d)) for s, d in ins]}")
    return shape, op.result or dtype


def _cast(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    return ins[0][0], arg


def _where(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    (shape, cond), a, b = ins
    if cond is not dtypes.bool_ or a != b or a[0] != shape:
        raise VerifyError(f"where: operands do not agree, {[(s, str(d)) for s, d in ins]}")
    shape, dtype = a
    return shape, dtype


def _reduce(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    if op is ops.ARGMAX or op is ops.ARGMIN:
        dtype = dtypes.int64
    if op not in (ops.SUM, ops.PROD) and 0 in shape and any(shape[a] == 0 for a in arg):
        raise ShapeError(
            f"{op}: axis of extent 0 in shape {shape} has no {op}; reduce a non-empty axis"
        )
    return tuple([n for a, n in enumerate(shape) if a not in arg]), dtype


def _reshape(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    if size_of(arg) != size_of(shape):
        raise ShapeError(
            f"reshape: shape {shape} of {size_of(shape)} elements does not fit {arg} of "
            f"{size_of(arg)}; use -1 for one extent to have it worked out"
        )
    return arg, dtype


def _permute(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    if sorted(arg) != list(range(len(shape))):
        raise ShapeError(f"permute: axes {arg} are not a permutation of shape {shape}'s axes")
    return tuple(shape[a] for a in arg), dtype


def _expand(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    lead = len(arg) - len(shape)
    fits = lead >= 0 and all(n in (1, m) for n, m in zip(shape, arg[lead:], strict=True))
    if not fits or any(n < 0 for n in arg):
        raise ShapeError(f"broadcast_to: shape {shape} does not broadcast to {arg}")
    return arg, dtype


def _slice(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    for axis, ((start, extent, step), n) in enumerate(zip(arg, shape, strict=True)):
        last = start + (extent - 1) * step
        if extent and not (0 <= start < n and 0 <= last < n):
            raise IndexOutOfRange(f"slice: axis {axis} of shape {shape} has no {start} … {last}")
    return tuple(extent for _, extent, _ in arg), dtype


def _pad(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    widths, _ = arg
    out = []
    for n, (before, after, between) in zip(shape, widths, strict=True):
        if before < 0 or after < 0 or between < 0:
            raise ShapeError(f"pad: widths {widths} must not be negative; slice to make it smaller")
        out.append(before + after + n + between * max(n - 1, 0))
    return tuple(out), dtype


def _as_strided(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, strides, offset = arg
    size = size_of(ins[0][0])
    if len(shape) != len(strides):
        raise ShapeError(f"as_strided: shape {shape} and strides {strides} differ in length")
    if any(extent < 0 for extent in shape):
        raise ShapeError(f"as_strided: shape {shape} has a negative extent")
    if size_of(shape):
        reach = [(extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)]
        low = offset + sum(min(r, 0) for r in reach)
        high = offset + sum(max(r, 0) for r in reach)
        if low < 0 or high >= size:
            raise IndexOutOfRange(
                f"as_strided: shape {shape} with strides {strides} (elements) and offset {offset} "
                f"reaches elements {low} … {high}, but the array has elements 0 … {size - 1}"
            )
    return shape, ins[0][1]


def _einsum(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    *subscripts, output = arg
    extents: dict[int, int] = {}
    for subscript, (shape, _) in zip(subscripts, ins, strict=True):
        for index, n in zip(subscript, shape, strict=True):
            if extents.setdefault(index, n) != n:
                raise VerifyError(f"einsum: index {index} has extents {extents[index]} and {n}")
    left, right = (set(s) for s in subscripts)
    distinct = all(len(set(s)) == len(s) for s in arg)
    if not distinct or not left ^ right <= set(output) <= left | right:
        raise VerifyError(
            f"einsum: {arg}: an index stands once in an operand, and in both or in the result; "
            "take diagonals and sums of one operand first"
        )
    return tuple(extents[index] for index in output), ins[0][1]


def _attention(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    part, _, *subscripts, output = arg
    extents: dict[int, int] = {}
    for subscript, (shape, _) in zip(subscripts, ins, strict=True):
        for index, n in zip(subscript, shape, strict=True):
            if extents.setdefault(index, n) != n:
                raise VerifyError(f"attention: index {index} has {extents[index]} and {n}")
    dtype = ins[{"dq": 0, "dk": 1}.get(part, 2)][1]
    if part in ("top", "total"):
        dtype = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
    return tuple(extents[index] for index in output), dtype


def _take(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    (shape, dtype), (index_shape, index_dtype) = ins
    if index_dtype.kind not in "ui":
        raise DTypeError(f"take: indices must be integers, not {index_dtype}")
    if shape[arg] == 0 and size_of(index_shape):
        raise IndexOutOfRange(f"take: axis {arg} of shape {shape} is empty")
    return shape[:arg] + index_shape + shape[arg + 1 :], dtype


def _scatter_add(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    (index_shape, index_dtype), (shape, dtype) = ins
    if index_dtype.kind not in "ui" or dtype.kind not in op.kinds:
        raise DTypeError(f"scatter_add: takes integer indices and numbers, not {index_dtype}")
    if len(index_shape) != 1 or shape[:1] != index_shape:
        raise VerifyError(f"scatter_add: indices {index_shape} against rows {shape}")
    return (arg, *shape[1:]), dtype


def _cumsum(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    return shape, dtype


def _concat(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    shape, dtype = ins[0]
    for other, kind in ins:
        same = other[:arg] == shape[:arg] and other[arg + 1 :] == shape[arg + 1 :]
        if kind is not dtype or len(other) != len(shape) or not same:
            raise VerifyError(f"concat: {kind} {other} does not go beside {dtype} {shape}")
    return (*shape[:arg], sum(other[arg] for other, _ in ins), *shape[arg + 1 :]), dtype


def _scan(op: Op, arg: Any, ins: Any) -> tuple[Shape, DType]:
    (matrix, dtype), *others = ins
    starts, inputs = others[: arg.carried], others[arg.carried :]
    state = starts[0][0]
    time = inputs[0][0][0] if inputs and inputs[0][0] else -1
    wanted = [state] * arg.carried + [(time, *state)] * arg.inputs
    if len(state) != 2 or [s for s, _ in others] != wanted or any(d != dtype for _, d in others):
        raise VerifyError(f"scan: operands do not agree, {[(s, str(d)) for s, d in ins]}")
    if matrix != (arg.multiplied * state[1], arg.products * state[1]):
        raise VerifyError(f"scan: a matrix {matrix} does not fit states {state}")
    return (len(arg.results), time + 1, *state), dtype


_Rule = Callable[[Op, Any, Any], tuple[Shape, DType]]
_RULES: dict[Op, _Rule] = {
    ops.CAST: _cast,
    ops.WHERE: _where,
    ops.RESHAPE: _reshape,
    ops.PERMUTE: _permute,
    ops.EXPAND: _expand,
    ops.SLICE: _slice,
    ops.PAD: _pad,
    ops.AS_STRIDED: _as_strided,
    ops.EINSUM: _einsum,
    ops.ATTENTION: _attention,
    ops.TAKE: _take,
    ops.SCATTER_ADD: _scatter_add,
    ops.CUMSUM: _cumsum,
    ops.CONCAT: _concat,
    ops.SCAN: _scan,
} | dict.fromkeys(ops.of_kind(ops.REDUCE), _reduce)
