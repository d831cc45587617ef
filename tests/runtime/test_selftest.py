"""The self-test of templates: every case meets its template, and a broken one is done without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings
from simplegrad.compiler.pipeline import _known
from simplegrad.compiler.templates import template
from simplegrad.runtime import lookup, selftest
from simplegrad.runtime import realize as execution


@pytest.fixture
def fresh(one_cl_device: Any) -> Iterator[Any]:
    """One device without verdicts, plans and kept kernels, before and after."""

    def forget() -> None:
        one_cl_device.verdicts.clear()
        lookup.forget()
        _known.clear()

    forget()
    with settings.override(cache=False):
        yield one_cl_device
    forget()


@pytest.mark.parametrize("name", selftest.CASES)
def test_every_case_meets_its_template(
    fresh: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    family = "gpu" if "gpu" in name or "mma" in name else "cpu"
    case = selftest.CASES[name]
    if "mma" in name:
        monkeypatch.setattr(fresh, "limits", replace(fresh.limits, mma="emulated"))
    arrays, leaves = case.operands(np.random.default_rng(1), fresh)
    with settings.override(kernels=family):
        node = case.graph(leaves)
        execution.realize([node])
        got = execution.to_numpy(node)
    np.testing.assert_allclose(got, case.numpy(arrays), rtol=1e-4, atol=1e-3)
    assert fresh.verdicts == {name: True}


@pytest.mark.parametrize("fault", ["wrong", "refused"])
def test_a_broken_template_is_done_without(
    fresh: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    wrong = "__kernel void KERNEL_NAME(PARAMS) { STORE(0, 0, 0, 1e9f); }\n"
    text = "#error broken\n" if fault == "refused" else wrong
    monkeypatch.setattr(template, "kernel_source", lambda stem: text)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((130, 130)).astype(np.float32) for _ in range(2))
    with pytest.warns(RuntimeWarning, match="einsum_cpu tile gives wrong results"):
        got = (Tensor(a) @ Tensor(b)).numpy()
    np.testing.assert_allclose(got, a @ b, rtol=1e-4, atol=1e-3)
    assert fresh.verdicts == {"einsum_cpu tile": False}
    twice = (Tensor(a) @ Tensor(b) * 2.0).numpy()  # without a warning
    np.testing.assert_allclose(twice, a @ b * 2, rtol=1e-4, atol=1e-3)


def test_the_plain_path_stands_in_for_attention(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its contractions are templates that no program before has tried: they are, then."""
    real = template.kernel_source

    def broken(stem: str) -> str:
        return "__kernel void KERNEL_NAME(PARAMS) {}\n" if "attention" in stem else real(stem)

    monkeypatch.setattr(template, "kernel_source", broken)
    x = np.random.default_rng(0).standard_normal((2, 50, 20)).astype(np.float32)
    with pytest.warns(RuntimeWarning, match="attention_cpu gives wrong results"):
        got = sg.scaled_dot_product_attention(x, x, x, scale=1.0).numpy()
    weights = np.exp(x @ x.swapaxes(1, 2))
    want = weights / weights.sum(-1, keepdims=True) @ x
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert fresh.verdicts == {"attention_cpu": False, "einsum_cpu tile": True}


def test_a_verdict_is_remembered(
    fresh: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    a = np.ones((130, 130), np.float32)
    with settings.override(cache=True, cache_dir=str(tmp_path)):
        assert (Tensor(a) @ Tensor(a)).numpy()[0, 0] == 130
        fresh.verdicts.clear()
        lookup.forget()
        monkeypatch.setattr(selftest, "Plan", None)  # running the case again would fail
        assert (Tensor(a) @ Tensor(a)).numpy()[0, 0] == 130
    assert fresh.verdicts == {"einsum_cpu tile": True}
