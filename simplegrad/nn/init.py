"""Initialisers: new leaf tensors with random or constant values.

Random values are drawn on the host, seeded by `simplegrad.random`'s generators: they are the same
on every device, and making a network compiles nothing. Shapes are (out, in, kernel …): the fan in
of a weight is its extent `in` times the kernel's, the fan out `out` times the kernel's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simplegrad.arguments import real
from simplegrad.errors import ShapeError
from simplegrad.tensor import generator as generators
from simplegrad.tensor.shapes import extents_of
from simplegrad.tensor.tensor import Tensor


def _source(generator: Any) -> np.random.Generator:
    return np.random.default_rng(generators.of(generator).key())


def _fans(name: str, shape: Any) -> tuple[tuple[int, ...], int, int]:
    shape = extents_of(name, shape)
    if len(shape) < 2:
        raise ShapeError(f"{name}: shape {shape} has no fans; it needs (out, in, ...)")
    field = math.prod(shape[2:])
    return shape, max(shape[1] * field, 1), max(shape[0] * field, 1)


def constant(shape: Any, value: float, dtype: Any = None) -> Tensor:
    """Return a parameter filled with one number."""
    value = real("constant: value", value)
    return Tensor(np.full(extents_of("constant", shape), value, np.float64), dtype)


def zeros(shape: Any, dtype: Any = None) -> Tensor:
    """Return a parameter of zeros."""
    return constant(shape, 0.0, dtype)


def ones(shape: Any, dtype: Any = None) -> Tensor:
    """Return a parameter of ones."""
    return constant(shape, 1.0, dtype)


def uniform(shape: Any, bound: float, generator: Any = None, dtype: Any = None) -> Tensor:
    """Return a parameter evenly spread over ``-bound … bound``."""
    bound = real("uniform: bound", bound, 0)
    values = _source(generator).uniform(-bound, bound, extents_of("uniform", shape))
    return Tensor(values, dtype)


def normal(shape: Any, std: float = 1.0, generator: Any = None, dtype: Any = None) -> Tensor:
    """Return a parameter of normally distributed numbers with mean 0."""
    std = real("normal: std", std, 0)
    return Tensor(_source(generator).normal(0.0, std, extents_of("normal", shape)), dtype)


def truncated_normal(
    shape: Any, std: float = 1.0, generator: Any = None, dtype: Any = None
) -> Tensor:
    """Return normally distributed numbers, those beyond two standard deviations drawn again."""
    std = real("truncated_normal: std", std, 0)
    source = _source(generator)
    values = source.normal(0.0, 1.0, extents_of("truncated_normal", shape))
    while (far := np.abs(values) > 2).any():
        values[far] = source.normal(0.0, 1.0, int(far.sum()))
    return Tensor(values * std, dtype)


def xavier_uniform(
    shape: Any, gain: float = 1.0, generator: Any = None, dtype: Any = None
) -> Tensor:
    """Return uniform numbers of variance 2 gain² / (fan in + fan out) (Glorot, Bengio, 2010)."""
    gain = real("xavier_uniform: gain", gain, 0)
    shape, fan_in, fan_out = _fans("xavier_uniform", shape)
    return uniform(shape, gain * math.sqrt(6 / (fan_in + fan_out)), generator, dtype)


def xavier_normal(
    shape: Any, gain: float = 1.0, generator: Any = None, dtype: Any = None
) -> Tensor:
    """Return normal numbers of variance 2 gain² / (fan in + fan out) (Glorot, Bengio, 2010)."""
    gain = real("xavier_normal: gain", gain, 0)
    shape, fan_in, fan_out = _fans("xavier_normal", shape)
    return normal(shape, gain * math.sqrt(2 / (fan_in + fan_out)), generator, dtype)


def kaiming_uniform(
    shape: Any, gain: float = math.sqrt(2), generator: Any = None, dtype: Any = None
) -> Tensor:
    """Return uniform numbers of variance gain² / fan in; √2 suits relu (He et al., 2015)."""
    gain = real("kaiming_uniform: gain", gain, 0)
    shape, fan_in, _ = _fans("kaiming_uniform", shape)
    return uniform(shape, gain * math.sqrt(3 / fan_in), generator, dtype)


def kaiming_normal(
    shape: Any, gain: float = math.sqrt(2), generator: Any = None, dtype: Any = None
) -> Tensor:
    """Return normal numbers of variance gain² / fan in; √2 suits relu (He et al., 2015)."""
    gain = real("kaiming_normal: gain", gain, 0)
    shape, fan_in, _ = _fans("kaiming_normal", shape)
    return normal(shape, gain / math.sqrt(fan_in), generator, dtype)


def orthogonal(shape: Any, gain: float = 1.0, generator: Any = None, dtype: Any = None) -> Tensor:
    """Return a matrix of orthonormal rows or columns, times `gain` (Saxe et al., 2014).

    Axes after the first count as columns.
    """
    gain = real("orthogonal: gain", gain, 0)
    shape, _, _ = _fans("orthogonal", shape)
    rows, columns = shape[0], math.prod(shape[1:])
    square = _source(generator).normal(size=(max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(square)
    q = q * np.sign(np.diag(r))  # so that every rotation is equally likely
    return Tensor(gain * (q if rows >= columns else q.T).reshape(shape), dtype)
