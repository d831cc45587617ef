"""From a function over tensors to an ONNX file: its graph is built once, and written node by node.

The function is called with arguments that have a shape but no values, so that nothing is computed;
more than once where axes may have any extent (`extents`).
Tensors that existed before, parameters that is, become initialisers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from simplegrad import ops
from simplegrad.dtypes import DType
from simplegrad.errors import ModelError, ShapeError, UnsupportedOp
from simplegrad.graph.infer import Shape
from simplegrad.graph.node import Node, leaf, topological
from simplegrad.graph.stencil import unfolded
from simplegrad.onnx import files
from simplegrad.onnx.extents import Axes, Extents, Trace
from simplegrad.onnx.tensors import NUMBERS
from simplegrad.onnx.writer import RULES, Writer
from simplegrad.runtime import devices
from simplegrad.runtime import realize as execution
from simplegrad.runtime.files import replace
from simplegrad.tensor.core import as_tensor, host_array, wrap
from simplegrad.tensor.modes import lazy
from simplegrad.tensor.tensor import Tensor

OPSET = 18
"""The first opset with bitwise operators, and with axes as inputs of all reductions."""
IR_VERSION = 8
_LIMIT = (1 << 31) - (1 << 20)
"""Most bytes of weights in one file: a protobuf message ends at 2 GiB."""


def export(
    fn: Callable[..., Any],
    args: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Write what ``fn(*args)`` computes as an ONNX model of opset 18.

    `args` are tensors or host arrays; their shapes and dtypes become those of the model's inputs,
    their values do not matter. `fn` returns a tensor, or a sequence or mapping of them. Tensors
    that it uses and that exist already become initialisers, under their names in `parameters`. A
    `simplegrad.nn.Module` names them itself, and is written as it is in evaluation mode.

    The model takes the shapes of `args` and no others, but for axes that `dynamic` names:
    ``{"x": {0: "batch", 1: "time"}}`` lets the input x have any extent there; axes of one name
    have one extent. `fn` is then called several times, with other extents, to see what follows
    from them. `ModelError` where they decide more than shapes: a branch of Python, an array made on
    the host. A branch that is the same at all extents tried, which lie a little below those of
    `args`, goes unseen, as does a largest extent.

    Raises `DeviceError` where `fn` reads a value that depends on an argument, and one
    `UnsupportedOp` that names all operations ONNX has nothing for (random numbers: put the model
    into evaluation mode), with the lines that they come from. The file is replaced only when the
    new one is whole; `FileError` where it cannot be written.
    """
    onnx = files.library()
    if isinstance(args, (Tensor, str)) or not isinstance(args, Sequence):
        raise ShapeError("export: args is a sequence of arguments, such as (x,)")
    given = list(input_names or [f"input_{i}" for i in range(len(args))])
    if len(given) != len(args):
        raise ModelError(f"export: {len(given)} input names do not fit {len(args)} arguments")
    specs = dict(zip(given, _specs(args), strict=True))
    axes = Axes(dynamic or {}, {name: shape for name, (shape, _) in specs.items()})
    device = next((a.device for a in args if isinstance(a, Tensor)), None) or devices.current()
    if parameters is None:
        parameters = dict(fn.named_tensors()) if hasattr(fn, "named_tensors") else {}
    known = {id(t._node): name for name, t in parameters.items()}

    def trace(extents: Extents) -> Trace:
        inputs = {
            name: leaf(ops.BUFFER, axes.shape(name, shape, extents), dtype, None, device)
            for name, (shape, dtype) in specs.items()
        }
        with _tracing(fn):
            result = fn(*[wrap(node) for node in inputs.values()])
        outputs = _outputs(result, output_names, given)
        writer = Writer(onnx, [*inputs, *outputs], bool(extents))
        _write(writer, inputs, outputs, known)
        return Trace(extents, writer, inputs, outputs)

    _save(onnx, axes.followed(trace) if axes.places else trace({}), path)


def _write(
    writer: Writer, inputs: Mapping[str, Node], outputs: Mapping[str, Node], known: dict[int, str]
) -> None:
    order, weights = _plan(list(outputs.values()), list(inputs.values()))
    _check(order)
    for name, node in inputs.items():
        writer.bind(node, name)
    for node in weights:
        writer.weight(node, known.get(id(node)))
    for node in order:
        writer.write(node)
    for name, node in outputs.items():
        writer.output(node, name)
    writer.prune()


