"""Model files: read, checked and taken apart before anything runs.

A file is not trusted: its graph must be acyclic and complete, every name must be defined once, and
no shape is believed before the data that goes with it was counted.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simplegrad.errors import ModelError, SimplegradError, UnsupportedOp
from simplegrad.onnx.operators import find
from simplegrad.onnx.registry import Rule
from simplegrad.onnx.tensors import DTYPES

MAX_FILE = 1 << 31
"""Most bytes of a model file: protobuf knows no larger message."""
MAX_DEPTH = 32
"""How deep functions and subgraphs may stand inside each other."""


def library() -> Any:
    """Return the package `onnx`; `SimplegradError` where it is missing."""
    try:
        import onnx
        import onnx.defs
    except ImportError:
        raise SimplegradError(
            "onnx: the package 'onnx' is needed to read and write models; pip install onnx"
        ) from None
    return onnx


def read(path: str | os.PathLike[str]) -> Any:
    """Return the ``ModelProto`` of a file; `ModelError` where it is none, or is cut short."""
    onnx = library()
    with Path(path).open("rb") as file:
        data = file.read(MAX_FILE)
    if len(data) == MAX_FILE:
        raise ModelError(f"load: {path} has 2 GiB or more; keep weights in files beside it")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # DecodeError, whose module differs between versions of protobuf
        raise ModelError(f"load: {path} is no ONNX model, or is truncated: {error}") from None
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"load: {path} holds no graph with outputs; it is no model or truncated")
    return model


def copied(message: Any) -> Any:
    """Return a message of its own."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def opsets(imports: Iterable[Any]) -> dict[str, int]:
    """Return opset versions by domain; ``ai.onnx`` is the empty domain."""
    found = {}
    for entry in imports:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        found[domain] = int(entry.version)
    return found


def subgraphs(node: Any) -> list[Any]:
    """Return the graphs among a node's attributes."""
    return [a.g for a in node.attribute if a.HasField("g")] + [
        g for a in node.attribute for g in a.graphs
    ]


def label(node: Any) -> str:
    """Return what an error calls a node: its name, or that of its first output."""
    return repr(node.name or (node.output[0] if node.output else "?"))


def ordered(nodes: Iterable[Any], known: set[str], what: str) -> list[Any]:
    """Return nodes so that each follows those it reads; `known` names are there from the start.

    Raises `ModelError` where a name is defined twice, is defined nowhere, or depends on itself.
    """
    nodes = list(nodes)
    producer: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in producer or name in known:
                raise ModelError(f"{what}: the value {name!r} is defined twice")
            producer[name] = i
    needs = [reads(node) for node in nodes]
    for node, names in zip(nodes, needs, strict=True):
        missing = sorted(n for n in names if n not in producer and n not in known)
        if missing:
            raise ModelError(
                f"{what}: node {label(node)} ({node.op_type}) reads {missing}, defined nowhere"
            )
    waits = [len({producer[n] for n in names if n in producer}) for names in needs]
    readers: list[list[int]] = [[] for _ in nodes]
    for i, names in enumerate(needs):
        for source in {producer[n] for n in names if n in producer}:
            readers[source].append(i)
    ready = [i for i in reversed(range(len(nodes))) if not waits[i]]
    order = []
    while ready:
        i = ready.pop()
        order.append(i)
        for reader in reversed(readers[i]):
            waits[reader] -= 1
            if not waits[reader]:
                ready.append(reader)
    if len(order) < len(nodes):
        stuck = [label(nodes[i]) for i in range(len(nodes)) if waits[i]]
        raise ModelError(f"{what}: nodes {', '.join(stuck[:5])} depend on their own results")
    return [nodes[i] for i in order]


def reads(node: Any) -> set[str]:
    """Return the names that a node reads: its inputs, and what its subgraphs take from outside."""
    names = {n for n in node.input if n}
    stack = [(g, frozenset[str]()) for g in subgraphs(node)]
    depth = 0
    while stack:
        depth += 1
        if depth > 10_000:
            raise ModelError(f"node {label(node)}: too many subgraphs")
        graph, outer = stack.pop()
        local = outer | {v.name for v in graph.input} | {t.name for t in graph.initializer}
        local |= {n for inner in graph.node for n in inner.output}
        for inner in graph.node:
            names |= {n for n in inner.input if n and n not in local}
            stack += [(g, local) for g in subgraphs(inner)]
        names |= {v.name for v in graph.output if v.name not in local}
    return names


