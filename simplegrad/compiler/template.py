"""Filling a template of ``kernels/``: flattened axes, and the functions that its holes call."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from simplegrad.compiler.access import parameter
from simplegrad.compiler.ctext import vector
from simplegrad.compiler.emit import Emitter
from simplegrad.compiler.groups import Rewriter
from simplegrad.compiler.index import Index, Var
from simplegrad.compiler.kernel import Kernel, Value
from simplegrad.compiler.sources import kernel_source
from simplegrad.graph.infer import size_of


def flattened(groups: Mapping[str, Sequence[Var]]) -> tuple[Rewriter, list[Var]]:
    """Return one new axis per group, and what rewrites a kernel over them."""
    axes = [Var(name, size_of(tuple(v.extent for v in own))) for name, own in groups.items()]
    changes: dict[Var, Index] = {}
    for var, parts in zip(axes, groups.values(), strict=True):
        rest = Index(((var, 1),), 0) if var.extent > 1 else Index.of(0)
        for part in reversed(parts):
            changes[part] = rest % part.extent if part is not parts[0] else rest
            rest = rest // part.extent
    return Rewriter(changes), axes


class Holes:
    """The functions that a template calls to load and store.

    `axes` are the kernel's axes by the names of the functions' parameters; ``k`` is taken, the
    emitter's own loops use it.
    """

    def __init__(self, kernel: Kernel, axes: Mapping[str, Var], lanes: int, family: str) -> None:
        self.kernel, self.axes, self.lanes, self.family = kernel, axes, lanes, family
        self.functions: list[str] = []
        self.helpers: dict[str, None] = {}
        self.macros: dict[str, str] = {}
        self.parameters = ", ".join(parameter(a.name, a.role, a.dtype) for a in kernel.args)
        self.names = ", ".join(a.name for a in kernel.args)

    def _emitter(self, along: Sequence[str], wide: str) -> Emitter:
        emitter = Emitter(self.kernel, self.family)
        bound = {self.axes[name]: (name, self.lanes if name == wide else 1) for name in along}
        emitter.open("", bound)
        return emitter

    def load(self, hole: str, value: Value, along: Sequence[str], wide: str = "") -> None:
        """Define a hole that returns a value at a position, in lanes along the axis `wide`."""
        emitter = self._emitter(along, wide)
        lanes = self.lanes if wide else 1
        result = emitter.value(value, lanes)
        ctype = vector(value.dtype.compute, lanes)
        self._function(hole, ctype, along, "", emitter, f"return {result};")

    def store(
        self,
        hole: str,
        along: Sequence[str],
        wide: str,
        given: str,
        prepare: Callable[[Emitter], None],
    ) -> None:
        """Define a hole that stores all outputs from what the template computed.

        `given` declares the parameter that brings it; `prepare` tells the emitter what it is.
        """
        emitter = self._emitter(along, wide)
        prepare(emitter)
        for output in self.kernel.outputs:
            emitter.store(output, self.lanes if wide else 1)
        self._function(hole, "void", along, given, emitter, "")

    def touch(self, hole: str, arg: int, index: Index, along: Sequence[str], writes: bool) -> None:
        """Define a hole that asks for an element of an argument ahead of time."""
        emitter = self._emitter(along, "")
        emitter.prefetch(arg, index, writes)
        self._function(hole, "void", along, "", emitter, "")

    def _function(
        self, hole: str, ctype: str, along: Sequence[str], given: str, emitter: Emitter, last: str
    ) -> None:
        emitter.close()
        self.helpers.update(emitter.helpers)
        name = "sg_" + hole.lower()
        own = [f"{emitter.int_type} {v}" for v in along] + ([given] if given else [])
        lines = [*emitter.finish(), *([last] if last else [])]
        lines = [re.sub(r"\$(\d+)", self._argument, line) for line in lines]
        head = f"static inline {ctype} {name}({', '.join([self.parameters, *own])})"
        self.functions.append("\n".join([head, "{", *["  " + x for x in lines], "}"]))
        arguments = ", ".join([*along, *([re.split(r"\W+", given)[-1]] if given else [])])
        self.macros[f"{hole}({arguments})"] = f"{name}({self.names}, {arguments})"

    def _argument(self, match: re.Match[str]) -> str:
        return self.kernel.args[int(match.group(1))].name

    def program(self, stem: str, defines: Mapping[str, object]) -> str:
        """Return the whole program: parameters, functions, then the template as it stands."""
        lines = [f"// {self.kernel.name}: filled from kernels/{stem}.cl"]
        lines += [f"#define {k} {v}" for k, v in defines.items()]
        lines.append(f"#define KERNEL_NAME {self.kernel.name}")
        lines.append(f"#define PARAMS {self.parameters}")
        lines += [f"#define {k} {v}" for k, v in self.macros.items()]
        if any(a.dtype.compute == "double" for a in self.kernel.args):
            lines.append("#pragma OPENCL EXTENSION cl_khr_fp64 : enable")
        return "\n".join([*lines, *self.helpers, *self.functions, kernel_source(stem)])
