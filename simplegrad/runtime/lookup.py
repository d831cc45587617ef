"""From a graph to its plan: the plans of this process, those on disk, or a new one."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from time import perf_counter_ns
from types import CodeType
from typing import Any, NamedTuple

from simplegrad import ops, settings
from simplegrad.compiler.generic import Family, Generic
from simplegrad.compiler.generic import structure as shape_structure
from simplegrad.compiler.pipeline import compile_graph
from simplegrad.compiler.program import Slot
from simplegrad.compiler.target import Target
from simplegrad.errors import BuildError
from simplegrad.graph.node import Kind, Node, Spec, where
from simplegrad.graph.signature import signature
from simplegrad.graph.stencil import unfolded
from simplegrad.runtime import counting, plan_store, selftest, tuner
from simplegrad.runtime.opencl import OpenCLDevice
from simplegrad.runtime.plan import Plan
from simplegrad.runtime.program_cache import counters

MAX_PLANS = 512


class Key(NamedTuple):
    """What a plan is known by: all but the numbers that are arguments of its kernels."""

    device: OpenCLDevice
    fusion: bool
    kernels: str
    fast_math: bool
    tune: bool
    tiles: Any
    """What the tuner found on the device."""
    structure: tuple[Any, ...]
    """What `signature` gave: kinds, edges, places of what is kept, how many were asked for."""


@dataclass(eq=False)
class Known:
    """A plan of this process, and what tells people how it differs from another."""

    key: Key
    structure: tuple[Any, ...]
    """That of the key, or what it is once stencils are unfolded."""
    kinds: tuple[Kind | Spec, ...]
    """Of the nodes in the structure's order; a node with a value is an input, known by its spec."""
    plan: Plan
    bare: bool = False
    """Whether the plan is from disk, without the IR of its kernels."""
    uses: int = 0
    used: int = 0
    """When it was used last, by `_clock`."""


@dataclass(frozen=True, eq=False)
class Miss:
    """A lookup that found no plan in this process."""

    known: Known
    """What it made."""
    places: tuple[tuple[CodeType, int] | None, ...]
    """Per node the place in the user's program."""
    others: tuple[Known, ...]
    """The plans there were before, those that ran last first."""
    stored: bool
    """Whether its program was on disk, so that nothing was scheduled."""
    served: bool
    """Whether there was a program for all shapes, so that nothing was scheduled either."""

    @cached_property
    def lines(self) -> list[str]:
        """Per node the line of the user's program."""
        return list(map(where, self.places))


class _Last(threading.local):
    used: Known | None = None
    miss: Miss | None = None


_plans: dict[Key, Known] = {}
_families: OrderedDict[tuple[Any, ...], Family] = OrderedDict()
_lock = threading.RLock()
_clock = itertools.count()
last = _Last()
"""The last lookup of this thread, and its last miss."""


def plan_of(
    order: Sequence[Node], structure: tuple[Any, ...], kept: Sequence[Node], device: OpenCLDevice
) -> Plan:
    """Return the plan for a structure: of this process, from disk, or compiled on first sight."""
    with _lock:
        known = _known(structure, device)
        if known is None:
            known = _of_unfolded(order, structure, kept, device) or _made(
                order, structure, kept, device
            )
        known.uses += 1
        known.used = next(_clock)
    last.used = known
    return known.plan


def _known(structure: tuple[Any, ...], device: OpenCLDevice) -> Known | None:
    known = _plans.get(_key(device, structure))
    if known is None or (known.bare and counting.profiling()):
        return None
    counters.plan_hits += 1
    return known


def _of_unfolded(
    order: Sequence[Node], structure: tuple[Any, ...], kept: Sequence[Node], device: OpenCLDevice
) -> Known | None:
    """Return the plan of a graph with folded stencils, which is that of the unfolded one.

    Its operands and results stand at other places. None where nothing is folded.
    """
    if not any(node.kind.op is ops.PIECE for node in order):
        return None
    values = unfolded(kept)
    wanted = list(dict.fromkeys(values[: structure[-1]]))
    plain, own, ends = signature(wanted)
    if not set(values) <= set(ends):  # held values that only other results of a stencil read
        plain, own, ends = signature(list(dict.fromkeys([*wanted, *values])))
    known = _known(own, device)
    made = known is None
    if known is None:
        known = _made(plain, own, ends, device)
    place = {node: i for i, node in enumerate(order)}
    base, slots, inner = known.plan.program, list[Slot](), list[Node]()
    for slot in base.slots:
        if slot.position >= 0:
            node = plain[slot.position]
            if node not in place:  # a constant that a program for all shapes has as an argument
                place[node] = len(order) + len(inner)
                inner.append(node)
            slot = Slot(slot.role, place[node], slot.nbytes, slot.name)
        slots.append(slot)
    results = [base.results[ends.index(value)] for value in values]
    _, edges, held, _ = structure
    pending = [i for i, n in enumerate(order) if n.buffer is None]
    arity = tuple([(i, len(order[i].srcs)) for i in pending])
    places = tuple([i for i in pending if order[i].kind.op in (ops.PIECE, ops.PART)])
    form = (edges, held, arity, places)
    program = replace(base, slots=slots, results=results)
    plan = Plan(program, device, like=known.plan, form=form)
    plan.inner = inner
    folded = Known(_key(device, structure), own, known.kinds, plan, known.bare, used=next(_clock))
    if made and last.miss is not None:
        last.miss = replace(last.miss, known=folded)
    _remember(folded)
    return folded


