"""What the compiler must know of a device."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Winner:
    """The outcome of measuring the candidate tiles of one class of shapes on a device."""

    shape_class: str
    recipe: str
    gain: float
    """How many times as fast as the default; 1 where no candidate was clearly faster."""
    date: str
    """Day of the measurement, ``2026-11-24``."""


@dataclass(frozen=True)
class Target:
    """What the renderer must know about a device."""

    family: str
    """``cpu`` or ``gpu``."""
    vector_width: int = 8
    """4-byte lanes of one vector."""
    compute_units: int = 1
    max_work_group: int = 256
    local_bytes: int = 32768
    max_parameter_bytes: int = 1024
    fp64: bool = True
    prefetch: bool = False
    """Whether the compiler knows ``__builtin_prefetch``."""
    differences: bool = True
    """Whether the compiler may make vectors of loops that subtract floats, and gets them right."""
    vector_bytes: int = 128
    """The longest vector that the driver's own functions take rightly."""
    distrusted: frozenset[str] = frozenset()
    """Templates that failed their self-test on the device."""
    mma: str = ""
    """How matrix units are reached: ``ptx``; ``emulated``, in tests; empty: there are none."""
    tuned: frozenset[Winner] = frozenset()
    """What measuring found on the device."""
