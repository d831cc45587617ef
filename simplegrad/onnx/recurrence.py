"""A SCAN as ONNX's Scan: the step becomes a graph of its own, run once for every time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simplegrad import ops
from simplegrad.graph.node import Node, leaf
from simplegrad.graph.scan import Step, above, parts
from simplegrad.onnx import formulas

if TYPE_CHECKING:
    from simplegrad.onnx.writer import Writer


def write_scan(w: Writer, node: Node) -> str:
    """Write a SCAN and return the name of its fields (fields, time + 1, batch, hidden)."""
    step: Step = node.arg
    matrix, starts, inputs = parts(node)
    fields, slots, batch, hidden = node.shape
    names = [w.full(x) for x in (*starts, *inputs)]
    body = _body(w, step, w.full(matrix), [(batch, hidden)] * len(names), node)
    backwards = int(step.reverse)
    found = w.outputs_of(
        "Scan", names, step.carried + fields, body=body, num_scan_inputs=step.inputs,
        scan_input_directions=[backwards] * step.inputs,
        scan_output_directions=[backwards] * fields,
    )  # fmt: skip
    zero = w.op("Expand", w.constant(0, node.dtype), w.ints((1, batch, hidden)))
    firsts = [w.reshape(name, (1, batch, hidden)) for name in names[: step.carried]]
    firsts += [zero] * (fields - step.carried)
    whole = []
    for first, line in zip(firsts, found[step.carried :], strict=True):
        both = (line, first) if step.reverse else (first, line)
        joined = w.op("Concat", *both, axis=0)
        whole.append(w.reshape(joined, (1, slots, batch, hidden)))
    return w.op("Concat", *whole, axis=0) if len(whole) > 1 else whole[0]


def _body(w: Writer, step: Step, matrix: str, shapes: list[tuple[int, int]], node: Node) -> Any:
    """Return the graph of a step: states and inputs in; states and all fields out.

    It reads the matrix and constants from the graph around it.
    """
    slots = [leaf(ops.BUFFER, node.shape[2:], node.dtype) for _ in range(step.slots)]
    values = step.nodes(slots)
    given = [w.fresh("slot") for _ in shapes]
    outside, w.nodes = w.nodes, []
    for slot, name in zip(slots[step.products :], given, strict=True):
        w.bind(slot, name)
    multiplied = given[: step.multiplied]
    left = w.op("Concat", *multiplied, axis=1) if len(multiplied) > 1 else multiplied[0]
    wide = formulas.computed_in(ops.EINSUM, node.dtype)
    factors = [x if wide is node.dtype else w.cast(x, wide) for x in (left, matrix)]
    product = w.op("MatMul", *factors)
    product = product if wide is node.dtype else w.cast(product, node.dtype)
    for p, slot in enumerate(slots[: step.products]):
        bounds = [w.ints([n]) for n in (p * node.shape[-1], (p + 1) * node.shape[-1], 1)]
        w.bind(slot, w.op("Slice", product, *bounds))
    ends = {id(s) for s in slots}
    for value in above([values[v] for v in step.results], ends):
        if id(value) not in ends:
            w.write(value)
    w.keep(*slots, *values)
    results = [w.full(values[v]) for v in step.results]
    outputs = [w.op("Identity", x) for x in (*results[: step.carried], *results)]
    nodes, w.nodes = w.nodes, outside
    return w.graph("step", nodes, given, outputs, node.dtype, node.shape[2:])
