"""The error family: every error names the function, the values seen and the remedy."""

from __future__ import annotations


class SimplegradError(Exception):
    """Base of every error that simplegrad raises on purpose."""


class ShapeError(SimplegradError, ValueError):
    """Shapes, axes, strides or einsum subscripts that do not fit together."""


class DTypeError(SimplegradError, TypeError):
    """A dtype that an operation does not take, or that cannot be promoted."""


class DTypeNotSupported(DTypeError):
    """A dtype that this device cannot compute with or store."""


class IndexOutOfRange(SimplegradError, IndexError):
    """An index or a view that would leave the array."""


class ModelError(SimplegradError, ValueError):
    """A model file that is malformed, truncated, or contradicts itself."""


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


class FormatError(SimplegradError, ValueError):
    """A file that is truncated, malformed, or not of the format it should be."""


class AutogradError(SimplegradError, RuntimeError):
    """A gradient that was asked for and does not exist."""


class JitError(SimplegradError, RuntimeError):
    """A function that `simplegrad.jit` cannot replay faithfully; the message says why."""


class VerifyError(SimplegradError, AssertionError):
    """A compiler pass produced something the verifier refuses: a fault in simplegrad."""
