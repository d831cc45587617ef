"""NumPy's protocols and DLPack: what is shared, what is copied, and what is refused."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor

DATA = np.arange(12, dtype=np.float32).reshape(3, 4)


def _address(array: Any) -> int:
    return int(np.asarray(array).__array_interface__["data"][0])


class Exporter:
    """An array that notes how it is asked, perhaps of an old protocol version or a device."""

    def __init__(self, array: np.ndarray, old: bool = False, where: tuple[int, int] = (1, 0)):
        self.array, self.old, self.where, self.asked = array, old, where, {}

    def __dlpack__(self, **asked: Any) -> Any:
        if self.old and set(asked) - {"stream"}:
            raise TypeError("unexpected keyword argument")
        self.asked = asked
        if asked.get("dl_device") == (1, 0):
            asked = {**asked, "copy": True}
        return self.array.__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.where


def test_asarray_shares_and_is_read_only(device: Any) -> None:
    x = Tensor(DATA) * 2
    one, two = np.asarray(x), np.asarray(x)
    assert _address(one) == _address(two)
    np.testing.assert_array_equal(one, DATA * 2)
    assert one.dtype == np.float32 and one.shape == (3, 4)
    with pytest.raises(ValueError, match="read-only"):
        one[0, 0] = 7
    assert np.array(x, copy=False).ctypes.data == one.ctypes.data
    assert np.asarray(x, np.float64).tolist() == (DATA * 2.0).tolist()
    with pytest.raises(ValueError, match="float64 in a copy"):
        np.array(x, np.float64, copy=False)


def test_copies_are_ones_own(device: Any) -> None:
    x = Tensor(DATA) + 0
    later = x + 1
    for host in (x.numpy(), np.array(x), np.array(x, np.float32)):
        assert not np.shares_memory(host, np.asarray(x))
        host[:] = -1
    np.testing.assert_array_equal(x.numpy(), DATA)
    np.testing.assert_array_equal(later.numpy(), DATA + 1)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 1, 3)])
def test_every_shape_and_dtype(device: Any, dtype: str, shape: tuple[int, ...]) -> None:
    host = (np.arange(np.prod(shape)) % 2).astype(dtype).reshape(shape)
    x = sg.asarray(host)
    got = np.asarray(x)
    assert got.dtype == host.dtype and got.shape == shape and not got.flags.writeable
    np.testing.assert_array_equal(got, host)
    np.testing.assert_array_equal(np.from_dlpack(x), host)
    back = sg.from_dlpack(host)
    assert back.dtype.name == dtype
    np.testing.assert_array_equal(back.numpy(), host)


def test_bfloat16_is_copied(device: Any) -> None:
    x = Tensor([1.0, 2.5], dtype="bfloat16")
    assert np.asarray(x).tolist() == [1.0, 2.5] and not np.asarray(x).flags.writeable
    with pytest.raises(ValueError, match="copied"):
        np.array(x, copy=False)
    with pytest.raises(BufferError, match="bfloat16; cast"):
        x.__dlpack__()


def test_views_keep_the_memory(device: Any) -> None:
    """Neither the tensor's death nor new tensors of its size take the memory away."""
    x = Tensor(DATA) * 3
    view = np.from_dlpack(x)[1:]
    del x
    gc.collect()
    for _ in range(3):
        (Tensor(DATA) * 100).realize()
    np.testing.assert_array_equal(view, DATA[1:] * 3)


def test_memory_comes_back(one_cl_device: Any) -> None:
    before = sg.memory_stats()["in_use_bytes"]
    for _ in range(5):
        view = np.asarray(Tensor(np.ones(10_000, np.float32)) + 1)
        assert view.sum() == 20_000
    assert sg.memory_stats()["in_use_bytes"] <= before + 2 * 65_536
    del view
    gc.collect()
    assert sg.memory_stats()["in_use_bytes"] == before


def test_export_is_marked_read_only(device: Any) -> None:
    x = Tensor(DATA) * 1.5
    assert x.__dlpack_device__() == (1, 0)
    got = np.from_dlpack(x)
    assert _address(got) == _address(x) and not got.flags.writeable
    copy = np.from_dlpack(x, copy=True)
    assert _address(copy) != _address(x)
    copy[:] = 0
    np.testing.assert_array_equal(x.numpy(), DATA * 1.5)


def test_consumers_before_version_1_get_a_copy(device: Any) -> None:
    """They cannot be told that memory is read-only."""
    x = Tensor(DATA) * 1.5

    class Old:
        def __dlpack__(self, **asked: Any) -> Any:
            return x.__dlpack__(stream=None)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    got = np.from_dlpack(Old())
    assert _address(got) != _address(x)
    np.testing.assert_array_equal(got, DATA * 1.5)
    with pytest.raises(BufferError, match="copied for this consumer"):
        x.__dlpack__(copy=False)


def test_what_export_refuses(device: Any) -> None:
    x = Tensor(DATA)
    with pytest.raises(BufferError, match="stream=1"):
        x.__dlpack__(stream=1)
    with pytest.raises(BufferError, match=r"not for \(2, 0\)"):
        x.__dlpack__(dl_device=(2, 0), max_version=(1, 0))
    x.__dlpack__(dl_device=(1, 0), max_version=(1, 0))


