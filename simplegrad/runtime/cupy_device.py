"""CuPy as a device: the twelve operations of `crude_device` on CUDA arrays, op by op.

CuPy is imported at the first operation, never with simplegrad.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from simplegrad.errors import DeviceError


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"CuPy: it cannot be imported ({error}); run: pip install cupy-cuda12x"
        ) from error
    return cupy


class CuPy:
    """CUDA arrays of CuPy: ``Tensor.device = simplegrad.devices.CuPy``.

    What `crude_device` says of every such device holds: floats only, no fusion, and an operation
    that the twelve cannot express is `UnsupportedOp`.
    """

    @staticmethod
    def array(data: np.ndarray) -> Any:
        """Return host data as a CUDA array."""
        return _cupy().asarray(data)

    @staticmethod
    def numpy(x: Any) -> np.ndarray:
        """Return a host copy of a CUDA array, once it is computed."""
        host: np.ndarray = _cupy().asnumpy(x)
        return host

    @staticmethod
    def synchronize() -> None:
        """Wait until everything enqueued on the current stream is done."""
        _cupy().cuda.get_current_stream().synchronize()

    @staticmethod
    def exp(x: Any) -> Any:
        """Return e to the power of each element."""
        return _cupy().exp(x)

    @staticmethod
    def log(x: Any) -> Any:
        """Return the natural logarithm."""
        return _cupy().log(x)

    @staticmethod
    def add(a: Any, b: Any) -> Any:
        """Return a + b."""
        return _cupy().add(a, b)

    @staticmethod
    def mul(a: Any, b: Any) -> Any:
        """Return a · b."""
        return _cupy().multiply(a, b)

    @staticmethod
    def pow(a: Any, b: Any) -> Any:
        """Return a to the power of b."""
        return _cupy().power(a, b)

    @staticmethod
    def equal(a: Any, b: Any) -> Any:
        """Return whether elements are equal."""
        return _cupy().equal(a, b)

    @staticmethod
    def greater_equal(a: Any, b: Any) -> Any:
        """Return a >= b."""
        return _cupy().greater_equal(a, b)

    @staticmethod
    def sum(x: Any, axis: Any) -> Any:
        """Return the sum over an axis or several."""
        return _cupy().sum(x, axis=axis)

    @staticmethod
    def max(x: Any, axis: Any) -> Any:
        """Return the greatest element over an axis or several; NaN wins."""
        return _cupy().max(x, axis=axis)

    @staticmethod
    def argmax(x: Any, axis: int) -> Any:
        """Return the index of the first greatest element along an axis."""
        return _cupy().argmax(x, axis=axis)

    @staticmethod
    def einsum(subscripts: str, *operands: Any) -> Any:
        """Return a sum of products."""
        return _cupy().einsum(subscripts, *operands)

    @staticmethod
    def as_strided(x: Any, shape: Any, strides: Any) -> Any:
        """Return a view of the elements in row-major order; strides in elements."""
        cupy = _cupy()
        flat = cupy.ascontiguousarray(x)
        steps = tuple(stride * flat.itemsize for stride in strides)
        return cupy.lib.stride_tricks.as_strided(flat, tuple(shape), steps)
