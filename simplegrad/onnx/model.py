"""A loaded model: its graph prepared once, and run over tensors at each call.

Shapes are static in a call, so what a model works out from them (Shape, Gather, Concat, Cast, …)
is known before anything is computed: a node whose inputs are all constants runs on the NumPy
device, and its result is a constant again. Everything else becomes nodes of one lazy graph.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.arguments import flag
from simplegrad.dtypes import DType
from simplegrad.errors import DTypeError, ModelError, ShapeError, SimplegradError
from simplegrad.graph.infer import size_of
from simplegrad.onnx import files
from simplegrad.onnx.registry import Call, Rule
from simplegrad.onnx.tensors import MAX_BYTES, NUMBERS, Value, read_tensor
from simplegrad.runtime import devices
from simplegrad.tensor.creation import asarray
from simplegrad.tensor.modes import no_grad
from simplegrad.tensor.tensor import Tensor

_FOLDED = 1 << 12
"""Most elements of a value that is kept on the host; a rule may take their square for a moment."""
_MAX_BODIES = 64
_MAX_STEPS = 1_000_000
"""Most nodes run in one call, those of functions and loops included."""
_RANDOM = {"Bernoulli", "Dropout", "RandomNormal", "RandomNormalLike", "RandomUniform",
           "RandomUniformLike"}  # fmt: skip

Scope = dict[str, Value]


class Step:
    """One node, taken apart: its rule or function, its attributes, its subgraphs."""

    def __init__(self, node: Any, versions: dict[str, int], setup: Setup, known: set[str]) -> None:
        # A part of a message keeps all of it alive, the bytes of the weights too: a copy does not.
        self.node = files.copied(node)
        self.op: str = node.op_type
        self.domain = "" if node.domain == "ai.onnx" else node.domain
        self.versions = versions
        self.version = versions.get(self.domain, 0)
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.attributes = {a.name: a for a in self.node.attribute}
        self.refers = any(a.ref_attr_name for a in node.attribute)
        self.graphs = {
            a.name: Graph(a.g, versions, setup, known) for a in node.attribute if a.HasField("g")
        }
        self.rule: Rule | None = None
        self.body: Body | None = None
        local = setup.operators.local.get((self.domain, self.op))
        if local is not None:
            self.body = setup.function((self.domain, self.op), local, versions)
        else:
            self.rule = setup.operators.rule(self.domain, self.op, self.version)
        self.memo: tuple[list[Value | None], list[Value]] | None = None
        """The constants of the call before, and what came of them."""
        self.bodies: dict[Any, Body] = {}
        """What ONNX defines the operator by, for types of inputs."""

    @property
    def where(self) -> str:
        """What an error calls this node."""
        return f"node {files.label(self.node)} ({self.op})"


class Body:
    """Nodes in order, with the names that are not needed any more after each of them."""

    def __init__(
        self,
        nodes: Sequence[Any],
        inputs: Sequence[str],
        outputs: Sequence[str],
        versions: dict[str, int],
        setup: Setup,
        known: set[str],
        what: str,
    ) -> None:
        self.inputs, self.outputs = list(inputs), list(outputs)
        everything = known | set(inputs) | {""}
        ordered = files.ordered(nodes, everything, what)
        inside = everything | {n for node in nodes for n in node.output}
        self.steps = [Step(node, versions, setup, inside) for node in ordered]
        last: dict[str, int] = {}
        for i, step in enumerate(self.steps):
            for name in files.reads(step.node) | set(step.outputs):
                last[name] = i
        self.ends: list[list[str]] = [[] for _ in self.steps]
        own = {n for node in nodes for n in node.output} - set(outputs)
        for name, i in last.items():
            if name in own:
                self.ends[i].append(name)


class Graph(Body):
    """A graph with its constants."""

    def __init__(
        self,
        proto: Any,
        versions: dict[str, int],
        setup: Setup,
        outer: Collection[str] = (),
    ) -> None:
        what = f"graph {proto.name!r}"
        if proto.sparse_initializer:
            raise ModelError(f"load: {what} has sparse initialisers, which are not supported")
        self.constants: Scope = {}
        for tensor in proto.initializer:
            if tensor.name in self.constants:
                raise ModelError(f"load: {what}: the initialiser {tensor.name!r} stands twice")
            self.constants[tensor.name] = read_tensor(tensor, setup.folder)
        inputs = [v.name for v in proto.input]
        if len(set(inputs)) < len(inputs):
            raise ModelError(f"load: {what}: an input stands twice in {inputs}")
        outputs = [v.name for v in proto.output]
        known = set(outer) | set(self.constants) | set(inputs)
        missing = sorted(set(outputs) - known - {n for node in proto.node for n in node.output})
        if missing:
            raise ModelError(f"load: {what}: nothing defines the outputs {missing}")
        super().__init__(proto.node, inputs, outputs, versions, setup, known, f"load: {what}")


class Setup:
    """What all graphs of one file share while they are prepared."""

    def __init__(self, found: files.Operators, folder: Path) -> None:
        self.operators, self.folder = found, folder
        self._functions: dict[tuple[str, str], Body] = {}

    def function(self, key: tuple[str, str], proto: Any, versions: dict[str, int]) -> Body:
        """Return the body of a function of the model, prepared once."""
        if key not in self._functions:
            own = files.opsets(proto.opset_import) or versions
            self._functions[key] = Body(
                proto.node, proto.input, proto.output, own, self, set(), f"function {key[1]!r}"
            )
        return self._functions[key]


class Run:
    """One call at work."""

    def __init__(self, device: Any, setup: Setup) -> None:
        self.device, self.setup = device, setup
        self._host = devices.by_name("numpy")
        self._count = 0

    def body(
        self, body: Body, scope: Scope, attributes: dict[str, Any] | None = None
    ) -> list[Value | None]:
        """Run nodes over the values of `scope`, which grows and shrinks; return the outputs."""
        for step, ends in zip(body.steps, body.ends, strict=True):
            inputs = [scope.get(name) if name else None for name in step.inputs]
            results = self.step(step, inputs, scope, attributes)
            for name, value in zip(step.outputs, results, strict=False):
                if name and value is not None:
                    scope[name] = value
            for name in ends:
                scope.pop(name, None)
        return [scope.get(name) for name in body.outputs]

    def step(
        self,
        step: Step,
        inputs: list[Value | None],
        scope: Scope,
        outer: dict[str, Any] | None = None,
    ) -> list[Value | None]:
        """Return the results of one node; errors name it."""
        self._count += 1
        if self._count > _MAX_STEPS:
            raise ModelError(f"model: functions and loops come to more than {_MAX_STEPS} nodes")
        attributes = step.attributes
        if step.refers:
            attributes = {
                name: (outer or {}).get(a.ref_attr_name) if a.ref_attr_name else a
                for name, a in attributes.items()
            }
            attributes = {name: a for name, a in attributes.items() if a is not None}
        try:
            if step.body is not None:
                return self._function(step.body, inputs, attributes)
            if step.rule is None:
                return self._expanded(step, inputs, attributes)
            return list(self._rule(step, inputs, attributes, scope, outer))
        except SimplegradError as error:
            raise type(error)(f"{step.where}: {error}") from error
        except Exception as error:
            raise ModelError(f"{step.where}: {type(error).__name__}: {error}") from error

    def _function(
        self, body: Body, inputs: list[Value | None], attributes: dict[str, Any]
    ) -> list[Value | None]:
        given = zip(body.inputs, inputs, strict=False)
        return self.body(body, {n: v for n, v in given if v is not None}, attributes)

    def _rule(
        self,
        step: Step,
        inputs: list[Value | None],
        attributes: dict[str, Any],
        scope: Scope,
        outer: dict[str, Any] | None,
    ) -> list[Value]:
        rule = step.rule
        assert rule is not None

        def subgraph(graph: Graph, values: Sequence[Value]) -> list[Value]:
            if len(values) != len(graph.inputs):
                raise ModelError(f"a body of {len(graph.inputs)} inputs gets {len(values)}")
            inner = {**scope, **graph.constants, **dict(zip(graph.inputs, values, strict=True))}
            return [_present(v) for v in self.body(graph, inner, outer)]

        constant = all(v is None or v.constant for v in inputs)
        if constant and not step.graphs and step.op not in _RANDOM:
            if step.memo is not None and not step.refers and _same(step.memo[0], inputs):
                return step.memo[1]
            folded = self._folded(step, inputs, attributes)
            if folded is not None:
                step.memo = inputs, folded
                return folded
        call = Call(step, inputs, attributes, self.device, subgraph)
        return [_value(r) for r in _several(rule(call))]

    def fold(self, step: Step, inputs: list[Value | None]) -> list[Value] | None:
        """Return the results of a node whose inputs are constants, or None if it cannot be one."""
        try:
            return self._folded(step, inputs, step.attributes)
        except Exception:  # it is reported when the model runs
            return None

    def _folded(
        self, step: Step, inputs: list[Value | None], attributes: dict[str, Any]
    ) -> list[Value] | None:
        """Return results known on the host, or None where they are too large to be kept there."""
        assert step.rule is not None
        with devices.use(self._host), no_grad():
            call = Call(step, inputs, attributes, self._host, None)
            results = [_value(r) for r in _several(step.rule(call))]
            if any(size_of(r.shape) > _FOLDED for r in results):
                return None
            return [Value.known(r.numpy(), r.dtype) for r in results]

    def _expanded(
        self, step: Step, inputs: list[Value | None], attributes: dict[str, Any]
    ) -> list[Value | None]:
        """Run an operator that ONNX defines by a function of others, for these input types."""
        schema = self.setup.operators.schema(step.domain, step.op, step.version)
        defaults = {n: a.default_value for n, a in schema.attributes.items()}
        defaults = {n: a for n, a in defaults.items() if a.name and n not in attributes}
        attributes = attributes | defaults
        key = tuple([v and (v.dtype, v.shape) for v in inputs])
        body = step.bodies.get(key)
        if body is None or step.refers:
            if len(step.bodies) >= _MAX_BODIES:
                step.bodies.clear()
            body = step.bodies[key] = self._definition(step, schema, inputs, attributes)
        return self._function(body, inputs, attributes)

    def _definition(
        self, step: Step, schema: Any, inputs: list[Value | None], attributes: dict[str, Any]
    ) -> Body:
        """Return ONNX's own definition of an operator, prepared."""
        onnx = files.library()
        if schema.has_function:
            usable = [v for v in schema.function_opset_versions if v <= step.version]
            text = schema.get_function_with_opset_version(max(usable))
        else:
            known = schema.context_dependent_function_opset_versions
            node = files.copied(step.node)
            del node.attribute[:]
            node.attribute.extend(attributes.values())
            types = [_type_of(onnx, v).SerializeToString() for v in inputs]
            text = schema.get_context_dependent_function_with_opset_version(
                max(v for v in known if v <= step.version), node.SerializeToString(), types
            )
        proto = onnx.FunctionProto()
        proto.ParseFromString(text)
        versions = step.versions | files.opsets(proto.opset_import)
        self.setup.operators.check(proto.node, versions)
        return Body(proto.node, proto.input, proto.output, versions, self.setup, set(), step.op)


