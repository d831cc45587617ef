"""Random programs: strategies for Hypothesis, and the stand-alone script of a program.

A program is a list of lines such as ``v3 = (v0 + x1).tanh()``. While it is drawn, each line is
recorded, on the NumPy device, for every set of sizes that it will run with: what the engine
refuses (shapes that do not broadcast, dtypes that do not meet) is not drawn, and shapes and dtypes
are known without rules of their own. Nothing is computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

import simplegrad as sg
from simplegrad import dtypes

# Values stay within about ±1, so float32 programs of a dozen operations agree to a few hundred ulp
# of 1; sums of squares and products cost another digit. 16-bit programs round at every store: half
# a unit in the last place (2**-12, 2**-9) a step of an unfused one, some ten steps, and gradients
# that multiply what went before.
TOLERANCE = {"float64": 3e-4, "float32": 3e-4, "float16": 0.03, "bfloat16": 0.2}
SHAPES = ["(n, m)", "(k, n, m)", "(m,)", "(1, m)", "(n, 1)", "()"]
SIZES = [(4, 6, 3), (7, 9, 2), (5, 8, 4)]
"""n, m and k: the second set makes kernels for any shape, which the third takes as they are."""
EMPTY = [(0, 6, 3), (4, 0, 2)]
AXIS_LIMIT = 900  # elements of one value

SMOOTH = ["{a}.tanh()", "{a}.sin()", "{a}.sigmoid()", "{a} * 0.5", "({a} * {b}).tanh()",
          "(1.5 + {a}.cos()).rsqrt()", "(2.5 + {a}.tanh()).log()", "({a} + {b}).tanh()",
          "{a} - {b} * 0.5", "{a} * {b}", "{a} / (2.0 + {b} * {b})", "{a}.hypot({b}) * 0.5",
          "{a}.gelu()", "{a}.softplus() * 0.5"]  # fmt: skip
KINKED = ["{a}.relu()", "{a}.abs()", "{a}.clip(-0.4, 0.6)", "{a}.maximum({b})", "{a}.minimum({b})"]
"""Their gradients jump: of rounded 16-bit values, not even fused and unfused agree on the side."""
ROWS = ["{a}.softmax()", "{a}.logsoftmax().tanh()", "{a}.cumsum(-1).tanh()", "{a}.mean(-1, {keep})",
        "{a}.sum(0, {keep}) * 0.1", "{a}.var(-1, {keep})", "{a}.logsumexp(0, {keep}) * 0.1",
        "{a}.layer_norm().tanh()", "({a} @ {a}.T) * 0.1",
        "sg.einsum('...i,...i->...', {a}, {b}) * 0.1"]  # fmt: skip
EXTREMA = ["{a}.max(0, {keep})", "{a}.min(-1, {keep})"]
VIEWS = ["{a}.T", "{a}.reshape(-1)", "{a}[::2]", "{a}[..., ::-1]", "{a}.roll(1, 0)",
         "{a}[None].broadcast_to(2, *{a}.shape)", "{a}.take([0, -1, 0], 0)",
         "{a}.pad([(1, 1)] + [(0, 0)] * ({a}.ndim - 1))", "{a}[{a}.shape[0] // 2 :]",
         "sg.concat([{a}, {a}], -1)", "{a}[..., None]",
         "sg.scatter_add(np.arange({a}.shape[0]) % 2, {a}, 3)"]  # fmt: skip
WHOLE = ["{a} + {b}", "{a} * {b}", "{a} - {b}", "{a} // {b}", "{a} % {b}", "-{a}", "{a} & {b}",
         "{a} | {b}", "{a} ^ {b}", "~{a}", "{a}.sign()", "{a} << 1", "{a} >> 1",
         "{a}.sum(0, {keep})", "{a}.cumsum(-1)", "{a}.prod(-1, {keep})", "{a}.any(0)",
         "{a}.cast('int16')", "{a}.cast('uint8')", "({a} @ {a}.T)"]  # fmt: skip
CHOICES = ["{a} > {b}", "{a} == {b}", "{a} <= 0", "sg.where({a} > {b}, {a}, {b})", "{a}.argmax(-1)",
           "{a}.argmin()", "{a}.isnan()", *KINKED[1:]]  # fmt: skip
"""Jumps, which only exact operands take on the same side everywhere."""
TO_FLOAT = ["({a}.cast('{float}') * 0.1).tanh()", "sg.where({c}, {b}, {b} * 0.5)"]


@dataclass
class Program:
    """Inputs, and lines of which the last sets the result."""

    inputs: list[tuple[str, str]]
    """(dtype, shape in n, m and k)."""
    lines: list[str]
    sizes: list[tuple[int, int, int]] = field(default_factory=lambda: SIZES[:1])
    special: bool = False
    """Whether floats hold NaN and inf too."""
    tolerance: float = TOLERANCE["float32"]
    loss: str = ""
    """What is differentiated; empty: nothing."""


class _Draft:
    """A program being drawn."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.spaces: list[dict[str, Any]] = []
        with sg.device("numpy"):
            for n, m, k in program.sizes:
                space: dict[str, Any] = {"np": np, "sg": sg}
                for i, (dtype, shape) in enumerate(program.inputs):
                    extents = eval(shape, {"n": n, "m": m, "k": k})
                    data = np.ones(extents)  # a whole array is read off by nobody
                    space[f"x{i}"] = sg.Tensor(data, dtype=dtype)
                self.spaces.append(space)
        self.names = [f"x{i}" for i in range(len(program.inputs))]
        self.exact = set(self.names)

    def dtype(self, name: str) -> Any:
        return self.spaces[0][name].dtype

    def put(self, text: str, exact: bool) -> bool:
        """Add a line, if every set of sizes takes it."""
        found = []
        with sg.device("numpy"):
            for space in self.spaces:
                try:
                    value = eval(text, dict(space))
                except (sg.SimplegradError, IndexError):
                    return False
                if value.size > AXIS_LIMIT or value.ndim > 4:
                    return False
                found.append(value)
        name = f"v{len(self.program.lines)}"
        self.program.lines.append(f"{name} = {text}")
        for space, value in zip(self.spaces, found, strict=True):
            space[name] = value
        self.names.append(name)
        if exact:
            self.exact.add(name)
        return True

    def step(self, draw: Any, floats: list[str]) -> None:
        """Add one line, mostly about the latest values; shrinks towards a chain of tanh."""
        recent = self.names[::-1]
        a = draw(st.sampled_from(recent[:2] * 2 + recent))
        alike = [n for n in recent if self.dtype(n).is_float is self.dtype(a).is_float]
        b = draw(st.sampled_from(alike))
        for _ in range(3):
            text, exact = draw(st.sampled_from(self.texts(a, b)))
            given = {
                "a": a,
                "b": b,
                "c": next((n for n in recent if self.dtype(n).kind == "b"), a),
                "keep": draw(st.booleans()),
                "float": draw(st.sampled_from(floats)),
            }
            if self.put(text.format(**given), exact):
                return

    def texts(self, a: str, b: str) -> list[tuple[str, bool]]:
        """Return what may be done with two values, and whether the result is exact then."""
        sure, views = {a, b} <= self.exact, [(t, a in self.exact) for t in VIEWS]
        if not self.dtype(a).is_float:
            found = [(t, True) for t in (*WHOLE, *CHOICES)]
            return found + views + [(TO_FLOAT[0], False)] * 12
        found = [(t, False) for t in (*SMOOTH * 2, *ROWS)]
        if sure or not any(self.dtype(n).itemsize == 2 for n in (a, b)):
            found += [(t, False) for t in (*KINKED, *EXTREMA * 2)]
        if sure:
            found += [(t, True) for t in CHOICES]
        if any(self.dtype(n).kind == "b" for n in self.names):
            found += [(TO_FLOAT[1], False)] * 4
        return found + views


