"""The one way from nodes to values: by kernels, or operation by operation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from simplegrad import runtime
from simplegrad.dtypes import DType
from simplegrad.errors import DeviceError
from simplegrad.graph.node import Node, Spec, leaf_over, topological
from simplegrad.graph.prune import prune
from simplegrad.graph.signature import signature
from simplegrad.runtime import counting, devices, recording
from simplegrad.runtime.device import Device

_DEVICE = attrgetter("device")


def realize(nodes: Sequence[Node], given: Collection[Node] = ()) -> list[Node]:
    """Compute nodes and set their `buffer`; nodes on the way that tensors hold keep theirs too.

    `given` has nodes that their one owner lets go afterwards, so that results may take their
    memory. Returns all nodes that have a buffer now and had none before. Raises `DeviceError`
    where the nodes live on different devices.
    """
    wanted = [n for n in dict.fromkeys(nodes) if n.buffer is None]
    if not wanted:
        return []
    order, key, kept = signature(wanted)
    device = wanted[0].device or next((n.device for n in wanted if n.device is not None), None)
    device = device or devices.current()
    for other in set(map(_DEVICE, order)):
        if other is not device and other is not None:
            node = next(n for n in order if n.device is other)
            raise DeviceError(
                f"realize: {node} lives on {other.name}, {wanted[0]} on {device.name}; "
                "move one with .to_device(device)"
            )
    if device.runs_kernels:
        runtime.compiled.run(order, key, kept, device, given)
    else:
        order = topological(wanted)
        counting.count_interpreted(device, order)
        device.evaluate(order, wanted)
        for node in kept:
            node.device = device
    tracked = []
    for node in kept:
        node.depth, node.unread = 0, node.kind.spec.nbytes
        if node.tracks:
            tracked.append(node)
        else:
            node.srcs = ()
    if tracked:
        prune(tracked)
    return kept


def from_numpy(array: Any, dtype: DType, device: Any = None) -> Node:
    """Return a leaf that holds a copy of host data on a device."""
    device = device or devices.current()
    recording.refuse(
        "takes data from the host", "make the tensor outside, or pass the array as an argument"
    )
    array = np.asarray(array, order="C")
    return leaf_over(device.from_host(array, dtype), Spec.of(array.shape, dtype), device)


def to_numpy(node: Node) -> Any:
    """Return the value of a node as a NumPy array (bfloat16 as float32)."""
    recording.refuse(
        "reads a value on the host", "return the tensor, and read it outside; choose with where()"
    )
    realize([node])
    return node.device.to_host(node.buffer, node.dtype, node.shape)


def synchronize(device: Device | None = None) -> None:
    """Wait until everything enqueued on a device is done."""
    (device or devices.current()).synchronize()
