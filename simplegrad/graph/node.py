"""The graph node: one immutable class for every operation, and how nodes are made and walked.

A node's `kind` (operation, argument, operands' shapes and dtypes, result) is interned, so that
making a node costs one dictionary look-up and comparing two costs one identity test.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Collection, Iterable, Sequence
from types import CodeType
from typing import Any, ClassVar

from simplegrad import ops
from simplegrad.dtypes import DType
from simplegrad.graph.infer import Shape, infer, size_of
from simplegrad.ops import Op

_PACKAGE = __name__.split(".", 1)[0]
MAX_KINDS = 200_000


class Spec:
    """An interned (shape, dtype)."""

    __slots__ = ("__weakref__", "dtype", "nbytes", "shape", "size")
    _all: ClassVar[weakref.WeakValueDictionary[tuple[Shape, DType], Spec]] = (
        weakref.WeakValueDictionary()
    )

    def __init__(self, shape: Shape, dtype: DType) -> None:
        self.shape, self.dtype, self.size = shape, dtype, size_of(shape)
        self.nbytes = self.size * dtype.itemsize

    @classmethod
    def of(cls, shape: Shape, dtype: DType) -> Spec:
        """Return the one object for this shape and dtype."""
        spec = cls._all.get((shape, dtype))
        if spec is None:
            spec = cls._all.setdefault((shape, dtype), cls(shape, dtype))
        return spec


class Kind:
    """An interned (operation, argument, operand specs) with its result; `id` is its key."""

    __slots__ = ("arg", "id", "ins", "op", "spec")
    _ids = itertools.count(1)

    def __init__(self, op: Op, arg: Any, ins: tuple[Spec, ...], spec: Spec) -> None:
        self.op, self.arg, self.ins, self.spec = op, arg, ins, spec
        self.id = next(self._ids)

    def describe(self) -> tuple[Any, ...]:
        """Return a description that is the same in every process (for keys on disk)."""
        ins = tuple((s.shape, s.dtype.name) for s in self.ins)
        arg = self.arg.name if isinstance(self.arg, DType) else self.arg
        return (self.op.name, arg, ins, self.spec.shape, self.spec.dtype.name)


_kinds: dict[tuple[Any, ...], Kind] = {}


class Node:
    """One operation over earlier nodes; immutable but for what execution attaches to it."""

    __slots__ = (
        "__weakref__", "below", "buffer", "depth", "device", "holders", "kind", "leaf", "line",
        "srcs", "tracks", "unread", "value",
    )  # fmt: skip

    kind: Kind
    srcs: tuple[Node, ...]
    buffer: Any
    """The data on the device once there is any, contiguous in row-major order."""
    value: Any
    """The number of a SCALAR or CONST."""
    holders: int
    """How many live tensors refer to this node; such a node keeps its buffer."""
    tracks: bool
    """Whether gradients flow through this node."""
    depth: int
    """Longest chain of operations below that are not computed yet."""
    unread: int
    """Bytes of data that operations not computed yet may hold; what is shared counts each time."""
    leaf: weakref.ref[Any] | None
    """The tensor whose ``.grad`` this node's gradient goes to, while that tensor lives."""
    below: weakref.ref[Node] | None
    """A leaf that gradients from here reach, as far as was known last (see `prune`)."""
    line: tuple[CodeType, int] | None
    device: Any

    def __init__(self, kind: Kind, srcs: tuple[Node, ...], device: Any) -> None:
        self.kind, self.srcs, self.device = kind, srcs, device
        self.buffer = self.value = self.leaf = self.line = self.below = None
        self.tracks = False
        self.holders = depth = unread = 0
        if len(srcs) == 2:
            first, second = srcs
            depth = (first.depth if first.depth > second.depth else second.depth) + 1
            unread = first.unread + second.unread
        else:
            for src in srcs:
                if src.depth >= depth:
                    depth = src.depth + 1
                unread += src.unread
        self.depth, self.unread = depth, unread

    @property
    def op(self) -> Op:
        """The row of the operations table."""
        return self.kind.op

    @property
    def arg(self) -> Any:
        """The operation's argument: axes, shape, …; see the table's comments."""
        return self.kind.arg

    @property
    def shape(self) -> Shape:
        """Extents per axis."""
        return self.kind.spec.shape

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.kind.spec.dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.kind.spec.size

    @property
    def nbytes(self) -> int:
        """Bytes of the contiguous data."""
        return self.kind.spec.nbytes

    def __repr__(self) -> str:
        arg = "" if self.arg is None else f" {self.arg}"
        return f"<{self.op}{arg} {self.dtype}{list(self.shape)}>"

    @property
    def where(self) -> str:
        """The user's source line, as ``file:line``, or an empty string."""
        return where(self.line)


def where(line: tuple[CodeType, int] | None) -> str:
    """Return the line of a node as ``file:line``, or an empty string."""
    return f"{line[0].co_filename}:{line[1]}" if line else ""


