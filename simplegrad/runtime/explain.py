"""What a graph would run: kernels, the operations and user lines in each, and their source."""

from __future__ import annotations

import linecache
from collections.abc import Sequence

from simplegrad import settings
from simplegrad.compiler.pipeline import compile_graph
from simplegrad.compiler.program import Launch
from simplegrad.graph.node import Node
from simplegrad.graph.signature import signature
from simplegrad.graph.stencil import unfolded
from simplegrad.runtime import devices
from simplegrad.runtime.lookup import target_of


def explain(nodes: Sequence[Node]) -> str:
    """Return a description of the launches that computing `nodes` takes; nothing is run."""
    wanted = [n for n in dict.fromkeys(nodes) if n.buffer is None]
    if not wanted:
        return "nothing to run: every value is there already"
    order, _, kept = signature(list(dict.fromkeys(unfolded(wanted))))
    device = next((n.device for n in wanted if n.device is not None), None) or devices.current()
    if not device.runs_kernels:
        return f"{len(order)} operations, one by one on {device.name}"
    fusion = settings.current().fusion
    launches = compile_graph(order, kept, target_of(device), fusion, fresh=True).launches
    fused = "fused" if fusion else "one kernel per operation"
    plural = "launch" if len(launches) == 1 else "launches"
    parts = [f"{len(launches)} {plural} on {device.name} ({fused})"]
    parts += [_describe(i, launch) for i, launch in enumerate(launches)]
    return "\n\n".join(parts)


def _describe(number: int, launch: Launch) -> str:
    source = launch.source
    lines = [
        f"launch {number}: {source.kernel_name}, global size {source.global_size}, "
        f"reads {launch.bytes_read:,} bytes, writes {launch.bytes_written:,} bytes"
    ]
    for kernel in launch.kernels:
        for op, where in zip(kernel.notes["ops"], kernel.notes["lines"], strict=True):
            lines.append(f"  {op:14} {where}  {_text(where)}")
    if source.tile is not None:
        lines.append(f"  tile {source.tile.recipe}: {source.tile.why}")
    lines += [f"  boundary: {reason}" for reason in launch.reasons]
    lines.append("")
    lines += ["    " + line for line in source.text.splitlines()]
    return "\n".join(lines)


def _text(where: str) -> str:
    name, _, line = where.rpartition(":")
    return linecache.getline(name, int(line)).strip() if line.isdigit() else ""
