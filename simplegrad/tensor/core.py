"""What every part of `Tensor` stands on: the wrapped node, host copies, and tracking.

`Tensor` is put together from one class per topic, each a subclass of the one before it:
`Core` → `Elementwise` → `Views` → `Reductions` → `Indexing` → `Contraction` → `Composites` →
`Differentiation` → `Exchange` → `Tensor`. Only `Tensor` itself is ever instantiated; `wrap` makes
one from a node.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.arguments import flag
from simplegrad.dtypes import DType
from simplegrad.errors import ArgumentError, DeviceError, DTypeError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.infer import Shape
from simplegrad.graph.node import Node, Spec, leaf_over, make, scalar, user_line
from simplegrad.runtime import devices
from simplegrad.runtime import realize as execution
from simplegrad.tensor.modes import mode
from simplegrad.tensor.naming import named
from simplegrad.tensor.pending import MAX_HELD_BYTES, MAX_PENDING, flush, release

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor

Number = (bool, int, float)
_new = object.__new__
_MAX_UNREAD = 8
"""Unread gradients that pile up before they are summed: memory stays bounded in a loop."""


def wrap(node: Node) -> Tensor:
    """Return a tensor on `node`, which stays as it is."""
    tensor = _new(Core.final)
    tensor._node = node
    tensor._grad = None
    node.holders += 1
    return tensor


def lift(node: Node, *inputs: Node) -> Tensor:
    """Return a tensor on a node freshly built over `inputs`; new nodes get line and tracking."""
    for source in inputs:
        if node is source:
            return wrap(node)
    node.line = user_line()
    if node.depth > MAX_PENDING:
        flush(node, inputs)
    if mode.grad:
        for source in inputs:
            if source.tracks:
                _mark(node, inputs)
                break
    if node.unread > MAX_HELD_BYTES:
        release(node)
    return wrap(node)


def _mark(node: Node, inputs: Iterable[Node]) -> None:
    """Let the nodes between `inputs` and `node` track where an operand of theirs does."""
    seen = {id(i) for i in inputs}
    stack: list[Node | None] = [node]
    while stack:
        current = stack.pop()
        if current is None:  # the operands of the next one are done
            ready: Any = stack.pop()
            if ready.kind.op.differentiable and ready.kind.spec.dtype.is_float:
                for source in ready.srcs:
                    if source.tracks:
                        ready.tracks = True
                        break
        elif current.srcs and id(current) not in seen:
            seen.add(id(current))
            stack += (current, None, *current.srcs)


def detached(node: Node) -> Node:
    """Return a node of the same value through which no gradient flows."""
    if not node.tracks:
        return node
    if node.buffer is None:
        return make(ops.RESHAPE, (node,), node.shape)
    return leaf_over(node.buffer, node.kind.spec, node.device)


def find_device(device: Any) -> Any:
    """Return the device for a device, a selector such as ``"numpy"``, or None: the current one."""
    return devices.current() if device is None else devices.resolve(device)


def host_array(name: str, data: Any, dtype: DType | None, keep: bool) -> tuple[np.ndarray, DType]:
    """Return host data and its dtype; float64 becomes the default float unless `keep`."""
    if isinstance(data, (list, tuple)) and any(isinstance(v, Core) for v in data):
        raise DTypeError(
            f"{name}: a list of tensors would lose their gradients; join them with simplegrad.stack"
        )
    try:
        array = np.asarray(data)
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"{name}: cannot make an array of this {type(data).__name__}: {error}"
        ) from None
    if dtype is None:
        if array.dtype.kind not in "biuf":
            raise DTypeError(
                f"{name}: data of NumPy dtype {array.dtype} is not numbers; "
                "convert it to bool, integers or floats first"
            )
        native = array.dtype.isnative
        dtype = dtypes.of(array.dtype if native else array.dtype.name)
        default = dtype is dtypes.float64 or (array.size == 0 and not hasattr(data, "dtype"))
        if default and dtype.is_float and not keep:
            dtype = dtypes.default_float()
    elif array.dtype.kind in "cSUMm":
        raise DTypeError(f"{name}: data of NumPy dtype {array.dtype} is not real numbers")
    elif dtype.kind in "ui" and not hasattr(data, "dtype"):
        _fits(name, array, dtype)
    try:
        return array.astype(dtype.numpy, copy=False), dtype
    except (TypeError, ValueError, OverflowError) as error:
        raise DTypeError(f"{name}: this data does not become {dtype}: {error}") from None


def _fits(name: str, array: np.ndarray, dtype: DType) -> None:
    """Raise `DTypeError` where Python numbers do not fit an integer dtype; arrays wrap, as cast."""
    fitting = array.dtype.kind == "O" or (dtype.low <= array.min() and array.max() <= dtype.high)
    if array.size and not fitting:
        raise DTypeError(
            f"{name}: {array.min()} … {array.max()} do not fit {dtype} "
            f"({dtype.low} … {dtype.high}); choose a wider dtype, or cast afterwards to wrap"
        )


def host_node(
    name: str, data: Any, device: Any, dtype: DType | None = None, keep: bool = False
) -> Node:
    """Return an untracked leaf with host data; zero-dimensional data is a kernel argument."""
    array, dtype = host_array(name, data, dtype, keep)
    if array.ndim == 0:
        return number_node(name, array.item(), dtype, find_device(device))
    return execution.from_numpy(array, dtype, find_device(device))


def operand(name: str, value: Any, device: Any) -> Node | bool | int | float:
    """Return an operand as a node, or as a Python number; NumPy scalars count as numbers."""
    if isinstance(value, Core):
        return value._node
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()  # type: ignore[no-any-return]
    if isinstance(value, Number):
        # Subclasses (np.float64, IntEnum) become plain numbers.
        return value if type(value) in Number else _plain(value)
    if isinstance(value, (np.ndarray, list, tuple)) or hasattr(value, "__array__"):
        return host_node(name, value, device)
    raise DTypeError(
        f"{name}: an operand of type {type(value).__name__} is neither array nor number"
    )


def _plain(value: bool | int | float) -> int | float:
    return float(value) if isinstance(value, float) else int(value)


def same_device(name: str, nodes: Iterable[Any]) -> Any:
    """Return the one device of some nodes; `DeviceError` if there are two."""
    found = None
    for node in nodes:
        device = node.device if isinstance(node, Node) else None
        if device is not None and device is not found:
            if found is not None:
                raise DeviceError(
                    f"{name}: one operand is on {found.name} and another on {device.name}; "
                    "move one with .to_device(...)"
                )
            found = device
    return found


def number_node(
    name: str, value: bool | int | float, dtype: DType, device: Any, shape: Shape = ()
) -> Node:
    """Return a user's number as a kernel argument."""
    spec = Spec.of(shape, dtype)
    if dtype.kind in "ui":
        if not dtype.low <= value <= dtype.high:
            raise DTypeError(
                f"{name}: {value} does not fit {dtype} ({dtype.low} … {dtype.high}); "
                "cast the array with .astype(...) first"
            )
        return scalar(int(value), spec, device)
    return scalar(bool(value) if dtype.kind == "b" else float(value), spec, device)


