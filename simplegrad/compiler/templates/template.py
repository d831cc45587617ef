"""Filling a template of ``kernels/``: flattened axes, and the functions that its holes call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from simplegrad.compiler.ir.in_place import Pairs
from simplegrad.compiler.ir.index import Index, Var
from simplegrad.compiler.ir.kernel import Kernel, Output, Value
from simplegrad.compiler.ir.names import names_in
from simplegrad.compiler.ir.symbolic import symbolic
from simplegrad.compiler.passes.groups import Rewriter
from simplegrad.compiler.render.access import parameter
from simplegrad.compiler.render.ctext import vector
from simplegrad.compiler.render.emit import Emitter
from simplegrad.compiler.templates.sources import kernel_source
from simplegrad.errors import VerifyError
from simplegrad.graph.infer import size_of


@dataclass(frozen=True, eq=False)
class Flat:
    """Several axes as one: an axis over runs and one inside a run, or one axis alone.

    Position p of the whole is number ``p % run`` of run ``p // run``.
    """

    vars: tuple[Var, ...]

    @property
    def extent(self) -> int:
        """Number of positions."""
        return size_of(tuple(v.extent for v in self.vars))

    @property
    def inside(self) -> Var:
        """The axis inside a run: neighbours along it are neighbours of the whole."""
        return self.vars[-1]

    @property
    def run(self) -> int:
        """Positions of a run, 0 where the whole is one."""
        return self.inside.extent if len(self.vars) > 1 else 0


def flattened(groups: Mapping[str, Sequence[Var]]) -> tuple[Rewriter, list[Var]]:
    """Return one new axis per group, and what rewrites a kernel over them."""
    rewriter, flats = flattened_in_runs(groups, {})
    return rewriter, [flat.inside for flat in flats]


def flattened_in_runs(
    groups: Mapping[str, Sequence[Var]], runs: Mapping[str, int]
) -> tuple[Rewriter, list[Flat]]:
    """Return a new axis per group, and what rewrites a kernel over them.

    `runs` says of some groups how many of their last axes make a run.
    """
    flats: list[Flat] = []
    changes: dict[Var, Index] = {}
    for name, own in groups.items():
        last = runs.get(name, 0) or len(own)
        parts = [own[: len(own) - last], own[len(own) - last :]]
        kept = [p for p in parts if size_of(tuple(v.extent for v in p)) != 1] or parts[1:]
        axes = [Var(name, size_of(tuple(v.extent for v in p))) for p in kept]
        for var, part in zip(axes, kept, strict=True):
            _spread(var, part, changes)
        changes.update({v: Index.of(0) for p in parts if p not in kept for v in p})
        flats.append(Flat(tuple(axes)))
    return Rewriter(changes), flats


def _spread(var: Var, parts: Sequence[Var], changes: dict[Var, Index]) -> None:
    """Say where axes stand when one new axis runs through all of them."""
    rest = Index.of(var)
    for part in reversed(parts):
        changes[part] = rest % part.extent if part is not parts[0] else rest
        rest = rest // part.extent


_ARGUMENT = re.compile(r"\$(\d+)")


@dataclass(frozen=True)
class _Function:
    """What fills a hole; every function takes all parameters of the kernel before its own."""

    hole: str
    ctype: str
    own: list[str]
    arguments: list[str]
    lines: list[str]

    def definition(self, parameters: Sequence[str]) -> str:
        """Return the function."""
        listed = ", ".join([*parameters, *self.own])
        head = f"static inline {self.ctype} sg_{self.hole.lower()}({listed})"
        return "\n".join([head, "{", *["  " + line for line in self.lines], "}"])

    def macro(self, names: Sequence[str]) -> str:
        """Return the definition of the hole, which calls the function."""
        listed, own = ", ".join([*names, *self.arguments]), ", ".join(self.arguments)
        return f"#define {self.hole}({own}) sg_{self.hole.lower()}({listed})"


class Holes:
    """The functions that a template calls to load and store.

    `axes` are the kernel's axes by the names of the functions' parameters; ``k`` is taken, the
    emitter's own loops use it.
    """

    def __init__(
        self, kernel: Kernel, axes: Mapping[str, Var | Flat], lanes: int, family: str
    ) -> None:
        self.kernel, self.axes, self.lanes, self.family = kernel, axes, lanes, family
        self.functions: list[_Function] = []
        self.helpers: dict[str, None] = {}
        self.ctype = "int"
        """The type of index arithmetic."""
        self.in_place: Pairs = ()
        """What the template may write over, since it stores every element once."""
        self.read_back = False
        """Whether the template reads what it stored."""

    def _emitter(self, along: Sequence[str], wide: str, lanes: int) -> Emitter:
        emitter = Emitter(self.kernel, self.family)
        emitter.open("")
        for name in along:
            self._bind(emitter, name, lanes if name == wide else 1)
        return emitter

    def _bind(self, emitter: Emitter, name: str, lanes: int) -> None:
        axis = self.axes[name]
        assert name != "k", "the emitter's loops over lanes count them in k"
        if isinstance(axis, Var) or not axis.run:
            emitter.bind(axis if isinstance(axis, Var) else axis.inside, name, lanes)
            return
        run, inside = emitter.fresh("run"), emitter.fresh("inside")
        emitter.line(f"const {emitter.int_type} {run} = {name} / {axis.run};")
        emitter.line(f"const {emitter.int_type} {inside} = {name} % {axis.run};")
        emitter.bind(axis.vars[0], run)
        emitter.bind(axis.inside, inside, lanes)

    def load(
        self, hole: str, value: Value, along: Sequence[str], wide: str = "",
        given: Sequence[str] = (), lanes: int = 0,
    ) -> None:  # fmt: skip
        """Define a hole that returns a value at a position, in lanes along the axis `wide`.

        `given` names further parameters of the value's type: what its GIVEN parts are. `lanes`:
        how many, where not as many as elsewhere.
        """
        lanes = (lanes or self.lanes) if wide else 1
        emitter = self._emitter(along, wide, lanes)
        emitter.given = dict(enumerate(given))
        result = emitter.value(value, lanes)
        ctype = vector(value.dtype.compute, lanes)
        extra = ", ".join(f"{ctype} {name}" for name in given)
        self._function(hole, ctype, along, extra, emitter, f"return {result};")

    def store(
        self,
        hole: str,
        along: Sequence[str],
        wide: str,
        given: str,
        prepare: Callable[[Emitter], None],
        outputs: Sequence[Output] = (),
    ) -> None:
        """Define a hole that stores outputs (all, unless told) from what the template computed.

        `given` declares the parameter that brings it; `prepare` tells the emitter what it is.
        """
        emitter = self._emitter(along, wide, self.lanes)
        prepare(emitter)
        for output in outputs or self.kernel.outputs:
            emitter.store(output, self.lanes if wide else 1)
        self._function(hole, "void", along, given, emitter, "")

    def touch(
        self, hole: str, arg: int, index: Index, along: Sequence[str], writes: bool, near: int = 3
    ) -> None:
        """Define a hole that asks for an element of an argument ahead of time."""
        emitter = self._emitter(along, "", 1)
        emitter.prefetch(arg, index, writes, near)
        self._function(hole, "void", along, "", emitter, "")

    def _function(
        self, hole: str, ctype: str, along: Sequence[str], given: str, emitter: Emitter, last: str
    ) -> None:
        emitter.close()
        self.helpers.update(emitter.helpers)
        self.ctype = emitter.int_type
        lines = [*emitter.finish(), *([last] if last else [])]
        lines = [_ARGUMENT.sub(self._argument, line) if "$" in line else line for line in lines]
        own = [f"{emitter.int_type} {v}" for v in along] + ([given] if given else [])
        brought = [re.split(r"\W+", g)[-1] for g in given.split(", ")] if given else []
        self.functions.append(_Function(hole, ctype, own, [*along, *brought], lines))

    def _argument(self, match: re.Match[str]) -> str:
        return self.kernel.args[int(match.group(1))].name

    def program(self, stem: str, defines: Mapping[str, object]) -> str:
        """Return the whole program: parameters, functions, then the template as it stands."""
        text = kernel_source(stem)
        for name, value in defines.items():
            # The preprocessor takes the name of a parameter for 0.
            if symbolic(value) and re.search(rf"^ *#(el)?if .*\b{name}\b", text, re.M):
                raise VerifyError(f"template: {stem}.cl must know {name}, which is {value!r}")
        lines = [f"// {self.kernel.name}: filled from kernels/{stem}.cl"]
        lines += [f"#define {k} {v}" for k, v in defines.items()]
        inside = [line for function in self.functions for line in function.lines]
        numbers = list(names_in([*lines, *inside]))
        # Intel's runtime moves loads of a restricted pointer before stores of inlined functions.
        read_back = {
            i for i, a in enumerate(self.kernel.args) if self.read_back and a.role == "out"
        }
        shared = read_back.union(*self.in_place)
        parameters = [
            parameter(a.name, a.role, a.dtype, i not in shared)
            for i, a in enumerate(self.kernel.args)
        ]
        parameters += [f"const {self.ctype} {name}" for name in numbers]
        names = [*[a.name for a in self.kernel.args], *numbers]
        lines.append(f"#define KERNEL_NAME {self.kernel.name}")
        lines.append(f"#define PARAMS {', '.join(parameters)}")
        lines += [function.macro(names) for function in self.functions]
        if any(a.dtype.compute == "double" for a in self.kernel.args):
            lines.append("#pragma OPENCL EXTENSION cl_khr_fp64 : enable")
        bodies = [function.definition(parameters) for function in self.functions]
        return "\n".join([*lines, *self.helpers, *bodies, text])
