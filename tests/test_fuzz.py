"""Random programs, forward and gradient: fused = unfused = NumPy.

A failure prints a stand-alone script. The examples are the same in every run (``derandomize``);
``SEED=n pytest tests/test_fuzz.py`` draws others.
"""

from __future__ import annotations

import os
from typing import Any

import conftest
import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import simplegrad as sg

# Values stay within about ±1 (see `_bounded`), so float32 programs of a dozen operations agree to
# a few hundred ulp of 1; sums of squares and products cost another digit.
TOLERANCE = 3e-4
SHAPES = [(4, 6), (3, 4, 6), (6,), (1, 6), (5, 1)]
BOUNDED = ["{}.tanh()", "{}.sin()", "{}.sigmoid()", "{} * 0.5", "-{}", "{}.relu()", "{}.abs()",
           "({} * {}).tanh()", "(1.5 + {}.cos()).rsqrt()", "{}.softmax()", "{}.logsoftmax().tanh()",
           "(2.5 + {}.tanh()).log()", "{}.clip(-0.4, 0.6)", "{}.cumsum(-1).tanh()"]  # fmt: skip
JOINED = ["({a} + {b}).tanh()", "{a} - {b} * 0.5", "{a} * {b}", "{a}.maximum({b})",
          "sg.where({a} > {b}, {a}, {b} * 0.3)", "{a} / (2.0 + {b} * {b})"]  # fmt: skip


@st.composite
def programs(draw: Any) -> tuple[list[tuple[int, ...]], list[str]]:
    """Draw (shapes of the inputs, lines of a program whose last line sets the result)."""
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    known = {f"x{i}": s for i, s in enumerate(shapes)}
    lines: list[str] = []

    def put(text: str, shape: tuple[int, ...]) -> None:
        name = f"v{len(lines)}"
        lines.append(f"{name} = {text}")
        known[name] = shape

    for _ in range(draw(st.integers(2, 9))):
        name = draw(st.sampled_from(list(known)[-4:]))
        shape = known[name]
        kind = draw(st.sampled_from(["map", "map", "join", "join", "reduce", "view", "contract"]))
        if kind == "join":
            other = draw(st.sampled_from(list(known)))
            try:
                joined = np.broadcast_shapes(shape, known[other])
            except ValueError:
                kind = "map"
            else:
                if np.prod(joined) > 400:
                    kind = "map"
                else:
                    put(draw(st.sampled_from(JOINED)).format(a=name, b=other), joined)
        if kind == "map" or not shape:
            text = draw(st.sampled_from([t for t in BOUNDED if shape or "max" not in t]))
            if not shape and "cumsum" in text:
                text = "{}.tanh()"
            put(text.replace("{}", name), shape)
        elif kind == "reduce":
            axis = draw(st.integers(0, len(shape) - 1))
            keep = draw(st.booleans())
            how = draw(st.sampled_from(["mean", "max", "min", "sum", "var", "logsumexp"]))
            tail = " * 0.1" if how in ("sum", "logsumexp") else ""
            left = shape[:axis] + ((1,) if keep else ()) + shape[axis + 1 :]
            put(f"{name}.{how}({axis}, {keep}){tail}", left)
        elif kind == "view":
            _view(draw, put, name, shape)
        elif kind == "contract":
            if len(shape) == 2:
                put(f"({name} @ {name}.T) * 0.1", (shape[0], shape[0]))
            else:
                put(f"sg.einsum('...i,...i->...', {name}, {name}) * 0.1", shape[:-1])
    return shapes, lines


