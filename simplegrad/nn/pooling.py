"""Pooling layers over (N, C, spatial …); the stride is the window's size unless told otherwise."""

from __future__ import annotations

from typing import Any

from simplegrad.nn.module import Array, Module
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.shapes import is_same, pair
from simplegrad.tensor.tensor import Tensor


class _Pool(Module):
    rank: int

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0) -> None:
        name, rank = type(self).__name__, self.rank
        stride = kernel_size if stride is None else stride
        for setting, value in (("kernel_size", kernel_size), ("stride", stride)):
            pair(f"{name}: {setting}", value, rank)
        if not is_same(padding):
            pair(f"{name}: padding", padding, rank)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def __call__(self, x: Array) -> Tensor:
        """Return (N, C, …) with smaller spatial extents."""
        pool = getattr(as_tensor(x), type(self).__name__.lower())
        return pool(self.kernel_size, self.padding, self.stride)  # type: ignore[no-any-return]


class MaxPool1d(_Pool):
    """The maximum of each window of (N, C, L)."""

    rank = 1


class MaxPool2d(_Pool):
    """The maximum of each window of (N, C, H, W)."""

    rank = 2


class AvgPool1d(_Pool):
    """The mean of each window of (N, C, L), padding counted as zeros."""

    rank = 1


class AvgPool2d(_Pool):
    """The mean of each window of (N, C, H, W), padding counted as zeros."""

    rank = 2