def kind_of(op: Op, arg: Any, ins: tuple[Spec, ...]) -> Kind:
    """Return the interned kind; shape and dtype errors are raised here."""
    key = (op, arg, ins)
    kind = _kinds.get(key)
    if kind is None:
        shape, dtype = infer(op, arg, [(s.shape, s.dtype) for s in ins])
        first = ins[0]
        same = shape is first.shape and dtype is first.dtype
        if len(_kinds) > MAX_KINDS:
            _kinds.clear()
        kind = _kinds[key] = Kind(op, arg, ins, first if same else Spec.of(shape, dtype))
    return kind


def kind_count() -> int:
    """Return how many kinds are interned."""
    return len(_kinds)


def make(op: Op, srcs: tuple[Node, ...], arg: Any = None, device: Any = None) -> Node:
    """Return a new node; `arg` must be hashable. No operand is changed."""
    if len(srcs) == 2:
        first, second = srcs
        ins: tuple[Spec, ...] = (first.kind.spec, second.kind.spec)
        kind = _kinds.get((op, arg, ins))
        device = device or first.device or second.device
    elif len(srcs) == 1:
        first = srcs[0]
        ins = (first.kind.spec,)
        kind = _kinds.get((op, arg, ins))
        device = device or first.device
    else:
        ins = tuple([s.kind.spec for s in srcs])
        kind = _kinds.get((op, arg, ins))
        device = device or next((s.device for s in srcs if s.device is not None), None)
    return Node(kind or kind_of(op, arg, ins), srcs, device)


def leaf(op: Op, shape: Shape, dtype: DType, arg: Any = None, device: Any = None) -> Node:
    """Return a node without operands: BUFFER, SCALAR, CONST or IOTA."""
    return leaf_of(op, Spec.of(shape, dtype), arg, device)


def leaf_of(op: Op, spec: Spec, arg: Any = None, device: Any = None) -> Node:
    """Return a node without operands, as `leaf`."""
    key = (op, arg, spec)
    kind = _kinds.get(key)
    if kind is None:
        if len(_kinds) > MAX_KINDS:
            _kinds.clear()
        kind = _kinds[key] = Kind(op, arg, (), spec)
    return Node(kind, (), device)


def leaf_over(buffer: Any, spec: Spec, device: Any) -> Node:
    """Return a leaf over data that is on a device already."""
    node = leaf_of(ops.BUFFER, spec, None, device)
    node.buffer, node.unread = buffer, spec.nbytes
    return node


def const(value: bool | int | float, spec: Spec, device: Any = None) -> Node:
    """Return a constant that is part of the program, the same for every element."""
    dtype = spec.dtype
    if dtype.is_float:
        value = dtype.rounded(float(value))
    else:
        value = bool(value) if dtype.kind == "b" else int(value)
    # repr keeps -0.0 and nan apart from 0.0, which the interning dictionary would not.
    node = leaf_of(ops.CONST, spec, repr(value), device)
    node.value = value
    return node


def const_value(node: Node) -> bool | int | float:
    """Return the number of a CONST node."""
    text = node.arg
    if node.dtype.is_float:
        return float(text)
    return text == "True" if node.dtype.kind == "b" else int(text)


def scalar(value: bool | int | float, spec: Spec, device: Any = None) -> Node:
    """Return a number, the same for every element, that is passed to kernels as an argument."""
    node = leaf_of(ops.SCALAR, spec, None, device)
    node.value = spec.dtype.rounded(value)
    return node


def topological(
    roots: Iterable[Node], *, realized: bool = False, ends: Collection[int] = ()
) -> list[Node]:
    """Return the nodes that `roots` need, operands first, each once; no recursion.

    Nodes that have a buffer count as leaves unless `realized` is true, and so do `ends`, by ``id``.
    """
    order: list[Node] = []
    seen: set[int] = set()
    stack: list[Node] = list(roots)
    stack.reverse()
    pop, push = stack.pop, stack.append
    while stack:
        node = pop()
        if node is None:  # the node below has all its operands in `order`
            order.append(pop())
            continue
        ident = id(node)
        if ident in seen:
            continue
        seen.add(ident)
        if node.srcs and (realized or node.buffer is None) and ident not in ends:
            push(node)
            push(None)  # type: ignore[arg-type]
            stack.extend(reversed(node.srcs))
        else:
            order.append(node)
    return order


_internal: dict[CodeType, bool] = {}


def user_line() -> tuple[CodeType, int] | None:
    """Return the innermost code outside this package and its line number."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        inside = _internal.get(code)
        if inside is None:
            name = frame.f_globals.get("__name__", "")
            outside = name.startswith(f"{_PACKAGE}.examples")
            inside = name.split(".", 1)[0] == _PACKAGE and not outside
            if len(_internal) > 10_000:
                _internal.clear()
            _internal[code] = inside
        if not inside:
            return code, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None


def users(order: Sequence[Node]) -> dict[int, list[Node]]:
    """Return, by ``id`` of a node, the nodes of `order` that read it."""
    result: dict[int, list[Node]] = {id(node): [] for node in order}
    for node in order:
        for src in node.srcs:
            result[id(src)].append(node)
    return result