def _type_of(onnx: Any, value: Value | None) -> Any:
    proto = onnx.TypeProto()
    if value is not None:
        proto = onnx.helper.make_tensor_type_proto(NUMBERS[value.dtype], value.shape)
    return proto


def _several(results: Any) -> Sequence[Any]:
    return results if isinstance(results, (tuple, list)) else (results,)


def _present(value: Value | None) -> Value:
    if value is None:
        raise ModelError("an output of the body is missing")
    return value


def _value(result: Any) -> Value:
    if isinstance(result, np.ndarray):
        return Value.known(result)
    value = result if isinstance(result, Value) else Value.of(result)
    if size_of(value.shape) * value.dtype.itemsize > MAX_BYTES:
        raise ModelError(f"a result of shape {value.shape} takes more than {MAX_BYTES >> 30} GiB")
    return value


def _same(old: list[Value | None], new: list[Value | None]) -> bool:
    """Whether constants are those of the call before."""
    for a, b in zip(old, new, strict=True):
        if a is b:
            continue
        if a is None or b is None or a.dtype is not b.dtype or a.shape != b.shape:
            return False
        if not np.array_equal(a.numpy(), b.numpy()):
            return False
    return True


class Model:
    """A callable model: tensors or host arrays in, lazy tensors out.

    Arguments stand in the order of the model's inputs, or by name; a model of several outputs
    returns a tuple. Gradients flow from the outputs to arguments that track them.
    """

    def __init__(self, proto: Any, folder: Path, device: Any, requires_grad: bool) -> None:
        graph = proto.graph
        versions = files.opsets(proto.opset_import)
        if not versions:
            raise ModelError("load: the model imports no opset")
        newest = files.library().defs.onnx_opset_version()
        if not 1 <= versions.get("", 1) <= newest:
            raise ModelError(f"load: opset {versions['']} is unknown; 1 to {newest} are known")
        found = files.Operators(proto.functions)
        found.check(graph.node, versions)
        self.device = device
        self._setup = Setup(found, folder)
        self._graph = Graph(graph, versions, self._setup)
        constants = self._graph.constants
        self.inputs: dict[str, tuple[DType, Any]] = {
            v.name: files.declared(v) for v in graph.input if v.name not in constants
        }
        """(dtype, shape) by name of input; an unknown extent is None or a name, as is a shape."""
        self.outputs: dict[str, tuple[DType, Any]] = {
            v.name: files.declared(v) for v in graph.output
        }
        """(dtype, shape) by name of output."""
        self.parameters: dict[str, Tensor] = {}
        """The floating weights by name."""
        self._place(requires_grad)
        self._fold()

    def _place(self, requires_grad: bool) -> None:
        for name, value in self._graph.constants.items():
            value.constant = name not in self._graph.inputs  # those may be given in a call
            if not value.dtype.is_float:
                if size_of(value.shape) > _FOLDED:
                    value.on(self.device)
                    value.forget_host()
                continue
            if requires_grad:
                value.replace(asarray(value.numpy(), value.dtype, self.device, requires_grad=True))
            self.parameters[name] = value.on(self.device)
            if requires_grad or size_of(value.shape) > _FOLDED:
                value.forget_host()

    def _fold(self) -> None:
        """Run what depends on constants alone, once and for all."""
        run, graph = Run(self.device, self._setup), self._graph
        kept, ends = [], []
        for step, end in zip(graph.steps, graph.ends, strict=True):
            inputs = [graph.constants.get(n) if n else None for n in step.inputs]
            ready = all(
                not n or (n in graph.constants and graph.constants[n].constant) for n in step.inputs
            )
            results: list[Value] | None = None
            if ready and step.rule is not None and not step.graphs and step.op not in _RANDOM:
                results = run.fold(step, inputs)
            if results is None:
                kept.append(step)
                ends.append(end)
            else:
                graph.constants.update(zip(step.outputs, results, strict=False))
        graph.steps, graph.ends = kept, ends

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Return the outputs: one tensor, or a tuple of several.

        Raises `ShapeError` or `DTypeError` where an argument is not what the model declares.
        """
        values = self._bound(args, named)
        with devices.use(self.device):
            scope = {**self._graph.constants, **values}
            results = Run(self.device, self._setup).body(self._graph, scope)
            outputs = []
            for (name, (dtype, shape)), value in zip(self.outputs.items(), results, strict=True):
                tensor = _present(value).on(self.device)
                _check("the output", name, tensor.dtype, tensor.shape, dtype, shape, {})
                outputs.append(tensor)
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def _bound(self, args: tuple[Any, ...], named: dict[str, Any]) -> Scope:
        names = list(self.inputs)
        optional = [n for n in self._graph.inputs if n not in self.inputs]
        given = dict(zip(names, args, strict=False))
        unknown = [n for n in named if n not in names and n not in optional]
        twice = [n for n in named if n in given]
        missing = [n for n in names if n not in given and n not in named]
        if len(args) > len(names) or unknown or twice or missing:
            raise ModelError(
                f"model: takes {', '.join(names) or 'no inputs'}; got {len(args)} arguments and "
                f"{sorted(named) or 'no names'}; missing {missing}, unknown {unknown}, "
                f"twice {twice}"
            )
        extents: dict[str, int] = {}
        values: Scope = {}
        for name, item in (given | named).items():
            dtype, shape = self.inputs.get(name, (None, None))
            value = self._value(item, dtype)
            if dtype is not None:
                _check("the input", name, value.dtype, value.shape, dtype, shape, extents)
            values[name] = value
        return values

    def _value(self, item: Any, dtype: DType | None) -> Value:
        if isinstance(item, Tensor):
            return Value.of(item)
        array = np.asarray(item)
        if array.dtype.name == "bfloat16":
            return Value.known(array.astype(np.float32), dtypes.bfloat16, constant=False)
        if not hasattr(item, "dtype") and dtype is not None:
            array = array.astype(dtype.numpy)
        return Value.known(array, dtype if dtype is dtypes.bfloat16 else None, constant=False)


def _check(
    what: str,
    name: str,
    dtype: DType,
    shape: tuple[int, ...],
    wanted: DType,
    declared: Any,
    extents: dict[str, int],
) -> None:
    """Compare a value with what the file declares; named extents must agree among inputs."""
    if dtype is not wanted:
        raise DTypeError(f"model: {what} {name!r} is {dtype}, but {wanted} is declared")
    if declared is None:
        return
    fits = len(shape) == len(declared)
    for n, m in zip(shape, declared, strict=False):
        if isinstance(m, str) and m:
            m = extents.setdefault(m, n)
        fits = fits and m in (None, "", n)
    if not fits:
        raise ShapeError(f"model: {what} {name!r} has shape {shape}, but {declared} is declared")


def load(path: str | os.PathLike[str], device: Any = None, requires_grad: bool = False) -> Model:
    """Return the model of an ONNX file (opsets 13 to 21; others where operators are the same).

    Its weights live on `device` (None: the one in force); they track gradients, and are free to be
    trained, if `requires_grad` is true. Data in other files is read from the model's own folder
    only. Operators that have no rule but which ONNX defines by a function of others run as that.

    Raises `ModelError` where the file is malformed, truncated or contradicts itself, and one
    `UnsupportedOp` that names all operators without a rule, with their nodes.
    """
    files.library()
    requires_grad = flag("load: requires_grad", requires_grad)
    found = devices.current() if device is None else devices.resolve(device)
    proto = files.read(path)
    try:
        return Model(proto, Path(path).resolve().parent, found, requires_grad)
    except SimplegradError:
        raise
    except Exception as error:  # names that are no text, numbers out of range, …
        raise ModelError(f"load: {path} is malformed: {type(error).__name__}: {error}") from error
