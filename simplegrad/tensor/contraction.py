"""Einsum and what stands on it: matmul, tensordot, outer, dot.

An expression is reduced to pairs. Axes of extent 1, repeated letters of one operand and letters
that only one operand has are dealt with before a pair is contracted, so that each letter of an
EINSUM node is a batch letter (both operands and the result), a contracted one (both operands) or a
free one (one operand and the result).
"""

from __future__ import annotations

import functools
import math
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simplegrad import dtypes, ops
from simplegrad.arguments import integer, several, shown
from simplegrad.errors import ArgumentError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.infer import Shape, broadcast_shapes
from simplegrad.graph.node import Node
from simplegrad.tensor.core import Core, common, lift
from simplegrad.tensor.indexing import Indexing
from simplegrad.tensor.shapes import normalize_axes
from simplegrad.tensor.stamped import stamped

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor

_ELLIPSIS = "..."


def _fail(subscripts: str, place: int, why: str) -> ShapeError:
    return ShapeError(f"einsum: {why}\n  {subscripts}\n  {' ' * place}^")


def _terms(subscripts: str) -> list[tuple[int, str]]:
    """Return the operands' subscripts and, if there is an arrow, the output's, with places."""
    for place, letter in enumerate(subscripts):
        if letter not in string.ascii_letters + " ,.->":
            raise _fail(subscripts, place, f"{letter!r} is not a letter, comma, ellipsis or arrow")
    inputs, arrow, output = subscripts.partition("->")
    terms, place = [], 0
    for term in inputs.split(","):
        terms.append((place, term))
        place += len(term) + 1
    if arrow:
        terms.append((len(inputs) + 2, output))
    for place, term in terms:
        rest = term.replace(_ELLIPSIS, "   ", 1)
        for i, letter in enumerate(rest):
            if letter not in string.ascii_letters + " ":
                raise _fail(subscripts, place + i, f"{letter!r} does not belong here")
    return terms


@functools.lru_cache(maxsize=4096)
def parse(subscripts: str, shapes: tuple[Shape, ...]) -> tuple[tuple[tuple[Any, ...], ...], ...]:
    """Return (labels per operand, labels of the output); a label is a letter or an ellipsis axis.

    Ellipsis axes are labelled by integers, counted from the last. Extents are checked: a label's
    extents are equal or 1.
    """
    terms = _terms(subscripts)
    has_output = "->" in subscripts
    inputs = terms[:-1] if has_output else terms
    if len(inputs) != len(shapes):
        raise ShapeError(
            f"einsum: {subscripts!r} names {len(inputs)} operands, but {len(shapes)} were given"
        )
    extents: dict[Any, int] = {}
    labels = []
    for number, ((place, term), shape) in enumerate(zip(inputs, shapes, strict=True)):
        places, axes = _labels(subscripts, place, term, shape, number)
        for label, n, at in zip(axes, shape, places, strict=True):
            known = extents.setdefault(label, n)
            if n != known and 1 not in (n, known):
                name = f"letter {label!r}" if isinstance(label, str) else "an ellipsis axis"
                raise _fail(
                    subscripts,
                    at,
                    f"{name} is {known} in one operand and {n} in operand {number} of "
                    f"shape {shape}",
                )
            extents[label] = max(n, known) if n and known else 0
        labels.append(axes)
    dots = sorted([x for x in extents if isinstance(x, int)])
    if has_output:
        return (*labels, _output(subscripts, *terms[-1], dots, extents))
    everything = [x for axes in labels for x in axes]
    once = sorted([x for x in set(everything) if isinstance(x, str) and everything.count(x) == 1])
    return (*labels, (*dots, *once))


def _labels(
    subscripts: str, place: int, term: str, shape: Shape, number: int
) -> tuple[list[int], tuple[Any, ...]]:
    letters = [(place + i, x) for i, x in enumerate(term) if x not in " ."]
    dots = term.find(_ELLIPSIS)
    missing = len(shape) - len(letters)
    if missing < 0 or (missing and dots < 0):
        end = letters[len(shape)][0] if missing < 0 else place + max(len(term) - 1, 0)
        raise _fail(
            subscripts,
            end,
            f"operand {number} has shape {shape} of {len(shape)} axes, but {term.strip()!r} "
            f"names {len(letters)}",
        )
    if dots < 0:
        return [p for p, _ in letters], tuple([x for _, x in letters])
    before = [(p, x) for p, x in letters if p < place + dots]
    after = letters[len(before) :]
    middle = [(place + dots, i - missing) for i in range(missing)]
    both = [*before, *middle, *after]
    return [p for p, _ in both], tuple([x for _, x in both])


