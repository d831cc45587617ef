"""What this process keeps to be fast, in numbers: every cache is bounded."""

from __future__ import annotations

from dataclasses import asdict

from simplegrad.compiler import pipeline
from simplegrad.graph import node
from simplegrad.runtime import lookup, select
from simplegrad.runtime.program_cache import counters
from simplegrad.runtime.programs import MAX_PROGRAMS


def clear_caches() -> None:
    """Give back the plans, kernels and programs that this process keeps; those on disk stay.

    What is computed next is looked up on disk, or compiled again.

    >>> import simplegrad as sg
    >>> sg.clear_caches()
    >>> sg.cache_stats()["plans"]["entries"]
    0
    """
    lookup.forget()
    pipeline.forget()
    for device in select.opened():
        device.programs.clear()


def cache_stats() -> dict[str, dict[str, int]]:
    """Return the caches of this process by name, each with its ``entries`` and their ``most``.

    ``plans``: launches per graph structure; also how many were ``scheduled``, came from
    ``disk``, and were replayed (``hits``). ``programs``: what drivers built; ``compiled``,
    ``disk`` and ``hits`` count likewise. ``kernels``: lowered and rendered groups. ``kinds``:
    operations with their shapes.

    >>> import simplegrad as sg
    >>> sorted(sg.cache_stats())
    ['kernels', 'kinds', 'plans', 'programs']
    """
    seen = asdict(counters)
    programs = sum(len(device.programs) for device in select.opened())
    return {
        "plans": {
            "entries": lookup.count(), "most": lookup.MAX_PLANS, "scheduled": seen["plans"],
            "disk": seen["plan_disk_hits"], "hits": seen["plan_hits"],
        },
        "programs": {
            "entries": programs, "most": MAX_PROGRAMS * max(len(select.opened()), 1),
            "compiled": seen["compiles"], "disk": seen["disk_hits"], "hits": seen["memory_hits"],
        },
        "kernels": {"entries": pipeline.known_count(), "most": pipeline.MOST_KNOWN},
        "kinds": {"entries": node.kind_count(), "most": node.MAX_KINDS},
    }  # fmt: skip
