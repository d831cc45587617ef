"""CuPy as a device: the protocol on a stand-in for the module `cupy`, and on CUDA where it is."""

from __future__ import annotations

import sys
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Adam, Tensor
from simplegrad.examples import frame, spiral


class Array(np.ndarray):
    """Stands for a CUDA array: made by `asarray`, kept by every function, left by `asnumpy`."""


class Standin(ModuleType):
    """The functions of CuPy that the device may use, counted; anything else is missing."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.calls: Counter[str] = Counter()
        self.lib = SimpleNamespace(
            stride_tricks=SimpleNamespace(
                as_strided=self._counted("as_strided", np.lib.stride_tricks.as_strided)
            )
        )
        stream = SimpleNamespace(synchronize=lambda: self.calls.update(["synchronize"]))
        self.cuda = SimpleNamespace(get_current_stream=lambda: stream)
        for name in (
            "exp", "log", "add", "multiply", "power", "equal", "greater_equal", "sum", "max",
            "argmax", "einsum", "ascontiguousarray",
        ):  # fmt: skip
            setattr(self, name, self._counted(name, getattr(np, name)))

    def _counted(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            arrays = [a for a in args if not isinstance(a, (str, tuple))]
            assert all(type(a) is Array for a in arrays), (name, list(map(type, arrays)))
            self.calls[name] += 1
            return np.asarray(function(*map(_bare, args), **kwargs)).view(Array)

        return call

    def asarray(self, data: Any) -> Any:
        assert type(data) is np.ndarray
        self.calls["asarray"] += 1
        return np.array(data).view(Array)

    def asnumpy(self, x: Any) -> np.ndarray:
        assert type(x) is Array
        self.calls["asnumpy"] += 1
        return np.array(x.view(np.ndarray))


def _bare(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Array) else value


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Standin:
    module = Standin()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def _train(epochs: int = 3) -> list[float]:
    rng = np.random.default_rng(0)
    points, labels = spiral.spirals(rng)
    network, one_hot = spiral.Network(rng), np.eye(3)[labels]
    return [float(network.step(points, one_hot)) for _ in range(epochs)]


def test_the_spiral_trains_on_the_standin(standin: Standin) -> None:
    with sg.device("numpy"):
        want = _train()
    Tensor.device = sg.devices.CuPy
    try:
        np.testing.assert_allclose(_train(), want, rtol=1e-4)
    finally:
        Tensor.device = None
    used = {"exp", "log", "add", "multiply", "power", "greater_equal", "sum", "max", "einsum"}
    assert used <= set(standin.calls)
    assert standin.calls["asnumpy"] == 3  # the losses: nothing else came back


def test_the_example_runs_on_the_selector(
    standin: Standin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["spiral", "--device", "cupy", "--epochs", "2"])
    monkeypatch.setattr(spiral, "draw", lambda *_: None)
    frame.main("spiral", spiral.__doc__, spiral.train, epochs=2, out="unused.png")
    assert "CuPy" in capsys.readouterr().out
    assert standin.calls["einsum"] > 10


def test_calls_of_one_expression(standin: Standin) -> None:
    with sg.device(sg.devices.CuPy):
        x = Tensor([1.0, 2.0]).realize()
        y = Tensor([3.0, 5.0]).realize()
        standin.calls.clear()
        z = x * y + x
        assert not standin.calls  # recorded, not computed
        z.realize()
        assert standin.calls == {"multiply": 1, "add": 1}
        assert z.tolist() == [4.0, 12.0]
        sg.synchronize()
        assert standin.calls["synchronize"] == 1


def test_selector_and_identity(standin: Standin) -> None:
    with sg.device("cupy") as one, sg.device(sg.devices.CuPy) as two:
        assert one is two
    with sg.device(sg.devices.CuPy):
        kept = Tensor([1.0])
    with sg.device(sg.devices.CuPy):
        assert (kept + Tensor([2.0])).tolist() == [3.0]


def test_without_cupy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with (
        pytest.raises(sg.DeviceError, match=r"pip install cupy-cuda12x"),
        sg.device(sg.devices.CuPy),
    ):
        pass
    assert sg.devices()[-1].selector == "numpy"


def test_on_cuda() -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy and a GPU")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        pytest.skip(f"no CUDA device: {error}")
    with sg.device("numpy"):
        want = _train()
    with sg.device(sg.devices.CuPy):
        np.testing.assert_allclose(_train(), want, rtol=1e-3)
        x = Tensor([1.0, 2.0]) * 2
        assert x.__dlpack_device__()[0] == 2
        assert cupy.from_dlpack(x).get().tolist() == [2.0, 4.0]
        w = Tensor([1.0])
        optimizer = Adam([w])
        (w * w).sum().backward()
        optimizer.step()
        assert float(w) < 1