def result_dtype(values: Iterable[Any]) -> DType:
    """Return the common dtype of nodes and Python numbers, numbers being weak."""
    dtype: DType | None = None
    numbers = []
    for value in values:
        if isinstance(value, Node):
            dtype = value.dtype if dtype is None else dtypes.promote(dtype, value.dtype)
        else:
            numbers.append(value)
    for number in numbers:
        if dtype is None:
            dtype = dtypes.of(type(number))
        dtype = dtypes.promote_scalar(dtype, number)
    if dtype is None:
        raise DTypeError("result_type: needs at least one array, dtype or number")
    return dtype


def common(name: str, kinds: str, *values: Any) -> tuple[Node, ...]:
    """Return operands as nodes of one dtype on one device; ints go to floats where `kinds` asks.

    The shapes stay as they are.
    """
    device = same_device(name, [v._node for v in values if isinstance(v, Core)])
    operands = [operand(name, v, device) for v in values]
    device = same_device(name, operands)
    dtype = result_dtype(operands)
    if kinds == "f" and not dtype.is_float:
        dtype = dtypes.default_float()
    return tuple(
        build.cast(v, dtype) if isinstance(v, Node) else number_node(name, v, dtype, device)
        for v in operands
    )


def as_tensor(value: Any, device: Any = None) -> Tensor:
    """Return a tensor as it is, anything else as an untracked one."""
    return value if isinstance(value, Core) else Core.final(value, None, False, device)  # type: ignore


