"""What the renderers of both families share: loops over axes and scalar or vector accumulators."""

from __future__ import annotations

from simplegrad import ops
from simplegrad.compiler.ir.axes import choose_lane, size, stages
from simplegrad.compiler.ir.index import Index, Var, flatten
from simplegrad.compiler.ir.kernel import Kernel
from simplegrad.compiler.ir.symbolic import symbolic
from simplegrad.compiler.render import accumulate
from simplegrad.compiler.render.ctext import splat, vector
from simplegrad.compiler.render.emit import Emitter
from simplegrad.compiler.target import Target


class Nest:
    """A kernel while it is rendered; its axes have been merged."""

    def __init__(self, kernel: Kernel, target: Target, lanes: int) -> None:
        self.kernel, self.target = kernel, target
        self.e = Emitter(kernel, target.family)
        self.int_type = self.e.int_type
        self.stages, self.outer_outputs = stages(kernel, self.e.deps)
        self.lane = choose_lane(kernel, self.e.deps, lanes)
        self.empty = size(kernel.reduce) == 0
        """Whether nothing is reduced: then nothing is loaded, not even ahead of a loop."""
        if self.empty:
            for stage in self.stages:
                stage.outputs.clear()

    def reducing(self) -> str:
        """Return what stands before a scalar loop over reduce axes.

        A sum of negated floats is a loop of differences, however the compiler comes to see that.
        """
        floats = any(r.op is ops.SUM and r.dtype.is_float for r in self.kernel.reductions)
        alone = floats and not self.target.differences
        return "#pragma clang loop vectorize(disable)\n" if alone else ""

    def open_loop(
        self, var: Var, begin: str, end: str, step: int = 1, unroll: bool = False
    ) -> None:
        """Open a scalar loop over an axis."""
        name = self.e.name(var)
        head = "#pragma unroll\n" if unroll else ""
        if var in self.kernel.reduce:
            head += self.reducing()
        turn = f"++{name}" if step == 1 else f"{name} += {step}"
        head += f"for ({self.int_type} {name} = {begin}; {name} < {end}; {turn})"
        self.e.open(head, {var: (name, 1)})

    def range(self, var: Var) -> tuple[str, str]:
        """Return where the loop over a reduce axis begins and ends."""
        split = self.kernel.split
        if split is None or var is not split.axis:
            return "0", str(var.extent)
        part = self.e.binding(split.part)[0]
        begin = f"{part} * {split.length}"
        whole = f"{begin} + {split.length}"
        if self.even_split():
            return begin, whole
        return begin, f"min({whole}, ({self.int_type}){var.extent})"

    def even_split(self) -> bool:
        """Return whether all parts of a split reduction have the same length."""
        split = self.kernel.split
        return split is not None and split.length * split.part.extent == split.axis.extent

    def first_position(self) -> str:
        """Return the first position that this work-item looks at."""
        firsts = [self.range(v)[0] for v in self.kernel.reduce]
        text = "0"
        for var, first in zip(self.kernel.reduce, firsts, strict=True):
            text = first if text == "0" else f"({text}) * {var.extent} + {first}"
        return text

    def declare(self, number: int, lanes: int, suffix: str) -> list[str]:
        """Declare the accumulator of a reduction; return its variables."""
        reduction = self.kernel.reductions[number]
        names = []
        for part in accumulate.parts(reduction, self.int_type, self.first_position()):
            name = self.e.fresh(f"{reduction.op}{suffix}")
            start = splat(part.start, part.ctype, lanes)
            self.e.line(f"{vector(part.ctype, lanes)} {name} = {start};")
            names.append(name)
        return names

    def operands(self, number: int, lanes: int) -> list[str]:
        """Return what a reduction takes in now: the value, and its position."""
        reduction = self.kernel.reductions[number]
        text = self.e.value(reduction.value, lanes)
        new = [accumulate.operand(reduction, text, lanes)]
        if accumulate.is_position(reduction):
            place = self.reduce_position()
            position = self.e.position(place, self.int_type, 1)
            if self.e.lanes(place.variables()) > 1:
                position = self.e.position(place, self.int_type, lanes)
            elif lanes > 1:
                position = splat(str(position), self.int_type, lanes)
            new.append(str(position))
        return new

    def take(self, number: int, names: list[str], lanes: int) -> None:
        """Write the statements that take one more value into an accumulator."""
        if self.empty:
            return
        reduction = self.kernel.reductions[number]
        new = self.operands(number, lanes)
        for line in accumulate.step(reduction, names, new, self.int_type, lanes):
            self.e.line(line)

    def bind(self, names: dict[int, list[str]], lanes: int) -> None:
        """Make finished accumulators the values of their reductions."""
        for i, own in names.items():
            reduction = self.kernel.reductions[i]
            self.e.bind(i, accumulate.result(reduction, own, self.int_type, lanes))

    def reduce_position(self) -> Index:
        """Return the row-major number of a point of the reduce axes."""
        axes = self.kernel.reduce
        return flatten(tuple(Index.of(v) for v in axes), tuple(v.extent for v in axes))

    def comment(self, how: str) -> str:
        """Return one line for people."""
        kernel = self.kernel
        outer = " x ".join(map(_spelled, kernel.outer)) or "1"
        text = f"{kernel.name}: {outer} results"
        if kernel.reduce:
            text += ", each over " + " x ".join(map(_spelled, kernel.reduce))
        return f"{text}; {how}"


def _spelled(var: Var) -> str:
    return "n" if symbolic(var.extent) else str(var.extent)
