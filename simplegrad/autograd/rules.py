"""Gradient rules: one per differentiable row of the operations table, nodes in, nodes out.

``rule(node, g)`` gets the gradient of the node's result and returns one node (or None) per
operand. Where a function has no derivative, the rule says which value it takes:

- `abs`: 0 at its kink
- `maximum`, `minimum`: of two equal operands each takes half; a NaN operand takes all of it
- `max`, `min` over axes: equal extrema share the gradient evenly; where the result is NaN, the
  NaNs share it
- `pow`: 0 to the base where the exponent is 0, 0 to the exponent where the base is not positive
- `remainder`: as if the floor of the quotient were constant
- `take`, `scatter_add`: an index out of range is clamped by `take`, and so is its gradient's; rows
  that `scatter_add` drops get 0
- `sqrt`, `log`, `hypot`, `atan2` …: IEEE division, so inf or NaN at the edge of the domain
- integer operands, conditions and rounding functions: none

Rules are differentiable themselves, to any order: what they compute is made of the same operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from simplegrad import dtypes, ops
from simplegrad.autograd.window_rules import as_strided
from simplegrad.graph import build
from simplegrad.graph.build import apply, number
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, make
from simplegrad.ops import Op

Rule = Callable[[Node, Node], "tuple[Node | None, ...]"]
Rule1 = Callable[[Node, Node], Node]

RULES: dict[Op, Rule] = {}


def without_rule() -> list[Op]:
    """Return the operations that should have a rule and have none: an empty list."""
    kinds = (ops.ELEMENTWISE, ops.REDUCE, ops.VIEW, ops.OTHER)
    return [o for o in ops.OPS.values() if o.kind in kinds and o.differentiable and o not in RULES]


def _rule(op: Op) -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        RULES[op] = rule
        return rule

    return keep


def _of_one(op: Op, derivative: Callable[[Node, Node], Node]) -> None:
    """Register an operation of one operand by its derivative in terms of (operand, result)."""
    RULES[op] = lambda node, g: (apply(ops.MUL, g, derivative(node.srcs[0], node)),)


def _add(a: Node, b: Node) -> Node:
    return apply(ops.ADD, a, b)


def _sub(a: Node, b: Node) -> Node:
    return apply(ops.SUB, a, b)


def _mul(a: Node, b: Node) -> Node:
    return apply(ops.MUL, a, b)


def _one_over(x: Node) -> Node:
    return apply(ops.RECIPROCAL, x)


def _neg(x: Node) -> Node:
    return apply(ops.NEG, x)


def _times(x: Node, value: float) -> Node:
    return _mul(x, number(value, x))


def _plus(x: Node, value: float) -> Node:
    return _add(x, number(value, x))


def _square(x: Node) -> Node:
    return _mul(x, x)


_of_one(ops.ABS, lambda x, y: apply(ops.SIGN, x))
_of_one(ops.EXP, lambda x, y: y)
_of_one(ops.EXP2, lambda x, y: _times(y, math.log(2)))
_of_one(ops.EXPM1, lambda x, y: _plus(y, 1))
_of_one(ops.LOG, lambda x, y: _one_over(x))
_of_one(ops.LOG2, lambda x, y: _one_over(_times(x, math.log(2))))
_of_one(ops.LOG1P, lambda x, y: _one_over(_plus(x, 1)))
_of_one(ops.SQRT, lambda x, y: _one_over(_times(y, 2)))
_of_one(ops.RSQRT, lambda x, y: _times(apply(ops.DIV, y, x), -0.5))
_of_one(ops.RECIPROCAL, lambda x, y: _neg(_square(y)))
_of_one(ops.SIN, lambda x, y: apply(ops.COS, x))
_of_one(ops.COS, lambda x, y: _neg(apply(ops.SIN, x)))
_of_one(ops.TAN, lambda x, y: _plus(_square(y), 1))
_of_one(ops.ASIN, lambda x, y: apply(ops.RSQRT, _sub(number(1, x), _square(x))))
_of_one(ops.ACOS, lambda x, y: _neg(apply(ops.RSQRT, _sub(number(1, x), _square(x)))))
_of_one(ops.ATAN, lambda x, y: _one_over(_plus(_square(x), 1)))
_of_one(ops.SINH, lambda x, y: apply(ops.COSH, x))
_of_one(ops.COSH, lambda x, y: apply(ops.SINH, x))
_of_one(ops.TANH, lambda x, y: _sub(number(1, x), _square(y)))
_of_one(ops.ASINH, lambda x, y: apply(ops.RSQRT, _plus(_square(x), 1)))
_of_one(ops.ACOSH, lambda x, y: apply(ops.RSQRT, _plus(_square(x), -1)))
_of_one(ops.ATANH, lambda x, y: _one_over(_sub(number(1, x), _square(x))))
_of_one(ops.ERF, lambda x, y: _times(apply(ops.EXP, _neg(_square(x))), 2 / math.sqrt(math.pi)))

RULES[ops.NEG] = lambda node, g: (_neg(g),)
RULES[ops.ADD] = lambda node, g: (g, g)


def _of_two(op: Op, first: Rule1, second: Rule1) -> None:
    """Register the gradients of two operands; one that tracks nothing gets no nodes."""

    def rule(node: Node, g: Node) -> tuple[Node | None, ...]:
        a, b = node.srcs
        return first(node, g) if a.tracks else None, second(node, g) if b.tracks else None

    RULES[op] = rule


_of_two(ops.SUB, lambda node, g: g, lambda node, g: _neg(g))
_of_two(ops.MUL, lambda node, g: _mul(g, node.srcs[1]), lambda node, g: _mul(g, node.srcs[0]))
_of_two(
    ops.DIV,
    lambda node, g: apply(ops.DIV, g, node.srcs[1]),
    lambda node, g: _neg(apply(ops.DIV, _mul(g, node), node.srcs[1])),
)
_of_two(
    ops.REMAINDER,
    lambda node, g: g,
    lambda node, g: _neg(_mul(g, apply(ops.FLOOR_DIVIDE, *node.srcs))),
)
_of_two(
    ops.HYPOT,
    lambda node, g: _mul(g, apply(ops.DIV, node.srcs[0], node)),
    lambda node, g: _mul(g, apply(ops.DIV, node.srcs[1], node)),
)


def _pow_base(node: Node, g: Node) -> Node:
    base, exponent = node.srcs
    zero, one = number(0, base), number(1, base)
    lower = apply(ops.POW, base, _sub(exponent, one))
    # d/dx x^0 is 0, also where x^-1 is not finite
    flat = apply(ops.EQUAL, exponent, zero)
    return _mul(g, apply(ops.WHERE, flat, zero, _mul(exponent, lower)))


def _pow_exponent(node: Node, g: Node) -> Node:
    base, _ = node.srcs
    zero, one = number(0, base), number(1, base)
    flat = apply(ops.LESS_EQUAL, base, zero)
    # The logarithm, too, is kept from such a base: its own gradient would be 0 · inf.
    slope = _mul(node, apply(ops.LOG, apply(ops.WHERE, flat, one, base)))
    return _mul(g, apply(ops.WHERE, flat, zero, slope))


_of_two(ops.POW, _pow_base, _pow_exponent)


def _share(g: Node, a: Node, b: Node, wins: Op) -> Node:
    """Return the part of `g` that goes to `a`: all where it wins, half where both are equal."""
    zero, half = number(0, g), number(0.5, g)
    equal = apply(ops.EQUAL, a, b)
    nan = apply(ops.NOT_EQUAL, a, a)  # a NaN operand is the result
    win = apply(ops.OR, apply(wins, a, b), nan)
    return apply(ops.WHERE, win, g, apply(ops.WHERE, equal, _mul(g, half), zero))


_of_two(
    ops.MAXIMUM,
    lambda node, g: _share(g, node.srcs[0], node.srcs[1], ops.GREATER),
    lambda node, g: _share(g, node.srcs[1], node.srcs[0], ops.GREATER),
)
_of_two(
    ops.MINIMUM,
    lambda node, g: _share(g, node.srcs[0], node.srcs[1], ops.LESS),
    lambda node, g: _share(g, node.srcs[1], node.srcs[0], ops.LESS),
)


@_rule(ops.ATAN2)
def _atan2(node: Node, g: Node) -> tuple[Node | None, ...]:
    y, x = node.srcs
    length = _add(_square(x), _square(y))
    # The operand first: 1 / length alone overflows where the gradient does not.
    return apply(ops.DIV, _mul(g, x), length), _neg(apply(ops.DIV, _mul(g, y), length))


@_rule(ops.WHERE)
def _where(node: Node, g: Node) -> tuple[Node | None, ...]:
    zero = number(0, g)
    condition, a, b = node.srcs
    return (
        None,
        apply(ops.WHERE, condition, g, zero) if a.tracks else None,
        apply(ops.WHERE, condition, zero, g) if b.tracks else None,
    )


@_rule(ops.CAST)
def _cast(node: Node, g: Node) -> tuple[Node | None, ...]:
    return (build.cast(g, node.srcs[0].dtype),) if node.srcs[0].dtype.is_float else (None,)


# Reductions ---------------------------------------------------------------------------------------


def _spread(node: Node, value: Node) -> Node:
    """Return a reduction's result or gradient at every element of its operand."""
    shape = node.srcs[0].shape
    kept = tuple(1 if a in node.arg else n for a, n in enumerate(shape))
    return build.broadcast_to(build.reshape(value, kept), shape)


