"""Checks of what stands between graph and kernels: canonical graph, groups, program.

Run after their passes, always in tests; `verify` does the same for kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from simplegrad import ops
from simplegrad.compiler.canonical import Canonical
from simplegrad.compiler.fuse import Group, is_leaf
from simplegrad.compiler.symbolic import current
from simplegrad.errors import VerifyError
from simplegrad.graph.infer import infer, size_of
from simplegrad.graph.node import Node, topological

if TYPE_CHECKING:
    from simplegrad.compiler.pipeline import Program

_COMPOSITE = (ops.EINSUM, ops.CUMSUM, ops.SCATTER_ADD)


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


def verify_program(program: Program) -> None:
    """Raise `VerifyError` where a launch reads memory that holds nothing, or no longer does."""
    slots = program.slots
    filled = {i for i, slot in enumerate(slots) if slot.role in ("leaf", "scalar")}
    for number, launch in enumerate(program.launches):
        written = set()
        for (body, place), slot in zip(launch.source.args, launch.slots, strict=True):
            arg = launch.kernels[body].args[place]
            if arg.role == "out":
                written.add(slot)
            elif slot not in filled:
                raise VerifyError(f"place: launch {number} reads slot {slot}, which holds nothing")
            size = 0 if slots[slot].role == "scalar" else arg.size * arg.dtype.itemsize
            if size > slots[slot].nbytes:
                raise VerifyError(f"place: slot {slot} has {slots[slot].nbytes} of {size} bytes")
        if written & {i for i, s in enumerate(slots) if s.role in ("leaf", "scalar")}:
            raise VerifyError(f"place: launch {number} writes to an operand")
        filled = (filled | written) - set(launch.release)
    missing = [s for s in program.results if s not in filled and slots[s].nbytes]
    if missing:
        raise VerifyError(f"place: results in slots {missing} are never written")
