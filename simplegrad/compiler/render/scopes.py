"""C statements in nested scopes: loops, conditions, and copies of an unrolled loop's body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from simplegrad.compiler.ir.index import Var

# Names of a loop variable that would hide something else in the generated text.
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        """
    id item unit unit_end part point place turn active first scratch shared k take half_way
    bool char short int long uchar ushort uint ulong half float double void size_t event_t
    if else for while do return break const static inline struct union enum switch case default
    global local constant private generic kernel restrict volatile pipe auto register
""",
    )
)


@dataclass
class Scope:
    """Statements, and what is bound and named for them."""

    opening: str
    """The loop or condition, with a pragma on a line before it; empty for a copy of a loop's
    body, which has no braces."""
    bound: dict[Any, tuple[str, int]]
    lines: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    """By id of a value: the C expression that stands for it."""


class Scopes:
    """The stack of scopes of one kernel, and the names of its loop variables."""

    def __init__(self, axes: Sequence[Var], free: Iterable[Var], kernel_name: str) -> None:
        """Begin with nothing but `free` variables, which are 0."""
        self._scopes = [Scope("", dict.fromkeys(free, ("0", 1)))]
        self._names: dict[Var, str] = {}
        self._counter = 0
        self._kernel_name = kernel_name
        for var in axes:
            self._name_variable(var)

    def _name_variable(self, var: Var) -> None:
        name = base = _word(var.name)
        taken, number = self._names.values(), 0
        while name in taken or name in _RESERVED or not name[0].isalpha():
            number, name = number + 1, f"i{number}{base}"
        self._names[var] = name

    def name(self, var: Var) -> str:
        """Return the C name of a loop variable."""
        return self._names[var]

    def fresh(self, base: str) -> str:
        """Return a name not used before."""
        self._counter += 1
        return f"{base}_{self._counter}"

    def line(self, text: str) -> None:
        """Write one statement into the current scope."""
        self._scopes[-1].lines.append(text)

    def bind(self, key: Var | int, text: str, lanes: int = 1) -> None:
        """Say what a variable, or the result of a reduction, is from here on."""
        self._scopes[-1].bound[key] = (text, lanes)

    def open(self, opening: str, bound: dict[Any, tuple[str, int]] | None = None) -> None:
        """Begin a scope; with no opening, a copy of a loop's body."""
        self._scopes.append(Scope(opening, dict(bound or {})))

    def close(self) -> None:
        """End the current scope."""
        scope = self._scopes.pop()
        lines = self._scopes[-1].lines
        if scope.opening:
            lines.extend((scope.opening + " {").split("\n"))
            lines.extend("  " + text for text in scope.lines)
            lines.append("}")
        else:
            lines.extend(scope.lines)

    def finish(self) -> tuple[str, ...]:
        """Return the statements; every scope has been closed."""
        assert len(self._scopes) == 1, "a scope was left open"
        return tuple(self._scopes[0].lines)

    def _depth(self, deps: frozenset[Any]) -> int:
        """Return the number of the outermost scope that binds all of `deps`."""
        for depth in range(len(self._scopes) - 1, 0, -1):
            if not deps.isdisjoint(self._scopes[depth].bound):
                return depth
        return 0

    def binding(self, key: Any) -> tuple[str, int]:
        """Return the innermost expression and width of a variable or reduction."""
        for scope in reversed(self._scopes):
            if key in scope.bound:
                return scope.bound[key]
        raise AssertionError(f"render: {key} is not bound in {self._kernel_name}")

    def lanes(self, deps: frozenset[Any]) -> int:
        """Return the lanes of a value that depends on `deps`."""
        most = 1
        for key in deps:
            if isinstance(key, Var):
                most = max(most, self.binding(key)[1])
        return most


@lru_cache(maxsize=256)
def _word(name: str) -> str:
    return re.sub(r"\W", "_", name) or "i"
