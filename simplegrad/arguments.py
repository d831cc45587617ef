"""Checks of the numbers that users pass beside arrays, so that a wrong one is an error of ours.

`what` is the function and the argument, such as ``"one_hot: num_classes"``.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from simplegrad.errors import ArgumentError

_INF = float("inf")


def shown(value: Any) -> str:
    """Return a value for an error message, in one short line."""
    text = repr(value) if isinstance(value, (int, float, str, type(None))) else ""
    return text[:60] or f"a {type(value).__name__}"


def integer(what: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return an integer of a user as an int; `ArgumentError` for other types and out of range."""
    try:
        number = +operator.index(value)  # + turns a bool into an int
    except TypeError:
        raise ArgumentError(f"{what} must be an integer, not {shown(value)}") from None
    if abs(number) >> 63:
        raise ArgumentError(f"{what} must fit 64 bits; {shown(number)} does not")
    if least is not None and number < least:
        raise ArgumentError(f"{what} must be {least} or more, not {number}")
    if most is not None and number > most:
        raise ArgumentError(f"{what} must be {most} or less, not {number}")
    return number


def real(what: str, value: Any, least: float = -_INF, most: float = _INF) -> Any:
    """Return a real number of a user as it is; `ArgumentError` otherwise, and out of range."""
    if not isinstance(value, Real):
        raise ArgumentError(f"{what} must be a number, not {shown(value)}")
    if not least <= value <= most:  # type: ignore[operator]  # NaN included
        limits = f"{least:g} or more" if most == _INF else f"between {least:g} and {most:g}"
        expected = "no NaN" if least == -_INF else limits
        raise ArgumentError(f"{what} must be {expected}, not {value}")
    return value


def flag(what: str, value: Any) -> bool:
    """Return a user's yes or no (0 and 1 count) as a bool; `ArgumentError` for anything else."""
    if isinstance(value, (int, np.bool_, np.integer)) and value in (0, 1):
        return bool(value)
    raise ArgumentError(f"{what} must be True or False, not {shown(value)}")


def several(what: str, values: Any) -> list[Any]:
    """Return what an iterable gives; `ArgumentError` for anything else, a string included."""
    try:
        if not isinstance(values, (str, bytes)):
            return list(values)
    except TypeError:
        pass
    raise ArgumentError(f"{what} must be a list or tuple, not {shown(values)}")


def one_of(what: str, value: Any, names: tuple[str, ...]) -> None:
    """Raise `ArgumentError` unless a value is one of some names."""
    if not isinstance(value, str) or value not in names:
        known = ", ".join(map(repr, names))
        raise ArgumentError(f"{what} must be one of {known}, not {shown(value)}")


def function(what: str, value: Any) -> None:
    """Raise `ArgumentError` unless a value can be called."""
    if not callable(value):
        raise ArgumentError(f"{what} must be a function, not {shown(value)}")


def mapping(what: str, value: Any) -> None:
    """Raise `ArgumentError` unless a value is a dictionary, or something like one."""
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{what} must be a dictionary, by name, not {shown(value)}")
