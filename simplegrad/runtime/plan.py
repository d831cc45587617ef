"""A plan: the compiled launches of one graph structure, ready to run again and again.

Kernels are fetched once, each launch having its own, and an argument is set only where it differs
from the last run's. Memory is planned too: temporaries and results share *cells*, so that a cell
whose content nobody reads any more takes the next value of its size. The pool hands back the
cells of the run before, so that in a loop few arguments ever change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import compress, repeat
from operator import itemgetter, ne
from time import perf_counter_ns
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.compiler.program import Program
from simplegrad.graph.node import Node
from simplegrad.runtime import counting
from simplegrad.runtime.cells import cells
from simplegrad.runtime.device import Device
from simplegrad.runtime.donation import Watch

_Users = list[tuple[Callable[[int, Any], None], int]]
"""Who takes an argument: the kernels' setters, and the argument's number there."""


class Binding:
    """The kernels of a program, and what each of their arguments is bound to."""

    def __init__(self, program: Program, device: Device) -> None:
        scalars = {i for i, s in enumerate(program.slots) if s.role == "scalar"}
        self.kernels: list[Any] = []
        self.setters: list[Any] = []
        """Per kernel what sets a number."""
        self.sized_for: Plan | None = None
        """The plan whose sizes are set, where they are arguments."""
        self.numbers_of: Mapping[int, Node] | None = None
        """Whose numbers are set, where all of them are one caller's."""
        self.users: list[_Users] = [[] for _ in program.slots]
        self.last: list[Any] = [None] * len(program.slots)
        """Per slot the driver's memory, or the user's number, that was set last."""
        built = device.compile_all([launch.source for launch in program.launches])
        for launch, source in zip(program.launches, built, strict=True):
            kernel = source.kernel(launch.source.kernel_name)
            self.kernels.append(kernel)
            # PyOpenCL's set_arg tries every kind of memory object before a number: 16 us, not 0.2.
            set_number = getattr(kernel, "_set_arg_buf", kernel.set_arg)
            self.setters.append(set_number)
            for i, slot in enumerate(launch.slots):
                self.users[slot].append((set_number if slot in scalars else kernel.set_arg, i))

    def set_buffer(self, slot: int, raw: Any) -> None:
        """Set the arguments of a slot to the driver's memory."""
        if raw is not self.last[slot]:
            self.last[slot] = None  # unknown, should Ctrl-C come in between
            for set_arg, i in self.users[slot]:
                set_arg(i, raw)
            self.last[slot] = raw

    def set_numbers(
        self,
        scalars: Sequence[tuple[int, int, dtypes.DType]],
        order: Sequence[Node] | Mapping[int, Node],
    ) -> None:
        """Set the arguments whose number is not that of the last run."""
        last = self.last
        self.numbers_of = None
        for slot, position, dtype in scalars:
            value, before = order[position].value, last[slot]
            # 0.0 equals -0.0, and False 0: such pairs must not be taken for each other.
            if value is before or (value == before != 0 and type(value) is type(before)):
                continue
            number = scalar_argument(value, dtype)
            last[slot] = None
            for set_number, i in self.users[slot]:
                set_number(i, number)
            last[slot] = value


class _Layout:
    """What a plan knows of a program whatever the sizes, as long as the same ones are equal."""

    def __init__(self, program: Program, size_of: Sequence[int]) -> None:
        found = cells(program, size_of)
        slots = list(enumerate(program.slots))
        self.leaves = [(i, s.position) for i, s in slots if s.role == "leaf"]
        self.scalars = [
            (i, s.position, dtypes.of(s.name)) for i, s in slots if s.role == "scalar"
        ]  # fmt: skip
        self.firsts, self.lasting = found.firsts, found.lasting
        leaves = {slot: i for i, (slot, _) in enumerate(self.leaves)}
        count = len(leaves)
        places = leaves | {slot: count + cell for slot, cell in found.of.items()}
        self.slots: list[list[int]] = [[] for _ in range(count + len(self.firsts))]
        """The slots of each leaf and cell."""
        for slot, place in places.items():
            self.slots[place].append(slot)
        self.heirs = [(leaves[slot], cell) for slot, cell in found.heirs]
        # A target may be an input as it stands, or share its memory with another target.
        self.pick = _picker([places[slot] for slot in program.results])
        self.watch: Watch | None = None
        """What tells whether inputs die."""


