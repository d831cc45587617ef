"""What a function run by `simplegrad.jit` did: its plans, its host numbers, its host effects.

While a recording is open in a thread, `realize` tells it every plan that ran. Numbers that the
library itself takes from the host anew on each call (an optimiser's bias correction, the stream
number of a random draw) say how they are made, and host effects (an optimiser's step count) what
they do, so that a replay repeats both in their order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simplegrad.errors import JitError
from simplegrad.graph.node import Node

if TYPE_CHECKING:
    from simplegrad.runtime.plan import Plan


class LiveFloat(float):
    """A number of the host that a replay makes again; `action` is its place in the recording."""

    action: int


class LiveInt(int):
    """As `LiveFloat`."""

    action: int


@dataclass(frozen=True, eq=False)
class Run:
    """One realize: the plan, its graph, and the nodes that got values."""

    plan: Plan
    order: Sequence[Node]
    kept: Sequence[Node]


@dataclass(eq=False)
class Recording:
    """What happened, in order; nodes are held, so that none is taken for another."""

    runs: list[Run] = field(default_factory=list)
    actions: list[Callable[[], Any]] = field(default_factory=list)
    """Makers of numbers, and effects."""


class _Open(threading.local):
    recording: Recording | None = None


_open = _Open()


def active() -> bool:
    """Return whether a recording is open in this thread."""
    return _open.recording is not None


def may_fold(device: Any) -> bool:
    """Return whether graphs of a device may hold folded stencils: plans unfold them."""
    return _open.recording is None and device is not None and device.runs_kernels


@contextmanager
def record() -> Iterator[Recording]:
    """Open a recording for this thread."""
    recording = _open.recording = Recording()
    try:
        yield recording
    finally:
        _open.recording = None


def ran(plan: Plan, order: Sequence[Node], kept: Sequence[Node]) -> None:
    """Tell the open recording of a realize."""
    if _open.recording is not None:
        _open.recording.runs.append(Run(plan, order, tuple(kept)))


def number(make: Callable[[], int | float]) -> int | float:
    """Return a number of the host that is made anew on every call, replays included."""
    value = make()
    recording = _open.recording
    if recording is None:
        return value
    live = LiveFloat(value) if isinstance(value, float) else LiveInt(value)
    live.action = len(recording.actions)
    recording.actions.append(make)
    return live


def repeat(act: Callable[[], None]) -> None:
    """Let replays do on the host what this call does by itself."""
    if _open.recording is not None:
        _open.recording.actions.append(act)


def refuse(what: str, remedy: str) -> None:
    """Raise `JitError` if a recording is open: a replay would not do what is asked."""
    if _open.recording is not None:
        raise JitError(f"jit: the function {what}, which a replay would not repeat; {remedy}")
