"""What a plan runs, and the last pass, which places it: slots, launches and lifetimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from simplegrad import ops
from simplegrad.compiler.ir.kernel import Kernel
from simplegrad.compiler.passes.groups import Lowered
from simplegrad.compiler.passes.settle import settled
from simplegrad.compiler.render.assemble import Source, assemble
from simplegrad.compiler.render.emit import Body
from simplegrad.errors import VerifyError
from simplegrad.graph.node import Node


@dataclass(frozen=True)
class Slot:
    """What a kernel parameter is bound to when a plan runs."""

    role: str
    """``leaf`` and ``scalar``: node `position` of the plan's order; ``temp``; ``out``."""
    position: int = -1
    nbytes: int = 0
    name: str = ""
    """dtype of a scalar."""


@dataclass(frozen=True, eq=False)
class Launch:
    """One kernel launch: its source, and a slot per parameter."""

    source: Source
    slots: tuple[int, ...]
    bytes_read: int
    bytes_written: int
    kernels: tuple[Kernel, ...]
    reasons: tuple[str, ...]
    release: tuple[int, ...] = ()
    """Slots whose buffer nobody reads after this launch."""
    in_place: tuple[tuple[int, int], ...] = ()
    """Slots (read, written) that may be one memory, as far as this launch goes."""
    symbols: tuple[int, ...] = ()
    """The numbers of the symbols, where `kernels` are over extents that stand for any number."""

    def settled(self) -> tuple[Kernel, ...]:
        """Return the kernels with plain ints everywhere."""
        return (
            tuple(settled(k, self.symbols) for k in self.kernels) if self.symbols else self.kernels
        )


@dataclass(eq=False)
class Program:
    """Everything needed to run one graph structure: no graph node is kept."""

    slots: list[Slot] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    results: list[int] = field(default_factory=list)
    """The slot of each target."""


class Placer:
    """Gives every node that stands in memory a slot, and finds the slots' last uses."""

    def __init__(self, program: Program, order: Sequence[Node]) -> None:
        self.program = program
        self.positions = {id(n): i for i, n in enumerate(order)}
        self.slots: dict[int, int] = {}

    def slot(self, node: Node) -> int:
        """Return the slot of a node, a new one on first sight."""
        number = self.slots.get(id(node))
        if number is None:
            number = self.slots[id(node)] = len(self.program.slots)
            self.program.slots.append(self._new(node))
        return number

    def _new(self, node: Node) -> Slot:
        position = self.positions.get(id(node), -1)
        if node.op is ops.SCALAR and node.buffer is None:
            return Slot("scalar", position, 0, node.dtype.name)
        if node.buffer is not None or (node.op is ops.BUFFER and position >= 0):
            return Slot("leaf", position, node.nbytes)
        return Slot("temp", -1, node.nbytes)

    def result(self, node: Node) -> int:
        """Return the slot that holds a target, marked as living on."""
        number = self.slot(node)
        slot = self.program.slots[number]
        if slot.role == "temp":
            self.program.slots[number] = Slot("out", -1, slot.nbytes)
        return number

    def launch(self, lowered: Sequence[Lowered], bodies: Sequence[Body]) -> None:
        """Add one launch of several bodies."""
        names = dict.fromkeys(low.kernel.name.removeprefix("k_") for low in lowered)
        name = "k_" + "_".join(names)[:60]
        source = assemble(name, bodies)
        slots = tuple(self.slot(lowered[b].nodes[a]) for b, a in source.args)
        read = written = 0
        for low in lowered:
            for arg in low.kernel.args:
                if arg.role == "in":
                    read += arg.size * arg.dtype.itemsize
                elif arg.role == "out":
                    written += arg.size * arg.dtype.itemsize
        kernels = tuple(low.kernel for low in lowered)
        reasons = tuple(r for low in lowered for r in low.group.reasons)
        # Other bodies run at the same time: none of them may read what is written over.
        places = dict(zip(source.args, slots, strict=True))
        shared = tuple([
            (places[b, i], places[b, o])
            for b, body in enumerate(bodies)
            for i, o in body.in_place
            if slots.count(places[b, i]) == 1
        ])  # fmt: skip
        self.program.launches.append(
            Launch(source, slots, read, written, kernels, reasons, in_place=shared)
        )

    def lifetimes(self) -> None:
        """Note after which launch each temporary is free."""
        last: dict[int, int] = {}
        for i, launch in enumerate(self.program.launches):
            for number in launch.slots:
                if self.program.slots[number].role == "temp":
                    last[number] = i
        freed: dict[int, list[int]] = {}
        for number, i in last.items():
            freed.setdefault(i, []).append(number)
        for i, numbers in freed.items():
            self.program.launches[i] = replace(self.program.launches[i], release=tuple(numbers))


def verify_program(program: Program) -> None:
    """Raise `VerifyError` where a launch reads memory that holds nothing, or no longer does."""
    slots = program.slots
    operands = {i for i, slot in enumerate(slots) if slot.role in ("leaf", "scalar")}
    filled = set(operands)
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
        if written & operands:
            raise VerifyError(f"place: launch {number} writes to an operand")
        filled |= written
        filled.difference_update(launch.release)
    missing = [s for s in program.results if s not in filled and slots[s].nbytes]
    if missing:
        raise VerifyError(f"place: results in slots {missing} are never written")
