"""The verifiers of canonical graphs, groups and programs: planted faults are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from simplegrad import dtypes, ops
from simplegrad.compiler.passes.canonical import Canonical, canonicalise
from simplegrad.compiler.passes.fuse import Group, fuse
from simplegrad.compiler.passes.verify_graph import verify_canonical, verify_groups
from simplegrad.compiler.pipeline import compile_graph, device_limits
from simplegrad.compiler.program import Program, verify_program
from simplegrad.compiler.target import Target
from simplegrad.errors import VerifyError
from simplegrad.graph import build
from simplegrad.graph.node import Node, leaf, make, topological

TARGET = Target(family="cpu", vector_width=8, compute_units=2)


def _graph() -> Node:
    """Two kernels: a sum over rows, and a product that reads it at other positions."""
    x = leaf(ops.BUFFER, (64, 48), dtypes.float32)
    total = build.reduce(ops.SUM, build.apply(ops.EXP, x), (0,))
    again = build.reduce(ops.MAX, build.broadcast_to(total, (64, 48)), (1,))
    return build.apply(ops.MUL, again, again)


def _canonical() -> tuple[Canonical, list[Node]]:
    targets = [_graph()]
    return canonicalise(topological(targets), targets), targets


def _groups() -> tuple[list[Group], list[Node]]:
    canonical, _ = _canonical()
    groups = list(fuse(canonical, device_limits(TARGET), True))
    assert len(groups) == 2
    return groups, canonical.targets


def _program() -> Program:
    target = _graph()
    program = compile_graph(topological([target]), [target], TARGET, True)
    assert len(program.launches) >= 2
    return program


def test_what_the_passes_make_is_accepted() -> None:
    verify_canonical(*_canonical())
    verify_groups(*_groups())
    verify_program(_program())


def test_a_composite_that_was_left_is_found() -> None:
    x = leaf(ops.BUFFER, (4, 5), dtypes.float32)
    total = make(ops.CUMSUM, (x,), 1)
    with pytest.raises(VerifyError, match="is not primitive"):
        verify_canonical(Canonical([total], set()), [total])


def test_equal_nodes_that_were_not_merged_are_found() -> None:
    x = leaf(ops.BUFFER, (4, 5), dtypes.float32)
    one, other = (build.apply(ops.EXP, x) for _ in range(2))
    both = build.apply(ops.ADD, one, other)
    with pytest.raises(VerifyError, match="stands twice"):
        verify_canonical(Canonical([both], set()), [both])


def test_a_target_of_another_shape_is_found() -> None:
    canonical, targets = _canonical()
    canonical.targets[0] = build.reshape(canonical.targets[0], (8, 8))
    with pytest.raises(VerifyError, match="became"):
        verify_canonical(canonical, targets)


def _reversed(groups: list[Group]) -> None:
    groups.reverse()


def _not_stored(groups: list[Group]) -> None:
    groups[0].stored = []


def _target_not_stored(groups: list[Group]) -> None:
    groups[-1].stored = []


def _twice(groups: list[Group]) -> None:
    groups[1].members.append(groups[0].members[0])


def _too_small(groups: list[Group]) -> None:
    groups[0].full[id(groups[0].members[0])] = True


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_reversed, "before it is stored"),
        (_not_stored, "before it is stored"),
        (_target_not_stored, "stored by no group"),
        (_twice, "computed twice"),
        (_too_small, "does not fill"),
    ],
)
def test_faults_of_groups_are_found(fault: Callable[[list[Group]], None], said: str) -> None:
    groups, targets = _groups()
    fault(groups)
    with pytest.raises(VerifyError, match=said):
        verify_groups(groups, targets)


def _swapped(program: Program) -> None:
    program.launches.reverse()


def _released(program: Program) -> None:
    slot = next(i for i, s in enumerate(program.slots) if s.role == "temp")
    program.launches[0] = replace(program.launches[0], release=(slot,))


def _small(program: Program) -> None:
    slot = program.results[0]
    program.slots[slot] = replace(program.slots[slot], nbytes=4)


def _written(program: Program) -> None:
    slot = program.results[0]
    program.slots[slot] = replace(program.slots[slot], role="leaf")


def _never(program: Program) -> None:
    program.launches.pop()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_swapped, "holds nothing"),
        (_released, "holds nothing"),
        (_small, "has 4 of"),
        (_written, "writes to an operand"),
        (_never, "never written"),
    ],
)
def test_faults_of_programs_are_found(fault: Callable[[Any], None], said: str) -> None:
    program = _program()
    fault(program)
    with pytest.raises(VerifyError, match=said):
        verify_program(program)
