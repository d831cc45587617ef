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
from collections.abc import Callable
from dataclasses import dataclass

from simplegrad.compiler.program import Program

_FRESH = ("temp", "out")


@dataclass(frozen=True)
class Cells:
    """The cells of a program."""

    sizes: list[int]
    """In bytes."""
    of: dict[int, int]
    """The cell of every slot that is a temporary or a result."""
    heirs: list[tuple[int, int]]
    """(slot of an input, the cell that may take its buffer), by rising cell."""


@dataclass(frozen=True)
class _Birth:
    """Where a cell comes into being: its number, the launch, and who is there first."""

    cell: int
    launch: int
    slot: int


def cells(program: Program, size_class: Callable[[int], int]) -> Cells:
    """Return the cells of a program; `size_class` gives the bytes that a buffer really takes."""
    sizes: list[int] = []
    of: dict[int, int] = {}
    free: dict[int, list[int]] = {}
    births: list[_Birth] = []

    def place(slot: int, number: int) -> None:
        size = size_class(program.slots[slot].nbytes)
        idle = free.get(size)
        if idle:
            of[slot] = idle.pop()
        else:
            of[slot] = len(sizes)
            births.append(_Birth(len(sizes), number, slot))
            sizes.append(size)

    for number, launch in enumerate(program.launches):
        ending = {slot for slot in launch.release if slot in of}
        for slot in launch.slots:
            if program.slots[slot].role not in _FRESH or slot in of:
                continue
            size = size_class(program.slots[slot].nbytes)
            for read, written in launch.in_place:
                if written == slot and read in ending and sizes[of[read]] == size:
                    of[slot] = of[read]
                    ending.discard(read)
                    break
            else:
                place(slot, number)
        inherited = {of[slot] for slot in launch.slots if slot in of and slot not in launch.release}
        for slot in launch.release:
            if of[slot] not in inherited:
                free.setdefault(sizes[of[slot]], []).append(of[slot])
    for slot in program.results:
        if program.slots[slot].role in _FRESH and slot not in of:
            place(slot, len(program.launches))  # an empty array, which no launch writes
    return Cells(sizes, of, _heirs(program, births, sizes, size_class))


def _heirs(
    program: Program, births: list[_Birth], sizes: list[int], size_class: Callable[[int], int]
) -> list[tuple[int, int]]:
    """Return which input's buffer each cell may begin as."""
    last: dict[int, int] = {}
    for number, launch in enumerate(program.launches):
        for slot in launch.slots:
            if program.slots[slot].role == "leaf":
                last[slot] = number
    for slot in program.results:
        last.pop(slot, None)  # an input that is a result as it stands
    size_of = {slot: size_class(program.slots[slot].nbytes) for slot in last}
    heir: dict[int, int] = {}
    """The cell of an input."""

    def offered(birth: _Birth) -> list[int]:
        return [
            read for read, written in program.launches[birth.launch].in_place
            if written == birth.slot
            and last.get(read) == birth.launch
            and size_of[read] == sizes[birth.cell]
        ]  # fmt: skip

    # In the launch itself: as many as possible, since each result of an optimiser's kernel may
    # take what it replaces, but some may take several (Kuhn, 1955).
    options = {b.cell: offered(b) for b in births if b.launch < len(program.launches)}
    for cell in options:
        _match(cell, options, heir, set())
    # After the last launch that reads the input.
    taken = set(heir.values())
    waiting: dict[int, deque[int]] = {}
    for slot in sorted(last.keys() - heir.keys(), key=lambda slot: (last[slot], slot)):
        waiting.setdefault(size_of[slot], deque()).append(slot)
    for birth in births:
        own = waiting.get(sizes[birth.cell])
        if own and birth.cell not in taken and last[own[0]] < birth.launch:
            heir[own.popleft()] = birth.cell
    return sorted(heir.items(), key=lambda item: item[1])


def _match(
    cell: int, options: dict[int, list[int]], heir: dict[int, int], seen: set[int]
) -> bool:
    """Give a cell one of its inputs, moving others to their alternatives if need be."""
    for slot in options[cell]:
        if slot not in seen:
            seen.add(slot)
            if slot not in heir or _match(heir[slot], options, heir, seen):
                heir[slot] = cell
                return True
    return False
