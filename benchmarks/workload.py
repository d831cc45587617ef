"""What a workload is: a computation by name, its inputs, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    `family` names the method of every library that computes it, `spec` its subscripts where it is
    an einsum. `tolerance` bounds the largest error over the largest answer. `traffic` counts the
    bytes of one read of every input and one write of the results; `ceiling` names what bounds it:
    ``"copy"``, ``"read"`` or nothing.
    """

    name: str
    family: str
    inputs: Callable[[], list[Any]]
    """Makes the arrays, the same on every call and in every process."""
    tolerance: float
    traffic: int = 0
    flops: int = 0
    ceiling: str = ""
    spec: str = ""


def normal(*shapes: Shape) -> Callable[[], list[Any]]:
    """Return a maker of float32 arrays of normally distributed numbers."""

    def make() -> list[Any]:
        rng = np.random.default_rng(0)
        return [rng.standard_normal(s, np.float32) for s in shapes]

    return make


def turns(n: int) -> Callable[[], int]:
    """Return a function that counts 0, 1 … n - 1, 0, 1 …"""
    count = -1

    def turn() -> int:
        nonlocal count
        count = (count + 1) % n
        return count

    return turn
