"""Files: everything comes back, nothing is lost, nothing odd is taken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Adam, Tensor, nn
from simplegrad.errors import DTypeError, ModelError, SimplegradError

_ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_dtype_comes_back(tmp_path: Path) -> None:
    state: dict[str, Any] = {
        name: np.arange(6).reshape(2, 3).astype(name)
        for name in [
            "bool",
            "uint8",
            "int8",
            "uint16",
            "int16",
            "uint32",
            "int32",
            "uint64",
            "int64",
            "float16",
            "float32",
        ]
    }
    state |= {"float64": np.asarray([[1e300]]), "number": np.asarray(3), "none": np.zeros((0, 4))}
    state["turned"] = np.arange(6.0).reshape(2, 3).T
    nn.save(state, tmp_path / "a.safetensors")
    loaded = nn.load(tmp_path / "a.safetensors")
    assert set(loaded) == set(state)
    for name, array in state.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert np.array_equal(loaded[name], array)
        assert loaded[name].flags.writeable


def test_bfloat16_keeps_its_two_bytes(tmp_path: Path) -> None:
    with sg.device("numpy"):
        x = Tensor([1.0, -2.5, 3e38], dtype=sg.bfloat16)
        nn.save({"x": x}, tmp_path / "a")
        assert b'"BF16"' in (tmp_path / "a").read_bytes()
        assert np.array_equal(nn.load(tmp_path / "a")["x"], x.numpy())


def test_the_safetensors_package_reads_the_file(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy")
    with sg.device("numpy"):
        layer = nn.Linear(2, 3)
        nn.save(layer, tmp_path / "a")
        theirs = library.load_file(tmp_path / "a")
        assert np.array_equal(theirs["weight"], layer.weight.numpy())
        library.save_file(
            {"weight": np.ones((3, 2), np.float32), "bias": np.zeros(3)}, tmp_path / "b"
        )
        layer.load_state_dict(nn.load(tmp_path / "b"))
        assert layer.weight.numpy().min() == 1


def test_training_goes_on_from_files(device: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((8, 2)).astype(np.float32)

    def made() -> tuple[nn.Module, Adam]:
        layer = nn.Linear(2, 3)
        return layer, Adam(layer.parameters(), 0.1)

    def step(layer: Any, optimizer: Adam) -> None:
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        optimizer.step()

    one, optimizer = made()
    step(one, optimizer)
    nn.save(one, tmp_path / "model")
    nn.save(optimizer.state_dict(), tmp_path / "optimizer")
    two, other = made()
    two.load_state_dict(nn.load(tmp_path / "model"))
    other.load_state_dict(nn.load(tmp_path / "optimizer"))
    step(one, optimizer)
    step(two, other)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


@pytest.mark.parametrize("length", [0, 4, 8, 30, -1])
def test_a_truncated_file_is_an_error(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a"
    nn.save({"x": np.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ModelError, match="truncated or no safetensors file"):
        nn.load(path)


def test_other_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x80\x04\x95 a pickle of some kind, or anything else at all")
    with pytest.raises(ModelError, match="no safetensors file"):
        nn.load(tmp_path / "a")
    header = b'{"x":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header + b"\0")
    with pytest.raises(ModelError, match=r"holds dtypes \['F8_E4M3'\]"):
        nn.load(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        nn.load(tmp_path / "nothing")
    with pytest.raises(DTypeError, match="'x' is <U1"):
        nn.save({"x": np.asarray(["a"])}, tmp_path / "c")
    assert not (tmp_path / "c").exists()


KILLED = """
import os, signal, sys
import numpy as np
from simplegrad import nn
last = getattr(os, sys.argv[2])
setattr(os, sys.argv[2], lambda *a: os.kill(os.getpid(), signal.SIGKILL))
nn.save({"x": np.zeros(1000)}, sys.argv[1])
"""


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_killed_save_leaves_the_old_file(moment: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    nn.save({"x": np.ones(1000)}, path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), moment],
        env={**os.environ, "PYTHONPATH": str(_ROOT)}, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert nn.load(path)["x"].min() == 1


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    nn.save({"x": np.ones(10)}, path)

    def full(handle: int) -> None:
        raise OSError("no room")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no room"):
        nn.save({"x": np.zeros(10)}, path)
    assert os.listdir(tmp_path) == ["a"]
    assert nn.load(path)["x"].min() == 1


def test_a_save_keeps_permissions_and_links(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    nn.save({"x": np.ones(1)}, path)
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    link.symlink_to(path)
    nn.save({"x": np.zeros(1)}, link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert nn.load(path)["x"].max() == 0


def test_without_the_package_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(SimplegradError, match=r"pip install safetensors"):
        nn.load(tmp_path / "a")
