"""The memory of a plan: which temporaries and results share a *cell*, and which cells may begin as
the buffer of an input that dies.

A cell whose content nobody reads any more takes the next value of its size: after the launch that
reads it last, or in that launch itself where it works element by element (`Launch.in_place`). The
same holds for an input that nothing outside the plan can reach, which is known when the plan runs:
here stands which cell would take its buffer. Every input has at most one such cell, and every cell
at most one input, so that each can be decided by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from simplegrad.compiler.program import Program

_FRESH = ("temp", "out")


@dataclass(frozen=True)
class Cells:
    """The cells of a program."""

    firsts: list[int]
    """Of every cell a slot that it has the size of; those that hold a result stand first."""
    lasting: int
    """How many hold a result."""
    of: dict[int, int]
    """The cell of every slot that is a temporary or a result."""
    heirs: list[tuple[int, int]]
    """(slot of an input, the cell that may take its buffer), by rising cell."""


def cells(program: Program, size_of: Sequence[int]) -> Cells:
    """Return the cells of a program, whose slots take these bytes.

    They depend on which sizes are equal, and on nothing else about the sizes.
    """
    slots = program.slots
    last = _last_reads(program)
    firsts: list[int] = []
    of: dict[int, int] = {}
    free: dict[int, list[int]] = {}
    births: list[tuple[int, int]] = []
    """Per cell the launch that it is needed for first."""
    heirs: dict[int, int] = {}

    def new(slot: int, number: int) -> None:
        of[slot] = len(firsts)
        births.append((number, len(firsts)))
        firsts.append(slot)

    def place(slot: int, number: int, inputs: dict[int, int]) -> None:
        # A result takes an input's place even where a cell is idle: it stays when the plan is done.
        idle = free.get(size_of[slot])
        if idle and not (slot in inputs and slots[slot].role == "out"):
            of[slot] = idle.pop()
            return
        new(slot, number)
        if slot in inputs:
            heirs[inputs[slot]] = of[slot]

    for number, launch in enumerate(program.launches):
        fresh = [s for s in dict.fromkeys(launch.slots) if slots[s].role in _FRESH and s not in of]
        over = _matched(fresh, launch.in_place, {
            s: size_of[s] for s in launch.slots
            if (s in launch.release and s in of) or last.get(s) == number
        }, size_of)  # fmt: skip
        inherited = set()
        for slot in fresh:
            read = over.get(slot, -1)
            if read in of:
                of[slot] = of[read]
                inherited.add(read)
            else:
                place(slot, number, over)
        for slot in launch.release:
            if slot not in inherited:
                free.setdefault(size_of[slot], []).append(of[slot])
    for slot in program.results:
        if slots[slot].role in _FRESH and slot not in of:
            new(slot, len(program.launches))  # an empty array, which no launch writes
    # What is left of the inputs serves after the launch that reads it last.
    waiting: dict[int, deque[int]] = {}
    for slot in sorted(last.keys() - heirs.keys(), key=lambda slot: (last[slot], slot)):
        waiting.setdefault(size_of[slot], deque()).append(slot)
    taken = set(heirs.values())
    for number, cell in births:
        own = waiting.get(size_of[firsts[cell]])
        if own and cell not in taken and last[own[0]] < number:
            heirs[own.popleft()] = cell
    return _sorted(program, firsts, of, heirs)


def _sorted(
    program: Program, firsts: list[int], of: dict[int, int], heirs: dict[int, int]
) -> Cells:
    """Return the cells renumbered, so that those with a result stand first."""
    lasting = {of[slot] for slot in program.results if slot in of}
    old = [*sorted(lasting), *[c for c in range(len(firsts)) if c not in lasting]]
    new = {cell: i for i, cell in enumerate(old)}
    return Cells(
        [firsts[c] for c in old], len(lasting), {slot: new[c] for slot, c in of.items()},
        sorted(((slot, new[c]) for slot, c in heirs.items()), key=lambda item: item[1]),
    )  # fmt: skip


def _last_reads(program: Program) -> dict[int, int]:
    """Return the last launch that reads each input, but for those that are results as well."""
    last = {
        slot: number
        for number, launch in enumerate(program.launches)
        for slot in launch.slots
        if program.slots[slot].role == "leaf"
    }
    for slot in program.results:
        last.pop(slot, None)
    return last


def _matched(
    fresh: Sequence[int], pairs: Sequence[tuple[int, int]], ending: dict[int, int],
    size_of: Sequence[int],
) -> dict[int, int]:  # fmt: skip
    """Return which of the slots that end here each fresh one is written over.

    As many as possible: of an optimiser's results each may take what it replaces, but some may
    take several (augmenting paths: Kuhn, 1955).
    """
    options = {
        slot: [r for r, w in pairs if w == slot and ending.get(r) == size_of[slot]]
        for slot in fresh
    }  # fmt: skip
    taker: dict[int, int] = {}

    def match(slot: int, seen: set[int]) -> bool:
        for read in options[slot]:
            if read not in seen:
                seen.add(read)
                if read not in taker or match(taker[read], seen):
                    taker[read] = slot
                    return True
        return False

    for slot in fresh:
        match(slot, set())
    return {slot: read for read, slot in taker.items()}
