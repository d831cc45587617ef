"""CPU family: one work-item a strip, explicit vectors along one lane axis, no barriers.

Three forms, by where the lane axis lies:

    columns   an outer axis, few reduced elements: for each vector of results, everything that
              is reduced into it, in registers (plain elementwise kernels are this form)
    strips    an outer axis, many reduced elements: accumulators of a strip of results stand in a
              private array, and the rows above the strip are streamed
    rows      a reduce axis: several vector accumulators run along it and are folded at the end

Without a lane axis the form is `columns` with scalars. A work-item takes a run of consecutive
units; a unit is a point of some outer axes and, where these are few, a block of the lane axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from simplegrad.compiler.ir import in_place
from simplegrad.compiler.ir.axes import Stage, cost, kept_values, merge_axes, size
from simplegrad.compiler.ir.index import Index, Var
from simplegrad.compiler.ir.kernel import Kernel, Value
from simplegrad.compiler.ir.symbolic import ceil_div, estimate, greater, lesser, symbolic
from simplegrad.compiler.render import accumulate
from simplegrad.compiler.render.ctext import vector
from simplegrad.compiler.render.emit import Body, Kept
from simplegrad.compiler.render.nest import Nest
from simplegrad.compiler.render.prefetch import LINE, Fetch, fetches, reads_ahead
from simplegrad.compiler.target import Target

_MIN_WORK = 1 << 14
"""Elements worth a work-item of their own."""
_PER_UNIT = 8
"""Work-items per compute unit, so that a slow one does not hold up the rest."""
_FEW = 16
"""Reduced elements up to which `columns` beats `strips`."""
_STRIP = 2048
"""Most results of a strip: 8 KiB of float accumulators, rows read in runs of as much."""
_ROWS = 4
"""Rows of a strip read at a time, to spare reads and writes of the accumulators."""
_LONG = 1 << 12
"""Elements of a block that is read from two places at a time."""
_CHEAP, _DEAR = 8, 60
"""Multiply-adds of a step up to which memory is what it waits for, and beyond which one step at a
time is enough."""
_MOST_KEPT = 8192
"""Elements of a row up to which a dear value is kept in a private array."""


def render(kernel: Kernel, target: Target) -> Body:
    """Return the OpenCL C of one kernel for a CPU."""
    return _Renderer(merge_axes(kernel), target).body()


@dataclass
class _Accumulator:
    """The C variables of one reduction: `vectors` of them, and one for what is left over."""

    vectors: list[list[str]]
    scalar: list[str]


class _Renderer(Nest):
    def __init__(self, kernel: Kernel, target: Target) -> None:
        super().__init__(kernel, target, target.vector_width)
        positions = any(accumulate.is_position(r) for r in kernel.reductions)
        if positions and self.lane in kernel.reduce[:-1]:
            self.lane = None  # along it positions would not come in rising order
        self.width = self._width()
        self.repeats = False
        """Whether some elements are computed twice, in vectors that overlap."""
        reduced = estimate(size(kernel.reduce))
        if self.lane in kernel.reduce:
            self.form = "rows"
        elif self.lane is not None and self.stages and reduced > _FEW:
            self.form = "strips"
        else:
            self.form = "columns"
        self.beside, self.count = self._side_by_side()
        """The outer axis of which several rows are reduced at a time, and how many."""

    def _width(self) -> int:
        """Return the lanes: a register of 4-byte numbers, less for a short axis."""
        if self.lane is None:
            return 1
        lanes = self.target.vector_width
        if not symbolic(self.lane.extent):
            lanes = min(self.lane.extent, lanes)
        return 1 << (lanes.bit_length() - 1)

    def _how(self) -> str:
        return f"{self.form}, {self.width} lanes along {self.e.name(self.lane)}" if self.lane else (
            f"{self.form}, scalars"
        )  # fmt: skip

    def _side_by_side(self) -> tuple[Var | None, int]:
        """Return the outer axis whose rows are read several at a time, and how many.

        Several streams, each in pages of its own, keep more of the memory busy than one does.
        """
        kernel, plain = self.kernel, (None, 1)
        if self.form != "rows" or len(self.stages) != 1 or self.stages[0].outputs:
            return plain
        reductions, outer = kernel.reductions, kernel.outer
        positions = any(accumulate.is_position(r) for r in reductions)
        dear = len(reductions) > 1 or cost([r.value for r in reductions]) > _CHEAP
        sizes = [v.extent for v in (*outer, *kernel.reduce)]
        if positions or dear or not outer or any(map(symbolic, sizes)):
            return plain
        if self.kernel.split is not None and not self.even_split():
            return plain
        busy = _PER_UNIT * self.target.compute_units
        for count in (4, 2):
            if outer[-1].extent % count == 0 and size(outer) >= count * busy:
                return outer[-1], count
        return plain

    # Units of work --------------------------------------------------------------------------------

    def body(self) -> Body:
        """Return the finished body."""
        kernel, lane = self.kernel, self.lane
        work = size((*kernel.outer, *kernel.reduce))
        most = _PER_UNIT * self.target.compute_units
        wanted = greater(1, lesser(most, work // _MIN_WORK))
        likely = most if symbolic(wanted) else wanted
        free = [v for v in kernel.outer if v is not lane]
        # The fewest leading axes that give enough units; the others are loops inside.
        unit_axes: list[Var] = []
        while free and (estimate(size(unit_axes)) < 4 * likely or not unit_axes) and likely > 1:
            unit_axes.append(free.pop(0))
        if lane is not None and not symbolic(lane.extent):
            block, blocks = self._blocks(estimate(size(unit_axes)), likely)
        else:
            block, blocks = self._blocks(size(unit_axes), wanted)
        units = size(unit_axes) // (self.count if self.beside in unit_axes else 1) * blocks
        groups = greater(1, lesser(wanted, units))
        chunk = ceil_div(units, groups) if units != 0 else 1
        groups = greater(1, ceil_div(units, chunk))
        depth = self._open_units(unit_axes, blocks, units, chunk, groups)
        for var in free:
            self.open_loop(var, "0", str(var.extent), self.count if var is self.beside else 1)
        begin, end = "0", str(lane.extent if lane else 1)
        if blocks != 1:
            begin, end = self.e.fresh("begin"), self.e.fresh("end")
            self.e.line(f"const {self.int_type} {begin} = unit % {blocks} * {block};")
            self.e.line(f"const {self.int_type} {end} = {self._min(begin, block, lane)};")
        getattr(self, f"_{self.form}")(begin, end, block, blocks)
        for _ in range(depth + len(free)):
            self.e.close()
        return Body(
            kernel.name, self.e.finish(), tuple(self.e.helpers), kernel.args, groups, 1,
            comment=self.comment(self._how()), index_type=self.int_type,
            in_place=() if self.repeats else in_place.pairs(kernel),
        )  # fmt: skip

    def _min(self, begin: str, block: int, lane: Var | None) -> str:
        extent = lane.extent if lane else 1
        return f"min({begin} + {block}, ({self.int_type}){extent})"

    def _blocks(self, units: int, wanted: int) -> tuple[int, int]:
        """Return the length and number of the parts that an outer lane axis is cut into."""
        lane = self.lane
        if lane is None or self.form == "rows" or lane.extent == 0:
            return (lane.extent if lane else 1), 1
        block = ceil_div(lane.extent, ceil_div(wanted, greater(units, 1)))
        if self.form == "strips":
            # Long runs along a row matter more than many units: a row apart is a page apart.
            block = greater(block, ceil_div(lane.extent, self._units_at_least(units)))
            block = min(estimate(block), _STRIP)  # the length of an array
        if block != lane.extent:
            step = self.width * 4 if estimate(block) >= self.width * 16 else self.width
            block = ceil_div(block, step) * step
        return block, greater(1, ceil_div(lane.extent, block))

    def _units_at_least(self, units: int) -> int:
        return ceil_div(self.target.compute_units, greater(units, 1))

    def _open_units(self, axes: list[Var], blocks: int, units: int, chunk: int, groups: int) -> int:
        """Open the loop over a work-item's units; return the number of scopes opened."""
        depth, e = 0, self.e
        if units in (0, 1):
            for var in axes:
                e.bind(var, "0")
            if units == 0:
                e.open("for (int unit = 0; unit < 0; ++unit)")
            return int(units == 0)
        if chunk == 1:
            e.line(f"const {self.int_type} unit = id;")
        else:
            first = f"{self.int_type} unit = ({self.int_type})id * {chunk}"
            last = f"unit_end = min(unit + {chunk}, ({self.int_type}){units})"
            e.open(f"for ({first}, {last}; unit < unit_end; ++unit)")
            depth = 1
        stride = blocks
        for i, var in reversed(list(enumerate(axes))):
            step = self.count if var is self.beside else 1
            text = f"unit / {stride}" if stride != 1 else "unit"
            if i:
                text += f" % {var.extent // step}"
            text += f" * {step}" if step > 1 else ""
            e.line(f"const {self.int_type} {e.name(var)} = {text};")
            e.bind(var, e.name(var))
            stride *= var.extent // step
        return depth

    def _lane_loop(
        self, begin: str, end: str, copies: int, overlap: bool, body: Callable[[int, int], None],
        streams: bool = False,
    ) -> None:  # fmt: skip
        """Write the loops over the lane axis; ``body(lanes, copy)`` writes one step.

        First by `copies` vectors, neighbours or each in a part of the way of its own (`streams`),
        then by one, then what is left: with `overlap` by a vector that ends at the end (its stores
        repeat equal values), else by scalars.
        """
        var, lanes, e = self.lane, self.width, self.e
        if var is None:
            body(1, 0)
            return
        name = e.name(var)
        known = int(end) - int(begin) if begin.isdigit() and end.isdigit() else None
        if known == lanes:
            e.open("", {var: (begin, lanes)})
            body(lanes, 0)
            e.close()
            return
        whole = lanes * copies
        position = e.fresh(name)
        e.line(f"{self.int_type} {position} = {begin};")
        left = known
        if copies > 1 and (left is None or left >= whole):
            apart, last = "", f"{position} + {whole} <= {end}"
            if streams:
                apart = e.fresh("apart")
                length = f"({end} - {begin}) / {whole} * {lanes}"
                e.line(f"const {self.int_type} {apart} = {length};")
                last = f"{position} < {begin} + {apart}"
            e.open(f"for (; {last}; {position} += {lanes if streams else whole})")
            for copy in range(copies):
                offset = f"{copy} * {apart}" if streams else str(copy * lanes)
                text = f"({position} + {offset})" if copy else position
                e.open("", {var: (text, lanes)})
                body(lanes, copy)
                e.close()
            e.close()
            if streams:
                e.line(f"{position} += {copies - 1} * {apart};")
            left = None if left is None else left % whole
        if lanes > 1 and (left is None or left >= lanes):
            e.open(f"for (; {position} + {lanes} <= {end}; {position} += {lanes})",
                   {var: (position, lanes)})  # fmt: skip
            body(lanes, 0)
            e.close()
            left = None if left is None else left % lanes
        if left == 0:
            return
        if overlap and known is not None:
            self.repeats = True
            e.open("", {var: (str(known - lanes), lanes)})
            body(lanes, 0)
        else:
            head = self.reducing() if var in self.kernel.reduce else ""
            e.open(f"{head}for (; {position} < {end}; ++{position})", {var: (position, 1)})
            body(1, 0)
        e.close()

    # Columns --------------------------------------------------------------------------------------

    def _columns(self, begin: str, end: str, block: int, blocks: int) -> None:
        price = cost([o.value for o in self.kernel.outputs])
        copies = 1 if self.stages or price > _DEAR else 2
        # Where memory is what they wait for, from two places of a long block.
        streams = copies > 1 and price <= _CHEAP and estimate(block) >= _LONG
        self._lane_loop(
            begin, end, copies, blocks == 1, lambda lanes, _: self._column(lanes), streams
        )

    def _column(self, lanes: int) -> None:
        """Write all stages for one vector of results."""
        e, kernel = self.e, self.kernel
        for stage in self.stages:
            names = {i: self.declare(i, lanes, "") for i in stage.reductions}
            for var in kernel.reduce:
                self.open_loop(var, *self.range(var), unroll=_is_short(var))
            for i in stage.reductions:
                self.take(i, names[i], lanes)
            for output in stage.outputs:
                e.store(output, lanes)
            for _ in kernel.reduce:
                e.close()
            self.bind(names, lanes)
        for output in self.outer_outputs:
            e.store(output, lanes)

    # Rows -----------------------------------------------------------------------------------------

    def _rows(self, begin: str, end: str, block: int, blocks: int) -> None:
        e, kernel = self.e, self.kernel
        kept = kept_values(kernel, self.stages, e.deps) if self._may_keep() else []
        assert self.lane is not None
        may = self.target.prefetch and self._may_keep()
        ahead = fetches(kernel, self.stages, self.lane) if may else {}
        for number, stage in enumerate(self.stages):
            keep = [value for first, value in kept if first == number]
            arrays = [self._array(value) for value in keep]
            copies = self._copies(stage)
            sums = [
                {
                    i: _Accumulator(
                        [self.declare(i, self.width, "") for _ in range(copies)],
                        self.declare(i, 1, "_rest"),
                    )
                    for i in stage.reductions
                }
                for _ in range(self.count)
            ]
            stored = list(zip(keep, arrays, strict=True))
            self._row_loops(stage, sums, copies, stored, ahead.get(number, []))
            e.arrays.update({id(v): a for v, a in zip(keep, arrays, strict=True)})
            if self.beside is None:
                self._fold(sums[0])
        for row in range(self.count):
            if self.beside is not None:
                e.open("", {self.beside: (self._row(row), 1)})
                self._fold(sums[row])
            for output in self.outer_outputs:
                e.store(output, 1)
            if self.beside is not None:
                e.close()

    def _row(self, number: int) -> str:
        """Return the place of one of the rows that are reduced at a time."""
        assert self.beside is not None
        first = self.e.name(self.beside)
        return f"({first} + {number})" if number else first

    def _rows_of(self, sums: list[dict[int, _Accumulator]]) -> Iterator[dict[int, _Accumulator]]:
        """Go through the rows that are reduced at a time, each in a scope of its own."""
        e, split = self.e, self.kernel.split
        if self.beside is None:
            yield sums[0]
            return
        for number, own in enumerate(sums):
            bound = {self.beside: (self._row(number), 1)}
            if split is not None and split.part is self.beside:
                inside, lanes = e.binding(split.axis)
                first = f"{self._row(number)} * {split.length}"
                bound[split.axis] = (f"({first} + {inside})", lanes)
            e.open("", bound)
            yield own
            e.close()

    def range(self, var: Var) -> tuple[str, str]:
        """As `Nest.range`; rows of several parts of an axis are looked at side by side."""
        split = self.kernel.split
        if split is not None and var is split.axis and split.part is self.beside:
            return "0", str(split.length)
        return super().range(var)

    def _may_keep(self) -> bool:
        several = self.kernel.split is None and len(self.stages) > 1
        return several and size(self.kernel.reduce) <= _MOST_KEPT

    def _array(self, value: Value) -> Kept:
        name = self.e.fresh("row")
        length = size(self.kernel.reduce)
        length = _MOST_KEPT if symbolic(length) else max(length, 1)
        self.e.line(f"{value.dtype.compute} {name}[{length}];")
        return Kept(name, self.reduce_position(), "", value.dtype.compute)

    def _copies(self, stage: Stage) -> int:
        """Return the accumulators of a stage: enough to hide latency, few if steps are dear."""
        assert self.lane is not None
        values = [self.kernel.reductions[i].value for i in stage.reductions]
        values += [o.value for o in stage.outputs]
        most = (4 if self.beside is None else 2) if cost(values) <= _CHEAP else 2
        length = self.kernel.split.length if self._is_split() else self.lane.extent  # type: ignore
        while most > 1 and estimate(length) < most * self.width:
            most //= 2
        return most

    def _is_split(self) -> bool:
        return self.kernel.split is not None and self.kernel.split.axis is self.lane

    def _row_loops(
        self,
        stage: Stage,
        sums: list[dict[int, _Accumulator]],
        copies: int,
        keep: list[tuple[Value, Kept]],
        ahead: list[Fetch],
    ) -> None:
        e, lane = self.e, self.lane
        assert lane is not None
        others = [v for v in self.kernel.reduce if v is not lane]
        for var in others:
            self.open_loop(var, *self.range(var))

        def step(lanes: int, copy: int) -> None:
            for fetch in ahead if lanes > 1 else ():
                if copy * lanes * fetch.itemsize % LINE == 0:
                    e.prefetch(fetch.arg, fetch.index, fetch.writes)
            for value, kept in keep:
                text, place = e.value(value, lanes), e.kept_place(kept)
                e.line(f"{e.private(kept.array, place, kept.ctype, lanes)} = {text};")
            for row in self._rows_of(sums):
                for i, own in row.items():
                    self.take(i, own.vectors[copy] if lanes > 1 else own.scalar, lanes)
            for output in stage.outputs:
                e.store(output, lanes)

        self._lane_loop(*self.range(lane), copies, False, step)
        for _ in others:
            e.close()

    def _fold(self, sums: dict[int, _Accumulator]) -> None:
        finished = {}
        for i, own in sums.items():
            reduction = self.kernel.reductions[i]
            prefix = self.e.fresh("part")
            lines, whole = accumulate.fold(
                reduction, own.vectors, self.int_type, self.width, prefix
            )
            lines += accumulate.step(reduction, whole, own.scalar, self.int_type, 1, ordered=False)
            for line in lines:
                self.e.line(line)
            finished[i] = whole
        self.bind(finished, 1)

    # Strips ---------------------------------------------------------------------------------------

    def _strips(self, begin: str, end: str, block: int, blocks: int) -> None:
        e = self.e
        assert self.lane is not None
        for stage in self.stages:
            arrays = {i: self._strip_arrays(i, begin, block) for i in stage.reductions}
            self._strip_rows(stage, arrays, begin, end)
            for i, own in arrays.items():
                e.arrays[i] = own[-1]
        self._lane_loop(begin, end, 1, False, lambda lanes, _: self._store_all(lanes))

    def _store_all(self, lanes: int) -> None:
        for i in range(len(self.kernel.reductions)):
            self.e.bind(i, "")  # read from its private array
        for output in self.outer_outputs:
            self.e.store(output, lanes)

    def _strip_arrays(self, number: int, begin: str, block: int) -> list[Kept]:
        assert self.lane is not None
        reduction, arrays = self.kernel.reductions[number], []
        for part in accumulate.parts(reduction, self.int_type, self.first_position()):
            name = self.e.fresh(str(reduction.op))
            self.e.line(f"{part.ctype} {name}[{block}];")
            self.e.line(f"for (int k = 0; k < {block}; ++k) {name}[k] = {part.start};")
            offset = "" if begin == "0" else f" - {begin}"
            arrays.append(Kept(name, Index.of(self.lane), offset, part.ctype))
        return arrays

    def _strip_rows(
        self, stage: Stage, arrays: dict[int, list[Kept]], begin: str, end: str
    ) -> None:
        """Stream the rows, several at a time."""
        e, axes = self.e, self.kernel.reduce
        for var in axes[:-1]:
            self.open_loop(var, *self.range(var))
        last = axes[-1]
        first, stop = self.range(last)
        name, rows = e.fresh(e.name(last)), _ROWS if estimate(last.extent) >= 2 * _ROWS else 1
        e.line(f"{self.int_type} {name} = {first};")
        for count in (rows, 1) if rows > 1 else (1,):
            head = f"for (; {name} + {count} <= {stop}; {name} += {count})"
            head = head if count > 1 else f"for (; {name} < {stop}; ++{name})"
            e.open(self.reducing() + head)
            texts = [name, *[f"({name} + {k})" for k in range(1, count)]]
            step = partial(self._strip_step, stage, arrays, texts)
            self._lane_loop(begin, end, 2 if count > 1 else 1, False, step)
            e.close()
        for _ in axes[:-1]:
            e.close()

    def _strip_step(
        self, stage: Stage, arrays: dict[int, list[Kept]], texts: list[str], lanes: int, copy: int
    ) -> None:
        e, last = self.e, self.kernel.reduce[-1]
        for i in range(len(self.kernel.reductions)):
            e.bind(i, "")  # earlier reductions are read from their private arrays
        names: dict[int, list[str]] = {}
        for i, own in arrays.items():
            names[i] = []
            for kept in own:
                place, fresh = e.kept_place(kept), e.fresh("so_far")
                load = e.private(kept.array, place, kept.ctype, lanes)
                e.line(f"{vector(kept.ctype, lanes)} {fresh} = {load};")
                names[i].append(fresh)
        values = [self.kernel.reductions[i].value for i in stage.reductions]
        may = self.target.prefetch and lanes > 1 and len(texts) > 1
        ahead = reads_ahead(self.kernel, values, self.lane, last, 2 * _ROWS) if may else []
        for text in texts:
            e.open("", {last: (text, 1)})
            for fetch in ahead:
                if copy * lanes * fetch.itemsize % LINE == 0:
                    e.prefetch(fetch.arg, fetch.index, fetch.writes)
            for i in arrays:
                self.take(i, names[i], lanes)
            for output in stage.outputs:
                e.store(output, lanes)
            e.close()
        for i, own in arrays.items():
            for kept, fresh in zip(own, names[i], strict=True):
                place = e.kept_place(kept)
                e.line(f"{e.private(kept.array, place, kept.ctype, lanes)} = {fresh};")


def _is_short(var: Var) -> bool:
    return not symbolic(var.extent) and var.extent <= 8
