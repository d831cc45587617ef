"""The error family: every error names the function, the values seen and the remedy.

The function named is the one that the user called. Whoever raises writes ``"pad: widths …"``; if a
user called ``conv2d``, which pads, the error says ``"conv2d: widths …"``. The name is looked up on
the stack when an error is made, so that functions need not hand theirs down, and calls that succeed
pay nothing.
"""

from __future__ import annotations

import re
import sys
from types import FrameType
from typing import Any

_ROOMS = re.compile(
    r"simplegrad($|\.(tensor|graph|autograd|optim|nn|random|dtypes|arguments)\b)(?!\.module$)"
)
"""Modules between a user's call and an error. A container of layers (`nn.module`) counts as the
caller of its layers."""
_PREFIX = re.compile(r"\A[A-Za-z_]\w*(?=: )")


class SimplegradError(Exception):
    """Base of every error that simplegrad raises on purpose."""

    def __init__(self, message: str = "") -> None:
        called = _called(sys._getframe(1))
        super().__init__(_PREFIX.sub(called, message, count=1) if called else message)


def _called(frame: FrameType | None) -> str:
    """Return the name of the outermost public function on the stack before other code, or ""."""
    name = ""
    while frame is not None and _ROOMS.match(frame.f_globals.get("__name__", "")):
        name = _public_name(frame) or name
        frame = frame.f_back
    return name


def _public_name(frame: FrameType) -> str:
    """Return the name by which users know a frame's function, or "" for an inner one."""
    name = frame.f_code.co_name
    if name in ("__init__", "__call__", "__setattr__"):  # a class is known by its own name
        name = type(frame.f_locals[frame.f_code.co_varnames[0]]).__name__
    elif name.startswith("__"):
        name = name.strip("_")
        return {"array_ufunc": "", "array_function": ""}.get(name, name)
    if name.startswith(("_", "<")):
        return ""
    room = frame.f_globals["__name__"].split(".")[1:2]
    if room in (["nn"], ["optim"], ["random"]):
        return name
    package: Any = sys.modules["simplegrad"]
    shown = hasattr(package, name) or hasattr(getattr(package, "Tensor", None), name)
    return name if room in ([], ["tensor"], ["dtypes"]) and shown else ""


class ArgumentError(SimplegradError, ValueError, TypeError):
    """A number or a setting of a wrong type, or out of its range."""


class ShapeError(SimplegradError, ValueError):
    """Shapes, axes, strides or einsum subscripts that do not fit together."""


class DTypeError(SimplegradError, TypeError):
    """A dtype that an operation does not take, or that cannot be promoted."""


class DTypeNotSupported(DTypeError):
    """A dtype that this device cannot compute with or store."""


class IndexOutOfRange(SimplegradError, IndexError):
    """An index or a view that would leave the array."""


class ModelError(SimplegradError, ValueError):
    """A model's file (weights, ONNX) that is truncated, malformed or contradicts itself, or a
    function or call that such a file cannot hold."""


class FileError(SimplegradError, OSError):
    """A file that cannot be written where it was asked for; what stood there before still does."""


class DeviceError(SimplegradError, RuntimeError):
    """A device that is missing, unknown, mixed with another, or failed."""


class DriverNotFound(DeviceError):
    """No OpenCL driver could be loaded; the message lists what was tried."""


class OutOfMemory(DeviceError, MemoryError):
    """The device has no room, even after the pool was trimmed and the try repeated."""


class ExchangeError(SimplegradError, BufferError, ValueError):
    """Memory that cannot be exchanged as asked: shared, where only a copy can be made."""


class BuildError(DeviceError):
    """A kernel that the driver refused; the message holds numbered source and the log."""


class UnsupportedOp(DeviceError, NotImplementedError):
    """An operation that this device cannot do, or that a model file and we cannot both express."""


class AutogradError(SimplegradError, RuntimeError):
    """A gradient that was asked for and does not exist."""


class JitError(SimplegradError, RuntimeError):
    """A function that `simplegrad.jit` cannot replay faithfully; the message says why."""


class VerifyError(SimplegradError, AssertionError):
    """A compiler pass produced something the verifier refuses: a fault in simplegrad."""
