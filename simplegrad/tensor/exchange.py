"""Arrays of other libraries: NumPy's ``__array__``, DLPack, and memory that both sides use.

Memory is *shared* where the host sees the device's own: on the NumPy device and on OpenCL CPU
devices. Everywhere else, and for bfloat16, which NumPy lacks, values are copied.

What leaves is read-only: a recorded graph may still read it. What comes in is copied unless
``copy=False`` says that nobody will write it any more: a later write by its owner would change what
was recorded before, and nothing could tell.

DLPack (data-apis.org/array-api, "Data interchange"; dmlc/dlpack, version 1.1): arrays in the host's
memory are exported as device (1, 0), kDLCPU; others as (4, number), kDLOpenCL, which no Python
library takes, so that they leave as copies for consumers who ask for ``dl_device=(1, 0)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simplegrad import dtypes
from simplegrad.arguments import flag
from simplegrad.dtypes import DType
from simplegrad.errors import ExchangeError
from simplegrad.graph.node import Node, Spec, leaf_over
from simplegrad.runtime import devices
from simplegrad.runtime import realize as execution
from simplegrad.tensor.core import Core, become_leaf, find_device, host_array, wrap
from simplegrad.tensor.differentiation import Differentiation

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor

_CPU, _OPENCL = (1, 0), 4


class Exchange(Differentiation):
    """Ways in and out for other array libraries."""

    __slots__ = ()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the values as a NumPy array, computed now: `numpy.asarray` and `numpy.array`.

        ``np.asarray(x)`` is read-only; it shares memory where the host sees the device's.
        ``np.array(x)``, like ``x.numpy()``, is a copy of one's own. ``copy=False`` raises
        `ExchangeError` (a `ValueError`) where only a copy can be made.
        """
        wanted = np.dtype(self.dtype.numpy if dtype is None else dtype)
        if copy:
            return self.numpy().astype(wanted, copy=False)
        array = _shared(self._realized())
        if array is None:
            if copy is not None:
                raise _only_a_copy("__array__", self)
            array = self.numpy()
            array.flags.writeable = False
        if copy is not None and wanted != array.dtype:
            raise ExchangeError(
                f"__array__: {self.dtype} becomes {wanted} in a copy only; leave out copy=False"
            )
        return array.astype(wanted, copy=False)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Return (1, 0) where the values are in the host's memory, (4, number) on a GPU.

        A device of one's own has what its arrays say: (2, number) for CuPy's.
        """
        device = self.device  # type: ignore[attr-defined]
        foreign = _foreign(self)
        if foreign is not None:
            kind, number = foreign.__dlpack_device__()
            return int(kind), int(number)
        if device.kind not in ("cpu", "gpu") or device.limits.host_memory:
            return _CPU
        names = [d.selector for d in devices.devices()]
        return _OPENCL, names.index(device.name)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Return a DLPack capsule of the values, computed now; gradients do not follow it.

        On the NumPy device and on OpenCL CPU devices the capsule shares memory and is marked
        read-only; a consumer that ignores the mark (PyTorch does) must not write into it. A copy
        is made for ``copy=True``, from a GPU (``dl_device=(1, 0)`` must ask for it), and for
        consumers older than DLPack 1.0, who cannot be told what is read-only. `stream` must be
        None, as the host has none. Raises `ExchangeError` (a `BufferError`) where a copy would be
        needed and ``copy=False``, for another `dl_device`, and for bfloat16.
        """
        foreign = _foreign(self)
        asked = {"max_version": max_version, "dl_device": dl_device, "copy": copy}
        if foreign is not None:
            given = {k: v for k, v in asked.items() if v is not None}
            return foreign.__dlpack__(stream=stream, **given)
        own = self.__dlpack_device__()
        wanted = own if dl_device is None else (int(dl_device[0]), int(dl_device[1]))
        if stream is not None:
            raise ExchangeError(f"__dlpack__: stream={stream!r}, but the host's memory has none")
        if wanted != _CPU:
            raise ExchangeError(
                f"__dlpack__: an array of {own} leaves for the host alone, not for {wanted}; give "
                'dl_device=(1, 0), as numpy.from_dlpack(x, device="cpu") does'
            )
        if self.dtype is dtypes.bfloat16:
            raise ExchangeError("__dlpack__: NumPy has no bfloat16; cast with .astype('float32')")
        new = max_version is not None and max_version[0] >= 1
        array = _shared(self._realized()) if new and own == _CPU and not copy else None
        if array is None:
            if copy is False:
                raise _only_a_copy("__dlpack__", self)
            array = self.numpy()
        return array.__dlpack__(max_version=max_version if new else None)

    def _realized(self) -> Node:
        execution.realize([self._node])
        return self._node


