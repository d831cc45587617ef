"""The ceilings of a device: right answers, plausible rates, measured once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from simplegrad import dtypes
from simplegrad.errors import DeviceError
from simplegrad.runtime import ceilings, program_cache
from simplegrad.runtime.ceilings import COPY, FMA, KINDS, READ, Meter, Variant


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arrays, few steps and one variant a kind, so that measuring takes no time."""
    monkeypatch.setattr(ceilings, "BIG", 1 << 14)
    monkeypatch.setattr(ceilings, "_STEPS", {"cpu": 64, "gpu": 64})
    monkeypatch.setattr(ceilings, "_known", {})
    monkeypatch.setattr(
        Meter, "_variants",
        lambda self: [Variant("chains" if self.what == FMA else "strips", 4, 8, 1, 4)],
    )  # fmt: skip


def test_measured_once_and_kept(cl_device: Any, small: None) -> None:
    first = ceilings.measured(cl_device)
    assert set(first) == set(KINDS) and all(c.rate > 0 for c in first.values())
    assert ceilings.measured(cl_device) is first
    ceilings._known.clear()
    compiles = program_cache.counters.compiles
    hits = program_cache.counters.memory_hits
    assert ceilings.measured(cl_device) == first  # from the disk: nothing is compiled or run
    assert program_cache.counters.compiles == compiles
    assert program_cache.counters.memory_hits == hits


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("loop", ["strips", "grid"])
def test_variants_compute_what_they_say(cl_device: Any, what: str, loop: str) -> None:
    meter = Meter(cl_device, what)
    variant = Variant("chains" if what == FMA else loop, 2, 64, 1, 3)
    n = 1000
    assert meter.runner(variant, n)() > 0
    got = cl_device.to_host(meter._target, dtypes.float32, (n,))
    if what == COPY:
        np.testing.assert_array_equal(got, meter._host[:n])
    elif what == READ:
        np.testing.assert_allclose(got[:128].sum(dtype="f8"), meter._host[:n].sum(dtype="f8"), 1e-4)
    else:
        np.testing.assert_allclose(got[:128], 6)


def test_work_counts_bytes_and_operations(one_cl_device: Any, small: None) -> None:
    v = Variant("chains", 4, 8, 1, 5)
    assert Meter(one_cl_device, COPY).work(v, 10) == 80
    assert Meter(one_cl_device, READ).work(v, 10) == 40
    assert Meter(one_cl_device, FMA).work(v, 0) == 2 * 4 * 5 * 8 * 64
    assert Meter(one_cl_device, COPY).elements(80) == 10


def test_wrong_answer_is_an_error(
    one_cl_device: Any, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "_COPY", ceilings._COPY.replace("y[i] = x[i]", "y[i] = -x[i]"))
    with pytest.raises(DeviceError, match="wrong answer"):
        Meter(one_cl_device, COPY).best()
