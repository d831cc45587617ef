"""Gradient rules: one per differentiable row of the operations table, nodes in, nodes out.

``rule(node, g)`` gets the gradient of the node's result and returns one node (or None) per
operand. Where a function has no derivative, the rule says which value it takes:

- `abs`, `maximum`, `minimum`: 0 at abs's kink; of two equal operands each takes half
- `max`, `min` over axes: equal extrema share the gradient evenly; where the result is NaN, the
  NaNs share it
- `pow`: the exponent's gradient is 0 where the base is not positive
- `sqrt`, `log` …: IEEE division, so inf or NaN at the edge of the domain
- integer operands, conditions and rounding functions: none
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
RULES[ops.SUB] = lambda node, g: (g, _neg(g))
RULES[ops.MUL] = lambda node, g: (_mul(g, node.srcs[1]), _mul(g, node.srcs[0]))


@_rule(ops.DIV)
def _div(node: Node, g: Node) -> tuple[Node | None, ...]:
    b = node.srcs[1]
    return apply(ops.DIV, g, b), _neg(apply(ops.DIV, _mul(g, node), b))


@_rule(ops.REMAINDER)
def _remainder(node: Node, g: Node) -> tuple[Node | None, ...]:
    a, b = node.srcs
    return g, _neg(_mul(g, apply(ops.FLOOR_DIVIDE, a, b)))


@_rule(ops.POW)
def _pow(node: Node, g: Node) -> tuple[Node | None, ...]:
    base, exponent = node.srcs
    zero, one = number(0, base), number(1, base)
    lower = apply(ops.POW, base, _sub(exponent, one))
    # d/dx x^0 is 0, also where x^-1 is not finite
    flat = apply(ops.EQUAL, exponent, zero)
    for_base = apply(ops.WHERE, flat, build.broadcast_to(zero, base.shape), _mul(exponent, lower))
    positive = apply(ops.GREATER, base, zero)
    safe = apply(ops.WHERE, positive, base, one)
    for_exponent = _mul(node, apply(ops.LOG, safe))
    return _mul(g, for_base), _mul(g, for_exponent)


def _share(node: Node, g: Node, a: Node, b: Node, wins: Op) -> Node:
    """Return the part of `g` that goes to `a`: all where it wins, half where both are equal."""
    zero, half = number(0, g), number(0.5, g)
    equal = apply(ops.EQUAL, a, b)
    nan = apply(ops.NOT_EQUAL, a, a)  # a NaN operand is the result
    win = apply(ops.OR, apply(wins, a, b), nan)
    return apply(ops.WHERE, win, g, apply(ops.WHERE, equal, _mul(g, half), zero))


@_rule(ops.MAXIMUM)
def _maximum(node: Node, g: Node) -> tuple[Node | None, ...]:
    a, b = node.srcs
    return _share(node, g, a, b, ops.GREATER), _share(node, g, b, a, ops.GREATER)


@_rule(ops.MINIMUM)
def _minimum(node: Node, g: Node) -> tuple[Node | None, ...]:
    a, b = node.srcs
    return _share(node, g, a, b, ops.LESS), _share(node, g, b, a, ops.LESS)


@_rule(ops.ATAN2)
def _atan2(node: Node, g: Node) -> tuple[Node | None, ...]:
    y, x = node.srcs
    scaled = apply(ops.DIV, g, _add(_square(x), _square(y)))
    return _mul(scaled, x), _neg(_mul(scaled, y))


@_rule(ops.HYPOT)
def _hypot(node: Node, g: Node) -> tuple[Node | None, ...]:
    return tuple(_mul(g, apply(ops.DIV, s, node)) for s in node.srcs)


@_rule(ops.WHERE)
def _where(node: Node, g: Node) -> tuple[Node | None, ...]:
    zero = number(0, g)
    condition = node.srcs[0]
    return None, apply(ops.WHERE, condition, g, zero), apply(ops.WHERE, condition, zero, g)


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
    both_nan = apply(ops.AND, apply(ops.NOT_EQUAL, x, x), apply(ops.NOT_EQUAL, y, y))
    hit = build.cast(apply(ops.OR, apply(ops.EQUAL, x, y), both_nan), x.dtype)
    count = build.reduce(ops.SUM, hit, node.arg)
    return (_mul(hit, _spread(node, apply(ops.DIV, g, count))),)


RULES[ops.MAX] = RULES[ops.MIN] = _extremum


@_rule(ops.PROD)
def _prod(node: Node, g: Node) -> tuple[Node | None, ...]:
    """The product of the others: exact with zeros, since nothing is divided by the element."""
    x = node.srcs[0]
    kept = [a for a in range(len(x.shape)) if a not in node.arg]
    n = size_of(tuple(x.shape[a] for a in node.arg))
    outer = tuple(x.shape[a] for a in kept)
    rows = build.reshape(build.permute(x, [*kept, *node.arg]), (*outer, 1, n))
    ones = (1,) * len(outer)
    i = build.reshape(build.iota(n, dtypes.int32, x.device), (*ones, n, 1))
    j = build.reshape(build.iota(n, dtypes.int32, x.device), (*ones, 1, n))
    others = apply(ops.WHERE, apply(ops.EQUAL, i, j), number(1, x), rows)
    others = build.broadcast_to(others, (*outer, n, n))
    parts = build.reduce(ops.PROD, others, [len(outer) + 1])
    parts = _mul(parts, build.reshape(g, (*outer, 1)))
    parts = build.reshape(parts, (*outer, *[x.shape[a] for a in node.arg]))
    order = [*kept, *node.arg]
    return (build.permute(parts, [order.index(a) for a in range(len(order))]),)


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


# Contraction, gather and scatter ------------------------------------------------------------------


@_rule(ops.EINSUM)
def _einsum(node: Node, g: Node) -> tuple[Node | None, ...]:
    """The contraction of the gradient with the other operands."""
    *subscripts, output = node.arg
    return tuple(
        _einsum_operand(node, g, number_, subscripts, output) if x.tracks else None
        for number_, x in enumerate(node.srcs)
    )


def _einsum_operand(
    node: Node, g: Node, which: int, subscripts: list[tuple[int, ...]], output: tuple[int, ...]
) -> Node:
    x, own = node.srcs[which], subscripts[which]
    letters = tuple(dict.fromkeys(own))
    others = [s for i, s in enumerate(subscripts) if i != which]
    known = {i for s in [output, *others] for i in s}
    reach = tuple(i for i in letters if i in known)
    sources = [g, *[s for i, s in enumerate(node.srcs) if i != which]]
    result = build.einsum([output, *others], reach, *sources)
    extents = dict(zip(own, x.shape, strict=True))
    # an index that stood in this operand alone was summed out: every element gets the same
    shape = tuple(extents[i] if i in reach else 1 for i in letters)
    result = build.broadcast_to(build.reshape(result, shape), tuple(extents[i] for i in letters))
    if letters == own:
        return result
    return _diagonal(result, letters, own, x.shape)


def _diagonal(x: Node, letters: tuple[int, ...], own: tuple[int, ...], shape: tuple[int, ...]
              ) -> Node:  # fmt: skip
    """Return zeros of `shape` with `x` where repeated indices are equal."""
    spread = build.permute(x, [letters.index(i) for i in dict.fromkeys(own)])
    first = [own.index(i) == a for a, i in enumerate(own)]
    placed = tuple(n if f else 1 for n, f in zip(shape, first, strict=True))
    result = build.broadcast_to(build.reshape(spread, placed), shape)
    zero = number(0, x)
    for a, i in enumerate(own):
        b = own.index(i)
        if b != a:
            where = [tuple(n if c == d else 1 for d, n in enumerate(shape)) for c in (a, b)]
            at = [build.reshape(build.iota(shape[a], dtypes.int32, x.device), w) for w in where]
            same = build.broadcast_to(apply(ops.EQUAL, *at), shape)
            result = apply(ops.WHERE, same, result, zero)
    return result


@_rule(ops.TAKE)
def _take(node: Node, g: Node) -> tuple[Node | None, ...]:
    x, indices = node.srcs
    axis, rank = node.arg, len(indices.shape)
    front = list(range(axis, axis + rank))
    rest = [a for a in range(len(g.shape)) if a not in front]
    rows = build.permute(g, [*front, *rest])
    tail = tuple(x.shape[:axis] + x.shape[axis + 1 :])
    rows = build.reshape(rows, (indices.size, *tail))
    flat = build.reshape(indices, (indices.size,))
    sums = build.scatter_add(flat, rows, x.shape[axis])
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(x.shape))]
    return build.permute(sums, order), None


@_rule(ops.SCATTER_ADD)
def _scatter_add(node: Node, g: Node) -> tuple[Node | None, ...]:
    return None, build.take(g, node.srcs[0], 0)