def _shared(node: Node) -> np.ndarray | None:
    return node.device.share(node.buffer, node.dtype, node.shape)  # type: ignore[no-any-return]


def _foreign(tensor: Exchange) -> Any:
    """Return the array of a device of one's own that is neither NumPy's nor another dtype's."""
    if tensor.device.kind != "crude":  # type: ignore[attr-defined]
        return None
    array = tensor._realized().buffer
    usable = hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray)
    return array if usable and array.dtype == tensor.dtype.numpy else None


def _only_a_copy(name: str, tensor: Any) -> ExchangeError:
    return ExchangeError(
        f"{name}: {tensor.dtype} on {tensor.device.name} can only be copied for this consumer; "
        "leave out copy=False"
    )


def adopted(name: str, data: Any, dtype: DType | None, device: Any) -> Node:
    """Return a leaf over the memory of host data itself; `ExchangeError` if that cannot be."""
    given = np.asarray(data) if hasattr(data, "__array__") else None
    if given is not None:
        array, dtype = host_array(name, given, dtype, keep=True)
        device = find_device(device)
        buffer = device.adopt(array, dtype) if np.may_share_memory(array, given) else None
        if buffer is not None:
            return leaf_over(buffer, Spec.of(array.shape, dtype), device)
    what = f"{given.dtype} of shape {given.shape}" if given is not None else type(data).__name__
    where = find_device(device).name
    raise ExchangeError(
        f"{name}: {what} cannot be used where it stands on {where}, which takes contiguous, "
        "aligned arrays of its own dtypes on a CPU; leave out copy=False"
    )


def from_dlpack(
    x: Any,
    /,
    *,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """Return an array of another library as a tensor, with its dtype.

    The values are copied: their owner may write them later. ``copy=False`` shares the memory where
    the device in force (or `device`) works in the host's, and raises `ExchangeError` elsewhere; the
    owner must not write it any more. A tensor of simplegrad never changes and is shared.

    >>> import numpy as np
    >>> import simplegrad as sg
    >>> sg.from_dlpack(np.arange(3.0))
    Tensor([0., 1., 2.], dtype=float64)
    """
    copy = None if copy is None else flag("from_dlpack: copy", copy)
    if isinstance(x, Core):
        target = find_device(device)
        if copy or (device is not None and target is not x.device):  # type: ignore[attr-defined]
            return Core.final(x, None, requires_grad, target)
        execution.realize([x._node])
        node = leaf_over(x._node.buffer, x._node.kind.spec, x._node.device)
        return become_leaf(wrap(node), requires_grad)  # type: ignore[no-any-return]
    array = _host_view(x, copy)
    if copy is False:
        node = adopted("from_dlpack", array, None, device)
    else:
        given, dtype = host_array("from_dlpack", array, None, keep=True)
        node = execution.from_numpy(given, dtype, find_device(device))
    return become_leaf(wrap(node), requires_grad)  # type: ignore[no-any-return]


def _host_view(x: Any, copy: bool | None) -> np.ndarray:
    """Return the exporter's array in NumPy's form, over its own memory where that is the host's."""
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise ExchangeError(f"from_dlpack: a {type(x).__name__} does not speak DLPack")
    try:
        if int(x.__dlpack_device__()[0]) == _CPU[0]:
            return np.from_dlpack(x)
        return np.from_dlpack(x, device="cpu", copy=copy)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise ExchangeError(
            f"from_dlpack: this {type(x).__name__} does not come to the host: {error}"
        ) from error
