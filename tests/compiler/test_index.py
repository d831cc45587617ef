"""Index algebra: an expression in normal form has the value of what it was made of."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from simplegrad.compiler.ir.index import Div, Dyn, Index, Mod, Var, flatten, unflatten


def value(index: Index, at: dict[Any, int]) -> int:
    total = index.const
    for atom, c in index.terms:
        if isinstance(atom, Div):
            total += c * (value(atom.index, at) // atom.k)
        elif isinstance(atom, Mod):
            total += c * (value(atom.index, at) % atom.k)
        else:
            total += c * at[atom]
    return total


def positions(variables: list[Var]) -> Any:
    for numbers in itertools.product(*[range(v.extent) for v in variables]):
        yield dict(zip(variables, numbers, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_a_flat_position_has_the_value_of_its_parts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    variables = [Var(f"v{i}", int(rng.integers(1, 6))) for i in range(3)]
    parts, shape = [], []
    for _ in range(int(rng.integers(1, 5))):
        sum_ = Index((), int(rng.integers(0, 4)))
        for v in variables:
            sum_ = sum_ + Index.of(v) * int(rng.integers(0, 4))
        k = int(rng.integers(1, 7))
        parts.append([sum_, sum_ // k, sum_ % k][rng.integers(3)])
        shape.append(int(rng.integers(0, 9)))
    flat = flatten(tuple(parts), tuple(shape))
    for at in positions(variables):
        want = 0
        for part, extent in zip(parts, shape, strict=True):
            want = want * extent + value(part, at)
        assert value(flat, at) == want
        assert flat.low <= want <= flat.high


def test_a_position_taken_apart_and_put_together_is_the_variable() -> None:
    v = Var("v", 2 * 3 * 4 * 5)
    for shape in ((2, 3, 4, 5), (6, 20), (120,), (1, 120, 1), (8, 15)):
        assert flatten(unflatten(Index.of(v), shape), shape) == Index.of(v)


def test_a_number_known_at_run_time_stays_one_term() -> None:
    token = object()
    dyn, v = Dyn(token, 0, 9), Var("v", 4)
    flat = flatten((Index.of(dyn), Index.of(v), Index.of(dyn)), (10, 4, 10))
    assert flat.terms == ((v, 10), (dyn, 41))
    assert flat.tokens() == (token,)
