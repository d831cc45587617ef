"""What `attention` looks for in a graph: softmaxes over products, and the products that read them.

Axes are named by letters, small integers: axis a of T, the operand of the softmax, is letter a,
and further letters name the axes that only queries and keys, or only values, have. Views between
the parts may reorder axes and add or drop axes of extent 1 (-1 stands for such a letter).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from simplegrad import ops
from simplegrad.compiler.ir.index import Index, Var
from simplegrad.compiler.passes.lower import source_position
from simplegrad.dtypes import width
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node

_MOST_STEPS = 24
"""Most operations between scores and softmax: they are evaluated again in every part."""
_MOST_SEEN = 96
"""Most operations looked at on the way to the scores."""
_LEAST_WORK = 1 << 14
"""Multiply-adds below which the plain path is as good."""
_LEAST_QUERIES = 8
"""Queries that read the same keys, below which lanes stay empty and the scores are few anyway."""
Letters = tuple[int, ...]
Readers = dict[int, list[Node]]


@dataclass(eq=False)
class Softmax:
    """One softmax over the product of queries and keys."""

    t: Node
    e: Node
    total: Node
    """The sums of e."""
    axes: Letters
    """The axes of T that the softmax runs over."""
    score: Node
    """The EINSUM of q and k."""
    q: Node
    k: Node
    q_letters: Letters
    k_letters: Letters
    weights: set[int] = field(default_factory=set)
    """By id: the nodes P."""
    reciprocals: set[int] = field(default_factory=set)
    """By id: the nodes R = 1 / sum(e)."""
    scales: set[int] = field(default_factory=set)
    """By id: R spread along the softmax's axes."""
    slopes: dict[int, Slope] = field(default_factory=dict)
    """By id of a node dT."""

    @property
    def rank(self) -> int:
        """The number of T's axes."""
        return len(self.t.shape)

    @property
    def keys(self) -> set[int]:
        """The letters that the softmax runs over, those of one element left out."""
        return {a for a in self.axes if self.t.shape[a] > 1}

    def batch(self, v_letters: Letters) -> set[int]:
        """Return the letters of T that keys or values have too, or that queries lack.

        The gradient of an operand that lacks one of them is a sum over it, which no kernel does.
        """
        m = set(self.q_letters) - {*self.k_letters, *v_letters}
        return {a for a, n in enumerate(self.t.shape) if n > 1} - set(self.axes) - m

    @property
    def free(self) -> int:
        """The first letter that no axis of T, q or k has."""
        return max(*self.q_letters, *self.k_letters, self.rank - 1) + 1


@dataclass(frozen=True, eq=False)
class Slope:
    """A gradient dT of T, and the product dP = einsum(g, v) that it comes of."""

    d_t: Node
    v: Node
    g: Node
    v_letters: Letters
    g_letters: Letters


@dataclass(frozen=True, eq=False)
class Part:
    """An EINSUM that is part of an attention."""

    softmax: Softmax
    name: str
    """``out``, ``dq``, ``dk`` or ``dv``."""
    result: Letters
    v: Node
    v_letters: Letters
    slope: Slope | None = None
    """Of a backward part."""
    d_s: Node | None = None
    """The gradient of the scores, made of dT."""
    d_s_letters: Letters = ()

    @property
    def operands(self) -> list[Node]:
        """The nodes that an ATTENTION in its place is made of."""
        own = [self.softmax.q, self.softmax.k, self.v, self.softmax.t]
        own += [self.slope.g] if self.slope is not None else []
        return own if self.d_s is None else [*own, self.d_s]

    @property
    def inner(self) -> list[Node]:
        """Nodes of the size of the scores, one of which is read by whatever reads any."""
        own = [self.softmax.score, self.softmax.e]
        return own if self.slope is None else [*own, self.slope.d_t]


