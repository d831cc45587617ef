"""`Tensor`, put together."""

from __future__ import annotations

from types import FunctionType
from typing import Any

from simplegrad.runtime import devices
from simplegrad.tensor.core import Core
from simplegrad.tensor.exchange import Exchange


class _Meta(type):
    """Makes ``Tensor.device`` the device in force: read it, or assign one."""

    @property
    def device(cls) -> Any:
        return devices.current()

    @device.setter
    def device(cls, value: Any) -> None:
        devices.set_current(value)


class Tensor(Exchange, metaclass=_Meta):
    """A lazy array on a device: operations are recorded, and computed when a value is read.

    ``Tensor(data, dtype=None, requires_grad=None, device=None)`` copies numbers, nested lists,
    NumPy arrays or another tensor to a device. Python floats and float64 data take the default
    float dtype (float32 unless set); `simplegrad.asarray` keeps the dtype. Integers and bools stay.
    Float tensors track gradients unless `requires_grad` is False.

    No operation changes its operand. Reading (``numpy()``, ``print``, ``float(x)``) computes.

    ``Tensor.device = obj`` puts a device in force for new tensors: a device, a selector such as
    ``"numpy"``, or an object with the twelve crude operations. ``x.device`` is where `x` lives.

    >>> from simplegrad import Tensor
    >>> x = Tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> x.mul(2.0).add(1).sum(axis=0)
    Tensor([10., 14.], dtype=float32)
    >>> x.shape, x.dtype
    ((2, 2), simplegrad.float32)
    """

    __slots__ = ()

    @property
    def device(self) -> Any:
        """Where the values are, or will be."""
        return self._node.device or devices.current()


def _name_methods() -> None:
    """Let Python's own errors, and ``help``, say ``Tensor.sum`` of what a part of it defines."""
    for part in Tensor.__mro__[1:-1]:
        for member in vars(part).values():
            while isinstance(member, FunctionType):
                member.__qualname__ = f"{Tensor.__name__}.{member.__name__}"
                member = getattr(member, "__wrapped__", None)


Core.final = Tensor
_name_methods()
