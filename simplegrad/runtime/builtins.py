"""Declarations of OpenCL C's built-in functions, of those alone that a source names.

PoCL has clang read its header of 18,000 lines anew for every program: a quarter of a second, nine
tenths of what a small kernel takes to build. With the header's guard defined beforehand and the
declarations of this module in front, the same text builds to the same code.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

POCL = "Portable Computing Language"
undeclared: deque[str] = deque(maxlen=8)
"""The last sources that built with the header and not without: the tables here lack a name."""

_GUARD, _QUIET = "-D_OPENCL_H_", "-w"
_LANES = ("", "2", "3", "4", "8", "16")
_INTEGERS = ("char", "uchar", "short", "ushort", "int", "uint", "long", "ulong")
_SPACES = ("__global", "__local", "__private", "__constant")
_CONST, _PURE, _PLAIN = "overloadable, const", "overloadable, pure", "overloadable"

# Names by the number of their arguments, which have one type, the result's too.
_OF_FLOATS = {
    1: "acos acosh asin asinh atan atanh cbrt ceil cos cosh erf erfc exp exp2 expm1 fabs floor "
    "lgamma log log10 log1p log2 rint round rsqrt sign sin sinh sqrt tan tanh tgamma trunc",
    2: "atan2 copysign fdim fmax fmin fmod hypot pow remainder",
    3: "fma mad",
}
_OF_INTEGERS = {1: "clz popcount", 2: "add_sat sub_sat mul_hi rotate"}
_OF_BOTH = {2: "max min", 3: "clamp"}
_TESTS = "isfinite isinf isnan isnormal signbit"
_PLACES = (
    "get_global_id get_global_offset get_global_size get_group_id get_local_id get_local_size "
    "get_num_groups"
)
_FENCES = "barrier mem_fence"

_CONVERT = re.compile(r"convert_([a-z]+?)(\d*)(?:_sat)?(?:_rt[ezpn])?")
_MEMORY = re.compile(r"v(load|store)(_half)?(\d*)(?:_rt[ezpn])?")
_WORD = re.compile(r"[a-z_][a-z_0-9]*")


def build(cl: Any, context: Any, source: str, options: Sequence[str] = ()) -> Any:
    """Return a program, built with the driver's own header only where there is no other way.

    Raises PyOpenCL's error, which holds the log, where that fails too.
    """
    if context.devices[0].platform.name == POCL:
        with suppress(cl.Error):
            program = cl.Program(context, declarations(source) + source)
            # Quiet: its clang counts warnings (of vectors wider than the ABI's) on stderr.
            return program.build(options=[*options, _GUARD, _QUIET], cache_dir=False)
    program = cl.Program(context, source).build(options=list(options), cache_dir=False)
    if context.devices[0].platform.name == POCL:
        undeclared.append(source)
    return program


def declarations(source: str) -> str:
    """Return declarations of the built-in functions that a source names, as lines before it."""
    words = set(_WORD.findall(source))
    reals = ("float", "double") if "double" in source else ("float",)
    lines = [line for word in sorted(words) for line in _declared(word, reals)]
    head = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" if len(reals) == 2 else ""
    return f"{head}{' '.join(lines)}\n#line 1\n"


def _declared(word: str, reals: tuple[str, ...]) -> list[str]:
    """Return the declarations of all functions of a name; none if there is no such function."""
    for kinds, table in (
        (reals, _OF_FLOATS), (_INTEGERS, _OF_INTEGERS), ((*reals, *_INTEGERS), _OF_BOTH)
    ):  # fmt: skip
        for count, names in table.items():
            if word in names.split():
                types = [kind + n for kind in kinds for n in _LANES]
                return [_function(_CONST, t, word, [t] * count) for t in types]
    if word == "abs":
        return [
            _function(_CONST, f"u{kind.removeprefix('u')}{n}", word, [kind + n])
            for kind in _INTEGERS
            for n in _LANES
        ]
    if word in _TESTS.split():
        wide = {"float": "int", "double": "long"}
        tests = [(wide[kind] + n if n else "int", kind + n) for kind in reals for n in _LANES]
        return [_function(_CONST, result, word, [t]) for result, t in tests]
    if word in _PLACES.split():
        return [_function(_CONST, "size_t", word, ["uint"])]
    if word in _FENCES.split():
        return [_function("overloadable, convergent", "void", word, ["cl_mem_fence_flags"])]
    if found := _CONVERT.fullmatch(word):
        kind, n = found.groups()
        known = kind in (*reals, *_INTEGERS)
        kinds = (*reals, *_INTEGERS) if known else ()
        return [_function(_CONST, kind + n, word, [k + n]) for k in kinds]
    return _of_memory(word, reals)


def _of_memory(word: str, reals: tuple[str, ...]) -> list[str]:
    """Return the declarations of a load or store of vectors or of halves."""
    if word in ("vload", "vstore"):  # templates paste the number of lanes
        return [line for n in _LANES[1:] for line in _of_memory(word + n, reals)]
    found = _MEMORY.fullmatch(word)
    if found is None:
        return []
    action, half, n = found.groups()
    kinds = [("half", "float" + n)] if half else [(k, k + n) for k in (*reals, *_INTEGERS)]
    if action == "load":
        return [
            _function(_PURE, value, word, ["size_t", f"const {space} {kind} *"])
            for kind, value in kinds
            for space in _SPACES
        ]
    return [
        _function(_PLAIN, "void", word, [value, "size_t", f"{space} {kind} *"])
        for kind, value in kinds
        for space in _SPACES[:3]
    ]


def _function(attributes: str, result: str, name: str, arguments: list[str]) -> str:
    return f"{result} __attribute__(({attributes})) {name}({', '.join(arguments)});"
