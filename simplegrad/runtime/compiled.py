"""The way of devices that run kernels: look up the plan of a graph's structure, and run it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from simplegrad.graph.node import Node
from simplegrad.runtime import recording
from simplegrad.runtime.donation import Watch
from simplegrad.runtime.lookup import plan_of
from simplegrad.runtime.opencl import OpenCLDevice


def run(
    order: Sequence[Node], key: tuple[Any, ...], kept: Sequence[Node], device: OpenCLDevice,
    given: Collection[Node],
) -> None:  # fmt: skip
    """Compute a graph (order, key and kept nodes of its `signature`); `given` as `realize` says."""
    plan = plan_of(order, key, kept, device)
    recorded = recording.active()
    dying: Sequence[int] = ()
    narrow: Sequence[tuple[int, frozenset[int]]] = ()
    if plan.mortal and not recorded:
        watch = plan.layout.watch
        if watch is None:
            watch = plan.layout.watch = Watch(order, kept, plan.mortal)
        dying, narrow = watch.dying(order, kept, plan.mortal, given)
    for node in kept:
        node.device = device
    plan.run(order, dying=dying, into=kept)
    for place, left in narrow:
        order[place].kind.arg.narrow(order[place], left)
    if recorded:
        recording.ran(plan, [*order, *plan.inner], kept)