KINDS = ["numbers", "types", "special", "empty"]
FLOATS = ["float16", "bfloat16", "float32"]
MIXED = [*FLOATS, "bool", "int8", "uint8", "int16", "int32", "uint32",
         "int64"]  # fmt: skip


@st.composite
def programs(draw: Any, kind: str, float64: bool = True) -> Program:
    """Draw a program of a kind: float32 of changing shapes, mixed dtypes, NaN and inf, no elements.

    `float64` says whether the devices have it.
    """
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3))
    types = ["float32"] * len(shapes)
    if kind == "types":
        shapes += shapes[:1] * (len(shapes) == 1)
        types = [draw(st.sampled_from(FLOATS + ["float64"] * float64))]
        types += [draw(st.sampled_from(MIXED)) for _ in shapes[1:]]
    program = Program(list(zip(types, shapes, strict=True)), [])
    program.special = kind == "special"
    program.sizes = EMPTY if kind == "empty" else SIZES if kind == "numbers" else SIZES[:2]
    draft = _Draft(program)
    for _ in range(draw(st.integers(4, 12))):
        draft.step(draw, FLOATS if kind == "types" else ["float32"])
    if not program.lines:
        draft.put("x0 + x0", True)
    tracked = [n for n in draft.names if draft.spaces[0][n].requires_grad]
    program.loss = tracked[-1] if tracked else ""
    used = [draft.dtype(n).name for n in draft.names if draft.dtype(n).is_float]
    program.tolerance = max([TOLERANCE[name] for name in used], default=TOLERANCE["float32"])
    return program