# Which operators the rules know -----------------------------------------------------------------


class Operators:
    """What stands for an operator of a model: a function of its own, a rule, a function of ONNX."""

    def __init__(self, functions: Iterable[Any]) -> None:
        self.defs = library().defs
        self.local = {(f.domain, f.name): copied(f) for f in functions}
        self._schemas: dict[tuple[str, str, int], Any] = {}

    def schema(self, domain: str, op: str, version: int) -> Any:
        """Return ONNX's definition of an operator in an opset, or None."""
        key = domain, op, version
        if key not in self._schemas:
            try:
                self._schemas[key] = self.defs.get_schema(op, version, domain)
            except Exception:  # SchemaError, which is no part of the public interface
                self._schemas[key] = None
        return self._schemas[key]

    def rule(self, domain: str, op: str, version: int) -> Rule | None:
        """Return the rule for an operator as an opset defines it, or None."""
        schema = self.schema(domain, op, version)
        return None if schema is None else find(domain, op, schema.since_version)

    def check(self, nodes: Iterable[Any], versions: dict[str, int]) -> None:
        """Raise one `UnsupportedOp` that names every operator without a rule, and its nodes."""
        missing: dict[str, list[str]] = {}
        self._collect(nodes, versions, missing, {}, 0)
        if missing:
            lines = [f"  {op}: {', '.join(names)}" for op, names in sorted(missing.items())]
            raise UnsupportedOp(
                f"load: {len(missing)} operators of this model are not supported, at the nodes\n"
                + "\n".join(lines)
            )

    def _collect(
        self,
        nodes: Iterable[Any],
        versions: dict[str, int],
        missing: dict[str, list[str]],
        functions: dict[Any, bool],
        depth: int,
    ) -> None:
        """Add to `missing`; `functions` holds those met, and whether each is gone through."""
        if depth > MAX_DEPTH:
            raise ModelError(f"load: functions and subgraphs are nested more than {MAX_DEPTH} deep")
        for node in nodes:
            domain = "" if node.domain == "ai.onnx" else node.domain
            key = domain, node.op_type
            function = self.local.get(key)
            if function is not None:
                if not functions.get(key, True):
                    raise ModelError(f"load: the function {node.op_type!r} calls itself")
                if key not in functions:
                    functions[key] = False
                    own = opsets(function.opset_import) or versions
                    self._collect(function.node, own, missing, functions, depth + 1)
                    functions[key] = True
            elif not self._known(domain, node.op_type, versions):
                version = versions.get(domain)
                name = f"{domain}.{node.op_type}" if domain else node.op_type
                name += f" (opset {version})" if version else " (its domain has no opset)"
                missing.setdefault(name, []).append(label(node))
            for graph in subgraphs(node):
                self._collect(graph.node, versions, missing, functions, depth + 1)

    def _known(self, domain: str, op: str, versions: dict[str, int]) -> bool:
        version = versions.get(domain)
        if version is None:
            return False
        if self.rule(domain, op, version) is not None:
            return True
        schema = self.schema(domain, op, version)
        if schema is None or not (schema.has_function or schema.has_context_dependent_function):
            return False
        if schema.has_function:
            body = schema.function_body
            return all(self._known("", n.op_type, {"": version}) for n in body.node)
        return True


def declared(info: Any) -> tuple[Any, tuple[Any, ...] | None]:
    """Return (dtype, shape) of a graph's input or output; unknown extents are None or a name."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedOp(f"load: {info.name!r} is a {kind or 'value of no type'}, not a tensor")
    tensor = info.type.tensor_type
    if tensor.elem_type not in DTYPES:
        raise ModelError(f"load: {info.name!r} has ONNX data type {tensor.elem_type}")
    if not tensor.HasField("shape"):
        return DTYPES[tensor.elem_type], None
    shape: list[Any] = []
    for dim in tensor.shape.dim:
        which = dim.WhichOneof("value")
        shape.append(getattr(dim, which) if which else None)
    if any(isinstance(n, int) and n < 0 for n in shape):
        raise ModelError(f"load: {info.name!r} is declared with shape {shape}")
    return DTYPES[tensor.elem_type], tuple(shape)