def find(order: Sequence[Node], room: int) -> dict[int, Part]:
    """Return the parts of all attentions in a graph, by the id of the EINSUM.

    `room` is the most bytes that a query and a value take, as they are computed with.
    """
    readers: Readers = {}
    for node in order:
        for src in node.srcs if node.buffer is None else ():
            readers.setdefault(id(src), []).append(node)
    products = [n for n in order if n.op is ops.EINSUM and n.buffer is None]
    found: dict[int, Part] = {}
    for node in order:
        softmax = _softmax(node, readers) if node.op is ops.EXP and node.buffer is None else None
        if softmax is not None:
            found |= _parts(softmax, products, room)
    return found


# Looking through views ----------------------------------------------------------------------------


def _through(node: Node) -> tuple[Node, list[Node]]:
    """Return what stands below reshapes, permutations and casts, and the views, outermost first."""
    views = []
    while node.buffer is None:
        if node.op in (ops.RESHAPE, ops.PERMUTE):
            views.append(node)
        elif node.op is not ops.CAST or not node.srcs[0].dtype.is_float:
            break
        node = node.srcs[0]
    return node, views


def _unshaped(node: Node) -> Node:
    """Return what stands below reshapes, element for element."""
    while node.op is ops.RESHAPE and node.buffer is None:
        node = node.srcs[0]
    return node


def _axes(shape: Sequence[int]) -> tuple[tuple[Index, ...], list[Var]]:
    """Return where the axes of a shape stand, and their variables; one of extent 1 is at 0."""
    variables = [Var(f"a{a}", n) for a, n in enumerate(shape)]
    return tuple(Index.of(v) if v.extent > 1 else Index.of(0) for v in variables), variables


def _named(position: tuple[Index, ...], variables: list[Var]) -> Letters | None:
    """Return the number of the variable at each place, -1 for none; None where axes are mixed."""
    result = []
    for index in position:
        here = [a for a, v in enumerate(variables) if index.terms == ((v, 1),)]
        if index.terms and (not here or index.const):
            return None
        result.append(here[0] if here else -1)
    return tuple(result)


def _below(views: Sequence[Node], shape: Sequence[int]) -> Letters | None:
    """Return, per axis of what stands below some views, the axis above; None where mixed."""
    position, variables = _axes(shape)
    for view in views:
        position, _ = source_position(view, position)
    return _named(position, variables)


def _inverse(places: Sequence[int], rank: int) -> Letters:
    """Return, for each of `rank` axes, which of `places` names it; -1 for none."""
    result = [-1] * rank
    for axis, place in enumerate(places):
        if place >= 0:
            result[place] = axis
    return tuple(result)


def _spread_from(node: Node, softmax_t: Node, axes: Letters) -> Node | None:
    """Return what `node` repeats along the axes of a softmax, if it does that alone."""
    if node.shape != softmax_t.shape:
        return None
    position, _ = _axes(node.shape)
    wanted = [i for a, i in enumerate(position) if a not in axes and i.terms]
    while node.op in (ops.RESHAPE, ops.EXPAND) and node.buffer is None:
        position, _ = source_position(node, position)
        node = node.srcs[0]
    squeezed = [i for i, n in zip(position, node.shape, strict=True) if n != 1]
    return node if squeezed == wanted else None


def _inside(node: Node) -> bool:
    """Whether a node may stand between scores and softmax."""
    views = (ops.RESHAPE, ops.PERMUTE)
    return node.buffer is None and (node.op.kind == ops.ELEMENTWISE or node.op in views)


