"""Random programs, forward and gradient: fused = unfused = NumPy, on every device.

A failure prints a stand-alone script. The examples are the same in every run (``derandomize``);
``SEED=n pytest tests/test_fuzz.py`` draws others, ``EXAMPLES=n`` so many of each kind.
"""

from __future__ import annotations

import os
from typing import Any

import conftest
import pytest
from fuzz_programs import KINDS, Program, check, programs
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import simplegrad as sg

SEED = os.environ.get("SEED", "")
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
COUNTS = {"first": 6, "other": 4, "gpu": 4}
"""Programs of a kind: on the first device here, each of the others, and forced GPU kernels."""


def _ways() -> list[Any]:
    found: list[tuple[list[conftest.Way], str]] = []
    for i, name in enumerate(conftest.OPENCL):
        both = [conftest.Way(name, fused) for fused in (True, False)]
        found.append((both, "other" if i else "first"))
    found += [([way], "gpu") for way in conftest.GPU_WAYS]
    return [pytest.param(ways, COUNTS[role], id=f"{ways[0].selector}-{role}")
            for ways, role in found]  # fmt: skip


@pytest.mark.skipif(not conftest.OPENCL, reason=conftest.NO_DRIVER)
@pytest.mark.parametrize(("ways", "count"), _ways())
@pytest.mark.parametrize("kind", KINDS)
def test_fused_and_unfused_agree_with_numpy(kind: str, ways: Any, count: int) -> None:
    @settings(
        max_examples=EXAMPLES or count, deadline=None, database=None, derandomize=not SEED,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def test(data: Any) -> None:
        program = data.draw(programs(kind, all(way.has(sg.float64) for way in ways)))
        check(program, [(way.selector, way.fused, way.kernels) for way in ways])

    (seed(int(SEED))(test) if SEED else test)()


def test_a_failure_prints_a_script_that_runs(one_cl_device: Any) -> None:
    program = Program(
        [("float32", "(n, m)")], ["v0 = x0.tanh()", "v1 = v0.no_such_method()"], loss="v1"
    )
    with pytest.raises(AssertionError, match="no_such_method") as caught:
        check(program, [(one_cl_device.name, True, "")])
    text = str(caught.value)
    compile(text[text.index("# A stand-alone") :], "<script>", "exec")
    assert sg.settings.current().verify