SCRIPT = """
import numpy as np
import simplegrad as sg

def numbers(rng, dtype, shape):
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if "int" in dtype:
        return rng.integers(-20 if dtype[0] == "i" else 0, 50, shape)
    x = np.asarray(rng.uniform(-1, 1, shape))
    if {special}:
        flat = x.reshape(-1)
        flat[::5] = np.resize([np.nan, np.inf, -np.inf, 0.0, -0.0], flat[::5].shape)
    return x

def run(n, m, k):
    rng = np.random.default_rng(0)
    given = [{inputs}]
    inputs = [sg.Tensor(numbers(rng, dtype, shape), dtype=dtype) for dtype, shape in given]
    {names} = inputs
{body}
    values = [{result}]
    if {gradient}:
        values.append({loss})
        ({loss} * {loss}).sum().backward()
        values += [x.grad for x in inputs if x.grad is not None]
    sg.realize(*values)
    return [v.numpy() for v in values]

def check(ways):
    for sizes in {sizes}:
        with sg.device("numpy"):
            wanted = run(*sizes)
        for device, fusion, kernels in ways:
            where = sg.settings.override(kernels=kernels)
            with sg.device(device), sg.fusion(fusion), where:
                got = run(*sizes)
            for i, (g, w) in enumerate(zip(got, wanted, strict=True)):
                label = f"value {{i}}, sizes {{sizes}}, {{device}} {{kernels}}, fusion {{fusion}}"
                assert g.dtype == w.dtype and g.shape == w.shape, label
                exact = g.dtype.kind != "f"
                np.testing.assert_allclose(g.astype(float), w.astype(float), err_msg=label,
                                           rtol=0 if exact else {tol}, atol=0 if exact else {tol})
"""


def script(program: Program) -> str:
    """Return a program as Python text that defines ``check([(device, fusion, kernels), …])``."""
    return SCRIPT.format(
        special=program.special,
        inputs=", ".join(f"({dtype!r}, {shape})" for dtype, shape in program.inputs),
        names=", ".join(f"x{i}" for i in range(len(program.inputs))) + ",",
        body="\n".join("    " + line for line in program.lines),
        result=program.lines[-1].split(" = ")[0],
        gradient=bool(program.loss),
        loss=program.loss or "0",
        sizes=program.sizes,
        tol=program.tolerance,
    )


def check(program: Program, ways: list[tuple[str, bool, str]]) -> None:
    """Run a program every way; a failure holds the script that shows it."""
    source = script(program)
    space: dict[str, Any] = {}
    exec(compile(source, "<fuzz>", "exec"), space)
    try:
        space["check"](ways)
    except Exception as error:
        raise AssertionError(
            f"{error}\n# A stand-alone script of this failure:\n{source}\ncheck({ways})\n"
        ) from error


assert set(TOLERANCE) == {d.name for d in dtypes.ALL if d.is_float}