def _output(
    subscripts: str, place: int, term: str, dots: list[int], extents: dict[Any, int]
) -> tuple[Any, ...]:
    result: list[Any] = []
    i = 0
    while i < len(term):
        letter = term[i]
        if letter == ".":
            result += dots
            i += len(_ELLIPSIS)
            continue
        if letter != " ":
            if letter not in extents:
                raise _fail(subscripts, place + i, f"output letter {letter!r} is in no operand")
            if letter in result:
                raise _fail(subscripts, place + i, f"output letter {letter!r} stands twice")
            result.append(letter)
        i += 1
    if dots and _ELLIPSIS not in term:
        raise _fail(subscripts, place, "an operand has an ellipsis, but the output has none")
    return tuple(result)


def contract(nodes: Sequence[Node], labels: Sequence[tuple[Any, ...]], output: Any) -> Node:
    """Return the sum of products of nodes of one dtype over the labels not in `output`."""
    terms = [_single(n, tuple(a)) for n, a in zip(nodes, labels, strict=True)]
    extents: dict[Any, int] = {}
    for node, axes in terms:
        extents.update(zip(axes, node.shape, strict=True))
    for wide in {x for axes in labels for x in axes} - set(extents):
        extents[wide] = 1
    while len(terms) > 1:
        pair = (0, 1) if len(terms) == 2 else _next_pair(terms, tuple(output))
        picked = [terms[i] for i in pair]
        terms = [t for i, t in enumerate(terms) if i not in pair]
        needed = set(output).union(*[a for _, a in terms])
        terms.append(_pair(picked, needed, None if terms else tuple(output)))
    node, axes = _summed(*terms[0], set(output))
    order = [x for x in output if x in axes]
    node = build.permute(node, [axes.index(x) for x in order])
    # Labels that every operand has with extent 1 were left out on the way.
    return build.reshape(node, tuple([extents[x] for x in output]))


def _single(node: Node, axes: tuple[Any, ...]) -> tuple[Node, tuple[Any, ...]]:
    """Return the diagonal where a label stands twice, and drop axes of extent 1."""
    kept = [i for i, n in enumerate(node.shape) if n != 1]
    node = build.reshape(node, tuple([node.shape[i] for i in kept]))
    axes = tuple([axes[i] for i in kept])
    unique = tuple(dict.fromkeys(axes))
    if len(unique) == len(axes):
        return node, axes
    steps = [math.prod(node.shape[a + 1 :]) for a in range(len(axes))]
    strides = [sum(s for s, x in zip(steps, axes, strict=True) if x == u) for u in unique]
    shape = tuple([node.shape[axes.index(u)] for u in unique])
    return build.as_strided(node, shape, tuple(strides)), unique


def _summed(node: Node, axes: tuple[Any, ...], needed: set[Any]) -> tuple[Node, tuple[Any, ...]]:
    """Return a term summed over the labels that nothing else needs."""
    gone = [i for i, x in enumerate(axes) if x not in needed]
    return build.reduce(ops.SUM, node, gone), tuple([x for x in axes if x in needed])


def _pair(terms: Sequence[Any], needed: set[Any], output: Any) -> tuple[Node, tuple[Any, ...]]:
    """Return two terms multiplied and summed over what is not needed any more."""
    (a, a_axes), (b, b_axes) = terms
    a, a_axes = _summed(a, a_axes, needed | set(b_axes))
    b, b_axes = _summed(b, b_axes, needed | set(a_axes))
    present = {**dict.fromkeys(a_axes), **dict.fromkeys(b_axes)}
    result = tuple([x for x in (output or present) if x in present and x in needed])
    if set(result) == set(present):  # nothing to sum: a product, which fuses with its neighbours
        factors = _spread(a, a_axes, result), _spread(b, b_axes, result)
        return build.apply(ops.MUL, *factors), result
    numbers = {x: i for i, x in enumerate(present)}
    subscripts = [[numbers[x] for x in axes] for axes in (a_axes, b_axes)]
    return build.einsum(subscripts, [numbers[x] for x in result], a, b), result


