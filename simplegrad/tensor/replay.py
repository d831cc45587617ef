"""From the recording of one call to a trace: plans over numbered buffers.

The buffers of a call are numbered: first those of the arguments, then those of the places that
the function can see, then what each plan made. A trace says for every plan which of them are its
inputs, and which of them are the call's results and writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from simplegrad.errors import JitError
from simplegrad.graph.node import Node, Spec
from simplegrad.runtime.recording import LiveFloat, LiveInt, Recording, Run
from simplegrad.tensor.places import Place

if TYPE_CHECKING:
    from simplegrad.runtime.plan import Plan


class Result:
    """Stands for a tensor in the form of a result."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Result)

    __hash__ = object.__hash__


RESULT = Result()


@dataclass(frozen=True, eq=False)
class Step:
    """A plan, the numbers of its inputs, and its scalars by place in its graph's order."""

    plan: Plan
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    """The numbers of what it made."""
    scalars: dict[int, Node]
    live: tuple[tuple[Node, int], ...]
    """Scalars that a replay makes anew, and the action that makes them."""


@dataclass(frozen=True)
class Write:
    """What a call leaves at a place: buffer `number`, -1 if no replay computes it.

    Without a spec it leaves nothing.
    """

    place: int
    number: int
    spec: Spec | None


class Trace:
    """One recorded call."""

    def __init__(
        self, recording: Recording, arguments: Sequence[Node], places: Sequence[Place],
        before: Sequence[Node | None],
    ) -> None:  # fmt: skip
        self.actions, self.places = recording.actions, places
        self.reads: set[int] = set()
        """Numbers of the buffers of places that some plan reads."""
        self._numbers: dict[Node, int] = {}
        self._buffers: dict[int, int] = {}
        self._count = 0
        self.first_place = len(arguments)
        for node in (*arguments, *before):
            self._add(node)
        self.specs = [None if n is None else n.kind.spec for n in before]
        self.first_result = self._count
        self.steps = [self._step(run) for run in recording.runs]
        self.writes: list[Write] = []
        self.results: list[tuple[int, Spec]] = []

    def _add(self, node: Node | None) -> None:
        if node is not None:
            self._numbers.setdefault(node, self._count)
            same = self._buffers.setdefault(id(node.buffer), self._count)
            if same != self._count:
                self._buffers[id(node.buffer)] = -1  # of two nodes: only a node itself tells
        self._count += 1

    def number(self, node: Node) -> int:
        """Return the number of a node's buffer; raises `JitError` where nobody knows it."""
        found = self._numbers.get(node)
        if found is None:
            found = self._buffers.get(id(node.buffer), -1)
        if found < 0:
            raise JitError(
                f"jit: the function reads {node} of a place that cannot be watched (an object with "
                "__slots__, a generator, more than one name for one memory); pass it as an argument"
            )
        if found < self.first_result:
            self.reads.add(found)
        return found

    def _step(self, run: Run) -> Step:
        order = run.order
        inputs = tuple([self.number(order[i]) for _, i in run.plan.leaves])
        first = self._count
        for node in run.kept:
            self._add(node)
        scalars = {i: order[i] for _, i, _ in run.plan.scalars}
        live = tuple(
            [(n, n.value.action) for n in scalars.values()
             if isinstance(n.value, (LiveFloat, LiveInt))]
        )  # fmt: skip
        return Step(run.plan, inputs, tuple(range(first, self._count)), scalars, live)

    def needed(self) -> list[Step]:
        """Return the steps with those of their results alone that a replay has a use for.

        A plan also keeps what tensors held while it was recorded, such as gradients and variables
        of the function.
        """
        read = {n for step in self.steps for n in step.inputs}
        read |= {n for n, _ in self.results} | {write.number for write in self.writes}
        steps = []
        for step in self.steps:
            kept = [i for i, n in enumerate(step.outputs) if n in read]
            if len(kept) < len(step.outputs):
                outputs = tuple([step.outputs[i] for i in kept])
                step = replace(step, plan=step.plan.keeping(kept), outputs=outputs)
            steps.append(step)
        return steps

    def difference(self, other: Trace) -> str:
        """Return how a later call went otherwise, in words, or nothing."""
        if [p.name for p in self.places] != [p.name for p in other.places]:
            return "it sees other tensors than before"
        mine, theirs = [s.plan for s in self.steps], [s.plan for s in other.steps]
        if mine != theirs:
            return "it records other operations than before; see explain_plan()"
        for step, there in zip(self.steps, other.steps, strict=True):
            if step.inputs != there.inputs:
                return "its operations read other tensors than before"
            if [a for _, a in step.live] != [a for _, a in there.live]:
                return "its random draws or optimiser steps come in another order"
            fixed = {n for n, _ in step.live}
            for i, node in step.scalars.items():
                value = there.scalars[i].value
                if node not in fixed and repr(value) != repr(node.value):
                    return f"a number was {node.value!r} and is {value!r}{_reader(step, i)}"
        if (self.writes, self.results, len(self.actions)) != (
            other.writes, other.results, len(other.actions),
        ):  # fmt: skip
            return "it returns or writes other results than before"
        return ""


def _reader(step: Step, place: int) -> str:
    line = step.scalars[place].where
    return f" ({line})" if line else ""