def _view(draw: Any, put: Any, name: str, shape: tuple[int, ...]) -> None:
    how = draw(st.sampled_from(["T", "flat", "step", "flip", "new", "pad", "roll", "take", "part"]))
    n = shape[0]
    if how == "T":
        put(f"{name}.T", shape[::-1])
    elif how == "flat":
        size = int(np.prod(shape))
        new = (2, size // 2) if size % 2 == 0 else (size,)
        put(f"{name}.reshape({new})", new)
    elif how == "step":
        put(f"{name}[::2]", ((n + 1) // 2, *shape[1:]))
    elif how == "flip":
        put(f"{name}[..., ::-1]", shape)
    elif how == "new":
        put(f"{name}[None].broadcast_to({(2, *shape)})", (2, *shape))
    elif how == "pad":
        put(f"{name}.pad([(1, 1)] + [(0, 0)] * {len(shape) - 1})", (n + 2, *shape[1:]))
    elif how == "roll":
        put(f"{name}.roll(1, 0)", shape)
    elif how == "take":
        put(f"{name}.take([0, {n - 1}, 0], 0)", (3, *shape[1:]))
    else:
        put(f"{name}[{n // 2}:]", (n - n // 2, *shape[1:]))


SCRIPT = """
import numpy as np
import simplegrad as sg

def run():
    rng = np.random.default_rng(0)
    inputs = [sg.Tensor(rng.uniform(-1, 1, s).astype(np.float32)) for s in {shapes}]
    {names} = inputs
{body}
    result = {last}
    (result * result).sum().backward()
    values = [result, *[x.grad for x in inputs if x.grad is not None]]
    sg.realize(*values)
    return [v.numpy() for v in values]

def check(devices):
    with sg.device("numpy"):
        wanted = run()
    for device in devices:
        for fusion in (True, False):
            with sg.device(device), sg.fusion(fusion):
                got = run()
            for k, (g, w) in enumerate(zip(got, wanted, strict=True)):
                np.testing.assert_allclose(g, w, rtol={tol}, atol={tol},
                                           err_msg=f"value {{k}} on {{device}}, fusion {{fusion}}")
"""


def script(program: tuple[list[tuple[int, ...]], list[str]]) -> str:
    shapes, lines = program
    return SCRIPT.format(
        shapes=shapes,
        names=", ".join(f"x{i}" for i in range(len(shapes))) + ",",
        body="\n".join("    " + line for line in lines),
        last=lines[-1].split(" = ")[0],
        tol=TOLERANCE,
    )


def check(program: Any, devices: list[str]) -> None:
    source = script(program)
    space: dict[str, Any] = {}
    exec(compile(source, "<fuzz>", "exec"), space)
    try:
        space["check"](devices)
    except Exception as error:
        raise AssertionError(
            f"{error}\n# A stand-alone script of this failure:\n{source}\ncheck({devices})\n"
        ) from error


SEED = os.environ.get("SEED", "")
COMMON: dict[str, Any] = {
    "deadline": None,
    "database": None,
    "derandomize": not SEED,
    "suppress_health_check": list(HealthCheck),
}


def _seeded(test: Any) -> Any:
    return seed(int(SEED))(test) if SEED else test


@pytest.mark.skipif(not conftest.OPENCL, reason=conftest.NO_DRIVER)
@_seeded
@settings(max_examples=40, **COMMON)
@given(programs())
def test_fused_and_unfused_agree_with_numpy(program: Any) -> None:
    check(program, conftest.OPENCL[:1])


@pytest.mark.skipif(len(conftest.OPENCL) < 2, reason="one OpenCL device here, tested above")
@_seeded
@settings(max_examples=4, **COMMON)
@given(programs())
def test_the_other_devices(program: Any) -> None:
    check(program, conftest.OPENCL[1:])


def test_a_failure_prints_a_script_that_runs(one_cl_device: Any) -> None:
    program = ([(4, 6)], ["v0 = x0.tanh()", "v1 = v0.no_such_method()"])
    with pytest.raises(AssertionError, match="no_such_method") as caught:
        check(program, [one_cl_device.name])
    text = str(caught.value)
    compile(text[text.index("# A stand-alone") :], "<script>", "exec")
    assert sg.settings.current().verify
