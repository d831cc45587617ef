"""What a workload is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """`run` records one run and returns its lazy result; `want` gives NumPy's answer to it.

    Where runs build on each other, as in training, every call of `want` follows one of `run`.
    """

    run: Callable[[], Any]
    want: Callable[[], Any]


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    `make` gives a fresh case with filled inputs, the same on every call. `tolerance` bounds the
    largest error over the largest answer. `traffic` counts the bytes of one read of every input
    and one write of the result; `ceiling` names what bounds it: ``"copy"``, ``"read"`` or nothing.
    """

    name: str
    make: Callable[[], Case]
    tolerance: float
    traffic: int = 0
    flops: int = 0
    ceiling: str = ""
    beside_numpy: bool = False
    """True: `want` is what a user of NumPy would write, and is timed too."""
