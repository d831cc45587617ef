"""If, Loop and Scan: conditions and trip counts are read.

Loops whose body is the step of a recurrence become one SCAN (`onnx.loops`), others are unrolled.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad.errors import ModelError
from simplegrad.onnx.loops import as_scan
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
    if trips is not None and 0 < trips <= MAX_TRIPS and (not call.has(1) or call.number(1)):
        rounds = call.constant(np.arange(trips))
        found = as_scan(_always(call, body), carried, [rounds], call.device)
        if found is not None:
            return (*found[0], *found[1])
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


def _always(call: Call, body: Any) -> Any:
    """Return the body of a Loop without its condition, which has to hold after every round."""

    def run(values: list[Value]) -> list[Value]:
        *carried, number = values
        going: Value
        results: list[Value]
        going, *results = call.run(body, [number, Value.known(np.array(True)), *carried])
        if call.has(1) and not (going.constant and going.numpy()):
            raise ModelError("the condition depends on the round")
        return results

    return run


def _stacked(line: list[Tensor]) -> Tensor:
    if not line:
        raise ModelError("a loop of no rounds has scan outputs of unknown shape")
    return stack(line)


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
    if len(lengths) != 1:
        raise ModelError(f"scans of {sorted(lengths)} rounds; one number is due")
    (length,) = lengths
    moved = [
        t.moveaxis(a, 0).flip(0) if back else t.moveaxis(a, 0)
        for t, a, back in zip(tensors, axes, backwards, strict=True)
    ]
    outputs = len(body.outputs) - len(carried)
    found = as_scan(lambda values: call.run(body, values), carried, moved, call.device)
    if found is None and length > MAX_TRIPS:
        raise ModelError(f"the scan takes more than {MAX_TRIPS} rounds, and is no recurrence")
    carried, lines = found or _unrolled(call, body, carried, moved)
    out_axes = call.integers("scan_output_axes", [0] * outputs)
    out_back = call.integers("scan_output_directions", [0] * outputs)
    joined = [
        (line.flip(0) if back else line).moveaxis(0, axis)
        for line, axis, back in zip(lines, out_axes, out_back, strict=True)
    ]
    return (*carried, *joined)


def _unrolled(
    call: Call, body: Any, carried: list[Value], inputs: list[Tensor]
) -> tuple[list[Value], list[Tensor]]:
    """Return what is carried in the end, and the other outputs of all rounds."""
    scanned: list[list[Tensor]] = [[] for _ in range(len(body.outputs) - len(carried))]
    for i in range(inputs[0].shape[0]):
        results = call.run(body, [*carried, *[Value.of(t[i]) for t in inputs]])
        carried = results[: len(carried)]
        for line, value in zip(scanned, results[len(carried) :], strict=True):
            line.append(value.on(call.device))
    return carried, [_stacked(line) for line in scanned]
