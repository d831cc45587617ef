"""Extents that stand for any number, so that one compilation serves all of them.

A `Sym` goes through the compiler where an int would. It is a polynomial with integer coefficients
over *symbols* (extents that were seen to vary, each at least 2) and over *parts* that are no
polynomials: floor division, remainder, lesser and greater. While a `Trace` is open:

    a == b        holds where both are one polynomial; what is equal by chance counts as different
    a < b         is answered by the ranges of the symbols, for all values at once; where these
                  leave it open, by the trace's example, and then it becomes a *guard*: what was
                  compiled serves only numbers that give the same answer
    less(a, b)    the same without a guard: whether it can be shown
    estimate(a)   a typical number, for choices that change the speed and never the result
    range(a) …    whatever takes an integer from Python gets the example's, and a guard a == it
    str(a)        a C name, ``sym_3_`` (see `names`), which `assemble` makes a parameter

Ints give ints everywhere here, so that code written for both costs concrete shapes nothing.
Source of the method: guards of a traced program, as in tracing just-in-time compilers; Gal et al.,
"Trace-based just-in-time type specialization for dynamic languages", PLDI 2009.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, cast

from simplegrad.errors import VerifyError

Part = tuple[Any, ...]
"""("s", number) is a symbol; ("//", a, b), ("%", a, b), ("min", a, b), ("max", a, b)."""
Monomial = tuple[Part, ...]
Terms = dict[Monomial, int]

_LEAST = 2
"""Least value of a symbol: 0 and 1 are structure."""


class Sym:
    """A polynomial, immutable; equal and hashed by its terms."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    def __add__(self, other: Any) -> Any:
        return _combined(self, other, 1)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return _combined(self, other, -1)

    def __rsub__(self, other: Any) -> Any:
        return _combined(-self, other, 1)

    def __neg__(self) -> Any:
        return _made({m: -c for m, c in self.terms})

    def __mul__(self, other: Any) -> Any:
        if not symbolic(other):
            if not isinstance(other, int):
                return NotImplemented
            return _made({m: c * other for m, c in self.terms})
        result: Terms = {}
        for m, c in self.terms:
            for n, d in other.terms:
                product = _sorted((*m, *n))
                result[product] = result.get(product, 0) + c * d
        return _made(result)

    __rmul__ = __mul__

    def __floordiv__(self, k: Any) -> Any:
        whole, rest = quotient(cast(int, self), k)
        if isinstance(k, int) and isinstance(rest, int):
            return whole + rest // k
        if not isinstance(rest, Sym) and within(rest, rest, k):
            return whole
        return whole + _part("//", rest, k)

    def __rfloordiv__(self, other: int) -> Any:
        if within(other, other, cast(int, self)):
            return 0
        return _part("//", other, self)

    def __mod__(self, k: Any) -> Any:
        _, rest = quotient(cast(int, self), k)
        if isinstance(k, int) and isinstance(rest, int):
            return rest % k
        return rest if within(rest, rest, k) else _part("%", rest, k)

    def __rmod__(self, other: int) -> Any:
        return other if within(other, other, cast(int, self)) else _part("%", other, self)

    def __abs__(self) -> Any:
        return -self if self < 0 else self

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sym) and self._hash == other._hash and self.terms == other.terms:
            return True
        trace = _open.get()
        return trace is not None and trace.unifies and trace.unify(self, other)

    def __hash__(self) -> int:
        return self._hash

    def __lt__(self, other: Any) -> bool:
        return _trace().is_less(self, other)

    def __gt__(self, other: Any) -> bool:
        return _trace().is_less(other, self)

    def __le__(self, other: Any) -> bool:
        return not self > other

    def __ge__(self, other: Any) -> bool:
        return not self < other

    def __bool__(self) -> bool:
        return self > 0 or self < 0

    def __index__(self) -> int:
        return _trace().specialised(self)

    __int__ = __index__

    def __str__(self) -> str:
        return _trace().name(self)

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    def __repr__(self) -> str:
        return source(cast(int, self))


