"""Layers with weights: Linear, Conv1d, Conv2d, Embedding; and Dropout and Flatten.

Weights have PyTorch's names, shapes and default initialisers, so that a state dictionary of
``torch.nn`` loads as it is.
"""

from __future__ import annotations

import math
from typing import Any

from simplegrad.arguments import flag, integer, real
from simplegrad.errors import ShapeError
from simplegrad.nn import init
from simplegrad.nn.module import Array, Module
from simplegrad.tensor import generator as generators
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.modes import mode
from simplegrad.tensor.shapes import is_same, pair
from simplegrad.tensor.tensor import Tensor


class Linear(Module):
    """``x @ weight.T + bias`` over the last axis: (…, inputs) to (…, outputs)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        inputs = integer("Linear: inputs", inputs, 0)
        outputs = integer("Linear: outputs", outputs, 0)
        bound = 1 / math.sqrt(inputs) if inputs else 0.0
        self.weight = init.uniform((outputs, inputs), bound)
        self.bias = init.uniform(outputs, bound) if flag("Linear: bias", bias) else None

    def __call__(self, x: Array) -> Tensor:
        """Return the layer's output; `ShapeError` where the last axis is not `inputs`."""
        x = as_tensor(x)
        if not x.ndim or x.shape[-1] != self.weight.shape[1]:
            raise ShapeError(
                f"Linear: takes (..., {self.weight.shape[1]}), got shape {x.shape}; "
                "its last axis is the layer's input"
            )
        out = x.einsum("...i,oi->...o", self.weight)
        return out if self.bias is None else out.add(self.bias)


class _Conv(Module):
    rank: int

    def __init__(
        self, inputs: int, outputs: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        kernel = pair(f"{name}: kernel_size", kernel_size, self.rank)
        inputs, outputs = (
            integer(f"{name}: inputs", inputs, 1),
            integer(f"{name}: outputs", outputs),
        )
        groups = integer(f"{name}: groups", groups, 1)
        if min(kernel) < 1:
            raise ShapeError(f"{name}: kernel_size {kernel_size} must be 1 or more")
        for setting, value in (("stride", stride), ("padding", padding), ("dilation", dilation)):
            if setting == "padding" and is_same(value):
                continue
            least = 0 if setting == "padding" else 1
            if min(pair(f"{name}: {setting}", value, self.rank)) < least:
                raise ShapeError(f"{name}: {setting} {value} must be {least} or more")
        if inputs % groups or outputs % groups:
            raise ShapeError(
                f"{name}: {inputs} inputs and {outputs} outputs do not divide into {groups} groups"
            )
        shape = (outputs, inputs // groups, *kernel)
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = init.uniform(shape, bound)
        self.bias = init.uniform(outputs, bound) if flag(f"{name}: bias", bias) else None
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def _setup(self) -> dict[str, Any]:
        names = ("padding", "stride", "dilation", "groups", "bias")
        return {name: getattr(self, name) for name in names}


class Conv1d(_Conv):
    """Correlation of (N, inputs, L) with (outputs, inputs / groups, kernel), plus bias."""

    rank = 1

    def __call__(self, x: Array) -> Tensor:
        """Return (N, outputs, L')."""
        return as_tensor(x).conv1d(self.weight, **self._setup())


class Conv2d(_Conv):
    """Correlation of (N, inputs, H, W) with (outputs, inputs / groups, kh, kw), plus bias."""

    rank = 2

    def __call__(self, x: Array) -> Tensor:
        """Return (N, outputs, H', W')."""
        return as_tensor(x).conv2d(self.weight, **self._setup())


class Embedding(Module):
    """A row of `weight` (count, width) for each integer: (…) to (…, width)."""

    def __init__(self, count: int, width: int) -> None:
        count, width = integer("Embedding: count", count, 1), integer("Embedding: width", width, 1)
        self.weight = init.normal((count, width))

    def __call__(self, indices: Array) -> Tensor:
        """Return the rows at `indices`, host integers or a tensor of them.

        `IndexOutOfRange` for host indices outside of the table, and for those of a tensor on the
        NumPy device or with ``SIMPLEGRAD_CHECK=1``; elsewhere those are clamped to the table.
        """
        if isinstance(indices, Tensor) and indices.device.name == "numpy" and not mode.lazy:
            indices = indices.numpy()  # those of the host are checked
        return self.weight.take(indices, 0)


class Dropout(Module):
    """In training, zeros with probability `p`, the rest times 1 / (1 - p); else nothing."""

    def __init__(self, p: float = 0.5, generator: Any = None) -> None:
        p = real("Dropout: p", p, 0, 1)
        generators.of(generator)
        self.p, self._generator = p, generator

    def __call__(self, x: Array) -> Tensor:
        """Return `x` with elements dropped, in training mode."""
        return as_tensor(x).dropout(self.p, self.training, self._generator)


class Flatten(Module):
    """All axes but the first as one: (N, …) to (N, features)."""

    def __call__(self, x: Array) -> Tensor:
        """Return shape (N, features)."""
        x = as_tensor(x)
        if not x.ndim:
            raise ShapeError("Flatten: a zero-dimensional tensor has no batch axis")
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))
