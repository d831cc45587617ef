"""`save` and `load`: named arrays as safetensors files, never pickle.

A save that is killed leaves the old file whole (`runtime.files`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.arguments import mapping
from simplegrad.dtypes import DType
from simplegrad.errors import DTypeError, ModelError, SimplegradError
from simplegrad.nn.module import Module
from simplegrad.runtime import files
from simplegrad.tensor.tensor import Tensor

_NAMES = {
    "BOOL": dtypes.bool_, "U8": dtypes.uint8, "I8": dtypes.int8, "U16": dtypes.uint16,
    "I16": dtypes.int16, "U32": dtypes.uint32, "I32": dtypes.int32, "U64": dtypes.uint64,
    "I64": dtypes.int64, "F16": dtypes.float16, "BF16": dtypes.bfloat16, "F32": dtypes.float32,
    "F64": dtypes.float64,
}  # fmt: skip


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError:
        raise SimplegradError(
            "nn.save, nn.load: the package safetensors is missing; run: pip install safetensors"
        ) from None
    return safetensors


def save(state: Module | Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a module's state, or tensors, arrays and numbers by name, to a safetensors file.

    Dtypes are kept. An existing file is replaced in one step, and keeps its permissions.
    Raises `FileError` where the file cannot be written.
    """
    library = _safetensors()
    named = state.state_dict() if isinstance(state, Module) else state
    mapping("save: the state", named)
    arrays = {name: _host(name, value) for name, value in named.items()}
    specs = {
        name: library.TensorSpec(
            dtype=dtype.name, shape=list(array.shape), data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, (array, dtype) in arrays.items()
    }  # fmt: skip
    files.replace("save", path, library.serialize(specs, {"format": "simplegrad"}))


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a safetensors file by name, bfloat16 as float32.

    `Module.load_state_dict` and an optimiser's take them. Raises `ModelError` for a file that is
    truncated or no safetensors file, `FileNotFoundError` where there is none.
    """
    library = _safetensors()
    data = Path(path).read_bytes()
    try:
        entries = library.deserialize(data)
    except library.SafetensorError as error:
        raise ModelError(
            f"load: {path} ({len(data)} bytes) is truncated or no safetensors file: {error}"
        ) from None
    odd = sorted({entry["dtype"] for _, entry in entries if entry["dtype"] not in _NAMES})
    if odd:
        raise ModelError(f"load: {path} holds dtypes {odd}; those known are {list(_NAMES)}")
    return {name: _array(entry) for name, entry in entries}


def _host(name: str, value: Any) -> tuple[np.ndarray, DType]:
    """Return a value's bytes as a contiguous array, and its dtype."""
    if isinstance(value, Tensor):
        array, dtype = value.numpy(), value.dtype
    else:
        array = np.asarray(value)
        if array.dtype.name not in {dtype.name for dtype in _NAMES.values()}:
            raise DTypeError(f"save: {name!r} is {array.dtype}, not bool, integers or floats")
        dtype = dtypes.of(array.dtype.name)
    array = np.ascontiguousarray(array).reshape(array.shape)
    if dtype is dtypes.bfloat16:
        array = (array.view(np.uint32) >> 16).astype(np.uint16)
    return array, dtype


def _array(entry: dict[str, Any]) -> np.ndarray:
    dtype, shape = _NAMES[entry["dtype"]], tuple(entry["shape"])
    array: np.ndarray
    if dtype is dtypes.bfloat16:
        words = np.frombuffer(entry["data"], np.uint16).astype(np.uint32) << 16
        array = words.view(np.float32)
    else:
        array = np.frombuffer(entry["data"], dtype.numpy).copy()
    return array.reshape(shape)
