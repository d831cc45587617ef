"""Normalisation layers."""

from __future__ import annotations

import math
from typing import Any

from simplegrad.arguments import integer, real
from simplegrad.errors import ShapeError
from simplegrad.nn import init
from simplegrad.nn.module import Array, Module
from simplegrad.runtime.realize import realize
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.modes import no_grad
from simplegrad.tensor.shapes import extents_of
from simplegrad.tensor.tensor import Tensor

_MAX_UNREAD = 8
"""Forward passes without an optimiser's step before running averages are computed unasked."""


class LayerNorm(Module):
    """Mean 0 and variance 1 over the last axes of `shape`, times `weight`, plus `bias`."""

    def __init__(self, shape: Any, eps: float = 1e-5) -> None:
        self._shape, self.eps = extents_of("LayerNorm", shape), real("LayerNorm: eps", eps, 0)
        self.weight, self.bias = init.ones(self._shape), init.zeros(self._shape)

    def __call__(self, x: Array) -> Tensor:
        """Return `x` normalised; `ShapeError` where its last axes are not `shape`."""
        x = as_tensor(x)
        rank = len(self._shape)
        if x.shape[x.ndim - rank :] != self._shape or x.ndim < rank:
            raise ShapeError(
                f"LayerNorm: takes (..., {', '.join(map(str, self._shape))}), got {x.shape}"
            )
        return x.layer_norm(range(-rank, 0), self.weight, self.bias, self.eps)


class BatchNorm(Module):
    """Mean 0 and variance 1 per channel of (N, channels, …), times `weight`, plus `bias`.

    In training the batch's mean and variance are used, and running averages of them (of the
    variance over n - 1) are kept with weight `momentum` for the newest; in evaluation the averages
    are used (Ioffe and Szegedy, 2015). The averages belong to the training step: an optimiser
    computes them along, in the same launches.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        channels = integer("BatchNorm: channels", channels, 0)
        self.eps = real("BatchNorm: eps", eps, 0)
        self.momentum = real("BatchNorm: momentum", momentum, 0, 1)
        self.weight, self.bias = init.ones(channels), init.zeros(channels)
        self.running_mean = init.zeros(channels).detach()
        self.running_var = init.ones(channels).detach()
        self.num_batches_tracked = Tensor(0)
        self._unread = 0

    def __call__(self, x: Array) -> Tensor:
        """Return `x` normalised; `ShapeError` where its second axis is not `channels`."""
        x = as_tensor(x)
        channels = self.weight.shape[0]
        if x.ndim < 2 or x.shape[1] != channels:
            raise ShapeError(f"BatchNorm: takes (N, {channels}, ...), got {x.shape}")
        if not self.training:
            return x.batch_norm(
                self.weight, self.bias, self.running_mean, self.running_var, eps=self.eps
            )
        axes = tuple(a for a in range(x.ndim) if a != 1)
        count = math.prod(x.shape[a] for a in axes)
        if count < 2:
            raise ShapeError(
                f"BatchNorm: {x.shape} has {count} values a channel, whose variance says nothing; "
                "give a larger batch or call eval()"
            )
        mean, var = x.mean(axes), x.var(axes)
        self._follow(mean, var, count / (count - 1))
        return x.batch_norm(self.weight, self.bias, mean, var, eps=self.eps)

    def _follow(self, mean: Tensor, var: Tensor, unbias: float) -> None:
        """Move the running averages towards a batch's mean and variance, lazily."""
        self._unread = 0 if self.running_mean._node.buffer is not None else self._unread + 1
        if self._unread >= _MAX_UNREAD:
            realize([t._node for t in (self.running_mean, self.running_var)])
        with no_grad():
            self.running_mean = self.running_mean.lerp(mean, self.momentum)
            self.running_var = self.running_var.lerp(var * unbias, self.momentum)
            self.num_batches_tracked = self.num_batches_tracked + 1
        self.weight.compute_along(self.running_mean, self.running_var, self.num_batches_tracked)
