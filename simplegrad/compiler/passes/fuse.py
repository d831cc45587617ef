"""Group nodes into kernels.

before  a canonical graph
after   groups in an order in which they can run; every node that some other group reads, or that
        is a target, is stored by the group that computes it

1. *Roots* are chosen: targets, reductions, and elementwise values that would otherwise be
   recomputed by several readers, or along a broadcast, at a cost above that of storing them.
   Everything between roots is evaluated where it is read.
2. Roots, operands first, join a group or found one. A group has one domain: the axes of its
   values, some of which its reductions reduce. A root joins if it has that domain (or the domain
   without the reduced axes), reads the group's own values only at the position at which they are
   computed, and if no cycle and no loss of parallelism comes of it.
3. A root that only its own group reads is never stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from simplegrad import ops
from simplegrad.compiler.ir.index import Index, Var, flatten, unflatten
from simplegrad.compiler.ir.symbolic import estimate
from simplegrad.compiler.passes.canonical import Canonical
from simplegrad.compiler.passes.lower import Position, source_position
from simplegrad.compiler.passes.nested_sums import behind_views
from simplegrad.graph.infer import Shape, size_of
from simplegrad.graph.node import Node, topological

MAX_NODES = 160
"""Most nodes evaluated by one kernel: keeps compile time per kernel bounded."""
MAX_INLINE = 48
"""Most nodes evaluated in place of one operand."""
CHEAP = 3
"""Cost (multiply-adds) up to which a value is recomputed rather than stored."""
CHEAP_AND_RARE = 10
"""The same for a value made of much smaller arrays, whose elements stay in the cache."""
RARE = 1 / 8
"""Reads from memory per element of such a value."""
_ALONE = (ops.ATTENTION, ops.SCAN)
SMALL = 1 << 15
"""Elements of a domain that one work-item may handle without loss."""


@dataclass(frozen=True)
class Limits:
    """What the fuser must know of a device."""

    parallel: int
    """Outer positions that keep the device busy."""
    max_args: int
    """Most kernel parameters."""


@dataclass(eq=False)
class Group:
    """The nodes of one kernel: `members` are its roots, in order."""

    number: int
    domain: Shape
    reduced: tuple[int, ...]
    """Axes of `domain` that the group's reductions reduce."""
    vars: tuple[Var, ...]
    members: list[Node] = field(default_factory=list)
    full: dict[int, bool] = field(default_factory=dict)
    """By id of a member: whether it has a value at every position of the domain."""
    reads: dict[int, Node] = field(default_factory=dict)
    """Nodes in buffers (or numbers) that the group reads, members excepted."""
    weight: int = 0
    ancestors: int = 0
    """Bit set of the groups that must run before."""
    contraction: bool = False
    alone: bool = False
    """Whether it has a kernel of its own making: a SCAN, or parts of one attention."""
    stored: list[Node] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def position(self, node: Node) -> Position:
        """Return where a member stands in this group's index variables."""
        axes: Iterable[int] = range(len(self.domain))
        if not self.full[id(node)]:
            axes = [a for a in axes if a not in self.reduced]
        shape = tuple(self.domain[a] for a in axes)
        position = tuple(Index.of(self.vars[a]) for a in axes)
        if node.op.kind == ops.REDUCE or node.shape == shape:
            return position
        return unflatten(flatten(position, shape), node.shape)


@dataclass
class Reading:
    """What evaluating one root reads: by node id, the flat positions."""

    nodes: dict[int, Node] = field(default_factory=dict)
    flats: dict[int, set[Index]] = field(default_factory=dict)
    weight: int = 0


Inline = tuple[frozenset[int], int, float]
"""What stands behind a value: the nodes evaluated in place, their cost, and the reads from memory
per element."""


