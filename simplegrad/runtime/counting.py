"""Who is told of what runs: the profiles that are open."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from simplegrad.graph.node import Node
from simplegrad.runtime.device import Device

if TYPE_CHECKING:
    from simplegrad.compiler.program import Launch
    from simplegrad.runtime.profile import Profile

Host = tuple[int, int, int]
"""A thread, and when it began and ended something, in nanoseconds of the host's clock."""

_open: list[Profile] = []
_lock = threading.Lock()


def begin(profile: Profile) -> None:
    """Tell a profile of everything from now on."""
    with _lock:
        _open.append(profile)


def end(profile: Profile) -> None:
    """Tell a profile no more."""
    with _lock:
        _open.remove(profile)


def profiling() -> bool:
    """Return whether any profile is open."""
    return bool(_open)


def count_launch(device: Device, launch: Launch, span: tuple[int, int], began: int) -> None:
    """Tell every open profile of a launch that ran from `span[0]` to `span[1]` nanoseconds.

    `began` is the host's clock (``time.perf_counter_ns``) before the launch; its end is now.
    """
    host = (threading.get_ident(), began, perf_counter_ns())
    for profile in _open:
        profile._add_launch(device, launch, span, host)


def count_interpreted(device: Device, nodes: Iterable[Node]) -> None:
    """Tell every open profile what a device without kernels is about to compute."""
    if _open:
        names = [node.op.name for node in nodes if node.buffer is None and node.srcs]
        for profile in _open:
            profile._add_interpreted(device, names)


def count_host(name: str, began: int) -> None:
    """Tell every open profile what the host has done since `began` (``time.perf_counter_ns``)."""
    if _open:
        host = (threading.get_ident(), began, perf_counter_ns())
        for profile in _open:
            profile._add_host(name, host)
