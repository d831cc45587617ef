"""If, Loop and Scan: conditions and trip counts are read, bodies are unrolled into the graph."""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.onnx.tensors import Value
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import stack

MAX_TRIPS = 10_000
"""The longest loop that is unrolled."""


@operator("If")
def choose(call: Call) -> Any:
    """If: the branch that the condition, which is read now, takes."""
    branch = "then_branch" if bool(call.number(0)) else "else_branch"
    return tuple(call.run(call.graph(branch), []))


@operator("Loop")
def loop(call: Call) -> Any:
    """Loop: to a trip count, or while a condition holds, which is read after each round."""
    body = call.graph("body")
    trips = int(call.number(0)) if call.has(0) else None
    condition = call.value(1) if call.has(1) else None
    carried: list[Any] = [call.value(i) for i in range(2, len(call.inputs))]
    scanned: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - 1 - len(carried))]
    count = 0
    while (trips is None or count < trips) and (condition is None or bool(condition.numpy())):
        if count == MAX_TRIPS:
            raise ModelError(f"the loop takes more than {MAX_TRIPS} rounds")
        number = Value.known(np.array(count, np.int64))
        going = condition or Value.known(np.array(True))
        results = call.run(body, [number, going, *carried])
        condition = results[0] if call.has(1) else None
        carried = results[1 : 1 + len(carried)]
        for line, value in zip(scanned, results[1 + len(carried) :], strict=True):
            line.append(value.on(call.device))
        count += 1
    return (*carried, *[_stacked(line) for line in scanned])


def _stacked(line: list[Tensor], axis: int = 0) -> Tensor:
    if not line:
        raise ModelError("a loop of no rounds has scan outputs of unknown shape")
    return stack(line, axis)


@operator("Scan", since=9)
def scan(call: Call) -> Any:
    """Scan: a body over the slices of its inputs, with states that are carried along."""
    body, count = call.graph("body"), call.integer("num_scan_inputs")
    values = [call.value(i) for i in range(len(call.inputs))]
    if not 1 <= count <= len(values):
        raise ModelError(f"num_scan_inputs {count} of {len(values)} inputs")
    carried, inputs = values[: len(values) - count], values[len(values) - count :]
    axes = call.integers("scan_input_axes", [0] * count)
    backwards = call.integers("scan_input_directions", [0] * count)
    tensors = [v.on(call.device) for v in inputs]
    lengths = {t.shape[a] for t, a in zip(tensors, axes, strict=True)}
    if len(lengths) != 1 or max(lengths) > MAX_TRIPS:
        raise ModelError(f"scans of {sorted(lengths)} rounds; one number up to {MAX_TRIPS} is due")
    (length,) = lengths
    moved = [
        t.moveaxis(a, 0).flip(0) if back else t.moveaxis(a, 0)
        for t, a, back in zip(tensors, axes, backwards, strict=True)
    ]
    outputs = len(body.outputs) - len(carried)
    scanned: list[list[Tensor]] = [[] for _ in range(outputs)]
    for i in range(length):
        results = call.run(body, [*carried, *[Value.of(t[i]) for t in moved]])
        carried = results[: len(carried)]
        for line, value in zip(scanned, results[len(carried) :], strict=True):
            line.append(value.on(call.device))
    out_axes = call.integers("scan_output_axes", [0] * outputs)
    out_back = call.integers("scan_output_directions", [0] * outputs)
    joined = [
        _stacked(line[::-1] if back else line, axis)
        for line, axis, back in zip(scanned, out_axes, out_back, strict=True)
    ]
    return (*carried, *joined)
