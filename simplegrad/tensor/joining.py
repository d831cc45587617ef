"""NumPy's ways to put arrays together and to bring them to a rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simplegrad import ops
from simplegrad.arguments import integer, several
from simplegrad.errors import ShapeError
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.creation import eye
from simplegrad.tensor.elementwise import binary, where
from simplegrad.tensor.naming import named
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import concat

concatenate = named(concat, "concatenate", concat.__doc__)
concatenate.__module__ = __name__


def _each(arrays: tuple[Any, ...], reshaped: Any) -> Any:
    """Return one array for one, a list for several."""
    results = [reshaped(as_tensor(a)) for a in arrays]
    return results[0] if len(results) == 1 else results


def atleast_1d(*arrays: Any) -> Any:
    """Return arrays with one axis at least: numbers become (1,); several give a list."""
    return _each(arrays, lambda x: x if x.ndim else x.reshape(1))


def atleast_2d(*arrays: Any) -> Any:
    """Return arrays with two axes at least: a vector (n,) becomes (1, n); several give a list."""
    return _each(arrays, lambda x: x if x.ndim > 1 else x.reshape(1, x.size))


def atleast_3d(*arrays: Any) -> Any:
    """Return arrays with three axes at least: (n,) becomes (1, n, 1), (m, n) becomes (m, n, 1)."""

    def reshaped(x: Tensor) -> Tensor:
        if x.ndim > 2:
            return x
        return x.reshape(*x.shape, 1) if x.ndim == 2 else x.reshape(1, x.size, 1)

    return _each(arrays, reshaped)


def _tensors(name: str, arrays: Any, reshaped: Any = as_tensor) -> list[Any]:
    return [reshaped(a) for a in several(f"{name}: the arrays", arrays)]


def vstack(arrays: Sequence[Any]) -> Tensor:
    """Return arrays joined along their first axis; vectors are rows.

    >>> import simplegrad as sg
    >>> sg.vstack([[1, 2], [3, 4]])
    Tensor([[1, 2],
            [3, 4]], dtype=int64)
    """
    return concat(_tensors("vstack", arrays, atleast_2d), 0)


def hstack(arrays: Sequence[Any]) -> Tensor:
    """Return arrays joined along their second axis; vectors along their only one."""
    tensors = _tensors("hstack", arrays, atleast_1d)
    return concat(tensors, 0 if tensors and tensors[0].ndim == 1 else 1)


def dstack(arrays: Sequence[Any]) -> Tensor:
    """Return arrays joined along their third axis: (m, n) count as (m, n, 1)."""
    return concat(_tensors("dstack", arrays, atleast_3d), 2)


def column_stack(arrays: Sequence[Any]) -> Tensor:
    """Return vectors as columns beside each other; matrices are joined as they are."""
    tensors = _tensors("column_stack", arrays)
    return concat([t if t.ndim > 1 else t.reshape(t.size, 1) for t in tensors], 1)


def diag(x: Any, k: int = 0) -> Tensor:
    """Return a matrix with a vector on its `k`-th diagonal, or that diagonal of a matrix.

    >>> import simplegrad as sg
    >>> sg.diag([1, 2])
    Tensor([[1, 0],
            [0, 2]], dtype=int64)
    """
    given, k = as_tensor(x), integer("diag: k", k)
    if given.ndim == 2:
        return given.diagonal(k)
    if given.ndim != 1:
        raise ShapeError(f"diag: takes a vector or a matrix, not shape {given.shape}")
    n = given.size + abs(k)
    hit = eye(n, n, k, "bool", given.device)
    # Above the diagonal an element is found by its row, below it by its column.
    spread = given.pad((0, n - given.size))
    return where(hit, spread.reshape(n, 1) if k > 0 else spread.reshape(1, n), 0)


def kron(a: Any, b: Any) -> Tensor:
    """Return the Kronecker product: every element of `a` times the whole of `b`, in blocks.

    >>> import simplegrad as sg
    >>> sg.kron([1, 10], [1, 2])
    Tensor([ 1,  2, 10, 20], dtype=int64)
    """
    x = as_tensor(a, getattr(b, "device", None))
    y = as_tensor(b, x.device)
    rank = max(x.ndim, y.ndim)
    left, right = ((1,) * (rank - t.ndim) + t.shape for t in (x, y))
    x = x.reshape([e for n in left for e in (n, 1)])
    y = y.reshape([e for n in right for e in (1, n)])
    blocks = binary(ops.MUL, x, y)
    return blocks.reshape([n * m for n, m in zip(left, right, strict=True)])
