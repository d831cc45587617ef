"""Views, joining and indexing against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
A[0, 0, 0], A[0, 1, 2] = -0.0, np.nan


def same(got: Tensor, want: Any) -> None:
    want = np.asarray(want)
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.numpy(), want)
    if want.dtype.kind == "f":
        np.testing.assert_array_equal(np.signbit(got.numpy()), np.signbit(want))


VIEWS = {
    "reshape": (lambda x: x.reshape(4, -1), lambda x: x.reshape(4, -1)),
    "reshape_tuple": (lambda x: x.reshape((24,)), lambda x: x.reshape(24)),
    "flatten": (lambda x: x.flatten(), lambda x: x.reshape(-1)),
    "permute": (lambda x: x.permute(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    "transpose": (lambda x: x.T, lambda x: x.T),
    "mT": (lambda x: x.mT, lambda x: x.swapaxes(-1, -2)),
    "moveaxis": (lambda x: x.moveaxis((0, 1), (2, 0)), lambda x: np.moveaxis(x, (0, 1), (2, 0))),
    "broadcast": (lambda x: x.broadcast_to(5, 2, 3, 4), lambda x: np.broadcast_to(x, (5, 2, 3, 4))),
    "expand_dims": (lambda x: x.expand_dims((0, -1)), lambda x: np.expand_dims(x, (0, -1))),
    "squeeze": (lambda x: x[:1].squeeze(), lambda x: x[:1].squeeze()),
    "flip": (lambda x: x.flip(1), lambda x: np.flip(x, 1)),
    "flip_all": (lambda x: x.flip(), lambda x: np.flip(x)),
    "pad": (
        lambda x: x.pad([(1, 0), (0, 2), (1, 1)], 7),
        lambda x: np.pad(x, [(1, 0), (0, 2), (1, 1)], constant_values=7),
    ),
    "tile": (lambda x: x.tile(2, 1, 3), lambda x: np.tile(x, (2, 1, 3))),
    "repeat": (lambda x: x.repeat(3, 1), lambda x: np.repeat(x, 3, 1)),
    "repeat_counts": (lambda x: x.repeat([1, 0, 2], 1), lambda x: np.repeat(x, [1, 0, 2], 1)),
    "repeat_flat": (lambda x: x.repeat(2), lambda x: np.repeat(x, 2)),
    "roll": (lambda x: x.roll(3, 2), lambda x: np.roll(x, 3, 2)),
    "roll_axes": (lambda x: x.roll((1, -1), (0, 1)), lambda x: np.roll(x, (1, -1), (0, 1))),
    "roll_flat": (lambda x: x.roll(5), lambda x: np.roll(x, 5)),
    "diagonal": (lambda x: x.diagonal(1), lambda x: np.diagonal(x, 1)),
    "take": (lambda x: x.take([[0, -1], [1, 1]], 1), lambda x: np.take(x, [[0, -1], [1, 1]], 1)),
    "take_flat": (lambda x: x.take([3, 5]), lambda x: np.take(x, [3, 5])),
    "split": (lambda x: x.split(3, 1)[1], lambda x: np.split(x, 3, 1)[1]),
    "split_at": (lambda x: x.split([1, 3], 2)[1], lambda x: np.split(x, [1, 3], 2)[1]),
    "tril": (lambda x: sg.tril(x, 1), lambda x: np.tril(x, 1)),
    "triu": (lambda x: sg.triu(x), lambda x: np.triu(x)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_view(name: str) -> None:
    mine, numpy = VIEWS[name]
    same(mine(Tensor(A)), numpy(A))


INDICES = [
    0, -1, (1, 2), (slice(None), 1), (Ellipsis, 0), (0, Ellipsis), None, (slice(None), None, 1),
    slice(None, None, -1), (slice(None), slice(2, None, -2)), (slice(5, 9),),
    (Ellipsis, slice(1, -1)), [0, 1, 1], ([1, 0], [2, -1]), (slice(None), [0, 2]),
    ([0, 1], slice(None), [0, 3]), (0, slice(None), [1, 2]), (0, [1, 2]),
    (slice(None), 1, [0, 1, 1]), (slice(None), [[0], [1]], [1, 2]), (None, [0, 1], None),
    ([0, 1], None, [1, 2]), (Ellipsis, [0, 3]), np.array([True, False]),
    (slice(None), np.array([True, False, True])), A > 5, (A[:, :, 0] > 5, 1),
    (np.array([], np.int64),), (slice(0, 0), 1), np.array(1),
]  # fmt: skip


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_index(index: Any) -> None:
    same(Tensor(A)[index], A[index])


def test_index_by_tensors() -> None:
    x = Tensor(A)
    i = Tensor([1, -1, 0])
    same(x[:, i], A[:, [1, -1, 0]])
    same(x[:, i, Tensor([0, 1, 2], "uint8")], A[:, [1, -1, 0], [0, 1, 2]])
    same(x[x > 5], A[A > 5])
    same(
        x.take_along_axis(x.argmax(1, keepdims=True), 1),
        np.take_along_axis(A, A.argmax(1, keepdims=True), 1),
    )
    same(x[0, :, Tensor(2)], A[0, :, 2])


def test_joining() -> None:
    same(sg.concat([Tensor(A), A[:1], Tensor(A[:0])]), np.concatenate([A, A[:1], A[:0]]))
    parts = [A[:, :, i : i + 1] for i in range(4)]
    same(sg.concat(parts, axis=-1), A)
    same(sg.stack([Tensor(p) for p in parts], 1), np.stack(parts, 1))
    same(sg.concat([Tensor([1]), Tensor([2.5])]), np.array([1, 2.5], np.float32))
    same(sg.concat([Tensor(A), Tensor(A)], axis=None), np.concatenate([A, A], None))
    assert len(sg.unstack(Tensor(A), axis=1)) == 3


def test_windows() -> None:
    x = np.arange(2 * 3 * 6 * 7, dtype=np.float32).reshape(2, 3, 6, 7)
    view = np.lib.stride_tricks.sliding_window_view(x, (2, 3), (2, 3))
    same(Tensor(x).window_view((2, 3)), view)
    same(Tensor(x).window_view((2, 3), stride=2), view[:, :, ::2, ::2])
    wide = np.lib.stride_tricks.sliding_window_view(x, (3, 5), (2, 3))[..., ::2, ::2]
    same(Tensor(x).window_view((2, 3), dilation=2), wide)
    same(
        Tensor(A).as_strided((3, 2), (1, 4), 2),
        A.reshape(-1)[2:][np.array([[0, 4], [1, 5], [2, 6]])],
    )


def test_one_hot_bincount_scatter() -> None:
    i = np.array([0, 2, 2, 1])
    same(Tensor(i).one_hot(4), np.eye(4, dtype=np.float32)[i])
    same(Tensor(i).bincount(), np.bincount(i))
    same(Tensor(i).bincount(minlength=6), np.bincount(i, minlength=6))
    w = np.array([1, 2, 3, 4], np.float32)
    same(Tensor(i).bincount(w, length=3), np.bincount(i, w).astype(np.float32))
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    want = np.zeros((3, 2), np.float32)
    np.add.at(want, i, rows)
    same(sg.scatter_add(i, Tensor(rows), 3), want)


BAD = [
    (lambda x: x.reshape(5, -1), "reshape"),
    (lambda x: x.reshape(-1, -1), "-1"),
    (lambda x: x.permute(0, 1), "permute"),
    (lambda x: x.permute(0, 1, 1), "twice"),
    (lambda x: x.flip(3), "axis 3 is out of range"),
    (lambda x: x.squeeze(0), "not of extent 1"),
    (lambda x: x.broadcast_to(3, 3, 4), "does not broadcast"),
    (lambda x: x.pad(-1), "negative"),
    (lambda x: x[2], "out of range for axis 0"),
    (lambda x: x[0, 0, 0, 0], "4 indices"),
    (lambda x: x[[0, 5]], "index 5"),
    (lambda x: x[[0.5]], "integers"),
    (lambda x: x[..., ...], "one Ellipsis"),
    (lambda x: x[np.array([True])], "mask"),
    (lambda x: x.take([9], 1), "index 9"),
    (lambda x: x.as_strided((5, 5), (5, 1)), "reaches elements 0 … 24"),
    (lambda x: x.as_strided((2,), (1,), -1), "reaches elements -1"),
    (lambda x: x.as_strided((2,), (1, 2)), "differ in length"),
    (lambda x: x.window_view((2, 2)), "window_view"),
    (lambda x: x.window_view((9,)), "larger"),
    (lambda x: sg.concat([x, x[0]]), "concat"),
    (lambda x: sg.stack([x, x[:1]]), "stack"),
    (lambda x: x.split(5, 1), "divide"),
    (lambda x: x + np.ones(3), "do not broadcast"),
]


@pytest.mark.parametrize(("call", "text"), BAD)
def test_bad_input(call: Any, text: str) -> None:
    with pytest.raises(sg.SimplegradError, match=text.replace("(", r"\(")):
        call(Tensor(A))


def test_no_assignment() -> None:
    with pytest.raises(sg.SimplegradError, match="where"):
        Tensor(A)[0] = 1
