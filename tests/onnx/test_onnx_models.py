"""Whole models: out to a file, through onnxruntime, and back in; and one that others trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
import simplegrad.onnx as sgx
from simplegrad import Tensor
from simplegrad.examples import bert, gan, spiral, transformer
from simplegrad.examples import cnn as cnn_example
from simplegrad.examples import lstm as lstm_example

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")


class Weights:
    """Parameters made on first use, from one seed."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.named: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        if name not in self.named:
            fan = math.prod(shape[1:]) or 1
            array = self.rng.standard_normal(shape).astype(np.float32) / math.sqrt(fan)
            self.named[name] = Tensor(array)
        return self.named[name]


def linear(w: Weights, name: str, x: Tensor, out: int) -> Tensor:
    return x @ w(f"{name}.weight", out, x.shape[-1]).T + w(f"{name}.bias", out)


def mlp(w: Weights, x: Tensor) -> Tensor:
    return linear(w, "second", linear(w, "first", x, 32).relu(), 10).softmax()


def cnn(w: Weights, x: Tensor) -> Tensor:
    x = x.conv2d(w("conv1", 8, 1, 3, 3), padding=1, bias=w("bias1", 8))
    x = x.batch_norm(w("gamma", 8), w("beta", 8), w("mean", 8), w("var", 8).abs() + 0.5).relu()
    x = x.maxpool2d((2, 2), stride=2)
    x = x.conv2d(w("conv2", 16, 4, 3, 3), stride=2, dilation=1, groups=2, padding=1).gelu("tanh")
    x = x.avgpool2d((2, 2), padding=1, stride=2)
    return linear(w, "head", x.reshape(x.shape[0], -1), 10).logsoftmax()


