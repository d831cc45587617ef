"""GPU family: work-groups, coalesced reads, local-memory trees, barriers in uniform flow only.

- Elementwise: neighbouring work-items take neighbouring elements, several a work-item, one
  work-group size apart.
- Reductions: a work-group has `points` results of `parts` work-items each. Part t of a result
  takes the reduced elements t, t + parts, …; then a tree in local memory folds the parts in a
  fixed order and every part reads the result back, so that later stages go on with it. Where the
  reduced elements are neighbours in memory, the parts are neighbouring work-items; else the
  results are.
"""

from __future__ import annotations

from collections.abc import Sequence

from simplegrad.compiler.ir import in_place
from simplegrad.compiler.ir.axes import Stage, kept_values, merge_axes, size
from simplegrad.compiler.ir.index import Index, Var
from simplegrad.compiler.ir.kernel import Kernel, Value
from simplegrad.compiler.ir.symbolic import ceil_div, estimate, greater, product, quotient, symbolic
from simplegrad.compiler.render import accumulate
from simplegrad.compiler.render.emit import Body, Kept
from simplegrad.compiler.render.nest import Nest
from simplegrad.compiler.target import Target
from simplegrad.dtypes import width

_GROUP = 256
_PER_ITEM = 4
"""Elements of an elementwise work-item when there is work enough."""
_MOST_KEPT = 16
"""Elements of a dear value that a work-item keeps in registers."""
_BUSY = 2048
"""Work-items that fill a compute unit."""
_BARRIER = "barrier(CLK_LOCAL_MEM_FENCE);"


def render(kernel: Kernel, target: Target) -> Body:
    """Return the OpenCL C of one kernel for a GPU."""
    return _Renderer(merge_axes(kernel), target).body()