def test_a_gpu_exports_copies(one_cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device with memory of its own, played by a CPU that hides that it has not."""
    from dataclasses import replace

    device = one_cl_device
    monkeypatch.setattr(device, "limits", replace(device.limits, host_memory=False))
    x = Tensor(DATA) + 1
    kind, number = x.__dlpack_device__()
    assert kind == 4 and sg.devices()[number].selector == device.name
    with pytest.raises(BufferError, match='device="cpu"'):
        x.__dlpack__(max_version=(1, 0))
    got = np.from_dlpack(x, device="cpu")
    np.testing.assert_array_equal(got, DATA + 1)
    with pytest.raises(BufferError, match="only be copied"):
        x.__dlpack__(dl_device=(1, 0), max_version=(1, 0), copy=False)
    assert not np.asarray(x).flags.writeable  # a copy; as elsewhere
    with pytest.raises(ValueError, match="only be copied"):
        np.array(x, copy=False)
    with pytest.raises(ValueError, match="cannot be used where it stands"):
        sg.asarray(DATA, copy=False)


def test_import_copies_unless_told(device: Any) -> None:
    """A later write by the owner changes nothing that was recorded."""
    host = DATA.copy()
    for make in (sg.from_dlpack, sg.asarray, lambda h: sg.from_dlpack(h, copy=True)):
        later = make(host) + 1
        host[:] = -5
        np.testing.assert_array_equal(later.numpy(), DATA + 1)
        host[:] = DATA


@pytest.mark.parametrize("make", [sg.from_dlpack, sg.asarray])
def test_import_without_a_copy(device: Any, make: Any) -> None:
    whole = np.arange(13, dtype=np.float32)
    for host in (whole[:12].reshape(3, 4), whole[1:].reshape(3, 4)):  # aligned to 4 bytes only
        x = make(host, copy=False)
        assert _address(x) == _address(host) and x.requires_grad
        np.testing.assert_array_equal((x * 2).numpy(), host * 2)
        np.testing.assert_allclose((x @ x.T).numpy(), host @ host.T)
        (x * x).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), 2 * host)
    host.flags.writeable = False
    assert _address(make(host, copy=False)) == _address(host)
    scalar = make(np.array(3.0), copy=False)
    assert float(scalar) == 3.0 and scalar.dtype is sg.float64


@pytest.mark.parametrize(
    "host",
    [DATA.T, DATA[:, ::2], DATA.astype(">f4"), [1.0], 3.0, np.zeros((4, 6), np.uint8)[:, 1:5]],
    ids=["transposed", "strided", "swapped", "list", "number", "padded rows"],
)
def test_only_a_copy_can_be_made(device: Any, host: Any) -> None:
    with pytest.raises(ValueError, match="leave out copy=False"):
        sg.asarray(host, copy=False)
    with pytest.raises(ValueError, match="leave out copy=False"):
        sg.asarray(DATA, dtype="float64", copy=False)
    np.testing.assert_array_equal(sg.asarray(host).numpy(), np.asarray(host))


def test_foreign_memory_outlives_its_kernels(one_cl_device: Any) -> None:
    for _ in range(5):
        host = np.full(1 << 20, 2.0, np.float32)
        y = (sg.asarray(host, copy=False) * 3).realize()
        host[:] = 0  # nothing of ours refers to it any more
        del host
        assert float(y.min()) == 6.0


def test_tensors_never_copy(device: Any) -> None:
    x = Tensor(DATA) * 2
    y = sg.from_dlpack(x)
    assert _address(y) == _address(x) and y.requires_grad
    assert _address(sg.from_dlpack(x, copy=True)) != _address(x)
    moved = sg.from_dlpack(x, device="numpy")
    assert moved.device.name == "numpy"
    (y * 1).sum().backward()
    assert x.grad is None and y.grad is not None


def test_what_import_asks_and_refuses(device: Any) -> None:
    plain = Exporter(DATA)
    assert sg.from_dlpack(plain).shape == (3, 4)
    assert plain.asked["max_version"][0] >= 1
    assert sg.from_dlpack(Exporter(DATA, old=True)).shape == (3, 4)
    cuda = Exporter(DATA, where=(2, 0))
    np.testing.assert_array_equal(sg.from_dlpack(cuda).numpy(), DATA)
    assert cuda.asked["dl_device"] == (1, 0)
    with pytest.raises(sg.ExchangeError, match="int does not speak DLPack"):
        sg.from_dlpack(3)
    with pytest.raises(sg.SimplegradError, match="complex"):
        sg.from_dlpack(np.ones(3, complex))


def test_a_view_outlives_the_interpreter() -> None:
    code = (
        "import numpy as np, simplegrad as sg\n"
        "x = sg.Tensor(np.ones(5000)) + 1\n"
        "view, mine = np.asarray(x), sg.asarray(np.ones(5000), copy=False)\n"
        "y = (mine + 1).realize()\n"
        "print(view.sum())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "10000.0\n", done.stderr


def test_torch_shares(device: Any) -> None:
    torch = pytest.importorskip("torch")
    x = Tensor(DATA) * 2
    there = torch.from_dlpack(x)
    assert there.data_ptr() == _address(x) and there.sum() == DATA.sum() * 2
    mine = torch.arange(5.0)
    assert _address(sg.from_dlpack(mine, copy=False)) == mine.data_ptr()
    assert sg.from_dlpack(mine.to(torch.int16)).dtype is sg.int16
    with pytest.raises(sg.ExchangeError, match="dtype"):
        sg.from_dlpack(mine.to(torch.bfloat16))
    with pytest.raises(sg.ExchangeError, match="require gradient"):
        sg.from_dlpack(torch.ones(2, requires_grad=True))
