"""The one way from nodes to values: look up the plan of a graph's structure, and run it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np

from simplegrad import ops, settings
from simplegrad.compiler.generic import Family, structure
from simplegrad.compiler.pipeline import compile_graph
from simplegrad.compiler.target import Target
from simplegrad.dtypes import DType
from simplegrad.errors import BuildError, DeviceError
from simplegrad.graph.node import Node, leaf
from simplegrad.graph.prune import prune
from simplegrad.runtime import devices, profile, selftest, tuner
from simplegrad.runtime.device import Device
from simplegrad.runtime.opencl import OpenCLDevice
from simplegrad.runtime.plan import Plan

_MAX_PLANS = 512
_plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
_families: OrderedDict[tuple[Any, ...], Family] = OrderedDict()
_lock = threading.RLock()


def realize(nodes: Sequence[Node]) -> list[Node]:
    """Compute nodes and set their `buffer`; nodes on the way that tensors hold keep theirs too.

    Returns all nodes that have a buffer now and had none before. Raises
    `DeviceError` where the nodes live on different devices.
    """
    wanted = [n for n in dict.fromkeys(nodes) if n.buffer is None]
    if not wanted:
        return []
    order, key, kept = signature(wanted)
    device = next((n.device for n in wanted if n.device is not None), None) or devices.current()
    for node in order:
        if node.device is not device and node.device is not None:
            raise DeviceError(
                f"realize: {node} lives on {node.device.name}, {wanted[0]} on {device.name}; "
                "move one with .to_device(device)"
            )
    if isinstance(device, OpenCLDevice):
        plan = plan_of(order, key, kept, device)
        for node, buffer in zip(kept, plan.run(order), strict=True):
            node.buffer, node.device = buffer, device
    else:
        device.evaluate(order, wanted)
        for node in kept:
            node.device = device
    for node in kept:
        node.depth = 0
        if not node.tracks:
            node.srcs = ()
    prune([n for n in kept if n.tracks])
    return kept


def signature(wanted: Sequence[Node]) -> tuple[list[Node], tuple[Any, ...], list[Node]]:
    """Return (topological order, structural key, nodes whose value is kept).

    The key names operations, arguments, shapes, dtypes, sharing, which leaf is which and what is
    kept; never a number that is an argument of a kernel.
    """
    order: list[Node] = []
    key: list[Any] = []
    place: dict[Node, int] = {}
    kept: list[Node] = list(wanted)
    asked = set(wanted)
    stack: list[Any] = list(reversed(wanted))
    pop, push = stack.pop, stack.append
    while stack:
        node = pop()
        if node is None:
            node = pop()
            place[node] = len(order)
            order.append(node)
            key.append(node.kind.id)
            for src in node.srcs:
                key.append(place[src])
            if node.holders and node not in asked:
                kept.append(node)
                key.append("kept")
        elif node in place:
            continue
        elif node.buffer is not None:
            place[node] = len(order)
            order.append(node)
            key.append(node.kind.spec)
        elif node.srcs:
            place[node] = -1
            push(node)
            push(None)
            stack.extend([s for s in reversed(node.srcs) if place.get(s, -1) < 0])
        elif node.kind.op is ops.BUFFER:
            raise DeviceError(
                "realize: this value depends on an argument that stands for any array of shape "
                f"{node.shape}: where a function is being traced (simplegrad.onnx.export, "
                "simplegrad.symbolic), it may not read values (numpy(), float(x), a tensor as a "
                "mask)"
            )
        else:
            place[node] = len(order)
            order.append(node)
            key.append(node.kind.id)
    key.extend(("want", *[place[n] for n in wanted]))
    return order, tuple(key), kept


def plan_of(
    order: Sequence[Node], key: tuple[Any, ...], kept: Sequence[Node], device: OpenCLDevice
) -> Plan:
    """Return the plan for a structure and its shapes, compiled on first sight."""
    current = settings.current()
    with _lock:
        full = _full_key(device, current, key)
        plan = _plans.get(full)
        if plan is None:
            began = perf_counter_ns()
            plan = _new_plan(order, kept, device)
            profile.count_host(f"compile {len(plan.program.launches)} kernels", began)
            full = _full_key(device, current, key)  # measuring may have found other tiles
            _plans[full] = plan
            while len(_plans) > _MAX_PLANS:
                _plans.popitem(last=False)
        else:
            _plans.move_to_end(full)
    return plan


def _full_key(
    device: OpenCLDevice, current: settings.Settings, key: tuple[Any, ...]
) -> tuple[Any, ...]:
    chosen = (current.fusion, current.kernels, current.fast_math, current.tune)
    return (device.identity, *chosen, tuner.winners(device), key)


def _new_plan(order: Sequence[Node], kept: Sequence[Node], device: OpenCLDevice) -> Plan:
    """Return the plan for shapes not seen before: compiled in if they are the structure's first."""
    fusion, target = settings.current().fusion, target_of(device)
    key, numbers = structure(order, kept)
    head = (device.identity, fusion, target, settings.current().fast_math)
    family = _families.setdefault((*head, key), Family())
    _families.move_to_end((*head, key))
    while len(_families) > _MAX_PLANS:
        _families.popitem(last=False)
    generic = family.find(numbers) or family.generalise(order, kept, numbers, target, fusion)
    program = generic.instance(numbers) if generic else compile_graph(order, kept, target, fusion)
    if selftest.distrusted(device, program, target):
        return _new_plan(order, kept, device)  # for a target that trusts the template no more
    if settings.current().tune and tuner.tune_program(device, program, target_of(device)):
        return _new_plan(order, kept, device)  # in the tiles that were found
    try:
        plan = Plan(program, device, generic.first if generic else None)
    except BuildError:
        if generic is None or settings.current().verify:
            raise
        family.reject(generic)
        return _new_plan(order, kept, device)
    if generic and generic.first is None:
        generic.first = plan
    return plan


def target_of(device: OpenCLDevice) -> Target:
    """Return what the compiler must know of a device."""
    limits = device.limits
    return Target(
        family=settings.current().kernels or device.kind,
        vector_width=limits.vector_width,
        vector_bytes=limits.vector_bytes,
        compute_units=limits.compute_units,
        max_work_group=limits.max_work_group,
        local_bytes=limits.local_bytes,
        max_parameter_bytes=limits.max_parameter_bytes,
        fp64=limits.fp64,
        prefetch=limits.prefetch,
        mma=limits.mma,
        distrusted=frozenset(name for name, passed in device.verdicts.items() if not passed),
        tuned=tuner.winners(device),
    )


def from_numpy(array: Any, dtype: DType, device: Any = None) -> Node:
    """Return a leaf that holds a copy of host data on a device."""
    device = device or devices.current()
    array = np.asarray(array, order="C")
    node = leaf(ops.BUFFER, array.shape, dtype, None, device)
    node.buffer = device.from_host(array, dtype)
    return node


def to_numpy(node: Node) -> Any:
    """Return the value of a node as a NumPy array (bfloat16 as float32)."""
    realize([node])
    return node.device.to_host(node.buffer, node.dtype, node.shape)


def synchronize(device: Device | None = None) -> None:
    """Wait until everything enqueued on a device is done."""
    (device or devices.current()).synchronize()
