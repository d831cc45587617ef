"""Which device is in force: by setting, by ``with sg.device(...)``, or the best there is."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from simplegrad import runtime, settings
from simplegrad.arguments import shown
from simplegrad.errors import DeviceError, DriverNotFound
from simplegrad.runtime.crude_device import OPERATIONS, CrudeDevice
from simplegrad.runtime.cupy_device import CuPy
from simplegrad.runtime.numpy_device import NumpyDevice

_OUTSIDE = object()
_chosen: ContextVar[Any] = ContextVar("simplegrad_device", default=_OUTSIDE)
"""The device of the innermost block; None where the default was asked for inside."""
_assigned: list[Any] = [None]
"""The device that was put in force outside of any block."""
_numpy = NumpyDevice()
_lock = threading.RLock()
_default: dict[str, Any] = {}
_crude: weakref.WeakValueDictionary[int, CrudeDevice] = weakref.WeakValueDictionary()


def by_name(selector: str) -> Any:
    """Return the device of a selector: ``numpy``, ``cupy``, ``opencl:gpu``, ``opencl:intel`` …

    Raises `DeviceError` where there is none of that name, listing those that exist.
    """
    if selector == "numpy":
        return _numpy
    if selector == "cupy":
        return crude(CuPy)
    return runtime.select.open_device(selector)


def current() -> Any:
    """Return the device in force in this thread."""
    chosen = _chosen.get()
    if chosen is _OUTSIDE:
        chosen = _assigned[0]
    if chosen is not None:
        return chosen
    selector = settings.current().device
    device = _default.get(selector)
    if device is None:
        with _lock:
            device = _default.setdefault(selector, _open_default(selector))
    return device


def _open_default(selector: str) -> Any:
    if selector:
        return by_name(selector)
    try:
        return runtime.select.open_device("opencl")
    except DriverNotFound as error:
        warnings.warn(
            f"simplegrad: computing with NumPy, since no OpenCL driver was found ({error})",
            RuntimeWarning,
            stacklevel=4,
        )
        return _numpy


@contextmanager
def use(selector: Any) -> Iterator[Any]:
    """Put a device (a selector, a device, or an object of twelve crude ops) in force."""
    token = _chosen.set(resolve(selector))
    try:
        yield _chosen.get()
    finally:
        _chosen.reset(token)


def set_current(selector: Any) -> None:
    """Put a device in force until told otherwise; None: the default again.

    In all threads, but inside a ``with sg.device(...)``: there in this one, to the block's end.
    """
    device = None if selector is None else resolve(selector)
    if _chosen.get() is _OUTSIDE:
        _assigned[:] = [device]
    else:
        _chosen.set(device)


def resolve(selector: Any) -> Any:
    """Return the device that a selector, a device or a user's own class stands for."""
    if isinstance(selector, str):
        return by_name(selector)
    if hasattr(selector, "kind") and hasattr(selector, "from_host"):
        return selector
    is_array = hasattr(selector, "shape")  # arrays have some of the twelve as methods
    if is_array or not any(hasattr(selector, name) for name in OPERATIONS):
        raise DeviceError(
            f"device: {shown(selector)} is no device; give a selector such as 'numpy', 'opencl' or "
            "'opencl:1' (simplegrad.devices() lists them), or a class with the twelve operations "
            f"{', '.join(OPERATIONS)}"
        )
    return crude(selector)


def crude(protocol: Any) -> CrudeDevice:
    """Return the device over a user's own class with the twelve crude operations.

    One object (class or instance) has one device, as long as something refers to that.
    """
    with _lock:
        device = _crude.get(id(protocol))  # the device keeps its protocol, so the id is not reused
        if device is None:
            device = _crude[id(protocol)] = CrudeDevice(protocol)
    return device


class Devices:
    """What computes here: ``sg.devices()`` lists devices, ``sg.devices.CuPy`` is a class of twelve.

    Any of them may be put in force with ``sg.device(...)`` or ``Tensor.device = ...``.
    """

    CuPy = CuPy

    def __call__(self) -> list[Any]:
        """Return a record of every device here, best first; ``numpy`` is always there."""
        return [*runtime.select.devices(), runtime.select.DeviceInfo.numpy()]


devices = Devices()
