"""`sg.symbolic`: what it writes is short, and its NumPy source gives the engine's numbers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

TABLE = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "arithmetic": (lambda x, y: (x + 2 * y) / (x * y) - y**3 + 1, ((2, 3), (3,))),
    "powers": (lambda x, a: x**a + x**-1 + x**0.5 + x**-0.5 + x**2.5, ((4,), ())),
    "scalars": (lambda x, y: (x * y).exp() / x, ((), ())),
    "transcendental": (
        lambda x: x.sin() + x.cos() * x.tan() + x.tanh() + x.log() + x.log2() + x.log1p()
        + x.exp2() + x.expm1() + x.erf() + x.sinh() + x.cosh() + x.atan() + x.asinh(),
        ((5,),),
    ),
    "inverse": (lambda x: (x / 9).asin() + (x / 9).acos() + (x / 9).atanh() + (x + 1).acosh(), (3,)),
    "two operands": (lambda x, y: x.maximum(y) + x.minimum(y) + x.hypot(y) + x.atan2(y), ((4,), 4)),
    "rounding": (lambda x: x.floor() * x + x.ceil() + x.trunc() + (3 * x).round() + x.sign(), (4,)),
    "remainder": (lambda x, y: x % y + x // y + (x - y).abs(), ((4,), (4,))),
    "choices": (lambda x: sg.where((x > 1) & ~(x > 2) | (x == 1), x * x, -x), ((2, 3),)),
    "reductions": (
        lambda x: x.sum(0) * x.mean(1)[:1] + x.max(0) - x.min() + x.prod(0) + x.var(0) + x.std(),
        ((2, 3),),
    ),
    "argmax": (lambda x: x * x.argmax(1, True), ((2, 3),)),
    "views": (
        lambda x: x[1:, ::-1].T.reshape(2, 4)[:, 1:3] + x.permute(1, 0)[:2, 0:2].flip(0)
        + x.expand_dims(0).squeeze()[:2, -2:],
        ((3, 4),),
    ),
    "pads and joins": (lambda x: sg.concat([x.pad(1, 2.5), x.pad(1)]).roll(1, 0), ((2, 3),)),
    "strided slices": (lambda x: (x[::2] * x[1::2]).cumsum(0), ((6,),)),
    "windows": (lambda x: x.as_strided((3, 2), (1, 1)) * x.as_strided((3, 1), (1, 1), 1), ((4,),)),
    "gather": (lambda x: x.take([2, 0, 2], 0) * x[[1, 1, 0]] + x.take_along_axis([[1]], 1), ((3, 2),)),
    "scatter": (lambda x: sg.scatter_add([0, 2, 0], x, 3) ** 2, ((3, 2),)),
    "constants": (lambda x: x * TABLE + sg.ones(3) + sg.arange(3) + sg.eye(2, 3), ((2, 3),)),
    "matrix products": (
        lambda x, w, v: x @ w @ v @ (x @ w) + v @ v + w.T @ x.T @ x[:, 0] + (x @ w).sum(),
        ((2, 3), (3, 4), (4,)),
    ),
    "einsum": (
        lambda x, y: sg.einsum("bij,bjk->bik", x, y) + sg.einsum("bii->b", x)[:, None, None],
        ((2, 3, 3), (2, 3, 3)),
    ),
    "outer": (lambda x, y: sg.einsum("i,j->ji", x, y) + y.outer(x), ((2,), (3,))),
    "softmax": (lambda x: x.softmax() * TABLE, ((2, 3),)),
    "losses": (
        lambda x, y: x.cross_entropy(np.array([0, 2])) + x.mse_loss(y) + x.logsumexp(), ((2, 3), (2, 3))
    ),
    "activations": (
        lambda x: x.relu() + x.sigmoid() + x.softplus() + x.gelu() + x.gelu("tanh") + x.silu()
        + x.elu() + x.leaky_relu() + (x - 1).clip(0, 1),
        ((4,),),
    ),
    "layer_norm": (lambda x, w: x.layer_norm(weight=w) * TABLE, ((2, 3), (3,))),
    "convolution": (
        lambda x, w: x.conv2d(w, padding=1, stride=2).relu().maxpool2d(2), ((1, 2, 5, 5), (3, 2, 3, 3))
    ),
    "no gradient": (lambda x: x.argmax(), ((3,),)),
    "unused": (lambda x, y: x.detach() * 2 + 0 * y, ((3,), (3,))),
    "a constant": (lambda x: sg.full((2, 2), 3.0), ((3,),)),
    "network": (
        lambda x, w0, b0, w1: ((x @ w0 + b0).relu() @ w1).softmax().log().mean(),
        ((5, 2), (2, 8), (8,), (8, 3)),
    ),
}  # fmt: skip


def _engine(fn: Callable[..., Any], arrays: list[np.ndarray]) -> tuple[Any, list[Any]]:
    tensors = [Tensor(a) for a in arrays]
    value = fn(*tensors)
    if value.requires_grad:
        value.sum().backward()
    grads = [np.zeros(t.shape, "f") if t.grad is None else t.grad.numpy() for t in tensors]
    return value.numpy(), grads


@pytest.mark.parametrize("name", CASES)
def test_source_gives_the_engines_numbers(name: str) -> None:
    fn, shapes = CASES[name]
    expressions = sg.symbolic(fn, *shapes)
    rng = np.random.default_rng(1)
    arrays = [np.asarray(rng.uniform(0.3, 2.7, s), np.float32) for s in shapes]
    value, gradients = expressions(*arrays)
    with sg.device("numpy"):
        want, wanted = _engine(fn, arrays)
    for got, expected in zip([value, *gradients], [want, *wanted], strict=True):
        got = np.asarray(got)
        assert got.shape == expected.shape and got.dtype == expected.dtype
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5 * scale)
    assert str(expressions).count("\n") < 80
    _well_formed(expressions.latex)


def _well_formed(latex: str) -> None:
    """Braces, \\left and environments close in the order in which they open."""
    open_: list[str] = []
    pairs = {"}": "{", r"\right": r"\left", r"\end": r"\begin"}
    i = 0
    while i < len(latex):
        token = next((t for t in (r"\left\l", r"\begin", r"\end") if latex.startswith(t, i)), "")
        token = token or next((t for t in (r"\left", r"\right") if latex.startswith(t, i)), "")
        if token.startswith(r"\left"):
            token = r"\left" if latex[i + 5] in r"(\[|" else ""
        token = token or (latex[i] if latex[i] in "{}" else "")
        if token in pairs:
            assert open_ and open_.pop() == pairs[token], (latex[:i], token)
        elif token:
            open_.append(token)
        i += max(len(token), 1)
    assert not open_


def test_the_source_stands_alone(tmp_path: Any, device: Any) -> None:
    """It runs where simplegrad is not, and agrees with every device."""
    fn, shapes = CASES["network"]
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=s).astype("f") for s in shapes]
    expressions = sg.symbolic(fn, *shapes)
    values = ", ".join(repr(a.tolist()) for a in arrays)
    code = f"{expressions.source}\nimport sys\nv, g = f({values})\nassert 'simplegrad' not in sys.modules\nprint(repr(float(v)), [float(np.abs(x).sum()) for x in g])\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    value, sums = done.stdout.split(" ", 1)
    want, wanted = _engine(fn, arrays)
    np.testing.assert_allclose(float(value), want, rtol=1e-4)
    np.testing.assert_allclose(eval(sums), [np.abs(w).sum() for w in wanted], rtol=1e-3)


SHORT = {
    "a square's mean": (lambda x: (x * x).mean(), ((2, 3),), ["1/6 * sum(x**2)", "1/3 * x"]),
    "softmax sums to 1": (
        lambda x: x.softmax(), ((2, 3),), ["t1 / sum(t1, axis=1, keepdims=True)", "0"]
    ),
    "a linear layer": (
        lambda x, w, b: (x @ w + b).sum(), ((5, 3), (3, 4), (4,)),
        ["sum(x @ w + b)", "sum(w, axis=1)[None, :]", "sum(x, axis=0)[:, None]", "5"],
    ),
    "like terms": (lambda x, y: 2 * x + x - 3 * (x + -y) / 3, ((2,), (2,)), ["3 * x - (x - y)", "2", "1"]),
    "signs": (lambda x, y: -(1 * -x) * -1 + (x - y) - x, ((2,), (2,)), ["x - y - x - x", "-1", "-1"]),
    "neutral elements": (lambda x: (x * 1 + 0) / 1 - 0, ((2,),), ["x", "1"]),
    "products": (lambda x, y: 2 * x * (3 * y), ((2,), (2,)), ["6 * (x * y)", "6 * y", "6 * x"]),
    "log of exp": (lambda x: x.exp().log(), ((2,),), ["x", "1"]),
    "relu": (
        lambda x: x.relu(), ((2,),),
        ["maximum(x, 0)", "where(x > 0, 1, where(x == 0, 0.5, 0))"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHORT)
def test_expressions_are_short(name: str) -> None:
    fn, shapes, want = SHORT[name]
    lines = str(sg.symbolic(fn, *shapes)).splitlines()[1:]
    got = [line.split(" = ", 1)[1] for line in lines if not line.startswith("    t")]
    assert got == want


def test_latex() -> None:
    def energy(x: Any, beta: Any) -> Any:
        return ((-beta * x**2).exp() / 2).sum()

    assert sg.symbolic(energy, (3,), ()).latex.splitlines() == [
        r"\begin{aligned}",
        r"t_{1} &= x^{2} \\",
        r"t_{2} &= e^{-\left(\beta \, t_{1}\right)} \\",
        r"\mathrm{energy} &= 0.5 \, \left(\sum t_{2}\right) \\",
        r"\frac{\partial \mathrm{energy}}{\partial x} &= -\left(t_{2} \, \beta \, x\right) \\",
        r"\frac{\partial \mathrm{energy}}{\partial \beta} &= -0.5 \, \left(\sum t_{2} \, t_{1}\right)",
        r"\end{aligned}",
    ]
    assert sg.symbolic(energy, (3,), ())._repr_latex_().startswith("$$\\begin{aligned}")


def test_names() -> None:
    def f(t1: Any, np: Any, *more: Any, scale: float = 2.0) -> Any:
        return (t1 * np).exp() * (t1 * np).exp() + more[1] * scale

    text = str(sg.symbolic(f, (2,), (2,), (2,), (2,)))
    assert text.startswith("f(t1, np_, more0, more1):\n    t2 = ")
    assert str(sg.symbolic(np.negative, 3)).startswith("negative(x):\n    negative = -x")


def test_what_is_refused() -> None:
    w = Tensor(np.ones(3))
    for fn, said in (
        (lambda x: x * float(x.sum()), "may not read values"),
        (lambda x: x if x.sum() > 0 else -x, "may not read values"),
        (lambda x: np.asarray(x), "may not read values"),
        (lambda x: x * sg.ones(3).sum().item(), "an expression has not"),
        (lambda x: x + w.realize(), "must be arguments"),
        (lambda x: 3, "must return one tensor, not int"),
        (lambda x, y: x, "1 shapes for a function of the arguments x, y"),
    ):
        with pytest.raises(sg.SimplegradError, match=said):
            sg.symbolic(fn, (3,))
    with pytest.raises(sg.UnsupportedOp, match="random numbers as an argument"):
        str(sg.symbolic(lambda x: x.dropout(0.5), (3,)))
    with pytest.raises(sg.ShapeError, match="negative"):
        sg.symbolic(lambda x: x, (-1,))


def test_a_jitted_function_is_an_expression() -> None:
    assert "f = 2 * x" in str(sg.symbolic(sg.jit(lambda x: x * 2), (3,)))


def test_the_device_in_force_stays() -> None:
    with sg.device("numpy") as device:
        sg.symbolic(lambda x: x * 2, (3,))
        assert Tensor.device is device
    assert (Tensor([1.0]) * 2).tolist() == [2.0]