RULES[ops.SUM] = lambda node, g: (_spread(node, g),)


def _extremum(node: Node, g: Node) -> tuple[Node | None, ...]:
    x, y = node.srcs[0], _spread(node, node)
    nan = apply(ops.NOT_EQUAL, x, x)  # then the result is NaN, which nothing equals
    hit = build.cast(apply(ops.OR, apply(ops.EQUAL, x, y), nan), x.dtype)
    count = build.reduce(ops.SUM, hit, node.arg)
    return (_mul(hit, _spread(node, apply(ops.DIV, g, count))),)


RULES[ops.MAX] = RULES[ops.MIN] = _extremum


@_rule(ops.PROD)
def _prod(node: Node, g: Node) -> tuple[Node | None, ...]:
    """The product of the others: exact with zeros, since nothing is divided by the element."""
    x = node.srcs[0]
    order = [*[a for a in range(len(x.shape)) if a not in node.arg], *node.arg]
    turned = build.permute(x, order)
    rows = build.reshape(turned, (g.size, size_of(turned.shape[len(g.shape) :])))
    parts = _mul(_others(rows), build.reshape(g, (g.size, 1)))
    parts = build.reshape(parts, turned.shape)
    return (build.permute(parts, [order.index(a) for a in range(len(order))]),)


