"""Kernel values to C statements: the part that both device families share.

A value becomes one typed temporary in the outermost scope that binds all it depends on, so that
what does not change in a loop is computed before it. Each loop variable is bound to its C
expression and a width: a variable bound with width W stands for W neighbouring numbers, and every
value that depends on it is a vector. Text refers to argument number n as ``$n``; `assemble` puts
in the names. Buffers are `restrict`, but for operands that an output may be written over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from simplegrad import settings
from simplegrad.compiler.ir.axes import all_indices, dependences, int_type
from simplegrad.compiler.ir.in_place import Pairs
from simplegrad.compiler.ir.index import Dyn, Guard, Index, Var
from simplegrad.compiler.ir.kernel import (
    APPLY,
    ARG,
    CONST,
    GIVEN,
    INDEX,
    LOAD,
    REDUCED,
    Arg,
    Kernel,
    Output,
    Value,
)
from simplegrad.compiler.ir.symbolic import greater, lesser
from simplegrad.compiler.render.access import neighbours, read, unaligned, write
from simplegrad.compiler.render.ctext import (
    OWN,
    as_bool,
    constant,
    lane_names,
    operation,
    splat,
    vector,
)
from simplegrad.compiler.render.positions import Positions
from simplegrad.compiler.render.scopes import Scope
from simplegrad.compiler.tiles import Tile
from simplegrad.dtypes import DType, bfloat16, float16, width
from simplegrad.ops import CAST


@dataclass(frozen=True)
class Body:
    """One kernel's statements, ready to stand alone or beside others in one launch.

    The text computes work-group number `id` of `groups`; a group has `group_size` work-items,
    whose number is `item` (the CPU family has one). It may use ``scratch``, `local_bytes` of
    local memory.
    """

    name: str
    lines: tuple[str, ...]
    helpers: tuple[str, ...]
    args: tuple[Arg, ...]
    groups: int
    group_size: int
    local_bytes: int = 0
    comment: str = ""
    template: str = ""
    """A whole program instead of lines: a filled template, which runs alone."""
    index_type: str = "int"
    """The type of index arithmetic."""
    origin: str = ""
    """Which template and variant that is; the self-test knows it by this name."""
    tile: Tile | None = None
    """What the template works in, and why."""
    in_place: Pairs = ()
    """Operands and outputs that may be one memory, by argument number."""


@dataclass(frozen=True)
class Kept:
    """A private array; the current element is number ``index`` plus the text `offset`."""

    array: str
    index: Index
    offset: str
    ctype: str


class Emitter(Positions):
    """Writes the statements of one kernel."""

    def __init__(self, kernel: Kernel, family: str = "") -> None:
        axes = (*kernel.outer, *kernel.reduce)
        super().__init__(axes, _all_variables(kernel).difference(axes), kernel.name)
        self.kernel, self.family = kernel, family
        self.args = kernel.args
        self.deps = dependences(kernel)
        self.int_type = int_type(kernel)
        self.helpers: dict[str, None] = {}
        self.arrays: dict[Any, Kept] = {}
        """What was computed before, by value id or reduction number."""
        self.given: dict[int, str] = {}
        """The texts of the numbers that a template brings."""

    # Values -------------------------------------------------------------------------------------

    def value(self, root: Value, lanes: int) -> str:
        """Return an expression of `root` in `lanes` lanes, writing the statements it needs."""
        stack = [(root, False)]
        while stack:
            value, ready = stack.pop()
            if ready:
                self._define(value)
            elif self._known(value) is None:
                stack.append((value, True))
                if id(value) not in self.arrays:
                    stack.extend((c, False) for c in reversed(value.children))
        return self._operand(root, lanes)

    def _known(self, value: Value) -> str | None:
        return self._scopes[self._depth(self.deps[id(value)])].names.get(id(value))

    def _operand(self, value: Value, lanes: int) -> str:
        text = self._known(value)
        assert text is not None, value
        own = self.lanes(self.deps[id(value)])
        return text if own == lanes else splat(text, value.dtype.compute, lanes)

    def _define(self, value: Value) -> None:
        deps = self.deps[id(value)]
        scope = self._scopes[self._depth(deps)]
        if id(value) in scope.names:
            return
        key = value.arg if value.form == REDUCED else id(value)
        lanes = self.lanes(deps)
        if value.form == CONST:
            text = constant(value.number, value.dtype)
        elif value.form == ARG:
            text = f"${value.arg}"
        elif key in self.arrays:
            text = self._temporary(
                scope, "kept", value.dtype, lanes, self._kept(self.arrays[key], value.dtype, lanes)
            )
        elif value.form == GIVEN:
            text = self.given[value.arg]
        elif value.form == REDUCED:
            text = self.binding(value.arg)[0]
        elif value.form == LOAD:
            text = self._load(scope, value, lanes)
        elif value.form == APPLY:
            text = self._apply(scope, value, lanes)
        else:
            text = self._number(scope, value, lanes)
        scope.names[id(value)] = text

    def _temporary(self, scope: Scope, base: str, dtype: DType, lanes: int, text: str) -> str:
        name = self.fresh(base)
        scope.lines.append(f"const {vector(dtype.compute, lanes)} {name} = {text};")
        return name

    def kept_place(self, kept: Kept) -> str:
        """Return the current place in a private array."""
        return f"{self.index(kept.index)}{kept.offset}"

    def _kept(self, kept: Kept, dtype: DType, lanes: int) -> str:
        place = self.kept_place(kept)
        text = self.private(kept.array, place, kept.ctype, lanes)
        if kept.ctype == dtype.compute:
            return text
        to = vector(dtype.compute, lanes)
        return f"({to}){text}" if lanes == 1 else f"convert_{to}({text})"

    def private(self, array: str, place: str, ctype: str, lanes: int) -> str:
        """Return the place of one or more elements of a private array."""
        if lanes == 1:
            return f"{array}[{place or 0}]"
        self.helpers[unaligned(ctype, lanes)] = None
        pointer = f"{array} + {place}" if place else array
        return neighbours("__private", ctype, lanes, pointer)

    def _apply(self, scope: Scope, value: Value, lanes: int) -> str:
        op, sources = value.op, value.srcs
        assert op is not None, value
        # A condition common to all lanes stays a scalar: C's ?: takes it with vectors.
        common = op.name == "where" and self.lanes(self.deps[id(sources[0])]) == 1
        texts = [self._operand(s, 1 if common and i == 0 else lanes) for i, s in enumerate(sources)]
        # Fast math would cancel the rounding that our own exp lives by.
        own = self.family == "cpu" and not settings.current().fast_math
        if op in OWN and own and value.dtype.compute == "float":
            text, helpers = OWN[op](texts[0], lanes)
        else:
            text, helpers = operation(op, value.dtype, sources[0].dtype, texts, lanes, common)
        self.helpers.update(dict.fromkeys(helpers))
        return self._temporary(scope, op.name, value.dtype, lanes, text)

    def dynamic(self, atom: Dyn, lane: str) -> str:
        """Return a run-time index, clamped so that nothing outside the buffer is read."""
        token: Value = atom.token
        deps, dtype = self.deps[id(token)], token.dtype
        lanes = self.lanes(deps)
        text = self._operand(token, lanes)
        scope = self._scopes[self._depth(deps)]
        if lanes > 1 and lane:
            array = self.fresh("indices")
            scope.lines.append(f"{dtype.compute} {array}[{lanes}];")
            whole = self.private(array, "", dtype.compute, lanes)
            scope.lines.append(f"{whole} = {text};")
            text = f"{array}[{lane}]"
        low, high = greater(atom.low, int(dtype.low)), lesser(atom.high, int(dtype.high))
        bounds = f"{constant(low, dtype)}, {constant(high, dtype)}"
        return f"({self.int_type})clamp({text}, {bounds})"

    # Loads, numbers and stores ------------------------------------------------------------------

    def _load(self, scope: Scope, value: Value, lanes: int) -> str:
        assert value.index is not None, value
        arg, name = self.args[value.arg], f"${value.arg}"
        if arg.dtype is bfloat16 and lanes == 1:
            self.helpers[_BFLOAT16_LOAD] = None
        strides = [self.affine(i) for i in (value.index, *[g.index for g in value.guards])]
        stride = strides[0]
        base = "loaded"
        if lanes == 1:
            text = read(arg.dtype, name, self.index(value.index), 1)
            tests = " && ".join(self.conditions(value.guards))
            if tests:
                text = f"{tests} ? {text} : {constant(value.number, value.dtype)}"
            return self._temporary(scope, base, value.dtype, 1, text)
        if None in strides or stride not in (1, -1, 2):
            return self._lane_load(scope, value, lanes)
        text = self._neighbours(value, stride, lanes)
        if arg.dtype is not float16:  # that one has its own loads
            self.helpers[unaligned(arg.dtype.storage, lanes)] = None
        if not value.guards and not self._room(value, lanes):
            return self._temporary(scope, base, value.dtype, lanes, text)
        return self._guarded_load(scope, value, lanes, text)

    def _neighbours(self, value: Value, stride: int, lanes: int) -> str:
        """Return what reads a vector of neighbours, in either order, or of every other element."""
        arg, name = self.args[value.arg], f"${value.arg}"
        assert value.index is not None, value
        low = value.index if stride > 0 else value.index + -(lanes - 1)
        text = read(arg.dtype, name, self.index(low), lanes)
        if stride == -1:
            return f"({text}).s" + "".join(n[1] for n in reversed(lane_names(lanes)))
        if stride == 1:
            return text
        more = read(arg.dtype, name, self.index(value.index + lanes), lanes)
        return f"({vector(value.dtype.compute, lanes)})(({text}).even, ({more}).even)"

    def _room(self, value: Value, lanes: int) -> list[str]:
        """Return when every other element may be read, and with the last its neighbour."""
        assert value.index is not None, value
        if self.affine(value.index) != 2:
            return []
        return self.conditions([self._in_buffer(value, value.index.low, lanes)])

    def _in_buffer(self, value: Value, low: int, lanes: int) -> Guard:
        """Say that a vector stands in its buffer, which begins at or below `low`."""
        assert value.index is not None, value
        stride = self.affine(value.index) or 1
        return Guard(value.index, low, self.args[value.arg].size - stride * lanes + 1)

    def _guarded_load(self, scope: Scope, value: Value, lanes: int, inside: str) -> str:
        """Load a vector where all lanes are inside the guards, else what is inside of it."""
        common = [g for g in value.guards if self.affine(g.index) == 0]
        moving = [g for g in value.guards if self.affine(g.index) != 0]
        tests, room = self.conditions(common), self._room(value, lanes)
        # The index moves one way along the lanes, so the first and the last lane bound it.
        ends = self.conditions(moving, "0") + self.conditions(moving, str(lanes - 1)) + room
        name, ctype = self.fresh("loaded"), vector(value.dtype.compute, lanes)
        outside = splat(constant(value.number, value.dtype), value.dtype.compute, lanes)
        scope.lines.append(f"{ctype} {name} = {outside};")
        scope.lines.append(f"if ({' && '.join([*tests, *dict.fromkeys(ends)])}) {name} = {inside};")
        if moving or room:
            for guard in moving:  # past these no lane is inside
                ways = ("0", str(lanes - 1))[:: 1 if (self.affine(guard.index) or 0) < 0 else -1]
                tests += self.conditions([guard], *ways)
            scope.lines.append(f"else if ({' && '.join(tests)}) {{" if tests else "else {")
            inner = self._border(value, lanes, moving, name, inside)
            scope.lines.extend("  " + text for text in inner)
            scope.lines.append("}")
        return name

    def _border(
        self, value: Value, lanes: int, guards: Sequence[Guard], name: str, inside: str
    ) -> list[str]:
        """Return what sets a vector of which some lanes are inside the guards."""
        slow = Scope("", {})
        array = self._lane_load(slow, value, lanes, guards)
        by_lane = [*slow.lines, f"{name} = {array};"]
        assert value.index is not None, value
        same_width = width(value.dtype.compute) == width(self.int_type)
        if not guards or not same_width or self.affine(value.index) == -1:
            return by_lane
        # Whatever stands beside a line is read with it, and masked.
        whole = self.conditions([self._in_buffer(value, 0, lanes)])
        mask = " & ".join(self.vector_test(g, lanes) for g in guards)
        fast = f"{name} = ({mask}) ? {inside} : {name};"
        if not whole:
            return [fast]
        return [f"if ({' && '.join(whole)}) {fast}", "else {", *["  " + t for t in by_lane], "}"]

    def _lane_load(
        self, scope: Scope, value: Value, lanes: int, guards: Sequence[Guard] | None = None
    ) -> str:
        assert value.index is not None, value
        name = f"${value.arg}"
        tests = " && ".join(self.conditions(value.guards if guards is None else guards, "k"))
        text = read(self.args[value.arg].dtype, name, self.index(value.index, "k"), 1)
        if self.args[value.arg].dtype is bfloat16:
            self.helpers[_BFLOAT16_LOAD] = None
        if tests:
            text = f"{tests} ? {text} : {constant(value.number, value.dtype)}"
        return self._by_lane(scope, "loaded", value.dtype, lanes, text)

    def _by_lane(self, scope: Scope, base: str, dtype: DType, lanes: int, text: str) -> str:
        """Collect `text`, an expression of lane number k, into a vector."""
        array = self.fresh("lanes")
        scope.lines.append(f"{dtype.compute} {array}[{lanes}];")
        scope.lines.append(f"for (int k = 0; k < {lanes}; ++k) {array}[k] = {text};")
        return self._temporary(
            scope, base, dtype, lanes, self.private(array, "", dtype.compute, lanes)
        )

    def _number(self, scope: Scope, value: Value, lanes: int) -> str:
        """Define an INDEX or a GUARD."""
        if value.form == INDEX:
            assert value.index is not None, value
            text = self.position(value.index, value.dtype.compute, lanes)
            if text is None:
                number = f"({value.dtype.compute})({self.index(value.index, 'k')})"
                return self._by_lane(scope, "index", value.dtype, lanes, number)
            return self._temporary(scope, "index", value.dtype, lanes, text)
        affine = lanes == 1 or all(self.affine(g.index) is not None for g in value.guards)
        tests = self.conditions(value.guards, "" if lanes == 1 else "k")
        if lanes > 1 and affine:
            tests = [self.vector_test(g, lanes) for g in value.guards]
            text = as_bool(f"({' & '.join(tests)})", self.int_type, lanes)
        elif lanes > 1:
            return self._by_lane(scope, "inside", value.dtype, lanes, " && ".join(tests) or "1")
        else:
            text = f"({' && '.join(tests)})" if tests else "1"
        return self._temporary(scope, "inside", value.dtype, lanes, text)

    def prefetch(self, arg: int, index: Index, writes: bool, near: int = 3) -> None:
        """Ask for an element that will be needed; nothing where a gather decides which.

        `near`: 3 for the nearest cache, 2 for the one behind it.
        """
        if not index.tokens():
            self.line(f"__builtin_prefetch(${arg} + {self.index(index)}, {int(writes)}, {near});")

    def store(self, output: Output, lanes: int) -> None:
        """Write the value of an output to its place."""
        arg, name, value = self.args[output.arg], f"${output.arg}", output.value
        for token in output.index.tokens():
            self.value(token, 1)
        source = value
        if value.op is CAST and arg.dtype in (float16, bfloat16) and id(value) not in self.arrays:
            # The store rounds by itself.
            inner = value.srcs[0]
            if inner.dtype.compute == "float" and self._known(value) is None:
                source = inner
        text = self.value(source, lanes)
        stride = self.affine(output.index)
        if lanes == 1 or stride == 1:
            lines, helpers = write(arg.dtype, name, self.index(output.index), text, lanes)
            self.line(lines)
        else:
            array = self.fresh("lanes")
            self.line(f"{arg.dtype.compute} {array}[{lanes}];")
            self.line(f"{self.private(array, '', arg.dtype.compute, lanes)} = {text};")
            place = self.index(output.index, "k")
            lines, helpers = write(arg.dtype, name, place, f"{array}[k]", 1)
            self.line(f"for (int k = 0; k < {lanes}; ++k) {lines}")
        self.helpers.update(dict.fromkeys(helpers))


_BFLOAT16_LOAD = "#define SG_BFLOAT16(x) as_float((uint)(x) << 16)"


@lru_cache(maxsize=8)  # a template's holes have an emitter each
def _all_variables(kernel: Kernel) -> frozenset[Var]:
    return frozenset(v for index in all_indices(kernel) for v in index.variables())
