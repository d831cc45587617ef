"""Learning-rate schedules: functions from the number of steps done (from 0) to a rate."""

from __future__ import annotations

import math
from collections.abc import Callable

from simplegrad.arguments import function, integer, real

Schedule = Callable[[int], float]


def constant(rate: float) -> Schedule:
    """Return a schedule that stays at `rate`."""
    rate = real("constant: rate", rate, 0)
    return lambda step: rate


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """Return a schedule multiplied by `factor` after every `every` steps."""
    rate, factor = real("step_decay: rate", rate, 0), real("step_decay: factor", factor, 0)
    every = integer("step_decay: every", every, 1)
    return lambda step: rate * factor ** (step // every)


def exponential(rate: float, factor: float) -> Schedule:
    """Return a schedule multiplied by `factor` after each step."""
    rate, factor = real("exponential: rate", rate, 0), real("exponential: factor", factor, 0)
    return lambda step: rate * factor**step


def cosine(rate: float, steps: int, last: float = 0.0) -> Schedule:
    """Return half a cosine from `rate` to `last` over `steps` steps, then `last`.

    Source: Loshchilov and Hutter, "SGDR", 2017.
    """
    rate, last = real("cosine: rate", rate, 0), real("cosine: last", last, 0)
    steps = integer("cosine: steps", steps, 1)
    return lambda step: last + (rate - last) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def warmup(schedule: Schedule, steps: int) -> Schedule:
    """Return `schedule` scaled linearly from 1/steps to 1 over the first `steps` steps."""
    steps = integer("warmup: steps", steps, 1)
    function("warmup: schedule", schedule)
    return lambda step: schedule(step) * min((step + 1) / steps, 1.0)
