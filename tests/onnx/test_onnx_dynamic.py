"""Axes of any extent: one file, onnxruntime's numbers at extents that no trace has seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
import simplegrad.onnx as sgx
from simplegrad import Tensor, nn
from simplegrad.errors import ArgumentError, ModelError
from simplegrad.examples import bert, cnn, gan, lstm, spiral, transformer

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(5)
TINY = bert.Shape(words=60, places=20, width=24, depth=2, heads=3, hidden=48)


@pytest.fixture(autouse=True)
def _numpy() -> Iterator[None]:
    with sg.device("numpy"):
        yield


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def tokens(*shape: int) -> np.ndarray:
    return RNG.integers(0, 40, shape)


def agree(fn: Any, arrays: list[np.ndarray], path: Path) -> None:
    """onnxruntime on the file, the file loaded, and the function say the same."""
    wanted = fn(*[Tensor(a) if a.dtype.kind == "f" else a for a in arrays]).numpy()
    session = ort.InferenceSession(str(path))
    names = [i.name for i in session.get_inputs()]
    (there,) = session.run(None, dict(zip(names, arrays, strict=True)))
    for other in (there, sgx.load(path)(*arrays).numpy()):
        assert other.shape == wanted.shape
        np.testing.assert_allclose(other, wanted, rtol=1e-4, atol=1e-5 * max(abs(wanted).max(), 1))


def dims(infos: Any) -> list[list[Any]]:
    return [[d.dim_param or d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos]


BATCH, BOTH = {0: "batch"}, {0: "batch", 1: "time"}
EXAMPLES: dict[str, tuple[Any, np.ndarray, dict[int, str], list[tuple[int, ...]]]] = {
    "spiral": (lambda: spiral.Network(RNG), floats(7, 2), BATCH, [(1, 2), (100, 2)]),
    "cnn": (cnn.Network, floats(3, 1, 8, 8), BATCH, [(1, 1, 8, 8), (11, 1, 8, 8)]),
    "generator": (gan.generator, floats(1, gan.NOISE), BATCH, [(1, gan.NOISE), (9, gan.NOISE)]),
    "discriminator": (gan.discriminator, floats(5, 64), BATCH, [(1, 64), (9, 64)]),
    "lstm": (lstm.Network, floats(2, 60), BOTH, [(1, 1), (3, 200), (2, 60)]),
    "transformer": (lambda: transformer.Model(40), tokens(2, 64), BOTH, [(1, 1), (3, 64), (4, 9)]),
    "bert": (lambda: bert.Bert(TINY), tokens(2, 13), BOTH, [(1, 1), (3, 20), (24, 3)]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_networks_of_the_examples(name: str, tmp_path: Path) -> None:
    make, x, axes, shapes = EXAMPLES[name]
    network, path = make(), tmp_path / "m.onnx"
    sgx.export(network, (x,), path, input_names=["x"], dynamic={"x": axes})
    if hasattr(network, "eval"):
        network.eval()
    given = [axes.get(a, n) for a, n in enumerate(x.shape)]
    graph = onnx.load(path).graph
    assert dims(graph.input) == [given]
    assert dims(graph.output)[0][0] == "batch"
    for shape in shapes:
        agree(network, [floats(*shape) if x.dtype.kind == "f" else tokens(*shape)], path)


FUNCTIONS: dict[str, tuple[Any, dict[str, dict[int, str]], list[Any]]] = {
    "two inputs share an axis": (lambda x, y: (x @ y.T).sum(-1), {"x": {0: "n"}, "y": {0: "n"}}, ["n"]),
    "two axes": (lambda x, y: (x @ y.T).reshape(-1), {"x": {0: "n"}, "y": {0: "m"}}, ["n*m"]),
    "a mean over it": (lambda x, y: x.mean(0) + x.var() + y.mean(), {"x": {0: "n"}}, [3]),
    "joined and cut": (lambda x, y: sg.concat([x, y, x[1:]])[:-1, 0], {"x": {-2: "n"}}, ["2*n + 3"]),
    "padded, turned": (lambda x, y: x.pad([(2, 1), (0, 0)])[::-1].T + 1, {"x": {0: "n"}}, [3, "n + 3"]),
    "taken": (lambda x, y: y.take(x.argmax(0) % 5, 0) + sg.arange(y.shape[0])[:3], {"x": {0: "n"}}, [3, 3]),
    "windows": (lambda x, y: (x[None, None] + y[0]).maxpool2d((2, 2), stride=1), {"x": {0: "n"}}, [1, 1, "n + -1", 2]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, tmp_path: Path) -> None:
    fn, dynamic, result = FUNCTIONS[name]
    path, arrays = tmp_path / "m.onnx", [floats(5, 3), floats(5, 3)]
    sgx.export(fn, arrays, path, input_names=["x", "y"], dynamic=dynamic)
    assert dims(onnx.load(path).graph.output) == [result]
    for n, m in ((9, 4), (2, 1)):
        names = [dynamic.get(x, {}) for x in "xy"]
        given = [{"n": n, "m": m}.get(a.get(0, a.get(-2)), 5) for a in names]
        agree(fn, [floats(extent, 3) for extent in given], path)


def test_a_recurrence_of_any_length_comes_back_as_one(tmp_path: Path) -> None:
    layer = nn.GRU(2, 4, bidirectional=True)
    sgx.export(
        lambda x: layer(x)[0], (floats(3, 8, 2),), tmp_path / "m", input_names=["x"],
        dynamic={"x": BOTH},
    )  # fmt: skip
    for shape in ((1, 1, 2), (2, 30, 2)):
        agree(lambda x: layer(x)[0], [floats(*shape)], tmp_path / "m")


def branch(x: Tensor) -> Tensor:
    return x.exp() if x.shape[0] > 4 else x


REFUSED: dict[str, tuple[Any, str]] = {
    "branch": (branch, "computes other things|operators"),
    "host": (lambda x: x * np.arange(x.shape[0])[:, None], "makes on the host"),
    "number": (lambda x: x * (1 / x.shape[0]), "Mul takes depends on the named axes"),
    "half": (lambda x: x[::2], "no sum of products|in another way"),
    "rank": (lambda x: x if x.shape[0] % 2 else x[None], "axes"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_extent_decides_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    fn, said = REFUSED[name]
    with pytest.raises(ModelError, match=said):
        sgx.export(fn, (floats(8, 3),), tmp_path / "m", dynamic={"input_0": {0: "n"}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("dynamic", "error", "said"),
    [
        ({"z": {0: "n"}}, ModelError, r"names the input 'z'; the inputs are \['input_0', 'input_1'\]"),
        ({"input_0": {2: "n"}}, ArgumentError, "axis of dynamic must be 1 or less"),
        ({"input_0": [0]}, ArgumentError, "must be a dictionary"),
        ({"input_0": {0: ""}}, ModelError, "give a word"),
        ({"input_0": {0: "n", 1: "n"}}, ModelError, "'n' has extent 4 in one argument and 3"),
    ],
)  # fmt: skip
def test_wrong_names(dynamic: Any, error: type[Exception], said: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        sgx.export(
            lambda x, y: x + y, (floats(4, 3), floats(4, 3)), tmp_path / "m", dynamic=dynamic
        )
