"""Index algebra: integer expressions of loop variables in one normal form.

An `Index` is a constant plus a sum of integer multiples of atoms, ordered so that equal
expressions are equal tuples. An atom is a loop variable, a floor division or a remainder by a
positive constant, or a number known only at run time. Every rule uses the range of its operand:

    (k*a + b) // k = a + b // k           any a, b
    (g*a + b) // (g*m) = a // m           0 <= b < g
    x // k = 0, x % k = x                 0 <= x < k
    (k*a + b) % k = b % k                 any a, b
    (g*a + b) % (g*m) = g*(a % m) + b     0 <= b < g
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from simplegrad.compiler.ir.symbolic import common_divisor, less, quotient, within

_serial = itertools.count()


class Var:
    """A loop variable that runs over 0 … extent-1; compared by identity."""

    __slots__ = ("extent", "high", "name", "order")

    def __init__(self, name: str, extent: int) -> None:
        self.name, self.extent, self.order = name, extent, (0, next(_serial))
        self.high = max(extent - 1, 0)
        """Largest value."""

    low = 0

    def __repr__(self) -> str:
        return self.name


class Dyn:
    """A number known at run time only, within low … high; `token` is the value that gives it."""

    __slots__ = ("high", "low", "order", "token")

    def __init__(self, token: Any, low: int, high: int) -> None:
        self.token, self.low, self.high = token, low, high
        self.order = (1, next(_serial))

    def __repr__(self) -> str:
        return f"dyn({self.low}..{self.high})"


class Div:
    """``index // k``."""

    __slots__ = ("high", "index", "k", "low", "order")
    low: int
    high: int

    def __init__(self, index: Index, k: int) -> None:
        self.index, self.k = index, k
        self.low, self.high = index.low // k, index.high // k
        self.order = (2, k, index.key)

    def __repr__(self) -> str:
        return f"({self.index})//{self.k}"


class Mod:
    """``index % k``, never negative."""

    __slots__ = ("high", "index", "k", "low", "order")
    low: int
    high: int

    def __init__(self, index: Index, k: int) -> None:
        self.index, self.k, self.low, self.high = index, k, 0, k - 1
        self.order = (3, k, index.key)

    def __repr__(self) -> str:
        return f"({self.index})%{self.k}"


Atom = Var | Dyn | Div | Mod


