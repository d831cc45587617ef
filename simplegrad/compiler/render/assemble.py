"""Bodies side by side in one kernel: independent work shares one launch.

Each body takes a range of the work-groups. The text depends on nothing but the bodies, in their
order: equal input gives equal text, whatever the hash seed.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from simplegrad.compiler.ir.names import renamed, size_named
from simplegrad.compiler.render.access import parameter
from simplegrad.compiler.render.emit import Body
from simplegrad.compiler.tiles import Tile

_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Source:
    """One program of one kernel, and how to launch it."""

    kernel: str
    """The text of the kernel."""
    kernel_name: str
    global_size: int
    local_size: int
    args: tuple[tuple[int, int], ...]
    """(body number, argument number) of each parameter, in order."""
    origin: str = ""
    """The template it was filled from; empty for generated loops."""
    tile: Tile | None = None
    numbers: tuple[tuple[int, str], ...] = ()
    """Value and C type of the parameters that follow: sizes that are not compiled in."""
    helpers: tuple[str, ...] | None = None
    """What stands before the kernel, functions and the extensions they need; None where `kernel`
    is a filled template, which goes with no other."""

    @cached_property
    def text(self) -> str:
        """The whole program."""
        return _program(self.helpers or (), [self.kernel])


def joined(sources: Sequence[Source]) -> str:
    """Return one program of several sources with helpers; see `joined_name` for its kernels."""
    helpers = dict.fromkeys(h for source in sources for h in source.helpers or ())
    kernels = [
        s.kernel.replace(f"__kernel void {s.kernel_name}(",
                         f"__kernel void {joined_name(s.kernel_name, i)}(")
        for i, s in enumerate(sources)
    ]  # fmt: skip
    return _program(tuple(helpers), kernels)


def joined_name(kernel_name: str, number: int) -> str:
    """Return the name of the kernel of source `number` in a joined program."""
    return f"{kernel_name}_of{number}"


def _program(helpers: Sequence[str], kernels: Sequence[str]) -> str:
    return "\n\n".join([*helpers, *kernels]) + "\n"


def assemble(name: str, bodies: Sequence[Body]) -> Source:
    """Return the kernel that does the work of all bodies; these write nothing others touch."""
    if bodies[0].template:
        (body,) = bodies
        args = tuple((0, a) for a in range(len(body.args)))
        size = body.groups * body.group_size
        sizes = _Sizes()
        text = sizes.named(body.template, body.index_type)
        return Source(text, body.name, size, body.group_size, args, body.origin,
                      body.tile, sizes.numbers())  # fmt: skip
    name = re.sub(r"\W", "_", name)
    name = name if name[:1].isalpha() else f"k_{name}"
    names = _argument_names(name, bodies)
    local_size = max(body.group_size for body in bodies)
    assert all(body.group_size in (1, local_size) for body in bodies), "work-group sizes differ"
    params = [
        parameter(names[b][a], arg.role, arg.dtype, a not in itertools.chain(*body.in_place))
        for b, body in enumerate(bodies)
        for a, arg in enumerate(body.args)
    ]
    sizes, first = _Sizes(), 0
    inside: list[str] = []
    for body, own in zip(bodies, names, strict=True):
        inside += _placed(body, own, first, len(bodies) == 1, sizes)
        first += body.groups
    params += sizes.parameters()
    helpers = dict.fromkeys(h for body in bodies for h in body.helpers)
    if any(arg.dtype.compute == "double" for body in bodies for arg in body.args):
        helpers = {"#pragma OPENCL EXTENSION cl_khr_fp64 : enable": None, **helpers}
    lines = [f"// {body.comment or body.name}" for body in bodies]
    lines.append(f"__attribute__((reqd_work_group_size({local_size}, 1, 1)))")
    lines += [f"__kernel void {name}(", *_listed(params), ") {"]
    if local_size > 1:
        lines.append("  const int item = get_local_id(0);")
    local = max(body.local_bytes for body in bodies)
    if local:
        lines.append(f"  __local long shared[{(local + 7) // 8}];")
        lines.append("  __local char *const scratch = (__local char *)shared;")
    lines += [*inside, "}"]
    args = tuple((b, a) for b, body in enumerate(bodies) for a in range(len(body.args)))
    return Source("\n".join(lines), name, first * local_size, local_size, args,
                  numbers=sizes.numbers(), helpers=tuple(helpers))  # fmt: skip


class _Sizes:
    """Sizes that are not compiled in: a parameter for each, named in the order of the text."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, str], str] = {}

    def named(self, text: str, ctype: str) -> str:
        """Return a text with its sizes named; `ctype` is the type that it computes them in."""
        return renamed(
            text, lambda name: self._names.setdefault((name, ctype), f"size{len(self._names)}")
        )

    def parameters(self) -> list[str]:
        """Return the declarations, in order."""
        return [f"const {ctype} {name}" for (_, ctype), name in self._names.items()]

    def numbers(self) -> tuple[tuple[int, str], ...]:
        """Return what the parameters are given."""
        return tuple((size_named(text), ctype) for text, ctype in self._names)


def _listed(params: list[str]) -> list[str]:
    return [f"    {p}{',' if i + 1 < len(params) else ''}" for i, p in enumerate(params)]


def _placed(body: Body, names: list[str], first: int, alone: bool, sizes: _Sizes) -> list[str]:
    def named(match: re.Match[str]) -> str:
        return names[int(match.group(1))]

    id_line = "const int id = get_group_id(0);"
    start, last = (sizes.named(str(n), "int") for n in (first, first + body.groups))
    if first:
        id_line = f"const int id = (int)get_group_id(0) - {start};"
    lines = [id_line, *[re.sub(r"\$(\d+)", named, x) if "$" in x else x for x in body.lines]]
    lines = [sizes.named(line, body.index_type) for line in lines]
    if alone:
        return ["  " + line for line in lines]
    test = f"(get_group_id(0) >= {start} && get_group_id(0) < {last})"
    return [f"  if {test} {{  // {body.name}", *["    " + line for line in lines], "  }"]


def _argument_names(kernel_name: str, bodies: Sequence[Body]) -> list[list[str]]:
    """Return a C name for every argument, unique in the kernel and unlike its other words."""
    taken = {kernel_name, "item", "id", "scratch", "shared", "lane", "half", "kernel", "global"}
    for body in bodies:
        for line in (*body.lines, *body.helpers):
            taken.update(_WORD.findall(line))
    names: list[list[str]] = []
    for body in bodies:
        own = []
        for arg in body.args:
            base = re.sub(r"\W", "_", arg.name)
            base = base if base[:1].isalpha() else f"a{base}"
            name, number = base, 1
            while name in taken:
                number, name = number + 1, f"{base}{number}"
            taken.add(name)
            own.append(name)
        names.append(own)
    return names
