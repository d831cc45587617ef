"""The call of one node, and the table of operator rules.

A rule is written once, over tensors. Where all its inputs are constants it runs on the NumPy
device, and its result is known on the host again (see `model`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simplegrad.dtypes import DType
from simplegrad.errors import ModelError
from simplegrad.onnx.tensors import Value, read_tensor
from simplegrad.tensor.creation import asarray
from simplegrad.tensor.tensor import Tensor

_FLOAT, _INT, _STRING, _TENSOR, _, _FLOATS, _INTS, _STRINGS = range(1, 9)
"""ONNX's numbers for the types of attributes (``AttributeProto.AttributeType``)."""


class Call:
    """One node at work: its inputs, its attributes, and how to run the graphs it holds."""

    def __init__(
        self,
        step: Any,
        inputs: Sequence[Value | None],
        attributes: dict[str, Any],
        device: Any,
        run: Any,
    ) -> None:
        self.inputs, self.device = inputs, device
        self.op: str = step.op
        self.version: int = step.version
        """The opset of the operator's domain that the model imports."""
        self.outputs = len(step.outputs)
        self._attributes = attributes
        self._graphs = step.graphs
        self.run = run
        """``run(graph, values)``: the values of a subgraph's outputs."""

    # Inputs -------------------------------------------------------------------------------------

    def has(self, i: int) -> bool:
        """Whether the i-th input is given."""
        return i < len(self.inputs) and self.inputs[i] is not None

    def value(self, i: int) -> Value:
        """Return the i-th input; `ModelError` where it is missing."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise ModelError(f"input {i} is missing")
        return value

    def tensor(self, i: int) -> Tensor:
        """Return the i-th input as a tensor on the model's device."""
        return self.value(i).on(self.device)

    def optional(self, i: int) -> Tensor | None:
        """Return the i-th input as a tensor, or None where it is left out."""
        return self.tensor(i) if self.has(i) else None

    def tensors(self) -> list[Tensor]:
        """Return all inputs as tensors; `ModelError` where there are none, or one is missing."""
        return [self.tensor(i) for i in range(max(len(self.inputs), 1))]

    def host(self, i: int) -> np.ndarray:
        """Return the i-th input on the host: what decides a shape has to be known there.

        One that the graph computes from its inputs' values is computed now and read back.
        """
        return self.value(i).numpy()

    def numbers(self, i: int) -> list[int]:
        """Return the i-th input as a list of integers on the host."""
        array = self.host(i)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise ModelError(f"input {i} is {array.dtype} of shape {array.shape}, not integers")
        return [int(n) for n in array.reshape(-1)]

    def number(self, i: int) -> Any:
        """Return the one element of the i-th input as a Python number."""
        array = self.host(i)
        if array.size != 1:
            raise ModelError(f"input {i} of shape {array.shape} is not one number")
        return array.item()

    def index(self, i: int) -> Any:
        """Return integer indices: on the host where they are constant, so that they are checked."""
        value = self.value(i)
        return value.host if value.constant else self.tensor(i)

    # Attributes ---------------------------------------------------------------------------------

    def _get(self, name: str, kind: int, field: str, default: Any) -> Any:
        attribute = self._attributes.get(name)
        if attribute is None:
            if default is ...:
                raise ModelError(f"attribute {name!r} is missing")
            return default
        if attribute.type != kind:
            raise ModelError(f"attribute {name!r} has type {attribute.type}, not {kind}")
        return getattr(attribute, field)

    def has_attribute(self, name: str) -> bool:
        """Whether an attribute is given."""
        return name in self._attributes

    def integer(self, name: str, default: Any = ...) -> Any:
        """Return an integer attribute; without a default it must be given."""
        return self._get(name, _INT, "i", default)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return an integer attribute as a truth value."""
        return bool(self._get(name, _INT, "i", default))

    def real(self, name: str, default: Any = ...) -> Any:
        """Return a float attribute."""
        return self._get(name, _FLOAT, "f", default)

    def string(self, name: str, default: Any = ...) -> Any:
        """Return a string attribute."""
        text = self._get(name, _STRING, "s", default)
        return text.decode(errors="replace") if isinstance(text, bytes) else text

    def integers(self, name: str, default: Any = ...) -> Any:
        """Return a list of integers."""
        found = self._get(name, _INTS, "ints", default)
        return found if found is default else list(found)

    def reals(self, name: str, default: Any = ...) -> Any:
        """Return a list of floats."""
        found = self._get(name, _FLOATS, "floats", default)
        return found if found is default else list(found)

    def strings(self, name: str, default: Any = ...) -> Any:
        """Return a list of strings."""
        found = self._get(name, _STRINGS, "strings", default)
        return found if found is default else [s.decode(errors="replace") for s in found]

    def graph(self, name: str) -> Any:
        """Return a subgraph, prepared."""
        if name not in self._graphs:
            raise ModelError(f"the graph {name!r} is missing")
        return self._graphs[name]

    def literal(self, name: str) -> Value:
        """Return a tensor attribute as a value known on the host."""
        return read_tensor(self._get(name, _TENSOR, "t", ...))

    def axes(self, i: int, default: Any = None) -> Any:
        """Return the axes that newer operators take as input `i` and older ones as attribute."""
        if self.has(i):
            return self.numbers(i)
        return self.integers("axes", default)

    # New tensors --------------------------------------------------------------------------------

    def constant(self, array: Any, dtype: DType | None = None) -> Tensor:
        """Return host numbers that depend on shapes and attributes alone, as a tensor."""
        return asarray(np.asarray(array), dtype, self.device, requires_grad=False)


Rule = Callable[[Call], Any]
"""From a call to a tensor, a tuple of tensors, or host arrays where the result is constant."""

_rules: dict[tuple[str, str], list[tuple[int, int, Rule]]] = {}
NEWEST = 28
"""The newest opset whose operators were read for these rules."""


def operator(
    *names: str, since: int = 1, until: int = NEWEST, domain: str = ""
) -> Callable[[Rule], Rule]:
    """Register a rule for operators whose definition is of opset `since` to `until`."""

    def register(rule: Rule) -> Rule:
        for name in names:
            _rules.setdefault((domain, name), []).append((since, until, rule))
        return rule

    return register


def find(domain: str, op: str, since: int) -> Rule | None:
    """Return the rule for an operator as defined in opset `since`, or None."""
    for first, last, rule in _rules.get((domain, op), ()):
        if first <= since <= last:
            return rule
    return None