def _specs(args: Sequence[Any]) -> Iterator[tuple[Shape, DType]]:
    """Yield the arguments' shapes and dtypes."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg.shape, arg.dtype
        else:
            array, dtype = host_array("export", arg, None, keep=hasattr(arg, "dtype"))
            yield array.shape, dtype


@contextmanager
def _tracing(fn: Any) -> Any:
    """Let nothing be computed inside the block, and a module be in evaluation mode."""
    modules = [m for _, m in fn.named_modules()] if hasattr(fn, "named_modules") else []
    training = [m.training for m in modules]
    try:
        for module in modules:
            module.training = False
        with lazy():
            yield
    finally:
        for module, was in zip(modules, training, strict=True):
            module.training = was


def _outputs(result: Any, names: Sequence[str] | None, inputs: Sequence[str]) -> dict[str, Node]:
    """Return the nodes of what the function returned, by name."""
    if isinstance(result, Mapping):
        names, result = names or [str(n) for n in result], list(result.values())
    if isinstance(result, Tensor) or not isinstance(result, Sequence):
        result = [result]
    wrong = [type(r).__name__ for r in result if not isinstance(r, Tensor)]
    if wrong or not result:
        raise ModelError(
            f"export: the function returns {', '.join(wrong) or 'nothing'}, no tensors"
        )
    names = list(names or [f"output_{i}" for i in range(len(result))])
    if len(names) != len(result):
        raise ModelError(f"export: {len(names)} output names for {len(result)} outputs")
    if len({*inputs, *names}) < len(inputs) + len(names):
        raise ModelError(f"export: among the names {[*inputs, *names]} one stands twice")
    nodes = unfolded([as_tensor(r)._node for r in result])
    return dict(zip(names, nodes, strict=True))


def _plan(outputs: Sequence[Node], inputs: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Return the nodes to write, operands first, and those whose values become initialisers.

    The latter have been computed, or belong to a tensor that is alive and depends on no input.
    """
    depends = {id(node) for node in inputs}
    for node in topological(outputs):
        if any(id(s) in depends for s in node.srcs):
            depends.add(id(node))
    order: list[Node] = []
    weights: list[Node] = []
    seen = {id(node) for node in inputs}
    stack: list[Any] = list(reversed(outputs))
    while stack:
        node = stack.pop()
        if node is None:
            order.append(stack.pop())
        elif id(node) not in seen:
            seen.add(id(node))
            alive = node.holders and node.srcs and id(node) not in depends
            if node.buffer is not None or alive:
                weights.append(node)
            else:
                stack += (node, None, *reversed(node.srcs))
    execution.realize(weights)
    return order, weights


def _check(order: Sequence[Node]) -> None:
    missing: dict[str, set[str]] = {}
    lines: dict[int, str] = {}
    for node in reversed(order):
        # Nodes inside a composite carry no line; that of the composite's result counts.
        line = node.where or lines.get(id(node), "?")
        lines.update((id(s), line) for s in node.srcs)
        if node.op not in RULES:
            missing.setdefault(node.op.name, set()).add(line)
    if missing:
        listed = [f"  {op}: {', '.join(sorted(where))}" for op, where in sorted(missing.items())]
        raise UnsupportedOp(
            "export: ONNX has no operators for these operations, from the lines given (random "
            "numbers: put the model into evaluation mode)\n" + "\n".join(listed)
        )


def _save(onnx: Any, trace: Trace, path: str | os.PathLike[str]) -> None:
    def described(nodes: Mapping[str, Node]) -> list[Any]:
        info = onnx.helper.make_tensor_value_info
        return [info(name, NUMBERS[n.dtype], trace.dims[name]) for name, n in nodes.items()]

    writer = trace.writer
    weights = sum(node.nbytes for node in writer.weights.values())
    weights += sum(array.nbytes for array, _ in writer.arrays.values())
    if weights > _LIMIT:
        raise ModelError(f"export: {weights} bytes of weights; one file holds 2 GiB")
    graph = onnx.helper.make_graph(
        writer.nodes, "simplegrad", described(trace.inputs), described(trace.outputs),
        writer.initializers(),
    )  # fmt: skip
    model = onnx.helper.make_model(
        graph,
        producer_name="simplegrad",
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    replace("export", path, model.SerializeToString())
