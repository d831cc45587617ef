"""The C names of numbers that are known only when a kernel runs: `symbolic.Sym` as text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import cast

from simplegrad.compiler.ir.symbolic import current

_SIZE = re.compile(r"\bsym_(\d+)_")
"""The C name of a number that is known only when the kernel runs."""


def renamed(text: str, name: Callable[[str], str]) -> str:
    """Return a text with the C names of such numbers replaced by what `name` makes of each."""
    return _SIZE.sub(lambda match: name(match.group(0)), text) if "sym_" in text else text


def size_named(name: str) -> int:
    """Return the number that a C name stands for."""
    trace = current()
    assert trace is not None, name
    numbers = {number: n for n, number in trace.names.items()}
    return cast(int, numbers[int(name.split("_")[1])])


def names_in(texts: Iterable[str]) -> Iterator[str]:
    """Yield the C names of numbers in the order in which they first stand in some texts."""
    found: dict[str, None] = {}
    for text in texts:
        for match in _SIZE.finditer(text) if "sym_" in text else ():
            if match.group(0) not in found:
                found[match.group(0)] = None
                yield match.group(0)
