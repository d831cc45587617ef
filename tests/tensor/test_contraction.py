"""Einsum and its relatives against NumPy, and what a wrong subscript says."""

from __future__ import annotations

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

SIZES = {"i": 2, "j": 3, "k": 4, "l": 5, "b": 2, "z": 1}
CASES = [
    "ij,jk->ik", "ij,jk", "ij->ji", "ij->", "ij->i", "ji", "ii->i", "ii", "iij->j", "ij,ij->ij",
    "ij,ij->", "i,j->ij", "i,i->", "bij,bjk->bik", "ij,jk,kl->il", "ij,jk,kl,l", "ij,k->i",
    "ij,kl->", "iij,jk->ik", "zj,jk->zk", "ij,zk->ik", "...ij,...jk->...ik", "...j,j",
    "i...->...", "ij...,jk...->ik...", "ijk,kl->ijl", "ji,jk->ik", "i , j -> i j", "ij,ij,ij->i",
    "z,z->z", "zz->z", "->",
]  # fmt: skip


def operands(subscripts: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    terms = subscripts.replace(" ", "").partition("->")[0].split(",")
    lead: list[tuple[int, ...]] = [(3, 2), (1, 2), (2,)]
    out = []
    for n, term in enumerate(terms):
        before, dots, after = term.partition("...")
        shape = (
            [SIZES[x] for x in before] + list(lead[n] if dots else ()) + [SIZES[x] for x in after]
        )
        out.append(rng.normal(size=shape).astype(np.float32))
    return out


@pytest.mark.parametrize("subscripts", CASES)
def test_einsum(subscripts: str) -> None:
    arrays = operands(subscripts)
    want = np.einsum(subscripts, *arrays)
    got = Tensor(arrays[0]).einsum(subscripts, *arrays[1:])
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-5)


WRONG = [
    ("ij,jk->iz", "output letter 'z' is in no operand", 8),
    ("ij,jk->ii", "output letter 'i' stands twice", 8),
    ("ij,j1->i", "'1' is not a letter", 4),
    ("ij,kj->ik", "letter 'j' is 3 in one operand and 4 in operand 1", 4),
    ("ijk,jk->i", "operand 0 has shape", 2),
    ("i,jk->i", "operand 0 has shape", 0),
    ("ij,j.->i", "'.' does not belong here", 4),
    ("i...,jk->i", "the output has none", 10 - 1),
]


@pytest.mark.parametrize(("subscripts", "why", "place"), WRONG)
def test_wrong_subscripts(subscripts: str, why: str, place: int) -> None:
    with pytest.raises(sg.ShapeError) as caught:
        Tensor(np.ones((2, 3))).einsum(subscripts, np.ones((3, 4)))
    message, text, caret = str(caught.value).split("\n")
    assert why in message
    assert text == f"  {subscripts}"
    assert caret == "  " + " " * place + "^"


def test_wrong_number_of_operands() -> None:
    with pytest.raises(sg.ShapeError, match="names 2 operands, but 1"):
        Tensor(np.ones((2, 3))).einsum("ij,jk")


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)), ((5, 2, 3), (3, 4)),
     ((5, 1, 2, 3), (4, 3, 2)), ((1, 3), (3, 1)), ((0, 3), (3, 2)), ((2, 0), (0, 3))],
)  # fmt: skip
def test_matmul(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x, y = (rng.normal(size=s).astype(np.float32) for s in (a, b))
    want = x @ y
    for got in (Tensor(x) @ Tensor(y), x @ Tensor(y), Tensor(x) @ y, sg.matmul(x, y)):
        assert got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_matmul_errors() -> None:
    with pytest.raises(sg.ShapeError, match="contracted axis"):
        Tensor(np.ones((2, 3))) @ Tensor(np.ones((2, 3)))
    with pytest.raises(sg.ShapeError, match="zero-dimensional"):
        Tensor(1.0) @ Tensor([1.0])


def test_relatives() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3, 4)).astype("f"), rng.normal(size=(4, 3, 5)).astype("f")
    close = np.testing.assert_allclose
    close(
        Tensor(x).tensordot(y, ((1, 2), (1, 0))).numpy(),
        np.tensordot(x, y, ((1, 2), (1, 0))),
        rtol=1e-5,
    )
    close(Tensor(x).tensordot(y, 1).numpy(), np.tensordot(x, y, 1), rtol=1e-5, atol=1e-5)
    close(Tensor(x).outer(y).numpy(), np.outer(x, y), rtol=1e-6)
    close(
        Tensor(x).dot(x.transpose(0, 2, 1)).numpy(),
        np.dot(x, x.transpose(0, 2, 1)),
        rtol=1e-5,
        atol=1e-5,
    )
    close(Tensor(x).vecdot(x[0]).numpy(), np.vecdot(x, x[0]), rtol=1e-5)
    close(Tensor(x).vecdot(x, axis=0).numpy(), (x * x).sum(0), rtol=1e-5)


def test_integers_stay() -> None:
    assert Tensor([[1, 2]]).einsum("ij->i").dtype is sg.int64
    assert (Tensor([[1, 2]], "int8") @ Tensor([[1], [2]], "int8")).dtype is sg.int8


def test_products_are_elementwise() -> None:
    x = Tensor(np.ones((2, 3)))
    assert x.einsum("ij,ij->ij", x)._node.op.name == "mul"
    assert x.einsum("ij,kj->ik", x)._node.op.name == "einsum"