class _Renderer(Nest):
    def __init__(self, kernel: Kernel, target: Target) -> None:
        super().__init__(kernel, target, 4)
        limit = min(_GROUP, target.max_work_group)
        self.group = 1 << (limit.bit_length() - 1)
        # The axis with unit strides is last: neighbouring work-items walk along it.
        self.outer = [v for v in kernel.outer if v is not self.lane]
        self.outer += [v for v in kernel.outer if v is self.lane]
        self.points = size(kernel.outer)
        self.local_bytes = 0

    def body(self) -> Body:
        """Return the finished body."""
        if self.stages:
            groups, how = self._reductions()
        else:
            groups, how = self._elementwise()
        return Body(
            self.kernel.name, self.e.finish(), tuple(self.e.helpers), self.kernel.args,
            greater(groups, 1), self.group, self.local_bytes, self.comment(how),
            index_type=self.int_type, in_place=in_place.pairs(self.kernel),
        )  # fmt: skip

    # Elementwise ----------------------------------------------------------------------------------

    def _elementwise(self) -> tuple[int, str]:
        e, ints, group = self.e, self.int_type, self.group
        busy = estimate(self.points) >= _PER_ITEM * _BUSY * self.target.compute_units
        copies = _PER_ITEM if busy else 1
        per_group = group * copies
        e.line(f"const {ints} first = ({ints})id * {per_group} + item;")
        if copies == 1:
            e.open(f"if (first < {self.points})")
            self._element("first")
            e.close()
        else:
            last = (copies - 1) * group
            e.open(f"if (first + {last} < {self.points})")
            for copy in range(copies):
                e.open("", dict.fromkeys(self.outer, ("", 1)))
                self._element(f"first + {copy * group}" if copy else "first")
                e.close()
            e.close()
            e.open("else")
            e.open(f"for ({ints} point = first; point < {self.points}; point += {group})")
            self._element("point")
            e.close()
            e.close()
        return ceil_div(self.points, per_group), f"{copies} a work-item"

    def _element(self, place: str) -> None:
        self._unflatten(self.outer, place)
        for output in self.outer_outputs:
            self.e.store(output, 1)

    def _unflatten(self, axes: Sequence[Var], place: str, begins: dict[Var, str] | None = None,
                   extents: dict[Var, int] | None = None) -> None:  # fmt: skip
        """Bind axes to the coordinates of a row-major position."""
        stride = 1
        for i, var in reversed(list(enumerate(axes))):
            extent = (extents or {}).get(var, var.extent)
            text = f"({place}) / {stride}" if stride != 1 else place
            if i:
                text = f"{text} % {extent}" if stride != 1 else f"({place}) % {extent}"
            name = self.e.fresh(self.e.name(var))
            begin = (begins or {}).get(var, "0")
            text = text if begin == "0" else f"{begin} + {text}"
            self.e.line(f"const {self.int_type} {name} = {text};")
            self.e.bind(var, name)
            stride *= greater(extent, 1)

    # Reductions -----------------------------------------------------------------------------------

    def _reductions(self) -> tuple[int, str]:
        e, ints = self.e, self.int_type
        rows = self.lane is None or self.lane in self.kernel.reduce
        parts = self._parts(rows)
        points = self.group // parts
        self.apart = 1 if rows else points
        by_row = (f"item % {parts}", f"item / {parts}")
        part, column = by_row if rows else (f"item / {points}", f"item % {points}")
        if parts == 1:
            part, column = "0", "item"
        elif points == 1:
            part, column = "item", "0"
        e.line(f"const int part = {part};")
        place = f"({ints})id * {points} + {column}"
        self.guard = ""
        if quotient(self.points, points)[1] != 0:
            # Surplus work-items repeat the last result, so that all reach every barrier.
            e.line(f"const int active = {place} < {self.points};")
            place = f"min({place}, ({ints}){greater(self.points - 1, 0)})"
            self.guard = "active"
        e.line(f"const {ints} point = {place};")
        self._unflatten(self.outer, "point")
        self._all_stages(parts)
        tests = [t for t in (self.guard, "part == 0" if parts > 1 else "") if t]
        if self.outer_outputs:
            if tests:
                e.open(f"if ({' && '.join(tests)})")
            for output in self.outer_outputs:
                e.store(output, 1)
            if tests:
                e.close()
        kind = "rows" if rows else "columns"
        return ceil_div(self.points, points), f"{kind}, {points} results x {parts} parts a group"

    def _extents(self) -> dict[Var, int]:
        """Return how far each reduce axis runs in one work-group."""
        split = self.kernel.split
        lengths = {v: v.extent for v in self.kernel.reduce}
        if split is not None:
            lengths[split.axis] = split.length
        return lengths

    def _parts(self, rows: bool) -> int:
        """Return the work-items of one result, a power of two."""
        reduced = estimate(product(self._extents().values()))
        if reduced <= 8:
            return 1
        if rows:
            return min(self.group, 1 << (max(reduced // 4, 1).bit_length() - 1))
        # Thirty-two neighbours read together; more parts only where results are few.
        results = max(estimate(self.points), 1)
        most = self.group // min(32, 1 << (results - 1).bit_length())
        missing = _BUSY * self.target.compute_units // results
        return max(1, 1 << (min(most, missing, reduced // 4).bit_length() - 1)) if missing else 1

    def _all_stages(self, parts: int) -> None:
        e, kernel = self.e, self.kernel
        extents = self._extents()
        count = ceil_div(product(extents.values()), parts)
        few = not symbolic(count) and count <= _MOST_KEPT
        keep_all = kept_values(kernel, self.stages, e.deps) if few else []
        turn = Var("turn", greater(count, 2))
        trees = 0
        for number, stage in enumerate(self.stages):
            keep = [value for first, value in keep_all if first == number]
            arrays = []
            for value in keep:
                name = e.fresh("own")
                e.line(f"{value.dtype.compute} {name}[{greater(count, 1)}];")
                arrays.append(Kept(name, Index.of(turn), "", value.dtype.compute))
            names = {i: self.declare(i, 1, "") for i in stage.reductions}
            self._run(stage, names, list(zip(keep, arrays, strict=True)), parts, turn)
            e.arrays.update({id(v): a for v, a in zip(keep, arrays, strict=True)})
            if parts > 1 and names:
                trees = self._tree(names, parts, trees)
            self.bind(names, 1)

    def _run(
        self,
        stage: Stage,
        names: dict[int, list[str]],
        keep: list[tuple[Value, Kept]],
        parts: int,
        turn: Var,
    ) -> None:
        """Write a work-item's loop over its share of the reduce axes."""
        e, ints, extents = self.e, self.int_type, self._extents()
        reduced = product(extents.values())
        count = ceil_div(reduced, parts)
        unrolled = not symbolic(count) and count <= _MOST_KEPT
        pragma = self.reducing() + ("#pragma unroll\n" if unrolled else "")
        e.open(f"{pragma}for ({ints} turn = 0; turn < {count}; ++turn)", {turn: ("turn", 1)})
        depth = 1
        place = f"turn * {parts} + part" if parts > 1 else "turn"
        e.line(f"const {ints} place = {place};")
        if quotient(reduced, parts)[1] != 0:
            e.open(f"if (place < {reduced})")
            depth += 1
        begins = {v: self.range(v)[0] for v in self.kernel.reduce}
        self._unflatten(self.kernel.reduce, "place", begins, extents)
        split = self.kernel.split
        if split is not None and not self.even_split():
            name = e.binding(split.axis)[0]
            e.open(f"if ({name} < {split.axis.extent})", {split.axis: (name, 1)})
            depth += 1
        for value, kept in keep:
            e.line(f"{kept.array}[{e.kept_place(kept)}] = {e.value(value, 1)};")
        for i, own in names.items():
            self.take(i, own, 1)
        for output in stage.outputs:
            if self.guard:
                e.open(f"if ({self.guard})")
            e.store(output, 1)
            if self.guard:
                e.close()
        for _ in range(depth):
            e.close()

    def _tree(self, names: dict[int, list[str]], parts: int, trees: int) -> int:
        """Fold the parts of every result; write the trees so far plus these."""
        e = self.e
        left = list(names)
        while left:
            # As many reductions at once as half the local memory holds.
            now: list[int] = []
            room = self.target.local_bytes // 2
            while left and (not now or room >= self._bytes(left[0])):
                room -= self._bytes(left[0])
                now.append(left.pop(0))
            if trees:
                e.line(_BARRIER)  # all have read the results of the last tree
            trees += 1
            self._one_tree({i: names[i] for i in now}, parts, trees)
        return trees

    def _bytes(self, number: int) -> int:
        reduction = self.kernel.reductions[number]
        return self.group * accumulate.nbytes(reduction, self.int_type)

    def _one_tree(self, names: dict[int, list[str]], parts: int, tree: int) -> None:
        e, apart = self.e, self.apart
        places: dict[int, list[str]] = {}
        offset = 0
        for i, own in names.items():
            places[i] = []
            for n, part in enumerate(accumulate.parts(self.kernel.reductions[i], self.int_type)):
                name = f"shared{tree}_{i}_{n}"
                kind = f"__local {part.ctype} *"
                e.line(f"{kind}const {name} = ({kind})(scratch + {offset});")
                e.line(f"{name}[item] = {own[n]};")
                places[i].append(name)
                offset += self.group * width(part.ctype)
        self.local_bytes = max(self.local_bytes, offset)
        e.line(_BARRIER)
        half = parts // 2
        while half:  # written out: fewer instructions, and no barrier in a loop
            self._tree_level(names, places, half)
            half //= 2
        first = "item - part" if apart == 1 else f"item - part * {apart}"
        for i, own in names.items():
            for name, place in zip(own, places[i], strict=True):
                e.line(f"{name} = {place}[{first}];")

    def _tree_level(
        self, names: dict[int, list[str]], places: dict[int, list[str]], half: int
    ) -> None:
        """Let the first `half` parts of every result take in the parts `half` further on."""
        e = self.e
        e.open(f"if (part < {half})")
        for i, own in names.items():
            reduction = self.kernel.reductions[i]
            others = []
            for part, place in zip(
                accumulate.parts(reduction, self.int_type), places[i], strict=True
            ):
                others.append(e.fresh("other"))
                e.line(f"const {part.ctype} {others[-1]} = {place}[item + {half * self.apart}];")
            for line in accumulate.step(reduction, own, others, self.int_type, 1, ordered=False):
                e.line(line)
            for name, place in zip(own, places[i], strict=True):
                e.line(f"{place}[item] = {name};")
        e.close()
        e.line(_BARRIER)
