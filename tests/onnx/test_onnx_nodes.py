"""The node tests of the package `onnx`: all on NumPy, a sample on a compiled device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import simplegrad as sg

pytest.importorskip("onnx")

import node_cases as suite


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong, by name of case; nothing where it passed."""
    path = tmp_path_factory.mktemp("nodes") / "model.onnx"
    found = {}
    with sg.device("numpy"):
        for case in suite.cases():
            try:
                suite.run(case, path)
            except Exception as error:
                found[case.name] = f"{type(error).__name__}: {error}"
    return found


def test_the_list_of_failures_is_exact(errors: dict[str, str]) -> None:
    listed = suite.listed()
    fresh = {name: errors[name] for name in sorted(errors.keys() - listed)}
    assert fresh == {}, "these fail and are not listed"
    assert sorted(listed.keys() - errors) == [], "these are listed and pass"
    assert all(listed.values())


@pytest.mark.parametrize("opsets", ["all", "13 to 21"])
def test_the_share_passed(opsets: str, errors: dict[str, str], capsys: Any) -> None:
    chosen = [c for c in suite.cases() if opsets == "all" or suite.opset(c) in range(13, 22)]
    passed = sum(c.name not in errors for c in chosen)
    with capsys.disabled():
        print(f"\nONNX node tests, opsets {opsets}: {passed} of {len(chosen)} passed, "
              f"{passed / len(chosen):.1%}")  # fmt: skip
    assert passed / len(chosen) >= 0.85


SAMPLE = 61
"""Every so many cases: with a compiler behind each, all would take minutes."""


def test_a_sample_on_a_compiled_device(one_cl_device: Any, tmp_path: Path) -> None:
    wrong = {}
    for case in suite.cases()[::SAMPLE]:
        if case.name in suite.listed():
            continue
        try:
            suite.run(case, tmp_path / "model.onnx")
        except Exception as error:
            wrong[case.name] = f"{type(error).__name__}: {error}"
    assert wrong == {}
