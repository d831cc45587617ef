"""Layouts: how the elements that an operation reads lie in the buffer below."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layout:
    """`leaf` makes the data of a leaf from a square array, and `view` reads the leaf.

    Most views read just the array that the leaf was made from.
    """

    view: Callable[[Any], Any]
    leaf: Callable[[Any], Any] = lambda array: array
    array: Callable[[Any], Any] | None = None
    """The view of a NumPy array, where it is written otherwise."""

    def of_array(self, leaf: Any) -> Any:
        """Return what the view of a leaf with this data holds."""
        return np.asarray((self.array or self.view)(leaf))

    def back(self, leaf: Any, gradient: Any) -> Any:
        """Return the gradient of the leaf that one of the view makes: the view's transpose."""
        places = self.of_array(np.arange(leaf.size).reshape(leaf.shape))
        total = np.zeros(leaf.size)
        np.add.at(total, places.ravel(), gradient.ravel())
        return total.reshape(leaf.shape)


def _apart(array: Any) -> Any:
    """Every second row and every second column of a larger array, which holds ones besides."""
    larger = np.ones((2 * array.shape[0], 2 * array.shape[1]), array.dtype)
    larger[::2, 1::2] = array
    return larger


def _hankel(array: Any) -> Any:
    n = len(array)
    return np.lib.stride_tricks.as_strided(array, (n // 2, n // 2), 2 * array.strides)


LAYOUTS: dict[str, Layout] = {
    "contiguous": Layout(lambda x: x),
    "transposed": Layout(lambda x: x.T, lambda a: np.ascontiguousarray(a.T)),
    "flipped": Layout(lambda x: x[::-1, ::-1], lambda a: np.ascontiguousarray(a[::-1, ::-1])),
    "strided": Layout(lambda x: x[::2, 1::2], _apart),
    "broadcast": Layout(
        lambda x: x.broadcast_to(x.shape[0], x.shape[0]),
        lambda a: np.ascontiguousarray(a[:, -1:]),
        lambda x: np.broadcast_to(x, (x.shape[0], x.shape[0])),
    ),
    "overlapping": Layout(
        lambda x: x.as_strided((x.shape[0] // 2, x.shape[0] // 2), (1, 1)),
        lambda a: np.concatenate([a.diagonal(), a.diagonal()[::-1]]),
        _hankel,
    ),
    "0-d": Layout(lambda x: x, lambda a: a[-1, 1]),
    "0-d of 2-d": Layout(lambda x: x[-2, -1]),
    "empty": Layout(lambda x: x[:0]),
    "empty leaf": Layout(lambda x: x.T, lambda a: a[:, :0]),
}
KINDS = ["contiguous", "strided", "broadcast", "0-d", "empty"]
"""One of each kind."""
PLAIN = ["contiguous", "strided", "0-d", "empty"]
