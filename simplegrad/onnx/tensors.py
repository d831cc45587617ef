"""Values of a model, and tensors as a file holds them.

A value is known on the host (a constant of the file, or worked out from static shapes) or lives as
a tensor on a device.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.dtypes import DType
from simplegrad.errors import ModelError
from simplegrad.graph.infer import Shape, size_of
from simplegrad.tensor.creation import asarray
from simplegrad.tensor.tensor import Tensor

DTYPES: dict[int, DType] = {
    1: dtypes.float32,
    2: dtypes.uint8,
    3: dtypes.int8,
    4: dtypes.uint16,
    5: dtypes.int16,
    6: dtypes.int32,
    7: dtypes.int64,
    9: dtypes.bool_,
    10: dtypes.float16,
    11: dtypes.float64,
    12: dtypes.uint32,
    13: dtypes.uint64,
    16: dtypes.bfloat16,
}
"""Dtypes by ONNX's number for them (``TensorProto.DataType``); strings, complex numbers and types
of fewer than 8 bits are not among them."""
NUMBERS = {dtype: number for number, dtype in DTYPES.items()}

MAX_BYTES = 1 << 34
"""The largest single value that a model may declare or compute: 16 GiB."""


def dtype_of(number: int, what: str) -> DType:
    """Return the dtype for ONNX's number; `ModelError` naming `what` if there is none."""
    if number not in DTYPES:
        names = ", ".join(d.name for d in DTYPES.values())
        raise ModelError(f"{what} has ONNX data type {number}; supported are {names}")
    return DTYPES[number]


class Value:
    """One value of a model: an array on the host, tensors on devices, or both."""

    __slots__ = ("_tensors", "constant", "dtype", "host", "shape")

    def __init__(self, dtype: DType, shape: Shape, constant: bool = False) -> None:
        self.dtype, self.shape = dtype, shape
        self.constant = constant
        """Whether the value is the same in every call with inputs of these shapes."""
        self.host: np.ndarray | None = None
        self._tensors: dict[Any, Tensor] = {}

    @classmethod
    def known(cls, array: Any, dtype: DType | None = None, constant: bool = True) -> Value:
        """Return a value that is known on the host (bfloat16 as float32)."""
        array = np.asarray(array)
        value = cls(dtype or dtypes.of(array.dtype), array.shape, constant)
        value.host = array
        return value

    @classmethod
    def of(cls, tensor: Tensor) -> Value:
        """Return a value that lives on the tensor's device."""
        value = cls(tensor.dtype, tensor.shape)
        value._tensors[tensor.device] = tensor
        return value

    def on(self, device: Any) -> Tensor:
        """Return the value as a tensor on a device; one that lives elsewhere is not moved."""
        tensor = self._tensors.get(device)
        if tensor is None:
            if self.host is None:
                return next(iter(self._tensors.values()))
            tensor = asarray(self.host, self.dtype, device, requires_grad=False)
            self._tensors[device] = tensor
        return tensor

    def numpy(self) -> np.ndarray:
        """Return the value on the host; one that is not known there is computed and read back."""
        if self.host is None:
            self.host = next(iter(self._tensors.values())).numpy()
        return self.host

    def replace(self, tensor: Tensor) -> None:
        """Let `tensor` stand for this value on its device."""
        self._tensors = {tensor.device: tensor}

    def forget_host(self) -> None:
        """Drop the copy on the host: the tensor is what counts (a large weight, a parameter)."""
        self.host, self.constant = None, False


def checked_shape(shape: Sequence[int], dtype: DType) -> Shape:
    """Return a shape that a file asks for; `ModelError` if negative or larger than `MAX_BYTES`."""
    shape = tuple(int(n) for n in shape)
    if any(n < 0 for n in shape):
        raise ModelError(f"shape {shape} has a negative extent")
    if size_of(shape) * dtype.itemsize > MAX_BYTES:
        raise ModelError(f"shape {shape} of {dtype} takes more than {MAX_BYTES >> 30} GiB")
    return shape


_FIELDS = {
    **dict.fromkeys((2, 3, 4, 5, 6, 9, 10, 16), "int32_data"),
    **dict.fromkeys((12, 13), "uint64_data"),
    1: "float_data",
    7: "int64_data",
    11: "double_data",
}
"""Where a tensor's numbers stand when they are not raw bytes."""


def read_tensor(proto: Any, folder: Path | None = None) -> Value:
    """Return a ``TensorProto`` as a value; data in other files only from within `folder`.

    Raises `ModelError` where the declared shape does not fit the data, before room is made for it.
    """
    what = f"tensor {proto.name!r}"
    dtype = dtype_of(proto.data_type, what)
    shape = tuple(int(n) for n in proto.dims)
    try:
        checked_shape(shape, dtype)
    except ModelError as error:
        raise ModelError(f"{what}: {error}") from None
    count = size_of(shape)
    stored: Any = dtype.numpy if dtype is not dtypes.bfloat16 else np.dtype(np.uint16)
    stored = stored.newbyteorder("<")
    if proto.data_location == 1:
        data = _outside(proto, what, folder, count * stored.itemsize)
    elif proto.HasField("raw_data"):
        data = proto.raw_data
    else:
        numbers = getattr(proto, _FIELDS[proto.data_type])
        if len(numbers) != count:
            raise ModelError(f"{what}: shape {shape} holds {count} numbers, not {len(numbers)}")
        if dtype.is_float and dtype.itemsize == 2:
            array = np.array(numbers, np.uint32).astype(np.uint16)
        else:
            array = np.array(numbers).astype(stored)
        data = array.astype(stored if not dtype.is_float else array.dtype).tobytes()
    if len(data) != count * stored.itemsize:
        raise ModelError(
            f"{what}: shape {shape} of {dtype} takes {count * stored.itemsize} bytes, "
            f"but the file holds {len(data)}; it is truncated or its shape is wrong"
        )
    array = np.frombuffer(data, stored).reshape(shape)
    if dtype is dtypes.bfloat16:
        array = (array.astype(np.uint32) << np.uint32(16)).view(np.float32)
    elif dtype.kind == "b":
        array = array.view(np.uint8) != 0
    return Value.known(array.astype(dtype.numpy, copy=False), dtype)


def _outside(proto: Any, what: str, folder: Path | None, expected: int) -> bytes:
    """Return the bytes of a tensor that lie in a file beside the model, and nowhere else."""
    fields = {entry.key: entry.value for entry in proto.external_data}
    location = fields.get("location", "")
    if folder is None:
        raise ModelError(f"{what}: data outside of the file ({location!r}) is for weights only")
    root = folder.resolve()
    try:
        path = (root / location).resolve()
        if not location or not path.is_relative_to(root) or Path(location).is_absolute():
            raise ModelError(f"{what}: its data, {location!r}, is not in the model's own folder")
        found = path.stat()
        offset = int(fields.get("offset", 0))
        length = int(fields.get("length", expected))
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{what}: its data, {location!r}, is not a regular file")
        if length != expected or offset < 0 or offset + length > found.st_size:
            raise ModelError(
                f"{what}: takes {expected} bytes, but {location!r} of {found.st_size} bytes is to "
                f"hold {length} of them from {offset} on"
            )
        with path.open("rb") as file:
            file.seek(offset)
            return bytes(file.read(length))
    except (OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{what}: its data, {location!r}, cannot be read: {error}") from None
