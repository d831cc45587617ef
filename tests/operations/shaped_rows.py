"""Rows of the operations that change the shape: reductions, views, contraction, gather, scatter.

A row is code that holds for a `Tensor` and for a NumPy array alike, wherever both read the same.
Gradients are NumPy code as well: of a linear function, its transpose, found column by column.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import simplegrad as sg

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Shaped:
    op: str
    tensor: Function
    array: Function | None = None
    """The same for NumPy arrays, where it reads otherwise."""
    slope: Callable[[Any, Any], Any] | None = None
    """The gradient from (x, gradient of the result); None: the function is linear."""
    shapes: bool = True
    """Whether it takes any (n, m), empty ones too."""

    def of_array(self, x: Any) -> Any:
        return np.asarray((self.array or self.tensor)(x))

    def gradient(self, x: Any, g: Any) -> Any:
        """Return the gradient of ``(result * g).sum()``."""
        if self.slope is not None:
            return self.slope(x, g)
        found, start = np.zeros(x.shape), self.of_array(np.zeros(x.shape))
        for i in np.ndindex(x.shape):
            unit = np.zeros(x.shape)
            unit[i] = 1
            found[i] = ((self.of_array(unit) - start) * g).sum()
        return found


def _axes(axis: Any, x: Any) -> tuple[int, ...]:
    return tuple(range(x.ndim)) if axis is None else (axis % x.ndim,)


def _kept(value: Any, axis: Any, x: Any) -> Any:
    shape = [1 if a in _axes(axis, x) else n for a, n in enumerate(x.shape)]
    return np.asarray(value).reshape(shape)


def _extremum(op: str, axis: Any) -> Callable[[Any, Any], Any]:
    """Equal extrema share the gradient evenly; where the result is NaN, the NaNs share it."""

    def slope(x: Any, g: Any) -> Any:
        top = getattr(x, op)(axis=axis, keepdims=True)
        hit = (x == top) | np.isnan(x)
        return hit * (_kept(g, axis, x) / hit.sum(axis=axis, keepdims=True))

    return slope


def _product(axis: Any) -> Callable[[Any, Any], Any]:
    """The product of the others, times the gradient."""

    def slope(x: Any, g: Any) -> Any:
        found = np.zeros(x.shape)
        for i in np.ndindex(x.shape):
            others = x.copy()
            others[i] = 1
            found[i] = (others.prod(axis=axis, keepdims=True) * np.ones(x.shape))[i]
        return found * _kept(g, axis, x)

    return slope


def _reductions(op: str, slope: Any = None) -> list[Shaped]:
    rows = []
    for axis, keep in ((None, False), (0, True), (1, False)):

        def function(x: Any, axis: Any = axis, keep: bool = keep) -> Any:
            return getattr(x, op)(axis=axis, keepdims=keep)

        rows.append(Shaped(op, function, slope=None if slope is None else slope(axis)))
    return rows


def _einsum(subscripts: str, slope: Callable[[Any, Any], Any]) -> Shaped:
    inputs = 2 if "," in subscripts else 1
    return Shaped(
        "einsum",
        lambda x: sg.einsum(subscripts, *[x] * inputs),
        lambda x: np.einsum(subscripts, *[x] * inputs),
        slope,
    )


def _scattered(x: Any) -> Any:
    result = np.zeros((4, *x.shape[1:]), x.dtype)
    np.add.at(result, np.arange(len(x)) % 3, x)
    return result


def _strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> Shaped:
    def array(x: Any) -> Any:
        x = np.ascontiguousarray(x)
        return np.lib.stride_tricks.as_strided(x, shape, [s * x.itemsize for s in strides])

    return Shaped("as_strided", lambda x: x.as_strided(shape, strides), array, shapes=False)


ROWS: list[Shaped] = [
    *_reductions("sum"),
    *_reductions("prod", _product),
    *_reductions("max", lambda axis: _extremum("max", axis)),
    *_reductions("min", lambda axis: _extremum("min", axis)),
    *_reductions("argmax"),
    *_reductions("argmin"),
    Shaped("reshape", lambda x: x.reshape(-1, 2)),
    Shaped("reshape", lambda x: x.reshape(1, *x.shape[::-1])),
    Shaped("permute", lambda x: x.T),
    Shaped(
        "expand",
        lambda x: x[:, None].broadcast_to(x.shape[0], 3, x.shape[1]),
        lambda x: np.broadcast_to(x[:, None], (x.shape[0], 3, x.shape[1])),
    ),
    Shaped("slice", lambda x: x[::-1, 1:6:3]),
    Shaped("slice", lambda x: x[-2:, None, 4:0:-2]),
    Shaped(
        "pad", lambda x: x.pad(((1, 0), (0, 2)), 1), lambda x: np.pad(x, ((1, 0), (0, 2)),
                                                                      constant_values=1)
    ),
    _strided((3, 4), (5, 2)),
    _strided((4, 3, 2), (2, 1, 3)),
    _strided((3, 2), (0, 4)),
    _einsum("ij->j", lambda x, g: np.broadcast_to(g, x.shape)),
    _einsum("ij,kj->ik", lambda x, g: np.einsum("ik,kj->ij", g + g.T, x)),
    _einsum("ij,ij->i", lambda x, g: 2 * g[:, None] * x),
    _einsum("ij,ik->kj", lambda x, g: np.einsum("kj,ik->ij", g + g.T, x)),
    Shaped("take", lambda x: x.take([3, 0, -1, 0], 0), lambda x: np.take(x, [3, 0, -1, 0], 0)),
    Shaped("take", lambda x: x.take([[1], [1]], 1), lambda x: np.take(x, [[1], [1]], 1)),
    Shaped(
        "scatter_add",
        lambda x: sg.scatter_add(np.arange(x.shape[0]) % 3, x, 4),
        _scattered,
    ),
    Shaped(
        "concat",
        lambda x: sg.concat([x[1:], x[:0], x], 0),
        lambda x: np.concatenate([x[1:], x[:0], x], 0),
    ),
    Shaped(
        "concat",
        lambda x: sg.stack([x, x[::-1]], -1),
        lambda x: np.stack([x, x[::-1]], -1),
    ),
    Shaped("cumsum", lambda x: x.cumsum(0)),
    Shaped("cumsum", lambda x: x.cumsum(1)),
]  # fmt: skip

ZERO_DIMENSIONAL: list[Shaped] = [
    Shaped("sum", lambda x: x.sum()),
    Shaped("prod", lambda x: x.prod(), slope=lambda x, g: g),
    Shaped("max", lambda x: x.max(), slope=lambda x, g: g),
    Shaped("min", lambda x: x.min(), slope=lambda x, g: g),
    Shaped("argmax", lambda x: x.argmax()),
    Shaped("argmin", lambda x: x.argmin()),
    Shaped("reshape", lambda x: x.reshape(1, 1)),
    Shaped("permute", lambda x: x.T),
    Shaped("expand", lambda x: x.broadcast_to(2, 3), lambda x: np.broadcast_to(x, (2, 3))),
    Shaped("slice", lambda x: x[None, ...]),
    Shaped("pad", lambda x: x.pad(()), lambda x: x),
    Shaped(
        "as_strided",
        lambda x: x.as_strided((3,), (0,)),
        lambda x: np.broadcast_to(x, (3,)),
    ),
    Shaped(
        "einsum",
        lambda x: sg.einsum(",->", x, x),
        lambda x: np.einsum(",->", x, x),
        lambda x, g: 2 * g * x,
    ),
    Shaped("take", lambda x: x.take([0, 0]), lambda x: np.take(x, [0, 0])),
    Shaped("cumsum", lambda x: x.cumsum()),
]
