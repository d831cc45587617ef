"""What the choice of tiles is made of: shapes, recipes, and tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simplegrad.compiler.target import Target

Recipe = dict[str, int]
"""Parameters chosen freely, in the order in which they are written."""


@dataclass(frozen=True)
class Shape:
    """What decides a tile, beside the device."""

    template: str
    """Template and variant, as in `Body.origin`."""
    extents: tuple[int, ...]
    """(batch, m, n, k) of a contraction, (batch, i, j) of a turned view, (batch, columns, rows, d,
    e) of an attention, (batch, hidden, multiplied, products, lanes) of a recurrence."""
    ctype: str = "float"
    """The C type computed with; on matrix units, what they read: half, bfloat16 or tf32."""
    layout: tuple[int, ...] = ()
    """A_UNIT and B_UNIT of a contraction, and whether its results stand in a row along n; the stage
    of an attention."""
    parts: int = 0
    """Parts into which k has been cut already; 0: it is whole."""


@dataclass(frozen=True)
class Tile:
    """A recipe fitted to a shape."""

    shape: Shape
    recipe: str
    stem: str
    """The template's file, without its ending."""
    parameters: dict[str, int]
    """Macros of the template."""
    groups: int
    """Work-groups of the launch."""
    group_size: int = 1
    why: str = "default for this device kind"


Choices = list[list[Recipe]]
"""Independent choices, the best guess first in each."""
Fitted = tuple[str, dict[str, int], int, int]
"""(template, its parameters, work-groups, work-items of a group)"""

Templates = dict[
    str, tuple[Callable[[Shape, Target], Choices], Callable[[Recipe, Shape, Target], Fitted]]
]
"""By template: what may be chosen, and how a recipe is fitted."""


def up(n: int, step: int) -> int:
    """Return the next multiple of `step` from n on."""
    return -(-n // step) * step


def each(name: str, *numbers: int) -> list[Recipe]:
    """Return a choice of one parameter."""
    return [{name: number} for number in numbers]
