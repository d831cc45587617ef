"""Kernels built by hand, for the tests of what stands below lowering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.compiler.ir.index import Dyn, Guard, Index, Var, flatten
from simplegrad.compiler.ir.kernel import (
    APPLY,
    ARG,
    CONST,
    GUARD,
    INDEX,
    LOAD,
    REDUCED,
    Arg,
    Kernel,
    Output,
    Reduction,
    Split,
    Value,
)
from simplegrad.dtypes import DType, bool_, float32, float64, int32, int64, uint32
from simplegrad.ops import Op

Case = tuple[Kernel, list[Any]]
"""A kernel and its arguments: flat arrays, numbers, None for outputs."""


class Build:
    """Collects the parts of one kernel and data for its arguments."""

    def __init__(self, name: str, outer: Sequence[int], reduce: Sequence[int] = ()) -> None:
        self.name = name
        self.outer = [Var(f"o{i}", n) for i, n in enumerate(outer)]
        self.reduce = [Var(f"r{i}", n) for i, n in enumerate(reduce)]
        self.args: list[Arg] = []
        self.data: list[Any] = []
        self.reductions: list[Reduction] = []
        self.outputs: list[Output] = []
        self.random = np.random.default_rng(7)

    def arg(self, role: str, dtype: DType, size: int, data: Any = None) -> int:
        letter = {"in": "x", "out": "y", "scalar": "s"}[role]
        self.args.append(Arg(f"{letter}{len(self.args)}", role, dtype, size))
        if role == "in" and data is None:
            data = numbers(self.random, dtype, size)
        self.data.append(data)
        return len(self.args) - 1

    def load(
        self,
        dtype: DType,
        size: int,
        index: Index,
        guards: Sequence[Guard] = (),
        number: Any = 0,
        data: Any = None,
    ) -> Value:
        arg = self.arg("in", dtype, size, data)
        number = bool(number) if dtype is bool_ else number
        return Value(LOAD, dtype, arg=arg, index=index, guards=tuple(guards), number=number)

    def scalar(self, dtype: DType, number: Any) -> Value:
        return Value(ARG, dtype, arg=self.arg("scalar", dtype, 1, number))

    def reduction(self, op: Op, value: Value, dtype: DType | None = None) -> Value:
        self.reductions.append(Reduction(op, value, dtype or value.dtype))
        return Value(REDUCED, dtype or value.dtype, arg=len(self.reductions) - 1)

    def store(self, value: Value, axes: Sequence[Var | Index], size: int | None = None) -> None:
        index = flat(*axes)
        arg = self.arg("out", value.dtype, index.high + 1 if size is None else size)
        self.outputs.append(Output(arg, value, index))

    def done(self, split: Split | None = None) -> Case:
        kernel = Kernel(
            self.name,
            tuple(self.outer),
            tuple(self.reduce),
            tuple(self.args),
            tuple(self.reductions),
            tuple(self.outputs),
            split,
        )
        return kernel, self.data


def numbers(random: Any, dtype: DType, size: int) -> Any:
    """Return data with a little of everything that the dtype holds exactly."""
    if dtype.kind == "b":
        return random.integers(0, 2, size).astype(bool)
    if dtype.is_float:
        data = np.round(random.standard_normal(size) * 64) / 32
        return data.astype(dtype.numpy)
    low = -100 if dtype.kind == "i" else 0
    return random.integers(low, 101, size).astype(dtype.numpy)


def flat(*axes: Var | Index) -> Index:
    """Return the row-major index of full axes; a single Index stays as it is."""
    if len(axes) == 1 and isinstance(axes[0], Index):
        return axes[0]
    return flatten(
        tuple(Index.of(v) if isinstance(v, Var) else v for v in axes),
        tuple(v.extent if isinstance(v, Var) else v.high + 1 for v in axes),
    )


def apply(op: Op, *sources: Value, dtype: DType | None = None) -> Value:
    source = sources[1] if op is ops.WHERE else sources[0]
    return Value(APPLY, dtype or op.result or source.dtype, op=op, srcs=sources)


def cast(value: Value, dtype: DType) -> Value:
    return apply(ops.CAST, value, dtype=dtype)


def const(number: Any, dtype: DType = float32) -> Value:
    return Value(CONST, dtype, number=number)


# The cases ----------------------------------------------------------------------------------------


def chain(n: int, dtype: DType = float32) -> Case:
    b = Build("chain", (n,))
    (o,) = b.outer
    x = b.load(dtype, n, flat(o))
    t = apply(ops.ADD, apply(ops.MUL, x, x), const(1.0, dtype))
    t = apply(ops.EXP, apply(ops.NEG, apply(ops.MAXIMUM, t, const(0.0, dtype))))
    t = apply(ops.SUB, apply(ops.MUL, t, b.scalar(dtype, 0.5)), x)
    b.store(t, (o,))
    return b.done()


def broadcast(*shape: int) -> Case:
    """x + row, x + column: two outputs."""
    b = Build("broadcast", shape)
    x = b.load(float32, int(np.prod(shape)), flat(*b.outer))
    row = b.load(float32, shape[-1], flat(b.outer[-1]))
    column = b.load(float32, shape[0], flat(b.outer[0]))
    b.store(apply(ops.ADD, x, row), b.outer)
    b.store(apply(ops.LESS, apply(ops.MUL, x, column), row), b.outer)
    return b.done()


def strided(n: int, m: int) -> Case:
    """Transposed, reversed, every third, and window reads in one kernel."""
    b = Build("strided", (n, m))
    i, j = (Index.of(v) for v in b.outer)
    t = b.load(float32, n * m, j * n + i)
    t = apply(ops.ADD, t, b.load(float32, n * m, i * -m + j * -1 + (n * m - 1)))
    t = apply(ops.MUL, t, b.load(float32, n * m * 3, (i * m + j) * 3 + 1))
    t = apply(ops.SUB, t, b.load(float32, n + m, i + j))
    b.store(t, b.outer)
    return b.done()


def padded(n: int, m: int, before: int, after: int, between: int = 0) -> Case:
    """A padded image, fill 2.5, minus its mirror image with a GUARD value."""
    wide = m + (m - 1) * between + before + after
    b = Build("padded", (n + 2, wide))
    i, j = (Index.of(v) for v in b.outer)
    row, column = i + -1, j + -before
    guards = [Guard(row, 0, n)]
    if between:
        guards.append(Guard(column % (between + 1), 0, 1))
        column = column // (between + 1)
    guards.append(Guard(column, 0, m))
    x = b.load(float32, n * m, row * m + column, guards, 2.5)
    inside = Value(GUARD, bool_, guards=tuple(guards))
    flipped = b.load(float32, n * m, row * m + column * -1 + (m - 1), guards, -1.0)
    b.store(apply(ops.WHERE, inside, x, flipped), b.outer)
    return b.done()


def divided(n: int, k: int) -> Case:
    """x[i // k] * y[i % k] + (i - 5) // 3, with indices below zero before the division."""
    b = Build("divided", (n,))
    i = Index.of(b.outer[0])
    x = b.load(float32, n // k + 1, i // k)
    y = b.load(float32, k, i % k)
    low = Value(INDEX, int64, index=Index(((b.outer[0], 1),), -5) // 3)
    rest = Value(INDEX, int32, index=Index(((b.outer[0], 1),), -5) % 3)
    t = apply(ops.ADD, apply(ops.MUL, x, y), cast(low, float32))
    b.store(apply(ops.ADD, t, cast(rest, float32)), b.outer)
    b.store(Value(INDEX, int64, index=i * -2 + 9), b.outer)
    return b.done()


def gather(n: int, m: int, rows: int, along: bool, dtype: DType = int64) -> Case:
    """table[index[i], j], or table[j, index[j]]; some indices are out of range."""
    b = Build("gather", (n, m))
    i, j = b.outer
    data = b.random.integers(0 if dtype.kind == "u" else -2, rows + 2, m if along else n)
    chosen = b.load(dtype, data.size, flat(j if along else i), data=data.astype(dtype.numpy))
    place = Index.of(Dyn(chosen, 0, rows - 1))
    index = place + Index.of(i) * rows if along else place * m + Index.of(j)
    b.store(b.load(float32, max(n, rows) * max(m, rows), index), b.outer)
    return b.done()


def softmax(n: int, m: int, axis: int = 1, dtype: DType = float32) -> Case:
    b = Build("softmax", (n,) if axis else (m,), (m,) if axis else (n,))
    axes = (*b.outer, *b.reduce) if axis else (*b.reduce, *b.outer)
    x = b.load(dtype, n * m, flat(*axes))
    e = apply(ops.EXP, apply(ops.SUB, x, b.reduction(ops.MAX, x)))
    b.store(apply(ops.DIV, e, b.reduction(ops.SUM, e)), axes)
    return b.done()


def layer_norm(n: int, m: int) -> Case:
    b = Build("layer_norm", (n,), (m,))
    (o,), (r,) = b.outer, b.reduce
    x = b.load(float32, n * m, flat(o, r))
    w, bias = b.load(float32, m, flat(r)), b.load(float32, m, flat(r))
    away = apply(ops.SUB, x, apply(ops.MUL, b.reduction(ops.SUM, x), const(1 / m)))
    square = b.reduction(ops.SUM, apply(ops.MUL, away, away))
    scale = apply(ops.ADD, apply(ops.MUL, square, const(1 / m)), const(1e-5))
    t = apply(ops.MUL, apply(ops.MUL, away, apply(ops.RSQRT, scale)), w)
    b.store(apply(ops.ADD, t, bias), (o, r))
    b.store(square, (o,))
    return b.done()


def reduced(
    op: Op, shape: Sequence[int], axes: Sequence[int], dtype: DType = float32, data: Any = None
) -> Case:
    """One reduction over some axes of a contiguous array."""
    outer = [n for i, n in enumerate(shape) if i not in axes]
    b = Build(str(op), outer, [shape[a] for a in axes])
    place, inner = iter(b.outer), iter(b.reduce)
    order = [next(inner) if i in axes else next(place) for i in range(len(shape))]
    x = b.load(dtype, int(np.prod(shape)), flat(*order), data=data)
    position = op in (ops.ARGMAX, ops.ARGMIN)
    b.store(b.reduction(op, x, int64 if position else None), b.outer or (Index.of(0),))
    return b.done()


def split_sum(n: int, length: int, op: Op = ops.SUM) -> Case:
    parts = -(-n // length)
    b = Build("partial", (parts,), (n,))
    x = b.load(float32, n, flat(b.reduce[0]))
    b.store(b.reduction(op, x), b.outer)
    return b.done(Split(b.reduce[0], b.outer[0], length))


def column_split(rows: int, columns: int, length: int) -> Case:
    parts = -(-rows // length)
    b = Build("partial_columns", (parts, columns), (rows,))
    x = b.load(float32, rows * columns, flat(b.reduce[0], b.outer[1]))
    b.store(b.reduction(ops.SUM, x), b.outer)
    return b.done(Split(b.reduce[0], b.outer[0], length))


def window(n: int, k: int) -> Case:
    """A padded convolution along rows, and the maximum of the same windows."""
    b = Build("window", (5, n), (k,))
    (o, i), (r,) = b.outer, b.reduce
    column = Index.of(i) + Index.of(r) + -(k // 2)
    x = b.load(float32, 5 * n, Index.of(o) * n + column, [Guard(column, 0, n)])
    y = apply(ops.MUL, x, b.load(float32, k, flat(r)))
    b.store(b.reduction(ops.SUM, y), b.outer)
    b.store(b.reduction(ops.MAX, x), b.outer)
    return b.done()


def casts(source: DType, target: DType, n: int = 37) -> Case:
    b = Build("casts", (n,))
    x = b.load(source, n, flat(b.outer[0]))
    if target.kind == "u" and source.is_float:
        x = apply(ops.ABS, x)
    b.store(cast(x, target), b.outer)
    # Through the target and back into float64's stand-in: the value itself is rounded.
    b.store(cast(cast(x, target), float32), b.outer)
    return b.done()


def arithmetic(op: Op, dtype: DType, n: int = 53) -> Case:
    b = Build(f"op_{op}", (n,))
    sources = [b.load(dtype, n, flat(b.outer[0])) for _ in range(op.arity)]
    if op is ops.PERMUTE_INDEX:
        b.data[0] = np.arange(n, dtype=np.uint32)
        b.data[1] = np.full(n, n + 11, np.uint32)
    if op is ops.BOX_MULLER:
        b.data = [(np.arange(n) + 1) / n, np.arange(n) / n]
    if op in (ops.SHIFT_LEFT, ops.SHIFT_RIGHT):
        b.data[1] = np.abs(b.data[1]).astype(dtype.numpy) % (dtype.itemsize * 8)
    if op is ops.POW and not dtype.is_float:
        b.data[1] = np.abs(b.data[1]) % 7
    if op.kinds == "u":
        assert dtype is uint32
    b.store(apply(op, *sources), b.outer)
    return b.done()


def select(dtype: DType, n: int = 45) -> Case:
    b = Build("select", (n,))
    i = flat(b.outer[0])
    test, x, y = b.load(bool_, n, i), b.load(dtype, n, i), b.load(dtype, n, i)
    both = apply(ops.AND, test, apply(ops.GREATER_EQUAL, x, y))
    b.store(apply(ops.WHERE, both, x, y), b.outer)
    b.store(apply(ops.INVERT, both), b.outer)
    return b.done()


DTYPES = [float32, dtypes.bfloat16, float64, int64, dtypes.uint8, bool_]
"""One of each way to load, compute and round."""


def cases() -> dict[str, Case]:
    """Return all kernels, by name."""
    return structures() | operations(DTYPES)


def structures() -> dict[str, Case]:
    """Return kernels of every structure."""
    found: dict[str, Case] = {}
    for n in (1, 5, 8, 100, 1000, 40007):
        found[f"chain {n}"] = chain(n)
    found["chain double"] = chain(100, float64)
    for shape in ((7, 3), (3, 100), (4, 5, 6), (60, 700), (1, 9)):
        found[f"broadcast {shape}"] = broadcast(*shape)
    found |= {f"strided {n}x{m}": strided(n, m) for n, m in ((5, 7), (33, 18), (64, 64))}
    found["padded"] = padded(6, 19, 3, 4)
    found["padded rows"] = padded(3, 300, 0, 1)
    found["padded, dilated"] = padded(4, 11, 2, 3, 1)
    found |= {f"divided {n}": divided(n, k) for n, k in ((50, 7), (64, 8), (6, 4))}
    for along in (False, True):
        found |= {f"gather {along} {d}": gather(9, 37, 11, along, d) for d in (int64, uint32)}
    for n, m in ((3, 5), (40, 1024), (300, 17), (1, 1)):
        found |= {f"softmax {n}x{m} {a}": softmax(n, m, a) for a in (0, 1)}
    found["softmax 2x9001 1"] = softmax(2, 9001)
    found |= {f"layer_norm {n}x{m}": layer_norm(n, m) for n, m in ((3, 5), (17, 768), (5, 3))}
    reductions = (
        ((9, 40), (1,)), ((40, 9), (0,)), ((300, 70), (0,)), ((70, 300), (1,)),
        ((5, 6, 7), (1,)), ((500,), (0,)), ((100, 3), (1,)), ((400, 3), (0,)),
    )  # fmt: skip
    for op in (ops.SUM, ops.MAX, ops.MIN, ops.ARGMAX, ops.ARGMIN):
        # Values are all reduced one way, and values with their places another.
        tried = {ops.SUM: reductions, ops.ARGMAX: reductions[::2]}.get(op, reductions[:2])
        for shape, axes in tried:
            found[f"{op} {shape} {axes}"] = reduced(op, shape, axes)
    found["sum 0,2"] = reduced(ops.SUM, (20, 5, 30), (0, 2))
    found["prod"] = reduced(ops.PROD, (20, 5), (1,))
    found |= {f"split {n}": split_sum(n, k) for n, k in ((4096, 256), (1000, 300), (77, 8))}
    found["split max"] = split_sum(1000, 300, ops.MAX)
    found["split columns"] = column_split(100, 45, 32)
    found |= {f"window {n},{k}": window(n, k) for n, k in ((50, 3), (9, 5), (40, 21))}
    return found


def operations(types: Sequence[DType]) -> dict[str, Case]:
    """Return a kernel for each operation on each type."""
    found: dict[str, Case] = {}
    for dtype in types:
        found |= {f"cast {dtype} {t}": casts(dtype, t) for t in types if t is not dtype}
        found[f"select {dtype}"] = select(dtype)
        if dtype.kind != "b":
            found[f"sum {dtype}"] = reduced(ops.SUM, (30, 41), (1,), dtype)
            found[f"argmax {dtype}"] = reduced(ops.ARGMAX, (30, 41), (1,), dtype)
        found[f"max {dtype}"] = reduced(ops.MAX, (37, 30), (0,), dtype)
        for op in sorted(ops.of_kind(ops.ELEMENTWISE) - {ops.CAST, ops.WHERE}, key=str):
            if dtype.kind in op.kinds and op.kinds != "u":
                found[f"{op} {dtype}"] = arithmetic(op, dtype)
    for op in sorted(ops.of_kind(ops.ELEMENTWISE), key=str):
        if op.kinds == "u":
            found[f"{op} uint32"] = arithmetic(op, uint32)
    return found