def symbol(number: int) -> int:
    """Return symbol s0, s1, …; it is typed as what it stands for."""
    return cast(int, Sym(((((("s", number),), 1)),)))


def symbolic(n: object) -> bool:
    """Return whether a number is known only when the kernel runs."""
    return isinstance(n, Sym)


def is_number(n: object) -> bool:
    """Return whether something is an int, or stands for one."""
    return isinstance(n, (int, Sym))


# Arithmetic ---------------------------------------------------------------------------------------


def _terms(n: Any) -> Terms:
    return dict(n.terms) if isinstance(n, Sym) else {(): n}


def _made(terms: Terms) -> Any:
    terms = {m: c for m, c in terms.items() if c}
    if not terms.keys() - {()}:
        return terms.get((), 0)
    return Sym(tuple(sorted(terms.items(), key=lambda t: repr(t[0]))))


def _sorted(monomial: Monomial) -> Monomial:
    return tuple(sorted(monomial, key=repr)) if len(monomial) > 1 else monomial


def _combined(a: Any, b: Any, sign: int) -> Any:
    if not is_number(b):
        return NotImplemented
    result = _terms(a)
    for m, c in _terms(b).items():
        result[m] = result.get(m, 0) + sign * c
    return _made(result)


def _part(op: str, a: Any, b: Any) -> Any:
    return Sym(((((op, a, b),), 1),))


def quotient(c: int, k: int) -> tuple[int, int]:
    """Return (q, r) with c = k*q + r; q is as large as the terms of both show.

    For ints it is divmod. Elsewhere r is 0 if c is a multiple of k for all values, else anything.
    """
    if type(c) is int and type(k) is int:
        return divmod(c, k)
    divisor = sorted(_terms(k).items(), key=lambda t: (-len(t[0]), repr(t[0])))
    (lead, lead_c), *tail = divisor
    rest, whole = _terms(c), cast(Terms, {})
    for monomial in sorted(rest, key=lambda m: (-len(m), repr(m))):
        factor = rest.get(monomial, 0)
        left = _without(monomial, lead)
        if left is None or ((tail or lead) and factor % lead_c):
            continue
        # Towards zero: what is left of a term keeps its sign, and its range stays narrow.
        times = factor // lead_c if not left else int(math.copysign(abs(factor) // lead_c, factor))
        whole[left] = whole.get(left, 0) + times
        for m, d in divisor:
            product = _sorted((*m, *left))
            rest[product] = rest.get(product, 0) - times * d
    remainder = _made(rest)
    if tail and (symbolic(remainder) or remainder):
        return 0, c
    return _made(whole), remainder


def _without(monomial: Monomial, factor: Monomial) -> Monomial | None:
    left = list(monomial)
    for part in factor:
        if part not in left:
            return None
        left.remove(part)
    return tuple(left)


def common_divisor(a: int, b: int) -> int:
    """Return a positive number that divides both; for ints the greatest."""
    if type(a) is int and type(b) is int:
        return math.gcd(a, b)
    for small, large in ((a, b), (b, a)):
        if less(0, small) and quotient(large, small)[1] == 0:
            return small
    every = [*_terms(a).items(), *_terms(b).items()]
    shared = list(every[0][0])
    for monomial, _ in every[1:]:
        left, common = list(monomial), []
        for part in shared:
            if part in left:
                left.remove(part)
                common.append(part)
        shared = common
    divisor: int = _made({tuple(shared): math.gcd(*[c for _, c in every])})
    return divisor if less(0, divisor) else 1


def lesser(a: int, b: int) -> int:
    """Return the lesser number, whichever that turns out to be: no guard."""
    if not symbolic(a) and not symbolic(b):
        return min(a, b)
    if less(a, b + 1):
        return a
    return b if less(b, a) else cast(int, _part("min", a, b))


