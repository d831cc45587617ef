"""Optimisers, learning-rate schedules and gradient clipping."""

from simplegrad.optim.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop, clip_norm, clip_value
from simplegrad.optim.schedules import constant, cosine, exponential, step_decay, warmup

__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_norm", "clip_value", "constant",
    "cosine", "exponential", "step_decay", "warmup",
]  # fmt: skip