_BLOCK = 16


def _others(rows: Node) -> Node:
    """Return, per element of (m, n), the product of the others in its row; O(16 m n).

    A block's elements are multiplied with each other, and with the product of the other blocks.
    """
    m, n = rows.shape
    if n <= _BLOCK:
        i, j = (build.iota(n, dtypes.int32, rows.device) for _ in range(2))
        own = apply(ops.EQUAL, build.reshape(i, (n, 1)), build.reshape(j, (1, n)))
        rows = build.reshape(rows, (m, 1, n))
        blank = apply(ops.WHERE, own, number(1, rows), rows)
        return build.reduce(ops.PROD, blank, [2])
    blocks = -(-n // _BLOCK)
    padded = build.pad(rows, [(0, 0, 0), (0, blocks * _BLOCK - n, 0)], 1.0)
    padded = build.reshape(padded, (m * blocks, _BLOCK))
    inside = build.reshape(_others(padded), (m, blocks, _BLOCK))
    products = build.reshape(build.reduce(ops.PROD, padded, [1]), (m, blocks))
    outside = build.reshape(_others(products), (m, blocks, 1))
    result = build.reshape(_mul(inside, outside), (m, blocks * _BLOCK))
    return build.slice_(result, [(0, m, 1), (0, n, 1)])


@_rule(ops.CUMSUM)
def _cumsum(node: Node, g: Node) -> tuple[Node | None, ...]:
    axis = node.arg
    turned = make(ops.CUMSUM, (build.flip(g, [axis]),), axis)
    return (build.flip(turned, [axis]),)


# Views --------------------------------------------------------------------------------------------

RULES[ops.RESHAPE] = lambda node, g: (build.reshape(g, node.srcs[0].shape),)
RULES[ops.EXPAND] = lambda node, g: (build.sum_to(g, node.srcs[0].shape),)
RULES[ops.AS_STRIDED] = as_strided


@_rule(ops.PERMUTE)
def _permute(node: Node, g: Node) -> tuple[Node | None, ...]:
    return (build.permute(g, [node.arg.index(a) for a in range(len(node.arg))]),)


@_rule(ops.SLICE)
def _slice(node: Node, g: Node) -> tuple[Node | None, ...]:
    backwards = [a for a, (_, extent, step) in enumerate(node.arg) if step < 0 and extent > 1]
    g = build.flip(g, backwards)
    widths = []
    for (start, extent, step), n in zip(node.arg, node.srcs[0].shape, strict=True):
        if not extent:
            return (build.full(0, node.srcs[0].shape, g.dtype, g.device),)
        last = start + (extent - 1) * step
        low, high = min(start, last), max(start, last)
        widths.append((low, n - 1 - high, abs(step) - 1 if extent > 1 else 0))
    return (build.pad(g, widths),)


@_rule(ops.PAD)
def _pad(node: Node, g: Node) -> tuple[Node | None, ...]:
    widths = node.arg[0]
    return (
        build.slice_(
            g,
            [(w[0], n, w[2] + 1) for w, n in zip(widths, node.srcs[0].shape, strict=True)],
        ),
    )


@_rule(ops.CONCAT)
def _concat(node: Node, g: Node) -> tuple[Node | None, ...]:
    """Each operand's own stretch of the gradient."""
    parts: list[Node | None] = []
    start = 0
    for src in node.srcs:
        own = [(start if a == node.arg else 0, n, 1) for a, n in enumerate(src.shape)]
        parts.append(build.slice_(g, own) if src.tracks else None)
        start += src.shape[node.arg]
    return tuple(parts)


# Contraction, gather and scatter ------------------------------------------------------------------


@_rule(ops.EINSUM)
def _einsum(node: Node, g: Node) -> tuple[Node | None, ...]:
    """The contraction of the gradient with the other operand."""
    (a, b), (left, right, output) = node.srcs, node.arg
    return (
        build.einsum([output, right], left, g, b) if a.tracks else None,
        build.einsum([output, left], right, g, a) if b.tracks else None,
    )


@_rule(ops.TAKE)
def _take(node: Node, g: Node) -> tuple[Node | None, ...]:
    x, indices = node.srcs
    axis, rank = node.arg, len(indices.shape)
    front = list(range(axis, axis + rank))
    rest = [a for a in range(len(g.shape)) if a not in front]
    rows = build.permute(g, [*front, *rest])
    tail = tuple(x.shape[:axis] + x.shape[axis + 1 :])
    rows = build.reshape(rows, (indices.size, *tail))
    wide = indices if x.shape[axis] <= indices.dtype.high else build.cast(indices, dtypes.int64)
    flat = build.reshape(_clamped(wide, x.shape[axis]), (indices.size,))
    sums = build.scatter_add(flat, rows, x.shape[axis])
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(x.shape))]
    return build.permute(sums, order), None


def _clamped(indices: Node, extent: int) -> Node:
    """Return indices as `take` reads them, inside 0 … extent-1."""
    if indices.dtype.kind == "i":
        indices = apply(ops.MAXIMUM, indices, number(0, indices))
    if indices.dtype.high < extent:
        return indices
    return apply(ops.MINIMUM, indices, number(max(extent - 1, 0), indices))


@_rule(ops.SCATTER_ADD)
def _scatter_add(node: Node, g: Node) -> tuple[Node | None, ...]:
    indices, rows = node.srcs
    if not g.size:
        return None, build.full(0, rows.shape, g.dtype, g.device)
    read = build.take(g, indices, 0)
    inside = apply(ops.EQUAL, indices, _clamped(indices, node.arg))
    inside = build.reshape(inside, (*indices.shape, *[1] * (len(rows.shape) - 1)))
    return None, apply(ops.WHERE, inside, read, number(0, read))