def greater(a: int, b: int) -> int:
    """Return the greater number, whichever that turns out to be: no guard."""
    if not symbolic(a) and not symbolic(b):
        return max(a, b)
    if less(a, b + 1):
        return b
    return a if less(b, a) else cast(int, _part("max", a, b))


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b) if type(a) is int and type(b) is int else (a + (b - 1)) // b


def product(numbers: Iterable[int]) -> int:
    """Return the product; 1 for none."""
    result = 1
    for n in numbers:
        result = result * n
    return result


# Questions ----------------------------------------------------------------------------------------


def less(a: int, b: int) -> bool:
    """Return whether a < b can be shown: for all values of the symbols."""
    if type(a) is int and type(b) is int:
        return a < b
    return _trace().shown_less(a, b)


def within(low: int, high: int, k: int) -> bool:
    """Return whether 0 <= low and high < k can be shown."""
    return less(-1, low) and less(high, k)


def estimate(n: int) -> int:
    """Return the number itself, or a typical one: for choices that matter to speed only."""
    return evaluate(n, _trace().typical) if isinstance(n, Sym) else n


class Trace:
    """One compilation for all values of some symbols.

    `example` holds a value of each symbol, `typical` one to make estimates with, and `limits` the
    greatest that it may have.
    """

    def __init__(
        self, example: Sequence[int], typical: Sequence[int], limits: Sequence[int]
    ) -> None:
        self.example, self.typical, self.limits = tuple(example), tuple(typical), tuple(limits)
        self.guards: dict[str, None] = {}
        """Conditions on s0, s1, … as Python text, which hold for the example."""
        self.unifies = False
        """Whether numbers that are equal in the example are taken as equal, with a guard."""
        self.names: dict[Sym, int] = {}
        self.memory: OrderedDict[Any, Any] = OrderedDict()
        """For the compiler: the kernels made so far, whose names mean something here only."""
        self._bounds: dict[Any, Any] = {}
        self._tokens: list[Token[Trace | None]] = []

    def __enter__(self) -> Trace:
        self._tokens.append(_open.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _open.reset(self._tokens.pop())

    def value(self, n: Any) -> int:
        """Return the example's value of a number."""
        return evaluate(n, self.example)

    def name(self, n: Sym) -> str:
        """Return the C name that stands for a number in generated text."""
        return f"sym_{self.names.setdefault(n, len(self.names))}_"

    def specialised(self, n: Sym) -> int:
        """Return the example's value, from here on the only one."""
        value = self.value(n)
        self.guards[f"{source(cast(int, n))} == {value}"] = None
        return value

    def unify(self, a: Any, b: Any) -> bool:
        """Return whether two numbers are equal in the example, from here on in every case."""
        if not is_number(b) or self.value(a) != self.value(b):
            return False
        self.guards[f"{source(a)} == {source(b)}"] = None
        return True

    def shown_less(self, a: Any, b: Any) -> bool:
        """Return whether a < b for all values."""
        least = self.lower(b - a)
        return least is not None and least > 0

    def is_less(self, a: Any, b: Any) -> bool:
        """Return whether a < b, under a guard where it depends."""
        difference = b - a
        least = self.lower(difference)
        if least is not None and least > 0:
            return True
        most = self.lower(-difference)
        if most is not None and most >= 0:
            return False
        answer = self.value(difference) > 0
        self.guards[f"{source(difference)} {'>' if answer else '<='} 0"] = None
        return answer

    def lower(self, n: Any) -> int | None:
        """Return a number that `n` never falls below, or None."""
        if not isinstance(n, Sym):
            return int(n)
        if n not in self._bounds:
            self._bounds[n] = self._lower(n)
        found: int | None = self._bounds[n]
        return found

    def _lower(self, n: Sym) -> int | None:
        # Every part is its least value plus something: terms that cancel do so exactly.
        shifted: Terms = {}
        for monomial, c in n.terms:
            grown: Terms = {(): c}
            for part in monomial:
                low = self._range(part)[0]
                if low is None:
                    return None
                more: Terms = {}
                for m, d in grown.items():
                    wide = _sorted((*m, part))
                    more[wide] = more.get(wide, 0) + d
                    more[m] = more.get(m, 0) + d * low
                grown = more
            for m, d in grown.items():
                shifted[m] = shifted.get(m, 0) + d
        total = shifted.pop((), 0)
        for monomial, c in shifted.items():
            for part in monomial if c < 0 else ():
                low, high = self._range(part)
                if high is None or low is None:
                    return None
                c *= high - low
            total += min(c, 0)
        return total

    def _range(self, part: Part) -> tuple[int | None, int | None]:
        if part not in self._bounds:
            self._bounds[part] = self._part_range(part)
        found: tuple[int | None, int | None] = self._bounds[part]
        return found

    def _part_range(self, part: Part) -> tuple[int | None, int | None]:
        if part[0] == "s":
            return _LEAST, self.limits[part[1]]
        op, a, b = part
        (al, ah), (bl, bh) = self._both(a), self._both(b)
        if op in ("min", "max"):
            choose = min if op == "min" else max
            lows, highs = [al, bl], [ah, bh]
            return (
                None if None in lows else choose(cast(list[int], lows)),
                None if None in highs else choose(cast(list[int], highs)),
            )
        if bl is None or bl <= 0:
            return None, None
        if op == "%":
            return 0, None if bh is None else bh - 1
        if al is not None and al >= 0:
            return (0 if bh is None else al // bh), None if ah is None else ah // bl
        return (None if al is None else al // bl), None if ah is None else max(ah // bl, 0)

    def _both(self, n: Any) -> tuple[int | None, int | None]:
        most = self.lower(-n)
        return self.lower(n), None if most is None else -most


_open: ContextVar[Trace | None] = ContextVar("trace", default=None)


def _trace() -> Trace:
    trace = _open.get()
    if trace is None:
        raise VerifyError("symbolic: an extent that stands for any number left its trace")
    return trace


def current() -> Trace | None:
    """Return the open trace, if there is one."""
    return _open.get()


# Values -------------------------------------------------------------------------------------------

_VALUES: Mapping[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}


def evaluate(n: Any, numbers: Sequence[int]) -> int:
    """Return the value of a number, given those of the symbols."""
    if not isinstance(n, Sym):
        return int(n)
    total = 0
    for monomial, c in n.terms:
        for part in monomial:
            if part[0] == "s":
                c *= numbers[part[1]]
            else:
                c *= _VALUES[part[0]](evaluate(part[1], numbers), evaluate(part[2], numbers))
        total += c
    return total


def source(n: int) -> str:
    """Return a number as a Python expression of s0, s1, …"""
    if not isinstance(n, Sym):
        return str(n)
    terms = []
    for monomial, c in n.terms:
        factors = [_part_source(p) for p in monomial]
        if c != 1 or not factors:
            factors.insert(0, str(c))
        terms.append("*".join(factors))
    return f"({' + '.join(terms)})" if len(terms) > 1 else terms[0]


def _part_source(part: Part) -> str:
    if part[0] == "s":
        return f"s{part[1]}"
    op, a, b = part
    if op in ("min", "max"):
        return f"{op}({source(a)}, {source(b)})"
    return f"(({source(a)}) {op} ({source(b)}))"


def function(count: int, results: Iterable[str]) -> Callable[..., tuple[Any, ...]]:
    """Return a function of s0 … s(count-1) that gives a tuple of Python expressions' values."""
    names = ", ".join(f"s{i}" for i in range(count))
    listed = "".join(f"{text}, " for text in results)
    made: Callable[..., tuple[Any, ...]] = eval(f"lambda {names}: ({listed})")
    return made