def _spread(node: Node, axes: tuple[Any, ...], result: tuple[Any, ...]) -> Node:
    """Return a term with the axes of `result`, of extent 1 where it has none of its own."""
    order = [x for x in result if x in axes]
    node = build.permute(node, [axes.index(x) for x in order])
    extents = dict(zip(order, node.shape, strict=True))
    return build.reshape(node, tuple([extents.get(x, 1) for x in result]))


def _next_pair(terms: Sequence[Any], output: tuple[Any, ...]) -> tuple[int, ...]:
    key = tuple([(axes, node.shape) for node, axes in terms])
    return _path(key, output)


@functools.lru_cache(maxsize=1024)
def _path(terms: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[int, ...]:
    """Return which two of several terms opt_einsum contracts first."""
    # It takes a fifth of a second to load, and only three operands or more need it.
    import opt_einsum

    inputs = [set(axes) for axes, _ in terms]
    sizes = {x: n for axes, shape in terms for x, n in zip(axes, shape, strict=True)}
    find = opt_einsum.paths.optimal if len(terms) <= 5 else opt_einsum.paths.greedy
    first = tuple(sorted(find(inputs, set(output) & set(sizes), sizes)[0]))
    return first if len(first) == 2 else (0, 1)


@stamped
def einsum(subscripts: str, *operands: Any) -> Tensor:
    """Return the sum of products that `subscripts` names; see `Tensor.einsum`."""
    if not isinstance(subscripts, str):
        raise ArgumentError(
            f'einsum: subscripts must be a string such as "ij,jk->ik", not {shown(subscripts)}'
        )
    if not operands:
        raise ShapeError(f"einsum: {subscripts!r} was given no operands")
    nodes = common("einsum", ops.WHERE.kinds, *operands)
    if nodes[0].dtype.kind == "b":
        nodes = tuple([build.cast(n, dtypes.default_int) for n in nodes])
    inputs = [v._node for v in operands if isinstance(v, Core)]
    *labels, output = parse(subscripts, tuple([n.shape for n in nodes]))
    return lift(contract(nodes, labels, output), *inputs)


class Contraction(Indexing):
    """Sums of products."""

    __slots__ = ()

    def einsum(self, subscripts: str, *others: Any) -> Tensor:
        """Return the sum of products over the letters that the output leaves out.

        Letters name axes; ``...`` stands for axes that broadcast; a letter that stands twice in
        one operand takes its diagonal; without ``->`` the output has the letters that stand once,
        in the alphabet's order. Axes of extent 1 broadcast. A wrong subscript raises `ShapeError`
        with a caret under the letter. Integers are summed in their own dtype.

        >>> from simplegrad import Tensor
        >>> Tensor([[1, 2], [3, 4]]).einsum("ij,j->i", Tensor([1, 10]))
        Tensor([21, 43], dtype=int64)
        """
        return einsum(subscripts, self, *others)

    def matmul(self, other: Any) -> Tensor:
        """Return the matrix product (…, n, k) @ (…, k, m) with NumPy's rules for vectors."""
        return matmul(self, other)

    def __matmul__(self, other: Any) -> Tensor:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return matmul(other, self)

    def tensordot(self, other: Any, axes: Any = 2) -> Tensor:
        """Return the sum of products over the last `axes` axes here and the first there, or over
        two sequences of axes.
        """
        a, b = common("tensordot", ops.SUM.kinds, self, other)
        if hasattr(axes, "__index__"):
            count = integer("tensordot: axes", axes, 0)
            if count > min(len(a.shape), len(b.shape)):
                raise ShapeError(
                    f"tensordot: shapes {a.shape} and {b.shape} do not both have {count} axes; "
                    "give a smaller number"
                )
            axes = range(len(a.shape) - count, len(a.shape)), range(count)
        axes = several("tensordot: axes", axes)
        if len(axes) != 2:
            raise ShapeError(
                f"tensordot: axes {axes} must be a number, or two: one axis or several of each "
                "operand"
            )
        left = normalize_axes("tensordot", axes[0], len(a.shape))
        right = normalize_axes("tensordot", axes[1], len(b.shape))
        if [a.shape[i] for i in left] != [b.shape[i] for i in right]:
            raise ShapeError(
                f"tensordot: axes {left} of shape {a.shape} do not match axes {right} of {b.shape}"
            )
        names: list[Any] = [("b", i) for i in range(len(b.shape))]
        for i, j in zip(left, right, strict=True):
            names[j] = ("a", i)
        mine = [("a", i) for i in range(len(a.shape))]
        output = [x for i, x in enumerate(mine) if i not in left]
        output += [x for i, x in enumerate(names) if i not in right]
        return lift(contract([a, b], [tuple(mine), tuple(names)], output), *_nodes(self, other))

    def outer(self, other: Any) -> Tensor:
        """Return all products of two flattened arrays as (n, m)."""
        a, b = common("outer", ops.SUM.kinds, self, other)
        a = build.reshape(a, (a.size, 1))
        b = build.reshape(b, (1, b.size))
        return lift(build.apply(ops.MUL, a, b), *_nodes(self, other))

    def dot(self, other: Any) -> Tensor:
        """Return NumPy's dot: over the last axis here and the last but one there."""
        other = other if isinstance(other, Core) else self.final(other, None, False)
        if not self.ndim or not other.ndim:
            return self.mul(other)
        return self.tensordot(other, (-1, -1 if other.ndim == 1 else -2))

    def vecdot(self, other: Any, axis: int = -1) -> Tensor:
        """Return the sum of products along one axis of both; the other axes broadcast."""
        a, b = common("vecdot", ops.SUM.kinds, self, other)
        axis = integer("vecdot: axis", axis)
        if axis >= 0 and len(a.shape) != len(b.shape):
            raise ShapeError(f"vecdot: axis {axis} must be negative for {a.shape} and {b.shape}")
        pair = []
        for node in (a, b):
            (place,) = normalize_axes("vecdot", axis, len(node.shape))
            order = [i for i in range(len(node.shape)) if i != place]
            pair.append(build.permute(node, [*order, place]))
        a, b = pair
        if a.shape[-1] != b.shape[-1]:
            raise ShapeError(f"vecdot: shapes {a.shape} and {b.shape} differ along axis {axis}")
        broadcast_shapes("vecdot", a.shape, b.shape)
        labels = [tuple(range(-len(n.shape), 0)) for n in (a, b)]
        output = tuple(range(-max(len(a.shape), len(b.shape)), -1))
        return lift(contract([a, b], labels, output), *_nodes(self, other))

    def inner(self, other: Any) -> Tensor:
        """Return the sum of products over the last axis of both."""
        return self.tensordot(other, (-1, -1))


def _nodes(*values: Any) -> list[Node]:
    return [v._node for v in values if isinstance(v, Core)]


@stamped
def matmul(a: Any, b: Any) -> Tensor:
    """Return the matrix product (…, n, k) @ (…, k, m) with NumPy's rules for vectors."""
    x, y = common("matmul", ops.SUM.kinds, a, b)
    if not x.shape or not y.shape:
        raise ShapeError("matmul: zero-dimensional operands have no matrix product; use mul")
    inner = y.shape[-2] if len(y.shape) > 1 else y.shape[0]
    if x.shape[-1] != inner:
        raise ShapeError(
            f"matmul: shapes {x.shape} and {y.shape} do not fit: the last axis of the first is "
            f"{x.shape[-1]}, the contracted axis of the second {inner}"
        )
    broadcast_shapes("matmul", x.shape[:-2], y.shape[:-2])
    batch = [tuple(range(2 - len(n.shape), 0)) for n in (x, y)]
    rows = ("n",) if len(x.shape) > 1 else ()
    columns = ("m",) if len(y.shape) > 1 else ()
    labels = [(*batch[0], *rows, "k"), (*batch[1], "k", *columns)]
    lead = max(batch, key=len)
    return lift(contract([x, y], labels, (*lead, *rows, *columns)), *_nodes(a, b))
