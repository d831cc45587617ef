"""Recurrences as one operation: what recurrent layers stand on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simplegrad import dtypes, ops
from simplegrad.errors import ShapeError
from simplegrad.graph.node import leaf
from simplegrad.graph.scan import Step, end, field, recorded
from simplegrad.graph.scan import scan as make_scan
from simplegrad.tensor.core import lift, same_device, wrap
from simplegrad.tensor.modes import mode, no_grad
from simplegrad.tensor.tensor import Tensor

Cell = Callable[[list[Tensor], list[Tensor], list[Tensor]], Sequence[Tensor]]


def step_of(cell: Cell, products: int, carried: int, inputs: int, reverse: bool = False) -> Step:
    """Return the step of a cell: ``cell(products, states, inputs)`` returns the next states.

    Called once, with tensors that have no values; what it computes is elementwise. Only the first
    state is multiplied. Raises `UnsupportedOp` for what is not elementwise.
    """
    slots = [
        leaf(ops.BUFFER, (1, 1, 1), dtypes.float64) for _ in range(products + carried + inputs)
    ]
    given = [wrap(node) for node in slots]
    with no_grad():
        found = cell(given[:products], given[products : products + carried], given[-inputs:])
    return recorded(slots, [x._node for x in found], products, 1, carried, reverse)


def scan(
    step: Step, matrix: Tensor, starts: Sequence[Tensor], inputs: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return every state after each step (time, batch, hidden), and after the last.

    `matrix` is (hidden, products x hidden), `starts` are (batch, hidden), `inputs` (time, batch,
    hidden), all of one floating dtype. Every step multiplies the first state with the matrix and
    computes the next states, elementwise, from these products, the states and its inputs. One
    kernel runs through all times, and one through the gradient's.
    """
    nodes = [x._node for x in (matrix, *starts, *inputs)]
    same_device("scan", nodes)
    if inputs[0].ndim != 3 or not inputs[0].shape[0]:
        raise ShapeError(f"scan: takes inputs (time, batch, hidden), got {inputs[0].shape}")
    if mode.grad and any(n.tracks for n in nodes):
        step = step.saving()
    split = 1 + len(starts)
    node = make_scan(step, nodes[0], nodes[1:split], nodes[split:])
    outputs = [lift(field(node, c, False), *nodes) for c in range(step.carried)]
    return outputs, [lift(end(node, c), *nodes) for c in range(step.carried)]
