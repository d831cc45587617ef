"""simplegrad: a lazy array engine with autograd that compiles to fused OpenCL C kernels.

>>> import simplegrad as sg
>>> x = sg.Tensor([1.0, 2.0, 3.0])
>>> (x * x).sum()
Tensor(14., dtype=float32)
"""

from __future__ import annotations

import contextlib as _contextlib
import importlib as _importlib
import math as _math
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from simplegrad import errors, ops, random, settings
from simplegrad import runtime as _runtime
from simplegrad.arguments import flag as _flag
from simplegrad.dtypes import (
    DType,
    bfloat16,
    default_float,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    set_default_float,
    uint8,
    uint16,
    uint32,
    uint64,
)
from simplegrad.dtypes import bool_ as bool
from simplegrad.errors import (
    ArgumentError,
    AutogradError,
    BuildError,
    DeviceError,
    DriverNotFound,
    DTypeError,
    DTypeNotSupported,
    ExchangeError,
    FileError,
    IndexOutOfRange,
    JitError,
    ModelError,
    OutOfMemory,
    ShapeError,
    SimplegradError,
    UnsupportedOp,
)
from simplegrad.optim import SGD, Adam, AdamW, RMSprop
from simplegrad.runtime import realize as _execution
from simplegrad.runtime.devices import current as _current_device
from simplegrad.runtime.devices import devices
from simplegrad.runtime.devices import use as device
from simplegrad.tensor.attention import scaled_dot_product_attention
from simplegrad.tensor.contraction import einsum, matmul
from simplegrad.tensor.creation import (
    arange,
    asarray,
    broadcast_arrays,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tril,
    triu,
    zeros,
    zeros_like,
)
from simplegrad.tensor.differentiation import grad, value_and_grad
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.exchange import from_dlpack
from simplegrad.tensor.functions import (
    FUNCTIONS as _FUNCTIONS,
)
from simplegrad.tensor.functions import (
    can_cast,
    finfo,
    iinfo,
    isdtype,
    result_type,
    unstack,
)
from simplegrad.tensor.indexing import scatter_add
from simplegrad.tensor.jit import jit
from simplegrad.tensor.joining import (
    atleast_1d,
    atleast_2d,
    atleast_3d,
    column_stack,
    concatenate,
    diag,
    dstack,
    hstack,
    kron,
    vstack,
)
from simplegrad.tensor.modes import no_grad
from simplegrad.tensor.standard import array_namespace_info as __array_namespace_info__
from simplegrad.tensor.standard import (
    broadcast_shapes,
    copysign,
    isin,
    log10,
    logaddexp,
    positive,
    searchsorted,
)
from simplegrad.tensor.statistics import (
    allclose,
    array_equal,
    average,
    isclose,
    median,
    nanmax,
    nanmean,
    nanmin,
    nansum,
    ptp,
)
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import concat, stack

__version__ = "0.1.0"
__array_api_version__ = "2025.12"

e, inf, nan, pi = _math.e, _math.inf, _math.nan, _math.pi
newaxis = None

globals().update(_FUNCTIONS)


if _TYPE_CHECKING:
    from simplegrad import interop, nn, onnx
    from simplegrad.expressions.symbolic import Symbolic, symbolic
    from simplegrad.runtime.caches import cache_stats, clear_caches
    from simplegrad.runtime.explain_plan import explain_plan
    from simplegrad.runtime.profile import Profile

_PARTS = ("interop", "nn", "onnx")
_LATE = {
    "Profile": "runtime.profile",
    "Symbolic": "expressions.symbolic",
    "symbolic": "expressions.symbolic",
    "cache_stats": "runtime.caches",
    "clear_caches": "runtime.caches",
    "explain_plan": "runtime.explain_plan",
}
"""The modules of names that are loaded when they are first asked for: others need not wait."""


if not _TYPE_CHECKING:  # which knows the names from the imports above, and no others

    def __getattr__(name: str) -> _Any:
        if name in _PARTS:
            return _importlib.import_module(f"{__name__}.{name}")
        if name in _LATE:
            return getattr(_importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *[name for name in globals() if name.startswith("__")]])


def realize(*tensors: Tensor) -> None:
    """Compute tensors together, without waiting for the end; `DTypeError` for anything else."""
    _execution.realize(_nodes("realize", tensors))


def _nodes(name: str, tensors: tuple[_Any, ...]) -> list[_Any]:
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise DTypeError(f"{name}: takes tensors, not a {type(tensor).__name__}")
    return [t._node for t in tensors]


def memory_stats() -> dict[str, int]:
    """Return bytes ``in_use_bytes``, ``held_bytes`` (free ones included) and ``peak_bytes``.

    Of the device in force, since the process began.
    """
    stats: dict[str, int] = _current_device().memory_stats()
    return stats


def synchronize() -> None:
    """Wait until the device in force is idle."""
    _execution.synchronize()


def explain(*tensors: Tensor) -> str:
    """Return the kernels that would compute these tensors, why they are cut as they are, and C."""
    return _runtime.explain.explain(_nodes("explain", tensors))


def fusion(on: _Any = True) -> _contextlib.AbstractContextManager[_Any]:
    """Switch fusion on or off inside a ``with`` block; off: one kernel per operation."""
    return settings.override(fusion=_flag("fusion: on", on))


__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "ArgumentError",
    "AutogradError",
    "BuildError",
    "DType",
    "DTypeError",
    "DTypeNotSupported",
    "DeviceError",
    "DriverNotFound",
    "ExchangeError",
    "FileError",
    "IndexOutOfRange",
    "JitError",
    "ModelError",
    "OutOfMemory",
    "Profile",
    "RMSprop",
    "ShapeError",
    "SimplegradError",
    "Symbolic",
    "Tensor",
    "UnsupportedOp",
    "__array_namespace_info__",
    "allclose",
    "arange",
    "array_equal",
    "asarray",
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "average",
    "bfloat16",
    "bool",
    "broadcast_arrays",
    "broadcast_shapes",
    "cache_stats",
    "can_cast",
    "clear_caches",
    "column_stack",
    "concat",
    "concatenate",
    "copysign",
    "default_float",
    "device",
    "devices",
    "diag",
    "dstack",
    "e",
    "einsum",
    "empty",
    "empty_like",
    "errors",
    "explain",
    "explain_plan",
    "eye",
    "finfo",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "full",
    "full_like",
    "fusion",
    "grad",
    "hstack",
    "iinfo",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "interop",
    "isclose",
    "isdtype",
    "isin",
    "jit",
    "kron",
    "linspace",
    "log10",
    "logaddexp",
    "matmul",
    "median",
    "memory_stats",
    "meshgrid",
    "nan",
    "nanmax",
    "nanmean",
    "nanmin",
    "nansum",
    "newaxis",
    "nn",
    "no_grad",
    "ones",
    "ones_like",
    "onnx",
    "ops",
    "pi",
    "positive",
    "ptp",
    "random",
    "realize",
    "result_type",
    "scaled_dot_product_attention",
    "scatter_add",
    "searchsorted",
    "set_default_float",
    "settings",
    "stack",
    "symbolic",
    "synchronize",
    "tril",
    "triu",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unstack",
    "value_and_grad",
    "vstack",
    "where",
    "zeros",
    "zeros_like",
]
__all__ += _FUNCTIONS  # noqa: PLE0605 - a list of names