def _between(top: Node, bottom: Node) -> dict[int, Node]:
    """Return, by id, `top` and what stands between it and `bottom`, through `_inside` nodes."""
    order: list[Node] = []
    seen: set[int] = {id(bottom)}
    stack: list[tuple[Node, bool]] = [(top, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen and _inside(node):
            seen.add(id(node))
            stack.append((node, True))
            stack.extend((s, False) for s in node.srcs)
    found = {id(bottom): bottom}
    for node in order:
        if any(id(s) in found for s in node.srcs):
            found[id(node)] = node
    return {i: n for i, n in found.items() if n is not bottom}


def _axes_at(top: Node, bottom: Node) -> Letters | None:
    """Return, per axis of `bottom`, the axis of `top`, an expression of it.

    None where it is too long, reads `bottom` at several positions, or mixes axes.
    """
    inside = _between(top, bottom)
    if len(inside) > _MOST_STEPS:
        return None
    start, variables = _axes(top.shape)
    found: set[tuple[Index, ...]] = set()
    seen: set[tuple[int, tuple[Index, ...]]] = set()
    stack = [(top, start)]
    while stack:
        node, here = stack.pop()
        if node is bottom:
            found.add(here)
        elif id(node) in inside and (id(node), here) not in seen:
            seen.add((id(node), here))
            if node.op.kind == ops.VIEW:
                here = source_position(node, here)[0]
            stack.extend((s, here) for s in node.srcs)
    return _named(found.pop(), variables) if len(found) == 1 else None


# The softmax --------------------------------------------------------------------------------------


def _softmax(e: Node, readers: Readers) -> Softmax | None:
    """Return the softmax that an EXP is the numerator of, if its scores are a product."""
    shifted = e.srcs[0]
    if shifted.op is not ops.SUB or shifted.buffer is not None:
        return None
    t, top = shifted.srcs
    while top.op.kind == ops.VIEW and top.buffer is None:
        top = top.srcs[0]
    if top.op is not ops.MAX or top.buffer is not None or top.srcs[0] is not t:
        return None
    axes: Letters = top.arg
    sums = [r for r in readers.get(id(e), ()) if r.op is ops.SUM and r.arg == axes]
    if _spread_from(shifted.srcs[1], t, axes) is not top or len(sums) != 1:
        return None
    found = _scores(t, axes)
    if found is None:
        return None
    softmax = Softmax(t, e, sums[0], axes, *found)
    for reader in readers.get(id(e), ()):
        _note_weights(reader, softmax)
    for reader in readers.get(id(e), ()):
        _note_slope(reader, softmax)
    return softmax


def _scores(t: Node, axes: Letters) -> tuple[Node, Node, Node, Letters, Letters] | None:
    """Return (S, q, k, letters of q, letters of k) where T comes of one product."""
    stack = [t]
    seen: set[int] = set()
    while stack and len(seen) <= _MOST_SEEN:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.op is ops.EINSUM and node.buffer is None and node.size == t.size:
            found = _operands(node, t, axes)
            if found is not None:
                return (node, *found)
        elif _inside(node):
            stack.extend(reversed(node.srcs))
    return None


def _operands(s: Node, t: Node, axes: Letters) -> tuple[Node, Node, Letters, Letters] | None:
    left, right, output = s.arg
    letters = _axes_at(t, s)
    if letters is None or -1 in letters or not s.dtype.is_float:
        return None
    names = dict(zip(output, letters, strict=True))
    for i in left:  # what is summed stands in both
        names.setdefault(i, len(t.shape) + len(names))
    keys = {a for a in axes if t.shape[a] > 1}
    a, b = (tuple(names[i] for i in x) for x in (left, right))
    for (q, k), (q_letters, k_letters) in ((s.srcs, (a, b)), (s.srcs[::-1], (b, a))):
        if keys and keys <= set(k_letters) and not keys & set(q_letters):
            return q, k, q_letters, k_letters
    return None


def _note_weights(reader: Node, softmax: Softmax) -> None:
    """Note a node P that a reader of e is, with its R."""
    if reader.op is ops.DIV and reader.srcs[0] is softmax.e:
        if _spread_from(reader.srcs[1], softmax.t, softmax.axes) is softmax.total:
            softmax.weights.add(id(reader))
    elif reader.op is ops.MUL:
        for own, other in (reader.srcs, reader.srcs[::-1]):
            inverse = _spread_from(other, softmax.t, softmax.axes)
            if own is softmax.e and inverse is not None and inverse.buffer is None:
                below = inverse.srcs[0] if inverse.op is ops.RECIPROCAL else inverse
                if inverse is not below and _unshaped(below) is softmax.total:
                    softmax.weights.add(id(reader))
                    softmax.scales.add(id(other))
                    softmax.reciprocals.add(id(inverse))


# Gradients ----------------------------------------------------------------------------------------


def _note_slope(reader: Node, softmax: Softmax) -> None:
    """Note a node dT that a reader of e is: (dP * R + spread(sum(dP * e) * -R²)) * e."""
    if reader.op is not ops.MUL:
        return
    for own, total in (reader.srcs, reader.srcs[::-1]):
        if own is softmax.e and total.op is ops.ADD and total.buffer is None:
            for first, second in (total.srcs, total.srcs[::-1]):
                dp = _scaled(first, softmax)
                if dp is not None and _is_row_term(second, dp, softmax):
                    slope = _slope(reader, dp, softmax)
                    if slope is not None:
                        softmax.slopes[id(reader)] = slope


def _scaled(node: Node, softmax: Softmax) -> Node | None:
    """Return dP of dP * R."""
    if node.op is ops.MUL and node.buffer is None:
        for dp, scale in (node.srcs, node.srcs[::-1]):
            if id(scale) in softmax.scales:
                return dp
    return None


def _is_row_term(node: Node, dp: Node, softmax: Softmax) -> bool:
    """Whether a node is spread(sum(dP * e) * -R²)."""
    row = _spread_from(node, softmax.t, softmax.axes)
    if row is None or row.op is not ops.MUL or row.buffer is not None:
        return False
    for first, second in (row.srcs, row.srcs[::-1]):
        total = _unshaped(first)
        if total.op is not ops.SUM or total.arg != softmax.axes or second.op is not ops.NEG:
            continue
        if not total.srcs or not second.srcs:
            continue
        product, square = total.srcs[0], second.srcs[0]
        ours = product.op is ops.MUL and {id(s) for s in product.srcs} == {id(dp), id(softmax.e)}
        squared = square.op is ops.MUL and square.srcs[0] is square.srcs[1]
        if ours and squared and id(square.srcs[0]) in softmax.reciprocals:
            return True
    return False


def _slope(d_t: Node, dp: Node, softmax: Softmax) -> Slope | None:
    product, views = _through(dp)
    if product.op is not ops.EINSUM or product.buffer is not None:
        return None
    letters = _below(views, dp.shape)
    if letters is None or -1 in letters:
        return None
    left, right, output = product.arg
    names = dict(zip(output, letters, strict=True))
    for number, i in enumerate(x for x in left if x not in names):
        names[i] = softmax.free + number
    a, b = (tuple(names[i] for i in x) for x in (left, right))
    for (g, v), (g_letters, v_letters) in (
        (product.srcs, (a, b)),
        (product.srcs[::-1], (b, a)),
    ):
        if softmax.keys <= set(v_letters) and not softmax.keys & set(g_letters):
            return Slope(d_t, v, g, v_letters, g_letters)
    return None


# The products that read weights and gradients -----------------------------------------------------


def _parts(softmax: Softmax, products: Sequence[Node], room: int) -> dict[int, Part]:
    """Return the parts of one attention, by the id of the EINSUM."""
    found: dict[int, Part] = {}
    for node in products:
        for which in (0, 1):
            part = _part(softmax, node, which)
            if part is not None and _worth(part, room):
                found[id(node)] = part
                break
    # dK and dV share a kernel: they get the same operands.
    twins = {id(p.slope): p for p in found.values() if p.name == "dk"}
    for key, part in found.items():
        twin = twins.get(id(part.slope))
        if part.name == "dv" and twin is not None:
            found[key] = replace(part, d_s=twin.d_s, d_s_letters=twin.d_s_letters)
    return found


def _worth(part: Part, room: int) -> bool:
    own = part.softmax
    types = {n.dtype.compute for n in (own.q, own.k, part.v, own.t)}
    widths = [
        size_of(tuple(n for x, n in zip(letters, node.shape, strict=True) if x >= own.rank))
        for letters, node in ((own.q_letters, own.q), (part.v_letters, part.v))
    ]
    batch = own.batch(part.v_letters)
    m = size_of(tuple(n for a, n in enumerate(own.t.shape) if a not in batch and a not in own.axes))
    fits = (
        m >= _LEAST_QUERIES and len(types) == 1 and sum(widths) * width(own.t.dtype.compute) <= room
    )
    return fits and own.t.size * sum(widths) >= _LEAST_WORK


def _part(softmax: Softmax, node: Node, which: int) -> Part | None:
    """Return the part that an EINSUM is with operand number `which` P or dS."""
    base, views = _through(node.srcs[which])
    places = _below(views, node.srcs[which].shape)
    if places is None:
        return None
    if id(base) in softmax.weights:
        return _of_weights(softmax, node, which, _inverse(places, len(node.arg[which])))
    slope = _slope_below(base, softmax)
    chain = None if slope is None else _axes_at(base, slope.d_t)
    if slope is None or chain is None:
        return None
    # T's axis a is axis chain[a] of dS, which is axis places[chain[a]] of the operand.
    letters = _inverse([places[x] if x >= 0 else -1 for x in chain], len(node.arg[which]))
    names = {i: x for i, x in zip(node.arg[which], letters, strict=True) if x >= 0}
    other, theirs = node.srcs[1 - which], node.arg[1 - which]
    for name, operand, axes, wanted in (
        ("dq", softmax.k, softmax.k_letters, softmax.q_letters),
        ("dk", softmax.q, softmax.q_letters, softmax.k_letters),
    ):
        both = dict(names)
        agree = all(both.setdefault(i, x) == x for i, x in zip(theirs, axes, strict=False))
        result = tuple(both.get(i, -1) for i in node.arg[2])
        whole = softmax.batch(slope.v_letters) <= set(wanted)
        if other is operand and agree and whole and sorted(result) == sorted(wanted):
            d_s = _with_ones(_inverse(chain, len(base.shape)), softmax)
            return Part(softmax, name, result, slope.v, slope.v_letters, slope, base, d_s)
    return None


def _slope_below(node: Node, softmax: Softmax) -> Slope | None:
    """Return the gradient dT that an expression is made of."""
    stack = [node]
    seen: set[int] = set()
    while stack and len(seen) <= _MOST_SEEN and softmax.slopes:
        node = stack.pop()
        if id(node) in softmax.slopes:
            return softmax.slopes[id(node)]
        if id(node) not in seen and _inside(node):
            seen.add(id(node))
            stack.extend(reversed(node.srcs))
    return None


def _with_ones(letters: Letters, softmax: Softmax) -> Letters:
    """Return letters with one of its own for every axis of extent 1."""
    first = 2 * softmax.free + len(letters)
    return tuple(x if x >= 0 else first + a for a, x in enumerate(letters))


def _of_weights(softmax: Softmax, node: Node, which: int, letters: Letters) -> Part | None:
    """Return the part ``out`` or ``dv`` that a product with the weights is."""
    mine, theirs, output = node.arg[which], node.arg[1 - which], node.arg[2]
    other = node.srcs[1 - which]
    names = {i: x for i, x in zip(mine, letters, strict=True) if x >= 0}
    summed = {x for i, x in names.items() if i not in output}
    for number, i in enumerate(x for x in theirs if x not in names):
        names[i] = softmax.free + number
    other_letters = tuple(names[i] for i in theirs)
    result = tuple(names.get(i, -1) for i in output)
    if -1 in result:
        return None
    if summed == softmax.keys:
        return Part(softmax, "out", result, other, other_letters)
    for slope in softmax.slopes.values():
        renamed = dict(zip(other_letters, slope.g_letters, strict=False))
        letters = tuple(renamed.get(x, x) for x in result)
        whole = softmax.batch(slope.v_letters) <= set(slope.v_letters)
        if slope.g is other and whole and sorted(letters) == sorted(slope.v_letters):
            return Part(softmax, "dv", letters, slope.v, slope.v_letters, slope)
    return None
