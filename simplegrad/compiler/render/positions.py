"""Index expressions and guards as C, over what their loop variables are bound to.

A variable is bound to an expression; one of them at most stands for several lanes, neighbours
that begin there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simplegrad.compiler.ir.index import Atom, Dyn, Guard, Index, Mod, Var
from simplegrad.compiler.ir.symbolic import less
from simplegrad.compiler.render.ctext import vector
from simplegrad.compiler.render.scopes import Scopes


class Positions(Scopes):
    """What an emitter says of places."""

    int_type: str
    """The type of index arithmetic."""
    deps: dict[int, frozenset[Any]]
    """What each value depends on, by its id."""

    def dynamic(self, atom: Dyn, lane: str) -> str:
        """Return the expression of a run-time index."""
        raise NotImplementedError

    def index(self, index: Index, lane: str = "") -> str:
        """Return the C expression of an index; of lane number `lane` of the vector variable."""
        parts = []
        for atom, c in index.terms:
            text = self._atom(atom, lane)
            if text == "0":
                continue
            parts.append(text if c == 1 else f"-{text}" if c == -1 else f"{text} * {c}")
        if index.const or not parts:
            parts.append(str(index.const))
        return " + ".join(parts).replace("+ -", "- ")

    def _atom(self, atom: Atom, lane: str) -> str:
        if isinstance(atom, Var):
            text, lanes = self.binding(atom)
            return f"({text} + {lane})" if lanes > 1 and lane else text
        if isinstance(atom, Dyn):
            return self.dynamic(atom, lane)
        inner, k = self.index(atom.index, lane), atom.k
        # C rounds towards zero: a multiple of k makes the operand positive first.
        shift = -(min(atom.index.low, 0) // k) * k
        if isinstance(atom, Mod):
            return f"(({inner} + {shift}) % {k})" if shift else f"(({inner}) % {k})"
        return f"(({inner} + {shift}) / {k} - {shift // k})" if shift else f"(({inner}) / {k})"

    def affine(self, index: Index) -> int | None:
        """Return the stride along the vector variable, None where lanes must go one by one."""
        stride = 0
        for atom, c in index.terms:
            if isinstance(atom, Var):
                stride += c if self.binding(atom)[1] > 1 else 0
            elif isinstance(atom, Dyn):
                if self.lanes(self.deps[id(atom.token)]) > 1:
                    return None
            elif any(self.binding(v)[1] > 1 for v in atom.index.variables()) or any(
                self.lanes(self.deps[id(t)]) > 1 for t in atom.index.tokens()
            ):
                return None
        return stride

    def conditions(
        self, guards: Sequence[Guard], lane: str = "", above: str | None = None
    ) -> list[str]:
        """Return the C conditions of guards at one lane; of their upper ends at lane `above`."""
        above = lane if above is None else above
        found = []
        for guard in guards:
            if not less(guard.low - 1, guard.index.low):
                found.append(f"{self.index(guard.index, lane)} >= {guard.low}")
            if not less(guard.index.high, guard.high):
                found.append(f"{self.index(guard.index, above)} < {guard.high}")
        return found

    def position(self, index: Index, ctype: str, lanes: int) -> str | None:
        """Return an index as numbers of a C type; None where it must go lane by lane."""
        base = self.index(index)
        if lanes == 1:
            return f"({ctype})({base})"
        stride = self.affine(index)
        if stride is None:
            return None
        own = vector(self.int_type, lanes)
        steps = ", ".join(str(k * stride) for k in range(lanes))
        text = f"(({own})({base}) + ({own})({steps}))"
        return text if ctype == self.int_type else f"convert_{vector(ctype, lanes)}({text})"

    def vector_test(self, guard: Guard, lanes: int) -> str:
        """Return which lanes are inside a guard, as a vector of integers."""
        text = self.position(guard.index, self.int_type, lanes)
        own = vector(self.int_type, lanes)
        tests = []
        if not less(guard.low - 1, guard.index.low):
            tests.append(f"({text} >= ({own})({guard.low}))")
        if not less(guard.index.high, guard.high):
            tests.append(f"({text} < ({own})({guard.high}))")
        return " & ".join(tests)