_UFUNCS = {op.numpy: op.name for op in ops.OPS.values() if isinstance(op.numpy, np.ufunc)}
_UFUNCS |= {np.invert: "bitwise_invert", np.matmul: "__matmul__", np.square: "square"}
_UFUNCS |= {np.logical_and: "logical_and", np.logical_or: "logical_or"}
_UFUNCS |= {np.logical_xor: "logical_xor", np.logical_not: "logical_not"}
"""Names of methods (or of operations with two operands) by NumPy ufunc."""


def _to_host(value: Any) -> Any:
    if isinstance(value, Core):
        return value.numpy()
    if isinstance(value, (list, tuple)):
        return type(value)([_to_host(v) for v in value])
    if isinstance(value, dict):
        return {k: _to_host(v) for k, v in value.items()}
    return value


class Core:
    """The state of a tensor and its ways to the host."""

    __slots__ = ("__weakref__", "_along", "_grad", "_node", "_roots", "_unread")
    final: ClassVar[type[Tensor]]
    """The class `Tensor`, known once it is put together."""
    __array_priority__ = 1000

    _node: Node
    _grad: Tensor | None
    _roots: tuple[weakref.ref[Node], ...]
    """Where the backward passes behind `grad` began: an optimiser computes those nodes too."""
    _unread: int
    _along: tuple[weakref.ref[Node], ...]
    """Set by `compute_along`."""

    def __init__(
        self,
        data: Any,
        dtype: Any = None,
        requires_grad: bool | None = None,
        device: Any = None,
    ) -> None:
        dtype = None if dtype is None else dtypes.of(dtype)
        if isinstance(data, Core):
            node = _alias(data._node, dtype, device)
        elif type(data) in Number:
            dtype = dtype or dtypes.of(type(data))
            node = number_node("Tensor", data, dtype, find_device(device))
        else:
            node = host_node("Tensor", data, device, dtype)
        self._node = node
        self._grad = None
        node.holders += 1
        become_leaf(self, requires_grad)

    def __del__(self) -> None:
        try:
            self._node.holders -= 1
        except AttributeError:
            return  # there is no node where __init__ failed

    def _replace(self, node: Node) -> None:
        """Make this tensor a fresh leaf on `node`, whose history is not followed."""
        tracks = self._node.tracks
        if node.tracks:
            node = detached(node)
        if node.leaf is not None or any(s.tracks for s in node.srcs):
            node = make(ops.RESHAPE, (node,), node.shape)
        leaf = weakref.ref(self) if tracks else None
        node.holders += 1  # from here on no call, hence no Ctrl-C
        self._node.holders -= 1
        self._node.leaf = None  # gradients of what was recorded before reach nobody
        self._node = node
        if tracks:
            node.tracks, node.leaf = True, leaf

    # What it is ---------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        """Extents per axis."""
        return self._node.kind.spec.shape

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self._node.kind.spec.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._node.kind.spec.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._node.kind.spec.size

    @property
    def nbytes(self) -> int:
        """Bytes of the elements on the device."""
        return self._node.nbytes

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow through this tensor; fixed when it is made."""
        return self._node.tracks

    # To the host --------------------------------------------------------------------------------

    @property
    def data(self) -> Tensor:
        """The values as an array of the device: computed now, a tensor without gradients.

        NumPy and Matplotlib take it as it is.
        """
        execution.realize([self._node])
        return wrap(detached(self._node))

    def numpy(self) -> np.ndarray:
        """Return a copy of the values as a NumPy array (bfloat16 as float32), computed now."""
        return execution.to_numpy(self._node)  # type: ignore[no-any-return]

    def cpu(self) -> np.ndarray:
        """Return the values as a NumPy array, as `numpy` does."""
        return self.numpy()

    def realize(self) -> Tensor:
        """Start the computation now, without waiting for its end; returns this tensor."""
        execution.realize([self._node])
        return self  # type: ignore[return-value]

    def item(self, *index: Any) -> bool | int | float:
        """Return the one element as a Python number, or that at an index.

        One integer counts in the flat array, several name a place per axis.
        """
        if index:
            flat = len(index) == 1 and hasattr(index[0], "__index__")
            chosen = self.flatten()[index] if flat else self[index[0] if len(index) == 1 else index]  # type: ignore[attr-defined, index]
            return chosen.item()  # type: ignore[no-any-return]
        if self.size != 1:
            raise ShapeError(f"item: shape {self.shape} has {self.size} elements, not one")
        return self.numpy().item()  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """Return nested lists of Python numbers."""
        return self.numpy().tolist()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """Let NumPy's ufuncs give tensors where there is such an operation, else host arrays."""
        if any(isinstance(out, Core) for out in kwargs.get("out", ())):
            raise ArgumentError(
                f"{ufunc.__name__}: out=... cannot be a tensor, whose values are never written; "
                "take the result, or give a NumPy array"
            )
        name = _UFUNCS.get(ufunc)
        if method == "__call__" and name is not None and not kwargs:
            return self._ufunc(name, inputs)  # type: ignore[attr-defined]
        return getattr(ufunc, method)(*_to_host(inputs), **_to_host(kwargs))

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Let NumPy's functions read tensors; they give host arrays."""
        return function(*_to_host(args), **_to_host(kwargs))

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return sys.modules[__name__.split(".", 1)[0]]

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ShapeError(
                f"bool: shape {self.shape} has {self.size} truth values; use .any() or .all()"
            )
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __complex__(self) -> complex:
        return complex(self.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "ui" or self.ndim:
            raise DTypeError(f"index: {self.dtype} of shape {self.shape} is not an integer")
        return int(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len: a zero-dimensional tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self.shape:
            # A TypeError, by which callers tell a number from a sequence.
            raise DTypeError("iter: a zero-dimensional tensor cannot be iterated over")
        return iter([self[i] for i in range(self.shape[0])])  # type: ignore[index]

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", prefix="Tensor(")
        return f"Tensor({text}, dtype={self.dtype})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if self.size == 1 and spec else repr(self)

    def __reduce__(self) -> Any:
        return Core.final, (self.numpy(), self.dtype, self.requires_grad)

    def __copy__(self) -> Tensor:
        return Core.final(self, None, self.requires_grad)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.__copy__()

    __hash__ = object.__hash__

    def copy(self) -> Tensor:
        """Return a tensor of the same values; nothing is copied, as no operation changes them.

        Gradients flow through it; `detach` cuts them off.
        """
        return wrap(self._node)

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """Return the values on another device, a leaf there; `device` may be a selector."""
        return Core.final(self, None, self.requires_grad, device)

    to = named(to_device, "to", to_device.__doc__)


def _alias(node: Node, dtype: DType | None, device: Any) -> Node:
    """Return a new untracked node of another tensor's values."""
    dtype = dtype or node.dtype
    if device is not None:
        device = find_device(device)
        if device is not (node.device or devices.current()):
            return host_node("to_device", execution.to_numpy(node), device, dtype, keep=True)
    return make(ops.RESHAPE, (build.cast(detached(node), dtype),), node.shape)


def become_leaf(tensor: Any, requires_grad: bool | None = None) -> Any:
    """Let gradients of a freshly made node go to `tensor`; floats do unless told otherwise."""
    node = tensor._node
    if requires_grad is not None:
        requires_grad = flag("Tensor: requires_grad", requires_grad)
    if requires_grad and not node.dtype.is_float:
        raise DTypeError(
            f"requires_grad: {node.dtype} has no gradients; cast it with .astype(...) first"
        )
    if requires_grad if requires_grad is not None else node.dtype.is_float and mode.grad:
        node.tracks, node.leaf = True, weakref.ref(tensor)
    node.line = user_line()
    return tensor