class Index:
    """``const + Σ coefficient·atom``, immutable; `low` and `high` bound its value."""

    __slots__ = ("_tokens", "_variables", "const", "high", "key", "low", "terms")
    low: int
    high: int
    _variables: frozenset[Var] | None
    """What `variables` and `tokens` gave."""
    _tokens: tuple[Any, ...] | None

    def __init__(self, terms: tuple[tuple[Atom, int], ...], const: int) -> None:
        self.terms, self.const = terms, const
        low = high = const
        for atom, c in terms:
            low += c * (atom.low if c > 0 else atom.high)
            high += c * (atom.high if c > 0 else atom.low)
        self.low, self.high = low, high
        self.key: Any = (const, tuple([(a.order, c) for a, c in terms]))
        self._variables = self._tokens = None

    @staticmethod
    def of(value: int | Atom) -> Index:
        """Return the expression of one number or atom."""
        if not isinstance(value, (Var, Dyn, Div, Mod)):
            return Index((), value)
        if value.low == value.high:
            return Index((), value.low)
        return Index(((value, 1),), 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Index) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        parts = [f"{c}*{a}" if c != 1 else str(a) for a, c in self.terms]
        return " + ".join(parts + ([str(self.const)] if self.const or not parts else []))

    def __add__(self, other: Index | int) -> Index:
        if not isinstance(other, Index):
            return Index(self.terms, self.const + other) if other else self
        const = self.const + other.const
        if self.terms and other.terms:
            return _sum([*self.terms, *other.terms], const)
        return Index(self.terms or other.terms, const)

    def __mul__(self, k: int) -> Index:
        if k == 1:
            return self
        return Index(tuple((a, c * k) for a, c in self.terms) if k else (), self.const * k)

    def __sub__(self, other: Index | int) -> Index:
        return self + other * -1

    def __floordiv__(self, k: int) -> Index:
        if k == 1:
            return self
        whole, rest = self._split(k)
        if within(rest.low, rest.high, k):
            return whole
        g = rest._grain(k)
        coarse, fine = rest._split(g)
        if g not in (1, k) and within(fine.low, fine.high, g):
            return whole + coarse // (k // g)
        shift = quotient(rest.const, k)[0]
        rest = rest + -shift * k
        return whole + shift + Index.of(Div(rest, k))

    def __mod__(self, k: int) -> Index:
        if k == 1:
            return Index((), 0)
        _, rest = self._split(k)
        if within(rest.low, rest.high, k):
            return rest
        g = rest._grain(k)
        coarse, fine = rest._split(g)
        if g not in (1, k) and within(fine.low, fine.high, g):
            return (coarse % (k // g)) * g + fine
        rest = rest + -quotient(rest.const, k)[0] * k
        if within(rest.low, rest.high, k):
            return rest
        return Index.of(Mod(rest, k))

    def _grain(self, k: int) -> int:
        """Return a divisor of k and of all coefficients that have one in common with it."""
        g = k
        for _, c in self.terms:
            if common_divisor(c, k) != 1:
                g = common_divisor(g, c)
        return g

    def _split(self, k: int) -> tuple[Index, Index]:
        """Return (a, b) with self = k*a + b, a as large as the coefficients show."""
        whole, rest = [], []
        for atom, c in self.terms:
            times, left = quotient(c, k)
            if left == 0:
                whole.append((atom, times))
            else:
                rest.append((atom, c))
        times, left = quotient(self.const, k)
        b = Index(tuple(rest), left)
        if not within(b.low, b.high, k):
            # Another representative of the constant may fit: -1*x + 3 within 0 … k-1.
            b2 = Index(tuple(rest), self.const)
            if within(b2.low, b2.high, k):
                return Index(tuple(whole), 0), b2
            # So may what is left of every coefficient: 4*x = 3*x + x within 0 … 2 for k = 3.
            pairs = [(a, *quotient(c, k)) for a, c in self.terms]
            b3 = Index(tuple((a, r) for a, _, r in pairs if r != 0), left)
            if within(b3.low, b3.high, k):
                return Index(tuple((a, q) for a, q, _ in pairs if q != 0), times), b3
        return Index(tuple(whole), times), b

    def substitute(self, changes: Mapping[Any, Index]) -> Index:
        """Return the expression with variables (and run-time values) replaced, simplified."""
        if not any(a in changes for a in self.atoms()):
            return self
        result = Index((), self.const)
        for atom, c in self.terms:
            if isinstance(atom, Div):
                new = atom.index.substitute(changes) // atom.k
            elif isinstance(atom, Mod):
                new = atom.index.substitute(changes) % atom.k
            else:
                new = changes[atom] if atom in changes else Index.of(atom)
            result = result + new * c
        return result

    def atoms(self) -> Iterator[Atom]:
        """Yield every atom, those inside divisions and remainders included."""
        for atom, _ in self.terms:
            yield atom
            if isinstance(atom, (Div, Mod)):
                yield from atom.index.atoms()

    def variables(self) -> frozenset[Var]:
        """Return the loop variables that occur anywhere (not those behind a `Dyn`)."""
        if self._variables is None:
            self._variables = frozenset([a for a in self.atoms() if isinstance(a, Var)])
        return self._variables

    def tokens(self) -> tuple[Any, ...]:
        """Return the run-time values that occur anywhere."""
        if self._tokens is None:
            self._tokens = tuple([a.token for a in self.atoms() if isinstance(a, Dyn)])
        return self._tokens

    def coefficient(self, var: Var) -> int | None:
        """Return the stride along `var`; None where it occurs inside a division or remainder."""
        stride = 0
        for atom, c in self.terms:
            if atom is var:
                stride = c
            elif isinstance(atom, (Div, Mod)) and var in atom.index.variables():
                return None
        return stride


def _sum(terms: list[tuple[Atom, int]], const: int) -> Index:
    merged: dict[Any, tuple[Atom, int]] = {}
    for atom, c in terms:
        old = merged.get(atom.order)
        merged[atom.order] = (atom, c if old is None else old[1] + c)
    kept = [merged[o] for o in sorted(merged, key=_order) if merged[o][1]]
    return Index(tuple(_rejoin(kept)), const)


def _order(order: Any) -> Any:
    return repr(order) if order[0] > 1 else "", order[:2]


def _rejoin(terms: list[tuple[Atom, int]]) -> list[tuple[Atom, int]]:
    """Apply k*(x // k) + x % k = x where both stand side by side."""
    for i, (div, c) in enumerate(terms):
        if not isinstance(div, Div) or quotient(c, div.k)[1] != 0:
            continue
        for j, (mod, d) in enumerate(terms):
            same = isinstance(mod, Mod) and mod.k == div.k and mod.index.key == div.index.key
            if same and d * div.k == c:
                rest = [t for n, t in enumerate(terms) if n not in (i, j)]
                whole = div.index * d
                if whole.const == 0:
                    joined = _sum(rest + list(whole.terms), 0)
                    return list(joined.terms)
    return terms


@dataclass(frozen=True)
class Guard:
    """The condition ``low <= index < high``."""

    index: Index
    low: int
    high: int

    @property
    def always(self) -> bool:
        """Whether the ranges show that it holds."""
        return less(self.low - 1, self.index.low) and less(self.index.high, self.high)

    @property
    def never(self) -> bool:
        """Whether the ranges show that it cannot hold."""
        return less(self.index.high, self.low) or less(self.high - 1, self.index.low)

    def substitute(self, changes: Mapping[Any, Index]) -> Guard:
        """Return the guard with variables replaced."""
        return Guard(self.index.substitute(changes), self.low, self.high)


def flatten(indices: tuple[Index, ...], shape: tuple[int, ...]) -> Index:
    """Return the row-major element number of a position."""
    terms: list[tuple[Atom, int]] = []
    const, step = 0, 1
    for index, extent in zip(reversed(indices), reversed(shape), strict=True):
        terms += [(atom, c * step) for atom, c in index.terms]
        const, step = const + index.const * step, step * extent
    return _sum(terms, const)


def unflatten(index: Index, shape: tuple[int, ...]) -> tuple[Index, ...]:
    """Return the position of a row-major element number, 0 <= index < size."""
    result = []
    for axis in range(len(shape) - 1, -1, -1):
        extent = max(shape[axis], 1)
        result.append(index % extent if axis else index)
        index = index // extent
    return tuple(reversed(result))
