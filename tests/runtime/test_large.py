"""An array of more than 2^31 elements: indices of 64 bits where they are needed, and only there."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor
from simplegrad.runtime import lookup

N = 2**31 + 5000


def has_room(device: Any) -> bool:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return bool(
        device.limits.max_alloc_bytes > N
        and min(device.limits.global_bytes, free if device.kind == "cpu" else N * 3) > N * 1.5
    )


def test_more_elements_than_an_int_counts(one_cl_device: Any) -> None:
    if not has_room(one_cl_device):
        pytest.skip(f"{one_cl_device.name} holds no array of {N:,} bytes")
    x = (sg.arange(N) % 101).cast("int8")
    sg.realize(x)
    last = [i % 101 for i in range(N - 4, N)]
    assert x[-4:].numpy().tolist() == last
    assert x[::-1][:4].numpy().tolist() == last[::-1]
    assert x[[N - 1, 2**31, 5, -2]].numpy().tolist() == [last[3], 2**31 % 101, 5, last[2]]
    assert x.sum().item() == N // 101 * 5050 + sum(range(N % 101))
    rows = x[5000:].reshape(2**16, 2**15)
    wanted = [[(5000 + r * 2**15 + c) % 101 for c in range(2**15)] for r in (0, 2**16 - 1)]
    # A template reads it too.
    v = np.random.default_rng(0).standard_normal((2**15, 1)).astype(np.float32)
    got = (rows.cast("float32") @ Tensor(v))[:: 2**16 - 1].numpy()
    np.testing.assert_allclose(got, wanted @ v.astype(float), rtol=1e-3, atol=1)


def test_only_they_get_64_bits(one_cl_device: Any) -> None:
    x = Tensor(np.ones((300, 200), np.int8))
    assert not re.search(r"\blong\b[^;]*;", sg.explain(x.max(axis=1)))
    assert re.search(r"\blong unit\b[^;]*;", sg.explain(sg.arange(N, dtype="int32").max()))


def test_lengths_beyond_an_int_vary_too(one_cl_device: Any) -> None:
    lookup._families.clear()
    for n in (10**6, N, N - 77, 10**6 - 5):
        got = (sg.arange(n) > n - 9).cast("int8").sum().item()
        assert got == 8, n
