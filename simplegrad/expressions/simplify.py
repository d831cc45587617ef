"""Shorter graphs of the same function: the compiler's rules, and algebra of finite numbers.

Each rule of this file is exact in real numbers where both sides are defined; it may round
otherwise, and it does not hold where inf or NaN come in (0 · x is 0 here). Nothing of it is used
for computing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.compiler.passes.canonical import merge
from simplegrad.compiler.passes.canonical import simplify as canonical
from simplegrad.graph import build
from simplegrad.graph.build import apply
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, const, const_value, topological
from simplegrad.graph.rewrite import rewrite
from simplegrad.runtime.numpy_device import compute

_MAX_ROUNDS = 50


def simplify(roots: Sequence[Node]) -> list[Node]:
    """Return equal, shorter expressions; equal parts are one node."""
    current = list(roots)
    for _ in range(_MAX_ROUNDS):
        table: dict[tuple[int, ...], Node] = {}
        new = rewrite(topological(current), lambda node, t=table: merge(_step(node), t))  # type: ignore[misc]
        after = [new[id(r)] for r in current]
        if all(a is b for a, b in zip(after, current, strict=True)):
            break
        current = after
    return current


def number(node: Node) -> bool | int | float | None:
    """Return the number that every element of a constant is, None for anything else."""
    return const_value(node) if node.op is ops.CONST and node.buffer is None else None


def _full(value: bool | int | float, like: Node) -> Node:
    return const(value, like.kind.spec)


def _step(node: Node) -> Node:
    if node.buffer is not None:
        return node
    if node.op is ops.SCALAR:
        return _full(node.value, node)
    if not node.srcs:
        return node
    folded = _folded(node)
    if folded is not None:
        return folded
    node = canonical(node)
    rule = _RULES.get(node.op) if node.buffer is None and node.srcs else None
    found = rule(node) if rule is not None else None
    return node if found is None else found


def _folded(node: Node) -> Node | None:
    """Return an operation on constants as a constant."""
    values = [number(s) for s in node.srcs]
    if any(v is None for v in values) or not node.size:
        return None
    if node.op.kind == ops.VIEW and node.op is not ops.PAD:
        return _full(values[0], node)  # type: ignore[arg-type]
    if node.op is ops.SUM and node.dtype.is_float:
        return _full(values[0] * (node.srcs[0].size // node.size), node)  # type: ignore[operator]
    if node.op.kind != ops.ELEMENTWISE:
        return None
    with np.errstate(all="ignore"):
        arrays = [np.array(v, s.dtype.numpy) for v, s in zip(values, node.srcs, strict=True)]
        value = compute(node, arrays).item()
    return _full(value, node) if math.isfinite(value) else None


def _coefficient(node: Node) -> tuple[float, Node]:
    """Return (c, x) of c · x, 1 for anything else."""
    if node.op is ops.NEG and node.buffer is None:
        c, x = _coefficient(node.srcs[0])
        return -c, x
    if node.op is ops.MUL and node.buffer is None and number(node.srcs[0]) is not None:
        return float(number(node.srcs[0])), node.srcs[1]  # type: ignore[arg-type]
    return 1.0, node


def _scaled(c: float, x: Node) -> Node:
    if c == 0:
        return _full(0, x)
    if abs(c) == 1:
        return x if c == 1 else apply(ops.NEG, x)
    return apply(ops.MUL, _full(c, x), x)


def _add(node: Node) -> Node | None:
    a, b = node.srcs
    if number(a) == 0 or number(b) == 0:
        return b if number(a) == 0 else a
    if not node.dtype.is_float:
        return None
    (c, x), (d, y) = _coefficient(a), _coefficient(b)
    if x is y:
        return _scaled(c + d, x)
    if d < 0:  # a + (-b) = a - b
        return apply(ops.SUB, a, _scaled(-d, y))
    return apply(ops.SUB, b, _scaled(-c, x)) if c < 0 else None


def _sub(node: Node) -> Node | None:
    a, b = node.srcs
    if number(b) == 0:
        return a
    if not node.dtype.is_float:
        return None
    (c, x), (d, y) = _coefficient(a), _coefficient(b)
    if number(a) == 0:
        return _scaled(-d, y)
    if x is y:
        return _scaled(c - d, x)
    return apply(ops.ADD, a, _scaled(-d, y)) if d < 0 else None


def _mul(node: Node) -> Node | None:
    a, b = node.srcs
    if not node.dtype.is_float:
        return None
    if number(b) is not None:  # numbers stand in front
        return apply(ops.MUL, b, a)
    (c, x), (d, y) = _coefficient(a), _coefficient(b)
    factor = number(a)
    if factor is not None:
        # c · (d · y) = cd · y
        return _scaled(float(factor) * d, y) if d != 1 or factor in (0, 1, -1) else None
    if c != 1 or d != 1:
        return _scaled(c * d, apply(ops.MUL, x, y))
    for one, other in ((a, b), (b, a)):
        if one.op is ops.DIV and one.buffer is None:
            if one.srcs[1] is other:  # a · (b / a) = b
                return one.srcs[0]
            if number(one.srcs[0]) == 1:  # a · (1 / b) = a / b
                return apply(ops.DIV, other, one.srcs[1])
    both = [s.srcs[0] if s.op is ops.EXPAND and s.buffer is None else None for s in (a, b)]
    if both[0] is not None and both[1] is not None and both[0].shape == both[1].shape:
        return build.broadcast_to(apply(ops.MUL, both[0], both[1]), node.shape)
    return None


def _div(node: Node) -> Node | None:
    a, b = node.srcs
    if number(b) == 1 or number(a) == 0:
        return a
    if number(b) is not None:  # a / b = (1/b) · a
        return apply(ops.MUL, _full(1 / float(number(b)), b), a) if number(b) else None  # type: ignore[arg-type]
    (c, x), (d, y) = _coefficient(a), _coefficient(b)
    if d != 1 and number(a) is None:  # a / (d · b) = (1/d) · a / b
        return _scaled(1 / d, apply(ops.DIV, a, y))
    if d == -1:
        return apply(ops.NEG, apply(ops.DIV, a, y))
    return _scaled(c, apply(ops.DIV, x, b)) if c != 1 else None


def _neg(node: Node) -> Node | None:
    x = node.srcs[0]
    if x.op is ops.SUB and x.buffer is None:  # -(a - b) = b - a
        return apply(ops.SUB, x.srcs[1], x.srcs[0])
    c, y = _coefficient(x)
    return _scaled(-c, y) if c != 1 and node.dtype.is_float else None


def _where(node: Node) -> Node | None:
    condition, a, b = node.srcs
    if a is b:
        return a
    known = number(condition)
    return None if known is None else (a if known else b)


def _either(node: Node) -> Node | None:
    """x | False = x, x & True = x."""
    if node.dtype is not dtypes.bool_:
        return None
    neutral = node.op is ops.AND
    for one, other in (node.srcs, node.srcs[::-1]):
        value = number(one)
        if value is not None:
            return other if value == neutral else one
    return node.srcs[0] if node.srcs[0] is node.srcs[1] else None


def _same(node: Node) -> Node | None:
    """x = x is true of numbers."""
    if node.srcs[0] is not node.srcs[1]:
        return None
    return _full(node.op in (ops.EQUAL, ops.LESS_EQUAL, ops.GREATER_EQUAL), node)


def _sum(node: Node) -> Node | None:
    x = node.srcs[0]
    if x.buffer is not None or not node.dtype.is_float:
        return None
    c, y = _coefficient(x)
    if c != 1:  # the sum of c · x is c times that of x
        return _scaled(c, build.reduce(ops.SUM, y, node.arg))
    if x.op is ops.EXPAND:  # a repeated value adds up to a multiple of it
        source = x.srcs[0]
        lead = len(x.shape) - len(source.shape)
        again = [a for a in node.arg if a < lead or source.shape[a - lead] == 1 != x.shape[a]]
        if again:
            times = size_of(tuple(x.shape[a] for a in again))
            kept = [1 if a in again else n for a, n in enumerate(x.shape)]
            rest = build.broadcast_to(source, tuple(kept[lead:]))
            rest = build.reshape(rest, tuple(n for a, n in enumerate(kept) if a not in again))
            left = [a for a in range(len(x.shape)) if a not in again]
            axes = [left.index(a) for a in node.arg if a not in again]
            return _scaled(times, build.reduce(ops.SUM, rest, axes))
    return None


def _einsum(node: Node) -> Node | None:
    """A constant factor leaves the contraction: what it alone spans is a multiple or a repeat.

    A contraction that sums nothing is a product of operands that broadcast.
    """
    *subscripts, output = node.arg
    if all(set(s) <= set(output) and len(set(s)) == len(s) for s in subscripts):
        parts = []
        for letters, x in zip(subscripts, node.srcs, strict=True):
            x = build.permute(x, [letters.index(i) for i in output if i in letters])
            sizes = [x.shape[[j for j in output if j in letters].index(i)] if i in letters else 1
                     for i in output]  # fmt: skip
            parts.append(build.reshape(x, tuple(sizes)))
        product = parts[0]
        for part in parts[1:]:
            product = apply(ops.MUL, product, part)
        return build.broadcast_to(product, node.shape)
    if len(node.srcs) != 2 or not node.dtype.is_float:
        return None
    for which in (0, 1):
        value = number(node.srcs[which])
        own, letters = subscripts[which], subscripts[1 - which]
        if value is None or len(set(letters)) < len(letters) or len(set(own)) < len(own):
            continue
        x = node.srcs[1 - which]
        extents = dict(zip(own, node.srcs[which].shape, strict=True))
        extents |= dict(zip(letters, x.shape, strict=True))
        alone = [i for i in own if i not in letters and i not in output]
        x = build.reduce(ops.SUM, x, [a for a, i in enumerate(letters) if i not in output])
        left = [i for i in letters if i in output]
        x = build.permute(x, [left.index(i) for i in output if i in left])
        x = build.reshape(x, tuple(extents[i] if i in left else 1 for i in output))
        x = build.broadcast_to(x, node.shape)
        return _scaled(float(value) * size_of(tuple(extents[i] for i in alone)), x)
    return None


def _expand(node: Node) -> Node | None:
    x = node.srcs[0]
    if x.buffer is None and x.op is ops.EXPAND:
        lead = len(node.shape) - len(x.shape)
        return build.broadcast_to(
            build.reshape(x.srcs[0], _padded(x)) if not lead else x.srcs[0], node.shape
        )
    if x.buffer is None and (x.op is ops.MUL or x.op is ops.NEG):
        c, y = _coefficient(x)  # numbers go outwards, to meet each other
        if c != 1:
            return _scaled(c, build.broadcast_to(y, node.shape))
    if x.buffer is None and x.op is ops.DIV and number(x.srcs[0]) == 1:  # to meet a factor
        return apply(ops.DIV, _full(1, node), build.broadcast_to(x.srcs[1], node.shape))
    return None


def _padded(node: Node) -> tuple[int, ...]:
    source = node.srcs[0].shape
    return (1,) * (len(node.shape) - len(source)) + source


def _reshape(node: Node) -> Node | None:
    x = node.srcs[0]
    c, y = _coefficient(x) if x.buffer is None else (1.0, x)
    return _scaled(c, build.reshape(y, node.shape)) if c != 1 else None


def _one_over(node: Node) -> Node:
    return apply(ops.DIV, _full(1, node), node.srcs[0])


def _rsqrt(node: Node) -> Node:
    return apply(ops.DIV, _full(1, node), apply(ops.SQRT, node.srcs[0]))


def _log(node: Node) -> Node | None:
    x = node.srcs[0]
    return x.srcs[0] if x.op is ops.EXP and x.buffer is None else None  # log(exp(x)) = x


Rule = Callable[[Node], "Node | None"]
_COMPARISONS = (
    ops.EQUAL, ops.NOT_EQUAL, ops.LESS, ops.LESS_EQUAL, ops.GREATER, ops.GREATER_EQUAL,
)  # fmt: skip
_RULES: dict[ops.Op, Rule] = {
    ops.ADD: _add,
    ops.SUB: _sub,
    ops.MUL: _mul,
    ops.DIV: _div,
    ops.NEG: _neg,
    ops.WHERE: _where,
    ops.OR: _either,
    ops.AND: _either,
    ops.SUM: _sum,
    ops.EINSUM: _einsum,
    ops.EXPAND: _expand,
    ops.RESHAPE: _reshape,
    ops.RECIPROCAL: _one_over,
    ops.RSQRT: _rsqrt,
    ops.LOG: _log,
}
_RULES.update(dict.fromkeys(_COMPARISONS, _same))
