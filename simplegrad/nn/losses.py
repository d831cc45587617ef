"""Losses: functions of outputs and targets; `reduction` is ``"mean"``, ``"sum"`` or ``"none"``."""

from __future__ import annotations

from simplegrad.arguments import real
from simplegrad.errors import ShapeError
from simplegrad.nn.module import Array
from simplegrad.tensor.composites import reduced
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.tensor import Tensor


def cross_entropy(
    logits: Array, target: Array, axis: int = -1, smoothing: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """Return minus the log-softmax of `logits` along `axis` at the target.

    `target` is integer labels or float probabilities; see `Tensor.cross_entropy` for their shapes,
    and for labels out of range.
    `smoothing` spreads that share of each target evenly over all classes (Szegedy et al., 2016).
    """
    smoothing = real("cross_entropy: smoothing", smoothing, 0, 1)
    logits = as_tensor(logits)
    loss = logits.cross_entropy(target, axis, reduction)
    if not smoothing:
        return loss
    even = reduced(logits.logsoftmax(axis).mean(axis).neg(), reduction)
    return loss.mul(1 - smoothing).add(even.mul(smoothing))


def binary_cross_entropy(logits: Array, target: Array, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of probabilities sigmoid(logits) with `target` (0 … 1), exactly.

    That is softplus(x) - x * target: no logarithm of a sigmoid that has become 0.
    """
    logits, target = _alike("binary_cross_entropy", logits, target)
    return reduced(logits.softplus().sub(logits.mul(target)), reduction)


def mse(output: Array, target: Array, reduction: str = "mean") -> Tensor:
    """Return the squared differences."""
    output, target = _alike("mse", output, target)
    return output.mse_loss(target, reduction)


def l1(output: Array, target: Array, reduction: str = "mean") -> Tensor:
    """Return the absolute differences."""
    output, target = _alike("l1", output, target)
    return reduced(output.sub(target).abs(), reduction)


def huber(output: Array, target: Array, delta: float = 1.0, reduction: str = "mean") -> Tensor:
    """Return half the squared differences up to `delta`, beyond it lines (Huber, 1964)."""
    output, target = _alike("huber", output, target)
    far = output.sub(target).abs()
    near = far.minimum(delta)
    return reduced(near.mul(far.sub(near.mul(0.5))), reduction)


def kl_divergence(log_probabilities: Array, target: Array, reduction: str = "mean") -> Tensor:
    """Return target (log target - log probability), summed over the last axis; 0 log 0 is 0."""
    logs, target = _alike("kl_divergence", log_probabilities, target)
    own = target.greater(0).where(target.maximum(1e-38).log(), 0.0)
    return reduced(target.mul(own.sub(logs)).sum(-1), reduction)


def _alike(name: str, output: Array, target: Array) -> tuple[Tensor, Tensor]:
    """Return both as tensors; `ShapeError` unless they have one shape, lest they broadcast."""
    output, target = as_tensor(output), as_tensor(target, getattr(output, "device", None))
    if output.shape != target.shape:
        raise ShapeError(
            f"{name}: an output of shape {output.shape} for a target of shape {target.shape}; "
            "reshape one"
        )
    return output, target
