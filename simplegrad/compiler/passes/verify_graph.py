"""Checks of what stands between graph and kernels: the canonical graph and its groups.

Run after their passes, always in tests; `verify` does the same for kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simplegrad import ops
from simplegrad.compiler.ir.symbolic import current
from simplegrad.compiler.passes.canonical import Canonical
from simplegrad.compiler.passes.fuse import Group, is_leaf
from simplegrad.errors import VerifyError
from simplegrad.graph.infer import infer, size_of
from simplegrad.graph.node import Node, topological

_COMPOSITE = (ops.EINSUM, ops.CUMSUM, ops.SCATTER_ADD, ops.CONCAT)


def verify_canonical(canonical: Canonical, wanted: Sequence[Node]) -> None:
    """Raise `VerifyError` where a graph is not canonical, or computes something else's shape."""
    for before, after in zip(wanted, canonical.targets, strict=True):
        if before.kind.spec is not after.kind.spec:
            raise VerifyError(f"canonicalise: target {before} became {after}")
    known: dict[tuple[int, ...], Node] = {}
    for node in topological(canonical.targets):
        if is_leaf(node):
            continue
        if node.op in _COMPOSITE:
            raise VerifyError(f"canonicalise: {node} is not primitive")
        if current() is None:  # extents that stand for any number were held equal once before
            found = infer(node.op, node.arg, tuple((s.shape, s.dtype) for s in node.srcs))
            if found != (node.shape, node.dtype):
                raise VerifyError(f"canonicalise: {node} has {found} by its rule")
        key = (node.kind.id, *[id(s) for s in node.srcs])
        if known.setdefault(key, node) is not node:
            raise VerifyError(f"canonicalise: {node} stands twice over equal operands")


def verify_groups(groups: Sequence[Group], targets: Iterable[Node]) -> None:
    """Raise `VerifyError` where a group reads what no group before it stored."""
    stored: set[int] = set()
    members: set[int] = set()
    for group in groups:
        own = {id(m) for m in group.members}
        if own & members or len(own) < len(group.members):
            raise VerifyError(f"fuse: a member of group {group.number} is computed twice")
        members |= own
        for ident, node in group.reads.items():
            if ident not in stored and ident not in own and not is_leaf(node):
                raise VerifyError(f"fuse: group {group.number} reads {node} before it is stored")
        for member in group.members:
            if group.full[id(member)] and member.size != size_of(group.domain):
                raise VerifyError(f"fuse: {member} does not fill {group.domain}")
        stored |= {id(m) for m in group.stored}
    for target in targets:
        if id(target) not in stored and not is_leaf(target):
            raise VerifyError(f"fuse: target {target} is stored by no group")