class Fuser:
    """One fusion of one graph."""

    def __init__(self, canonical: Canonical, limits: Limits, fusion: bool) -> None:
        self.limits, self.fusion, self.glued = limits, fusion, canonical.glued
        self.targets = {id(t): t for t in canonical.targets}
        self.order = topological(canonical.targets)
        self.roots: dict[int, Node] = {}
        self.groups: list[Group] = []
        self.home: dict[int, Group] = {}
        self.why = ""
        """Why the last root that was tried did not fit."""
        self.by_domain: dict[tuple[Shape, tuple[int, ...]], Group] = {}

    def run(self) -> list[Group]:
        """Return the groups in the order in which they run."""
        self._choose_roots()
        for node in self.order:
            if id(node) in self.roots:
                self._place(node)
        self._mark_stored()
        return sorted(self.groups, key=lambda g: (g.ancestors.bit_count(), g.number))

    # Roots --------------------------------------------------------------------------------------

    def _choose_roots(self) -> None:
        readers: dict[int, int] = {}
        for node in self.order:
            for src in dict.fromkeys(node.srcs) if node.buffer is None else ():
                readers[id(src)] = readers.get(id(src), 0) + 1
        inline: dict[int, Inline] = {}
        none: frozenset[int] = frozenset()
        for node in self.order:
            if node.op is ops.ATTENTION:
                for src in node.srcs:  # each is read once per block of the other side
                    if id(src) not in self.glued:
                        self._store_before_repeat(src, inline)
            if node.op is ops.SCAN and node.buffer is None:
                self._store_rows(node.srcs[0], inline)
            if is_leaf(node):
                inline[id(node)] = (none, 0, 0 if node.op.kind == ops.LEAF and
                                    node.op is not ops.BUFFER else 1)  # fmt: skip
                continue
            parts = [inline[id(s)] for s in node.srcs]
            closure = frozenset((id(node),)).union(*[p[0] for p in parts])
            if len(closure) > MAX_INLINE:
                self._cut(node, inline)
                parts = [inline[id(s)] for s in node.srcs]
                closure = frozenset((id(node),)).union(*[p[0] for p in parts])
            cost = sum(p[1] for p in parts) + (0 if node.op.kind == ops.VIEW else node.op.cost)
            reads = sum(p[2] for p in parts)
            if node.op is ops.EXPAND and node.size != node.srcs[0].size:
                self._store_before_repeat(node.srcs[0], inline)
                closure, cost, reads = self._after(node, inline)
                reads *= estimate(node.srcs[0].size) / max(estimate(node.size), 1)
            inline[id(node)] = (closure, cost, reads)
            if self._is_root(node, cost, reads, readers.get(id(node), 0)):
                self.roots[id(node)] = node
                inline[id(node)] = (none, 0, 1)

    def _after(self, node: Node, inline: dict[int, Inline]) -> Inline:
        closure, cost, reads = inline[id(node.srcs[0])]
        return closure | {id(node)}, cost, reads

    def _is_root(self, node: Node, cost: int, reads: float, readers: int) -> bool:
        if id(node) in self.targets or node.op.kind == ops.REDUCE or node.op in _ALONE:
            return True
        if node.op.kind != ops.ELEMENTWISE or id(node) in self.glued:
            return False
        if not self.fusion:
            return True
        return readers > 1 and reads > 0 and (cost > cheap(reads) or reads > 2)

    def _store_before_repeat(self, node: Node, inline: dict[int, Inline]) -> None:
        """A costly value that is about to be read several times along new axes is stored."""
        source = node
        path = []
        while source.op.kind == ops.VIEW and source.buffer is None:
            path.append(source)
            source = source.srcs[0]
        _, cost, reads = inline[id(source)]
        dear = cost > cheap(reads) and not is_leaf(source) and source.op.kind == ops.ELEMENTWISE
        if dear and id(source) not in self.roots and reads:
            self.roots[id(source)] = source
            inline[id(source)] = (frozenset(), 0, 1)
            for view in reversed(path):
                inline[id(view)] = self._after(view, inline)

    def _store_rows(self, node: Node, inline: dict[int, Inline]) -> None:
        """Have a matrix stand in memory row by row, copied where it is a view."""
        while node.op is ops.RESHAPE and node.buffer is None:
            node = node.srcs[0]
        if node.buffer is None and node.op is not ops.BUFFER:
            self.roots[id(node)] = node
            inline[id(node)] = (frozenset(), 0, 1)

    def _cut(self, node: Node, inline: dict[int, Inline]) -> None:
        """Store the largest operands, so that no kernel's body grows without bound."""
        for src in sorted(node.srcs, key=lambda s: -len(inline[id(s)][0])):
            if len(inline[id(src)][0]) > MAX_INLINE // 3 and id(src) not in self.glued:
                path = []
                while src.op.kind == ops.VIEW and estimate(src.srcs[0].size) <= estimate(src.size):
                    path.append(src)  # what a padding surrounds is less to store
                    src = src.srcs[0]
                self.roots[id(src)] = src
                inline[id(src)] = (frozenset(), 0, 1)
                for view in reversed(path):
                    inline[id(view)] = self._after(view, inline)

    # Groups -------------------------------------------------------------------------------------

    def _place(self, root: Node) -> None:
        reduce = root.op.kind == ops.REDUCE
        domain = root.srcs[0].shape if reduce else root.shape
        reduced = root.arg if reduce else ()
        self.why = "fusion is off" if not self.fusion else "nothing before it has its domain"
        if root.op in _ALONE:
            self.why = f"{root.op} is a kernel of its own"
            group = self._attention_of(root)
            if group is not None:
                group.full[id(root)] = root.size == size_of(group.domain)
                self._join(root, group, self._read(root, group), ())
                return
        elif self.fusion:
            for group in self._candidates(root, domain, reduced):
                reading = self._fits(root, group, domain, reduced)
                if reading is not None:
                    self._join(root, group, reading, reduced)
                    return
        vars_ = tuple(Var(f"i{a}", n) for a, n in enumerate(domain))
        group = Group(len(self.groups), domain, reduced, vars_)
        group.reasons.append(f"{root.op} {root.where} starts a kernel: {self.why}")
        self.groups.append(group)
        group.full[id(root)] = not reduce
        group.alone = root.op in _ALONE
        reading = self._read(root, group)
        group.contraction = reduce and _is_contraction(root, reading)
        self._join(root, group, reading, reduced)
        if self.fusion and not group.alone:
            self.by_domain[(domain, reduced)] = group

    def _attention_of(self, root: Node) -> Group | None:
        """Return the group of the other part of the same attention that one kernel computes."""
        for group in self.groups:
            first = group.members[0]
            if first.op is root.op is ops.ATTENTION and first.srcs == root.srcs:
                parts = {m.arg[0] for m in (*group.members, root)}
                same = first.arg[1:-1] == root.arg[1:-1]
                if same and (parts <= {"out", "top", "total"} or parts <= {"dk", "dv"}):
                    return group
        return None

    def _candidates(self, root: Node, domain: Shape, reduced: tuple[int, ...]) -> list[Group]:
        """Return groups worth trying: producers, latest first, then one of the same domain."""
        found: dict[int, Group] = {}
        for node in self._frontier(root):
            group = self.home.get(id(node))
            if group is not None:
                found[group.number] = group
        result = [found[n] for n in sorted(found, reverse=True)]
        for key in ((domain, reduced), (domain, ())):
            sibling = self.by_domain.get(key)
            if sibling is not None and sibling.number not in found:
                result.append(sibling)
        return result

    def _frontier(self, root: Node) -> list[Node]:
        """Return the roots and leaves that evaluating `root` reads."""
        result, stack, seen = [], list(root.srcs), set()
        while stack:
            node = stack.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if id(node) in self.roots or is_leaf(node):
                result.append(node)
            else:
                stack.extend(node.srcs)
        return result

    def _fits(
        self, root: Node, group: Group, domain: Shape, reduced: tuple[int, ...]
    ) -> Reading | None:
        reduce = bool(reduced)
        size, outer = size_of(group.domain), _outer_size(group)
        if group.alone:
            self.why = f"{group.members[0].op} runs alone"
            return None
        if reduce:
            if domain != group.domain or (group.reduced and group.reduced != reduced):
                self.why = f"it reduces axes {reduced} of {domain}, the kernel before another"
                return None
            if group.contraction:
                self.why = "a contraction runs alone with what follows it"
                return None
            if not group.reduced and not self._parallel(domain, reduced):
                self.why = "in one kernel too few work-items would be left"
                return None
            full = False
        elif _ones_off(root.shape) == _ones_off(group.domain) or (
            not group.reduced and root.size == size
        ):
            full = True
            if group.contraction:
                self.why = "a contraction's products are never stored"
                return None
        elif group.reduced and root.size == outer:
            full = False
        else:
            self.why = f"its shape {root.shape} is not that of the kernel before"
            return None
        chained = bool(group.reduced) and (full or reduce)
        if chained and not self._parallel(group.domain, group.reduced):
            self.why = "in one kernel too few work-items would be left"
            return None
        group.full[id(root)] = full
        reading = self._read(root, group)
        if not self._legal(root, group, reading):
            del group.full[id(root)]
            return None
        return reading

    def _parallel(self, domain: Shape, reduced: tuple[int, ...]) -> bool:
        """Whether one work-item (or group) per outer position keeps the device busy."""
        total = estimate(size_of(domain))
        outer = total // max(estimate(size_of(tuple(domain[a] for a in reduced))), 1)
        return total <= SMALL or outer >= self.limits.parallel

    def _legal(self, root: Node, group: Group, reading: Reading) -> bool:
        related = False
        for ident, node in reading.nodes.items():
            home = self.home.get(ident)
            if home is group:
                related = True
                here = flatten(group.position(node), node.shape)
                if reading.flats[ident] != {here}:
                    self.why = f"it reads {node.op} at other positions than it is computed at"
                    return False
            elif home is not None and home.ancestors >> group.number & 1:
                self.why = "it also reads a kernel that needs the kernel before"
                return False
            elif node.size > 1 and node.op is not ops.SCALAR and ident in group.reads:
                related = True
        if not related and estimate(root.size) > SMALL:
            return False
        args = len(group.reads.keys() | reading.nodes.keys()) + 2 * len(group.members) + 2
        if args > self.limits.max_args:
            self.why = f"the device takes {self.limits.max_args} kernel parameters"
            return False
        if group.weight + reading.weight > MAX_NODES:
            self.why = f"a kernel holds at most {MAX_NODES} operations"
            return False
        return related or not group.reduced

    def _join(self, root: Node, group: Group, reading: Reading, reduced: tuple[int, ...]) -> None:
        if reduced and not group.reduced:
            if self.by_domain.get((group.domain, ())) is group:
                self.by_domain[(group.domain, reduced)] = group
            group.reduced = reduced
        group.full.setdefault(id(root), not reduced)
        group.members.append(root)
        group.weight += reading.weight
        self.home[id(root)] = group
        new = 0
        for ident, node in reading.nodes.items():
            home = self.home.get(ident)
            if home is group:
                continue
            group.reads[ident] = node
            if home is not None:
                new |= home.ancestors | 1 << home.number
        if new & ~group.ancestors:
            group.ancestors |= new
            for other in self.groups:
                if other.ancestors >> group.number & 1:
                    other.ancestors |= new

    def _read(self, root: Node, group: Group) -> Reading:
        """Return what evaluating `root` in this group's variables reads, and where."""
        reading = Reading()
        seen: set[tuple[int, Position]] = set()
        position = () if group.alone else group.position(root)
        if root.op.kind == ops.REDUCE:
            position = tuple(Index.of(v) for v in group.vars)
        stack: list[tuple[Node, Position]] = [(s, position) for s in root.srcs]
        if root.op.kind == ops.VIEW or root.op is ops.TAKE:
            stack = self._through(root, position)
        elif root.op in _ALONE:
            stack = [(s, tuple(Index.of(Var("any", n + 1)) for n in s.shape)) for s in root.srcs]
        reading.weight = 1
        while stack:
            node, position = stack.pop()
            key = (id(node), position)
            if key in seen:
                continue
            seen.add(key)
            if id(node) in self.roots or is_leaf(node):
                if node.op not in (ops.CONST, ops.IOTA, ops.GIVEN) or node.buffer is not None:
                    reading.nodes[id(node)] = node
                    flat = flatten(position, node.shape)
                    reading.flats.setdefault(id(node), set()).add(flat)
                continue
            reading.weight += node.op.kind != ops.VIEW
            stack.extend(self._through(node, position))
        return reading

    def _through(self, node: Node, position: Position) -> list[tuple[Node, Position]]:
        if node.op is ops.TAKE:
            axis, rank = node.arg, len(node.srcs[1].shape)
            # Where the source is read is known at run time only: nowhere in particular.
            source = (Index.of(Var("any", node.srcs[0].size + 1)),) * len(node.srcs[0].shape)
            return [(node.srcs[0], source), (node.srcs[1], position[axis : axis + rank])]
        if node.op.kind == ops.VIEW:
            return [(node.srcs[0], source_position(node, position)[0])]
        return [(s, position) for s in node.srcs]

    def _mark_stored(self) -> None:
        wanted = dict(self.targets)
        for group in self.groups:
            wanted.update(group.reads)
        for group in self.groups:
            group.stored = [m for m in group.members if id(m) in wanted]


def cheap(reads: float) -> int:
    """Return the cost up to which a value with so many reads per element is recomputed."""
    return CHEAP if reads > RARE else CHEAP_AND_RARE


def is_leaf(node: Node) -> bool:
    """Whether nothing has to be computed for the node."""
    return node.buffer is not None or node.op.kind == ops.LEAF


def _ones_off(shape: Shape) -> Shape:
    return tuple(n for n in shape if n != 1)


def _outer_size(group: Group) -> int:
    return size_of(tuple(n for a, n in enumerate(group.domain) if a not in group.reduced))


def _is_contraction(root: Node, reading: Reading) -> bool:
    """Whether a sum of products reads much less than it multiplies."""
    source = behind_views(root.srcs[0])
    read = sum(n.size for n in reading.nodes.values() if n.op is not ops.SCALAR)
    much = estimate(root.srcs[0].size) >= 2 * estimate(read)
    return root.op is ops.SUM and source.op is ops.MUL and much


def fuse(canonical: Canonical, limits: Limits, fusion: bool) -> Sequence[Group]:
    """Return the groups of a canonical graph, in the order in which they run."""
    return Fuser(canonical, limits, fusion).run()
