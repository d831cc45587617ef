"""Shapes and axes as users give them, brought into one form; what makes no sense is an error."""

from __future__ import annotations

import operator
from typing import Any

from simplegrad.arguments import shown
from simplegrad.errors import ShapeError
from simplegrad.graph.infer import Shape, size_of


def shape_of(name: str, shape: Any) -> Shape:
    """Return a shape given as an integer or a sequence of integers, as a tuple."""
    try:
        extents: Shape = (+operator.index(shape),)  # + turns a bool into an int
    except TypeError:
        extents = _several(name, shape)
    if any(abs(n) >> 63 for n in extents):
        raise ShapeError(f"{name}: {shown(max(extents, key=abs))} does not fit 64 bits")
    return extents


def _several(name: str, shape: Any) -> Shape:
    try:
        return tuple([+operator.index(n) for n in shape])
    except TypeError:
        raise ShapeError(
            f"{name}: {shown(shape)} is no integer and no tuple of integers, such as (2, 3)"
        ) from None


def extents_of(name: str, shape: Any) -> Shape:
    """Return a shape as `shape_of` does; `ShapeError` if an extent is negative."""
    extents = shape_of(name, shape)
    if any(n < 0 for n in extents):
        raise ShapeError(f"{name}: shape {extents} has a negative extent; extents are 0 or more")
    if size_of(extents) >> 63:
        raise ShapeError(f"{name}: an array of shape {extents} has more than 2^63 elements")
    return extents


def flat(name: str, shape: tuple[Any, ...]) -> Shape:
    """Return a shape given as several arguments, or as one."""
    return shape_of(name, shape[0] if len(shape) == 1 else shape)


def pair(name: str, value: Any, rank: int) -> Shape:
    """Return a setting per spatial axis from one integer or a sequence of `rank` integers."""
    values = shape_of(name, value)
    if len(values) == 1:
        values *= rank
    if len(values) != rank:
        raise ShapeError(f"{name}: {value} is neither one number nor one for each of {rank} axes")
    return values


def is_same(padding: Any) -> bool:
    """Return whether a padding is the word ``"same"``."""
    return isinstance(padding, str) and padding == "same"


def normalize_axis(name: str, axis: int, ndim: int) -> int:
    """Return a non-negative axis; `ShapeError` if there is no such axis."""
    try:
        index = axis.__index__()
    except (AttributeError, TypeError):
        raise ShapeError(
            f"{name}: axis {shown(axis)} is not an integer; {_axes_of(ndim)}"
        ) from None
    if not -ndim <= index < ndim:
        raise ShapeError(
            f"{name}: axis {index} is out of range for an array of {ndim} dimensions; "
            f"{_axes_of(ndim)}"
        )
    return index % ndim


def _axes_of(ndim: int) -> str:
    """Return which axes an array of so many dimensions has, as advice."""
    if not ndim:
        return "a zero-dimensional array has no axes: reshape it first"
    return f"give one of {-ndim} … {ndim - 1}"


def normalize_axes(name: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Return non-negative axes for None (all), an integer or a sequence."""
    if axis is None:
        return tuple(range(ndim))
    try:
        given = (axis,) if hasattr(axis, "__index__") else tuple(axis)
    except TypeError:
        raise ShapeError(
            f"{name}: axis {shown(axis)} is neither an integer nor several; {_axes_of(ndim)}"
        ) from None
    axes = tuple([normalize_axis(name, a, ndim) for a in given])
    if len(set(axes)) != len(axes):
        raise ShapeError(
            f"{name}: axes {axis} name one axis twice in {ndim} dimensions; leave one out"
        )
    return axes