class Plan:
    """The launches of one `Program` on one device.

    `like` is a plan of it for other shapes, or for a graph of another form, whose nodes stand at
    other places: `form` tells it from others.
    """

    def __init__(
        self, program: Program, device: Device, like: Plan | None = None, form: Any = None
    ) -> None:
        self.program, self.device = program, device
        lengths = [0 if s.role == "scalar" else s.nbytes for s in program.slots]
        classes = {length: device.size_class(length) for length in {*lengths}}
        size_of = [classes[length] for length in lengths]
        first_of: dict[int, int] = {}
        equal = tuple([first_of.setdefault(size, i) for i, size in enumerate(size_of)])
        key = (equal, form, tuple([s.position for s in program.slots]), tuple(program.results))
        self._layouts: dict[Any, _Layout] = like._layouts if like else {}
        """By which sizes are equal (per slot the first of its size), by form, and by places."""
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[key] = _Layout(program, size_of)
        self.layout = layout
        self.leaves, self.scalars = layout.leaves, layout.scalars
        self.cells = [size_of[slot] for slot in layout.firsts]
        self.heirs = layout.heirs
        """(input, cell) by rising cell: the cell may begin as that input's buffer, if it dies."""
        self.mortal = [(self.leaves[i][1], self.cells[cell]) for i, cell in self.heirs]
        """Of each heir the input's place in the order, and the bytes of the cell."""
        self.binding: Binding = like.binding if like else Binding(program, device)
        # Sizes that differ from shape to shape follow all other arguments.
        self._extents = [
            (kernel, i, _SIZES[ctype](n))
            for kernel, launch in enumerate(program.launches)
            for i, (n, ctype) in enumerate(launch.source.numbers, len(launch.slots))
        ]
        self.sizes = [(x.source.global_size,) for x in program.launches]
        self.groups = [(x.source.local_size,) for x in program.launches]
        self.inner: Sequence[Node] = ()
        """Constants that are arguments, though the graph folds them: they end its order."""
        self._last: list[int] = []
        """Which memory the driver had for leaves and cells in the last run."""
        self._left: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
        """The sizes of the cells that are left to allocate, by the inputs that become cells."""

    def keeping(self, results: Sequence[int]) -> Plan:
        """Return this plan with some of its results alone, by number; others are temporaries."""
        program = replace(self.program, results=[self.program.results[i] for i in results])
        plan = Plan(program, self.device, like=self, form=("keeping", *results))
        plan.inner = self.inner
        return plan

    def run(
        self, order: Sequence[Node], counted: bool = True, dying: Sequence[int] = (),
        into: Sequence[Node] = (),
    ) -> Sequence[Any]:  # fmt: skip
        """Enqueue the launches over the leaves of `order`; return a buffer per target.

        Open profiles see them unless `counted` is false. `dying` are those of `heirs`, by number,
        whose buffer nobody reads afterwards. `into` are the targets, if they are to have their
        buffers: Ctrl-C leaves none of them with one, or all.
        """
        if self.inner:
            order = [*order, *self.inner]
        buffers = [order[i].buffer for _, i in self.leaves]
        with self.device.lock:
            self.binding.set_numbers(self.scalars, order)
            return self._run(buffers, counted, tuple(dying), into)

    def replay(
        self, buffers: list[Any], numbers: Mapping[int, Node], changed: Sequence[int],
        dying: tuple[int, ...] = (),
    ) -> Sequence[Any]:  # fmt: skip
        """As `run`, over the `buffers` of the leaves; `numbers` are nodes by place in the order.

        Between two runs with the same `numbers` only `changed` ones (places in `scalars`) change.
        """
        with self.device.lock:
            binding = self.binding
            known = binding.numbers_of is numbers
            wanted = [self.scalars[i] for i in changed] if known else self.scalars
            if wanted:
                binding.set_numbers(wanted, numbers)
            binding.numbers_of = numbers
            return self._run(buffers, True, dying)

    def _run(
        self, buffers: list[Any], counted: bool, dying: tuple[int, ...], into: Sequence[Node] = ()
    ) -> Sequence[Any]:
        """Enqueue the launches, whose numbers are set; the device's lock is held."""
        device, binding = self.device, self.binding
        lasting, passing = self._left.get(dying) or self._sizes_without(dying)
        made = device.allocate_all(lasting)
        try:
            between = device.borrow(passing) if passing else []
            for heir in dying:
                leaf, cell = self.heirs[heir]
                if cell < self.layout.lasting:
                    made.insert(cell, buffers[leaf])
                else:
                    between.insert(cell - self.layout.lasting, buffers[leaf].raw)
            raws = [b.raw for b in (*buffers, *made)]
            raws += between
            if binding.sized_for is not self:
                binding.sized_for = None
                for kernel, i, extent in self._extents:
                    binding.setters[kernel](i, extent)
                binding.sized_for = self
                self._last = []
            which = list(map(id, raws))  # the binding keeps them alive
            if which != self._last:
                changed = map(ne, which, self._last) if self._last else repeat(True)
                self._last = []
                for raw, slots in compress(zip(raws, self.layout.slots, strict=True), changed):
                    for slot in slots:
                        binding.set_buffer(slot, raw)
                self._last = which
            found = self.layout.pick([*buffers, *made])
            given = map(setattr, into, repeat("buffer"), found)
            if counted and counting.profiling():
                self._run_timed()
                device.launch_all((), (), (), given)
            else:
                device.launch_all(binding.kernels, self.sizes, self.groups, given)
        finally:
            if passing:
                device.restore()
        return found

    def _sizes_without(self, dying: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Return the sizes of the cells to allocate: those with results, and those without."""
        taken = {self.heirs[heir][1] for heir in dying}
        left = [(cell, size) for cell, size in enumerate(self.cells) if cell not in taken]
        lasting = [size for cell, size in left if cell < self.layout.lasting]
        passing = [size for cell, size in left if cell >= self.layout.lasting]
        if len(self._left) < _MOST_LEFT:
            self._left[dying] = (lasting, passing)
        return lasting, passing

    def seconds(self, launches: Sequence[int]) -> float:
        """Run some launches again with the arguments of the last `run`; return their device time.

        For measuring: nobody may have freed what that run returned.
        """
        total = 0
        with self.device.lock:
            for i in launches:
                begin, end = self.device.launch_timed(
                    self.binding.kernels[i], self.sizes[i], self.groups[i]
                )
                total += end - begin
        return total * 1e-9

    def _run_timed(self) -> None:
        what = zip(
            self.program.launches, self.binding.kernels, self.sizes, self.groups, strict=True
        )
        for launch, kernel, size, group in what:
            began = perf_counter_ns()
            span = self.device.launch_timed(kernel, size, group)
            counting.count_launch(self.device, launch, span, began)


_MOST_LEFT = 16
_MOST_LAYOUTS = 64
_SIZES = {"int": np.int32, "long": np.int64}


def _picker(places: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if len(places) > 1:
        return itemgetter(*places)
    return lambda found: [found[i] for i in places]


_PLAIN = float(np.finfo(np.float32).max)


def scalar_argument(value: bool | int | float, dtype: dtypes.DType) -> Any:
    """Return a number as the C type that kernels take: the dtype's compute type."""
    if dtype is dtypes.float32 and -_PLAIN < value < _PLAIN:
        return np.float32(value)
    if dtype.kind == "b":
        return np.int32(value)
    if dtype.is_float:
        value = dtype.rounded(value)
        with np.errstate(over="ignore"):  # beyond the dtype's range is infinity, without a word
            return np.float64(value) if dtype is dtypes.float64 else np.float32(value)
    return np.array(int(value)).astype(dtype.numpy)[()]
