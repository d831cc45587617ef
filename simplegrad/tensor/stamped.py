"""Composites that copy what they made before of operands of the same kinds; see `graph.stencil`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast
from weakref import ref

from simplegrad.dtypes import default_float
from simplegrad.graph.node import Node, user_line
from simplegrad.graph.stencil import Table, sort_of
from simplegrad.ops import Op
from simplegrad.tensor.core import Core, wrap
from simplegrad.tensor.modes import mode
from simplegrad.tensor.pending import MAX_HELD_BYTES, MAX_PENDING, flush, release

F = TypeVar("F", bound=Callable[..., Any])
_table = Table()


def stamped(function: F) -> F:
    """Let a function of tensors copy what it made before of operands of the same kinds.

    It may also take numbers, words and tuples of these, and returns one tensor. That one's graph
    may depend on those, on the kinds of the tensors, on which of them are one, on what tracks, on
    the device and on the default float dtype; on no other setting, and on no value of a tensor.
    Where the first operand is not of floats, the function is called as it is.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        inputs: list[Node] = []
        key: list[Any] = [function, mode.grad, default_float(), len(args)]
        values: Iterable[Any] = args
        if kwargs:
            key += kwargs
            values = (*args, *kwargs.values())
        if not _describe(values, key, inputs):
            return function(*args, **kwargs)
        device = inputs[0].device if inputs else None
        if device is None or not inputs[0].kind.spec.dtype.is_float:
            return function(*args, **kwargs)
        for node in inputs:
            if node.device is not device and node.device is not None:
                return function(*args, **kwargs)
        key.append(ref(device))  # a table keeps no device alive
        whole = tuple(key)
        stencil = _table.find(whole)
        if stencil is None:
            result = function(*args, **kwargs)
            if result._node.device is device:
                _table.learn(whole, inputs, [result._node])
            return result
        node = stencil.stamp(inputs, device, user_line())[0]
        if node.depth > MAX_PENDING:
            flush(node, inputs)
        if node.unread > MAX_HELD_BYTES:
            release(node)
        return wrap(node)

    return cast(F, call)


def _describe(values: Iterable[Any], key: list[Any], inputs: list[Node]) -> bool:
    """Add what a result may depend on to a key; False where that cannot be said."""
    for value in values:
        kind = type(value)
        if kind is Core.final:
            node = value._node
            if node in inputs:
                key.append((inputs.index(node),))
            else:
                key += (sort_of(node), node.tracks, node.device is None)
            inputs.append(node)
        elif kind is int or kind is str or kind is Op or value is None:
            key.append(value)
        elif kind is float or kind is bool:
            key += (kind, repr(value))  # 0.0 is no -0.0, and True no 1
        elif kind is tuple:
            key += (kind, len(value))
            if not _describe(value, key, inputs):
                return False
        else:
            return False
    return True