def _made(
    order: Sequence[Node], structure: tuple[Any, ...], kept: Sequence[Node], device: OpenCLDevice
) -> Known:
    began = perf_counter_ns()
    known = _new(order, structure, kept, device)
    counting.count_host(f"compile {len(known.plan.program.launches)} kernels", began)
    return known


def _remember(known: Known) -> None:
    _plans[known.key] = known
    if len(_plans) > MAX_PLANS:
        oldest = min(_plans.values(), key=attrgetter("used"))
        del _plans[oldest.key]


def _key(device: OpenCLDevice, structure: tuple[Any, ...]) -> Key:
    now = settings.current()
    return Key(
        device, now.fusion, now.kernels, now.fast_math, now.tune, tuner.winners(device), structure
    )


def _new(
    order: Sequence[Node], structure: tuple[Any, ...], kept: Sequence[Node], device: OpenCLDevice
) -> Known:
    now = settings.current()
    found = family, numbers, served = _family(order, structure, device)
    # Where tiles are to be measured, a program made without measuring will not do.
    # So it is where a profile counts the operations of kernels, whose IR is not on disk.
    fresh = now.tune or counting.profiling()
    # A program for all shapes serves at once; on disk each shape would have kernels of its own.
    name = "" if served else plan_store.key_of(
        order, structure, target_of(device), device.identity, now.fusion
    )  # fmt: skip
    stored = None if fresh or served else plan_store.load(name)
    if stored is None:
        counters.plans += 1
        plan = _compiled(order, structure, kept, device, found)
        if not now.tune and not served:
            plan_store.save(name, plan.program)
    else:
        family.met(numbers)
        counters.plan_disk_hits += 1
        program, trusted = stored
        device.verdicts.update(dict.fromkeys(trusted, True))
        plan = Plan(program, device)
    kinds = tuple([n.kind if n.buffer is None else n.kind.spec for n in order])
    bare = stored is not None
    # Measuring may have found other tiles.
    known = Known(_key(device, structure), structure, kinds, plan, bare, used=next(_clock))
    others = tuple(sorted(_plans.values(), key=attrgetter("used"), reverse=True))
    places = tuple([n.line for n in order])
    last.miss = Miss(known, places, others, stored is not None, served is not None)
    _remember(known)
    return known


def _compiled(
    order: Sequence[Node], structure: tuple[Any, ...], kept: Sequence[Node], device: OpenCLDevice,
    found: _Found | None = None,
) -> Plan:  # fmt: skip
    """Return the plan for shapes not seen before: compiled in if they are the structure's first."""
    fusion, target = settings.current().fusion, target_of(device)
    family, numbers, generic = found or _family(order, structure, device)
    generic = generic or family.generalise(order, kept, numbers, target, fusion)
    program = generic.instance(numbers) if generic else compile_graph(order, kept, target, fusion)
    if selftest.distrusted(device, program, target):
        return _compiled(order, structure, kept, device)  # for a target that trusts it no more
    if settings.current().tune and tuner.tune_program(device, program, target_of(device)):
        return _compiled(order, structure, kept, device)  # in the tiles that were found
    try:
        plan = Plan(program, device, generic.first if generic else None)
    except BuildError:
        if generic is None or settings.current().verify:
            raise
        family.reject(generic)
        return _compiled(order, structure, kept, device)
    if generic and generic.first is None:
        generic.first = plan
    return plan


_Found = tuple[Family, tuple[int, ...], Generic | None]


def _family(order: Sequence[Node], structure: tuple[Any, ...], device: OpenCLDevice) -> _Found:
    """Return all shapes of a graph's structure, the numbers of this one, and who serves them."""
    key, numbers = shape_structure(order, structure)
    now = settings.current()
    full = (device, now.fusion, target_of(device), now.fast_math, key)
    family = _families.setdefault(full, Family())
    _families.move_to_end(full)
    while len(_families) > MAX_PLANS:
        _families.popitem(last=False)
    return family, numbers, family.find(numbers)


def forget() -> None:
    """Drop every plan of this process; the next realize of each structure looks on the disk."""
    with _lock:
        _plans.clear()
        _families.clear()


def count() -> int:
    """Return how many plans this process holds."""
    return len(_plans)


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
        differences=limits.differences,
        mma=limits.mma,
        distrusted=frozenset(name for name, passed in device.verdicts.items() if not passed),
        tuned=tuner.winners(device),
    )