def lstm(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    hidden = sg.zeros((x.shape[0], 12))
    cell, outputs = hidden, []
    for t in range(x.shape[1]):
        gates = x[:, t] @ w("wx", x.shape[2], 48) + hidden @ w("wh", 12, 48) + w("b", 48)
        i, f, g, o = gates.split(4, -1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        outputs.append(hidden)
    return sg.stack(outputs, 1), cell


def encoder(w: Weights, tokens: Tensor) -> Tensor:
    width, heads = 24, 3
    x = w("embedding", 50, width).take(tokens, 0)
    x = x + w("positions", 16, width)[: tokens.shape[1]]
    n, t, _ = x.shape

    def split(y: Tensor) -> Tensor:
        return y.reshape(n, t, heads, width // heads).permute(0, 2, 1, 3)

    q, k, v = (split(linear(w, name, x, width)) for name in "qkv")
    scores = q @ k.mT * (width // heads) ** -0.5
    future = sg.triu(sg.ones((t, t), requires_grad=False), 1).cast(sg.bool)
    scores = sg.where(future, -math.inf, scores)
    mixed = (scores.softmax() @ v).permute(0, 2, 1, 3).reshape(n, t, width)
    x = (x + linear(w, "out", mixed, width)).layer_norm(-1, w("g1", width), w("b1", width))
    inner = linear(w, "up", x, 4 * width).gelu()
    return (x + linear(w, "down", inner, width)).layer_norm(-1, w("g2", width), w("b2", width))


_rng = np.random.default_rng(1)
MODELS: dict[str, tuple[Callable[..., Any], np.ndarray]] = {
    "mlp": (mlp, _rng.standard_normal((5, 20)).astype(np.float32)),
    "cnn": (cnn, _rng.standard_normal((2, 1, 12, 12)).astype(np.float32)),
    "lstm": (lstm, _rng.standard_normal((3, 20, 6)).astype(np.float32)),
    "encoder": (encoder, _rng.integers(0, 50, (2, 9))),
}


def exported(name: str, path: Path) -> tuple[np.ndarray, list[np.ndarray], Weights]:
    """Export a model; return its argument, its results here, and its weights."""
    fn, x = MODELS[name]
    w = Weights()
    wanted = fn(w, Tensor(x))
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    sgx.export(lambda x: fn(w, x), (x,), path, input_names=["x"], parameters=w.named)
    return x, [y.numpy() for y in wanted], w


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name: str, tmp_path: Path, device: Any) -> None:
    path = tmp_path / "model.onnx"
    x, wanted, w = exported(name, path)
    onnx.checker.check_model(str(path), full_check=True)
    there = ort.InferenceSession(str(path)).run(None, {"x": x})
    loaded = sgx.load(path)
    back = loaded(x)
    back = back if isinstance(back, tuple) else (back,)
    for here, a, b in zip(wanted, there, back, strict=True):
        np.testing.assert_allclose(a, here, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(b.numpy(), here, rtol=2e-5, atol=2e-6)
    assert set(w.named) <= set(loaded.parameters)
    for key, tensor in w.named.items():
        np.testing.assert_array_equal(loaded.parameters[key].numpy(), tensor.numpy())


TINY = bert.Shape(words=60, places=20, width=24, depth=2, heads=3, hidden=48)
EXAMPLES: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "spiral": (lambda: spiral.Network(np.random.default_rng(0)), _rng.random((7, 2)).astype(np.float32)),
    "cnn": (cnn_example.Network, _rng.random((3, 1, 8, 8)).astype(np.float32)),
    "generator": (gan.generator, _rng.random((5, gan.NOISE)).astype(np.float32)),
    "discriminator": (gan.discriminator, _rng.random((5, 64)).astype(np.float32)),
    "lstm": (lstm_example.Network, _rng.random((2, 60)).astype(np.float32)),
    "transformer": (lambda: transformer.Model(40), _rng.integers(0, 40, (2, 17))),
    "bert": (lambda: bert.Bert(TINY), _rng.integers(0, 60, (2, 13))),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_networks_of_the_examples_survive(name: str, tmp_path: Path) -> None:
    """As in evaluation mode; whatever mode they are in, they are in it afterwards."""
    make, x = EXAMPLES[name]
    path = tmp_path / "model.onnx"
    with sg.device("numpy"):
        network = make()
        sgx.export(network, (x,), path, input_names=["x"])
        assert getattr(network, "training", True)
        module = hasattr(network, "eval")
        wanted = (network.eval() if module else network)(Tensor(x) if x.dtype.kind == "f" else x)
        loaded = sgx.load(path)
        np.testing.assert_allclose(loaded(x).numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)
        if module:
            assert {n for n, _ in network.named_parameters()} <= set(loaded.parameters)
    (there,) = ort.InferenceSession(str(path)).run(None, {"x": x})
    np.testing.assert_allclose(there, wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_bert_with_its_mask(tmp_path: Path) -> None:
    tokens, mask = EXAMPLES["bert"][1], np.arange(13) < np.array([[13], [9]])
    with sg.device("numpy"):
        model = bert.Bert(TINY).eval()
        sgx.export(model, (tokens, mask), tmp_path / "m.onnx", input_names=["tokens", "mask"])
        wanted = model(tokens, mask).numpy()
        loaded = sgx.load(tmp_path / "m.onnx")(tokens, mask).numpy()
    session = ort.InferenceSession(str(tmp_path / "m.onnx"))
    (there,) = session.run(None, {"tokens": tokens, "mask": mask})
    for other in (there, loaded):
        np.testing.assert_allclose(other[mask], wanted[mask], rtol=1e-4, atol=1e-5)


def test_out_and_back_and_out_again(tmp_path: Path) -> None:
    """A loaded model is a function over tensors like any other."""
    with sg.device("numpy"):
        x, (wanted,), _ = exported("cnn", tmp_path / "a.onnx")
        sgx.export(sgx.load(tmp_path / "a.onnx"), (x,), tmp_path / "b.onnx", input_names=["x"])
    (there,) = ort.InferenceSession(str(tmp_path / "b.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(there, wanted, rtol=2e-5, atol=2e-6)


def test_gradients_of_a_loaded_model_are_those_of_the_original(tmp_path: Path) -> None:
    with sg.device("numpy"):
        x, _, w = exported("mlp", tmp_path / "model.onnx")
        loaded = sgx.load(tmp_path / "model.onnx", requires_grad=True)
        mlp(w, Tensor(x)).square().sum().backward()
        loaded(x).square().sum().backward()
        for name, tensor in w.named.items():
            wanted, got = tensor.grad.numpy(), loaded.parameters[name].grad.numpy()
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)


# A model from elsewhere ---------------------------------------------------------------------------

_ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    p for p in [*_ROOT.rglob("*.py"), *_ROOT.rglob("*.cl"), *_ROOT.glob("*.*"), _ROOT / "LICENSE"]
    if p.is_file() and p.stat().st_size > 100 and not any(part.startswith((".", "build", "dist")) for part in p.relative_to(_ROOT).parts)
)[::4]  # fmt: skip


def features(data: bytes, config: dict[str, Any]) -> np.ndarray:
    """What magika reads of a file: its first and last bytes, without blanks at its ends."""
    size, block, pad = config["beg_size"], config["block_size"], config["padding_token"]
    assert config["mid_size"] == 0
    end_size = config["end_size"]
    first, last = data[:block].lstrip(), data[-block:].rstrip()
    head = list(first[:size]) + [pad] * max(size - len(first), 0)
    tail = [pad] * max(end_size - len(last), 0) + list(last[-end_size:])
    return np.array(head + tail, np.int32)


BATCH = 16


class Magika:
    """The model, what onnxruntime says, and the names of its labels."""

    def __init__(self) -> None:
        self.package = pytest.importorskip("magika")
        folder = next((Path(self.package.__file__).parent / "models").glob("standard*"))
        self.path = folder / "model.onnx"
        self.config = json.loads((folder / "config.min.json").read_text())
        self.session = ort.InferenceSession(str(self.path))

    def labels(self, model: Any, files: list[Path]) -> list[str]:
        """Return the labels of files, sixteen at a time, having compared all probabilities."""
        rows = [features(p.read_bytes(), self.config) for p in files]
        rows += rows[:1] * (-len(rows) % BATCH)
        found: list[str] = []
        for start in range(0, len(rows), BATCH):
            part = np.stack(rows[start : start + BATCH])
            (wanted,) = self.session.run(None, {"bytes": part})
            got = model(part).numpy()
            # The model's variances are differences of large means, so small errors grow.
            np.testing.assert_allclose(got, wanted, atol=1e-3)
            np.testing.assert_array_equal(got.argmax(-1), wanted.argmax(-1))
            found += [self.config["target_labels_space"][i] for i in got.argmax(-1)]
        return found[: len(files)]


@pytest.fixture(scope="module")
def magika() -> Magika:
    return Magika()


def test_magika_on_every_device(magika: Magika, device: Any) -> None:
    magika.labels(sgx.load(magika.path), FILES[:: len(FILES) // BATCH][:BATCH])


def test_magika_on_files_of_this_repository(magika: Magika, one_cl_device: Any) -> None:
    """Each gets onnxruntime's label and probabilities, and the label that the package gives."""
    found = magika.labels(sgx.load(magika.path), FILES)
    says = magika.package.Magika()
    assert found == [str(says.identify_path(p).dl.label) for p in FILES]


def test_magika_takes_few_launches(magika: Magika, one_cl_device: Any) -> None:
    """99 nodes: the shapes among them are worked out on the host, the rest is fused."""
    model = sgx.load(magika.path)
    rows = np.zeros((BATCH, 2048), np.int32)
    model(rows).numpy()
    with sg.Profile() as profile:
        model(rows).numpy()
    assert profile.launches <= 10
    assert profile.compiles == 0
